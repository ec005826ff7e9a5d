"""Checkpoints of DifFRACT (arXiv 2606.15796): the state dict of one `TemporalAwareTranscoder` in a
file `{sae,transcoder}_{img,txt}_{layer}.pt`, for a block of FLUX.1 schnell.

    scale, shift = mod_linear(time_mlp(embedding of time))
    z = relu(encoder(x * (1 + scale) + shift)), y = decoder(z)

At one moment scale and shift are constants, so both are plain ReLU autoencoders there, and are
imported as such: at the timestep of the study's cell. `sae_` files take the MLP's output and give
it back. `transcoder_` files take the MLP's input and give its output.
"""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusae.errors import UserError
from diffusae.parsing import reading
from diffusae.sae.belongs import Belongs
from diffusae.sae.checkpoint import Checkpoint, Stated
from diffusae.sae.folded import Folded
from diffusae.sae.foreign_files import read_weights
from diffusae.sae.sparsity import ReLU
from diffusae.tensor_files import require_shapes

AXES = {
    f"{layer}.{kind}": axes
    for layer in ("time_mlp.0", "time_mlp.2", "mod_linear", "encoder", "decoder")
    for kind, axes in (("weight", 2), ("bias", 1))
}
"""Name -> axes."""
_NAME = re.compile(r"(sae|transcoder)_(img|txt)_(\d+)")
_TIME = 0.001
"""FLUX's time over the scheduler's timestep: the pipeline gives the denoiser timestep / 1000."""


def read(checkpoint: Checkpoint, stated: Stated) -> Folded:
    """The autoencoder or transcoder at `stated.timestep`.

    Raises:
        UserError: a file whose name does not say which it is, no timestep, or other tensors.
    """
    transcodes = _named(checkpoint)[0] == "transcoder"
    if stated.timestep is None:
        raise UserError(
            f"{checkpoint.path} depends on time, and the cell's timestep is not known before a"
            " collection; run `diffusae collect`, or give stated.timestep=T"
        )
    tensors = read_weights(
        checkpoint.weights, AXES, dict.fromkeys(("d_in", "d_sae")), of="decoder.weight"
    )
    _require_shapes(checkpoint)
    scale, shift = modulation(tensors, _TIME * stated.timestep)
    W_enc, b_dec = tensors["encoder.weight"] * (1 + scale), tensors["decoder.bias"]
    b_enc = tensors["encoder.bias"] + tensors["encoder.weight"] @ shift
    return Folded(
        W_enc=W_enc,
        b_enc=b_enc if transcodes else b_enc + W_enc @ b_dec,
        W_dec=tensors["decoder.weight"].T,
        b_dec=b_dec,
        sparsity=ReLU(l1=0.0),
        transcodes=transcodes,
    )


def _require_shapes(checkpoint: Checkpoint) -> None:
    shapes = checkpoint.header.shapes
    (d_in, d_sae), size = shapes["decoder.weight"], shapes["time_mlp.0.weight"][1]
    if size < 4 or size % 2:
        raise UserError(f"{checkpoint.path}: the embedding of time must be even, from 4, is {size}")
    weights = {
        "time_mlp.0": (size, size),
        "time_mlp.2": (size, size),
        "mod_linear": (2 * d_in, size),
        "encoder": (d_sae, d_in),
        "decoder": (d_in, d_sae),
    }
    expected = {f"{layer}.weight": shape for layer, shape in weights.items()}
    expected |= {f"{layer}.bias": shape[:1] for layer, shape in weights.items()}
    with reading(checkpoint.path, remedy="copy or save it again"):
        require_shapes(checkpoint.header, expected)


def modulation(
    tensors: dict[str, Tensor], time: float
) -> tuple[Float[Tensor, " d_in"], Float[Tensor, " d_in"]]:
    """Scale and shift at a time from 0 to 1."""
    embedded = _embedding(time, tensors["time_mlp.0.weight"].shape[1])
    for layer in ("time_mlp.0", "time_mlp.2"):
        embedded = F.silu(tensors[f"{layer}.weight"] @ embedded + tensors[f"{layer}.bias"])
    both = tensors["mod_linear.weight"] @ embedded + tensors["mod_linear.bias"]
    scale, shift = both.chunk(2)
    return scale, shift


def _embedding(time: float, size: int) -> Float[Tensor, " size"]:
    """diffusers' `get_timestep_embedding` with its defaults: sines, then cosines."""
    half = size // 2
    places = torch.arange(half, dtype=torch.float64)
    angles = time * torch.exp(-math.log(10_000) * places / (half - 1))
    return torch.cat([angles.sin(), angles.cos()])


def belongs(checkpoint: Checkpoint) -> Belongs:
    """The output of one block's MLP (a transcoder: its input), of the picture's or the text's
    stream, at all steps."""
    kind, stream, layer = _named(checkpoint)
    site = "mlp_in" if kind == "transcoder" else "mlp_out"
    return Belongs.at(
        f"transformer_blocks.{layer}:{site}" + ("@text" if stream == "txt" else ""),
        model="black-forest-labs/FLUX.1-schnell",
        t="all",
        conditioning="cond",
    )


def _named(checkpoint: Checkpoint) -> tuple[str, str, str]:
    match = _NAME.fullmatch(checkpoint.path.stem)
    if match is None:
        raise UserError(
            f"{checkpoint.path} must be called as published, such as sae_img_6.pt: the name alone"
            " tells a transcoder from an SAE, the stream and the block; rename it"
        )
    kind, stream, layer = match.groups()
    return kind, stream, layer
