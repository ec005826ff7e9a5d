"""EleutherAI Sparsify's directory: `cfg.json` and `sae.safetensors` with an `nn.Linear` as encoder.
TopK only. With `transcode` nothing is taken off the input; a target is as wide as the input there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from diffusae.errors import UserError
from diffusae.files import atomic_path, atomic_write_json
from diffusae.sae.folded import Folded
from diffusae.sae.foreign_files import (
    CONFIG_NAME,
    read_config,
    read_weights,
    require,
    truth,
    whole_number,
)
from diffusae.sae.sparsity import TopK

WEIGHTS_NAME = "sae.safetensors"
_TENSORS = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}


def write(directory: Path, folded: Folded, metadata: Mapping[str, Any]) -> None:
    """Write both files, atomically, the configuration last; Sparsify ignores `metadata`.

    Raises:
        UserError: a sparsity other than TopK, before anything is written.
    """
    if folded.sparsity.name != TopK.name:
        raise UserError(
            "eai_sparsify knows topk and matryoshka only, this SAE in use is"
            f" {folded.sparsity.name}; choose format=sae_lens"
        )
    if folded.W_enc.shape != folded.W_dec.shape:
        raise UserError(
            "eai_sparsify knows no target of another width than the input, this transcoder has"
            f" {folded.W_dec.shape[1]} and {folded.W_enc.shape[1]}; diffusae's own files hold it"
        )
    tensors = {theirs: getattr(folded, ours).contiguous() for theirs, ours in _TENSORS.items()}
    with atomic_path(directory / WEIGHTS_NAME) as temporary:
        save_file(tensors, temporary)
    d_sae, d_in = folded.W_dec.shape
    config = {
        "activation": "topk",
        "expansion_factor": max(1, d_sae // d_in),
        "normalize_decoder": folded.code_units == "data",
        "num_latents": d_sae,
        "k": folded.sparsity.config()["k"],
        "multi_topk": False,
        "skip_connection": False,
        "transcode": folded.transcodes,
        "d_in": d_in,
        "metadata": dict(metadata),
    }
    atomic_write_json(directory / CONFIG_NAME, config)


def read(directory: Path) -> Folded:
    """The autoencoder in `directory`.

    Raises:
        UserError: a file is missing or damaged, or it is no plain TopK autoencoder.
    """
    config = read_config(directory)
    remedy = "only TopK autoencoders can be imported; choose another SAE"
    require(config, "activation", "topk", why=remedy)
    for name in ("skip_connection", "signed"):
        require(config, name, False, why=remedy)
    sizes = {"num_latents": config.get("num_latents") or None, "d_in": config.get("d_in")}
    axes = {name: 2 if ours.startswith("W") else 1 for name, ours in _TENSORS.items()}
    tensors = read_weights(directory / WEIGHTS_NAME, axes, sizes)
    W_enc, b_enc, W_dec, b_dec = (tensors[name] for name in _TENSORS)
    sparsity, transcodes = TopK(whole_number(config, "k")), truth(config, "transcode", absent=False)
    return Folded(W_enc, b_enc, W_dec, b_dec, sparsity, transcodes=transcodes)
