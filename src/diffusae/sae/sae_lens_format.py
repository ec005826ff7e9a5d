"""SAELens's inference directory: `cfg.json` and `sae_weights.safetensors`, W_enc stored as [d_in,
d_sae].

Known at SAELens 6. Architectures: `topk` is our TopK (and Matryoshka, which differs in training
only), `standard` our ReLU, `jumprelu` our JumpReLU (and BatchTopK, which in use has one threshold).
Of transcoders it has `transcoder` (ReLU) and `jumprelu_transcoder`, and none with a TopK; its
`skip_transcoder` adds a linear map of the input, which ours does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffusae.errors import UserError, unknown
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
from diffusae.sae.sparsity import JumpReLU, ReLU, Sparsity, TopK

WEIGHTS_NAME = "sae_weights.safetensors"
LAYOUT_VERSION = "6.54.12"
"""The version whose layout is written: SAELens reads configs without one as those of before its
version 6.
"""
_TENSORS = {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1}
"""Name -> axes."""
_ARCHITECTURES = {TopK.name: "topk", ReLU.name: "standard", JumpReLU.name: "jumprelu"}
_TRANSCODERS = {ReLU.name: "transcoder", JumpReLU.name: "jumprelu_transcoder"}
_TRAINED_ONLY = ("batchtopk", "matryoshka_batchtopk")
"""What SAELens has in its training checkpoints alone: for use it writes them as `jumprelu`."""


def write(directory: Path, folded: Folded, metadata: Mapping[str, Any]) -> None:
    """Write both files, atomically, the configuration last; `metadata` is any JSON object.

    Raises:
        UserError: a sparsity of a plug-in, before anything is written.
    """
    sparsity = folded.sparsity
    known = _TRANSCODERS if folded.transcodes else _ARCHITECTURES
    if sparsity.name not in known:
        kind = "transcoder" if folded.transcodes else "sparsity"
        raise UserError(
            f"sae_lens knows no {kind} {sparsity.name}, only what is {', '.join(known)}"
            " in use; diffusae's own files hold it"
        )
    tensors = {name: getattr(folded, name) for name in _TENSORS} | {"W_enc": folded.W_enc.T}
    for name, learnt in sparsity.state_dict().items():  # the thresholds of a JumpReLU
        tensors[name] = learnt.to(folded.b_enc.dtype)
    with atomic_path(directory / WEIGHTS_NAME) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    d_sae, d_out = folded.W_dec.shape
    config = {
        "architecture": known[sparsity.name],
        "d_in": folded.W_enc.shape[1],
        **({"d_out": d_out} if folded.transcodes else {}),
        "d_sae": d_sae,
        "dtype": str(folded.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": not folded.transcodes,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": LAYOUT_VERSION,
            "sae_lens_training_version": None,
            **metadata,
        },
    }
    if sparsity.name == TopK.name:
        config |= {**sparsity.config(), "rescale_acts_by_decoder_norm": False}
    atomic_write_json(directory / CONFIG_NAME, config)


def read(directory: Path) -> Folded:
    """The autoencoder in `directory`, with what its configuration asks for folded into the weights.

    Raises:
        UserError: a file is missing or damaged, or the configuration asks for what `Folded` cannot
            say.
    """
    config = read_config(directory)
    architecture = config.get("architecture", "standard")
    if architecture in _TRAINED_ONLY:
        raise UserError(
            f"{directory} holds a training checkpoint of SAELens ({architecture}); import what its "
            "save_inference_model() writes"
        )
    known = (*_ARCHITECTURES.values(), *_TRANSCODERS.values())
    if architecture not in known:
        raise unknown("sae-lens architecture", architecture, known)
    _refuse_what_differs(config)
    transcodes, thresholds = architecture in _TRANSCODERS.values(), architecture.startswith("jump")
    axes = {**_TENSORS, "threshold": 1} if thresholds else _TENSORS
    sizes = {name: config.get(name) for name in ("d_sae", "d_out" if transcodes else "d_in")}
    tensors = read_weights(directory / WEIGHTS_NAME, axes, sizes)
    W_enc, b_enc, W_dec, b_dec = (
        tensors["W_enc"].T,
        tensors["b_enc"],
        tensors["W_dec"],
        tensors["b_dec"],
    )
    sparsity: Sparsity = ReLU(l1=0.0)
    if architecture == "topk":
        sparsity = TopK(whole_number(config, "k"))
    elif thresholds:
        sparsity = JumpReLU.with_thresholds(tensors["threshold"])
    # Shapes are checked before anything is computed.
    plain = Folded(W_enc, b_enc, W_dec, b_dec, sparsity, transcodes=transcodes)
    if transcodes:
        require(config, "apply_b_dec_to_input", False, why="b_dec is the target's; save it again")
    elif not truth(config, "apply_b_dec_to_input", absent=True):
        b_enc = b_enc + W_enc @ b_dec
    if truth(config, "rescale_acts_by_decoder_norm", absent=False):
        norms = W_dec.norm(dim=1)
        W_enc, b_enc = norms[:, None] * W_enc, norms * b_enc
        W_dec = torch.nn.functional.normalize(W_dec, dim=1)
    return Folded(W_enc, b_enc, W_dec, b_dec, plain.sparsity, transcodes=transcodes)


def _refuse_what_differs(config: Mapping[str, Any]) -> None:
    """Options of SAELens, some from before its version 6, under which it computes something
    else.
    """
    require(
        config,
        "normalize_activations",
        "none",
        None,
        why=(
            "a norm of each vector cannot be folded into weights; export it without, or fold it in"
            " SAELens"
        ),
    )
    require(
        config, "reshape_activations", "none", None, why="updates have one axis; import another SAE"
    )
    for name in ("activation_fn", "activation_fn_str"):
        require(
            config,
            name,
            "relu",
            "topk" if config.get("architecture") == "topk" else "relu",
            why="`standard` is read as ReLU; save it again with SAELens 6",
        )
    require(
        config, "finetuning_scaling_factor", False, None, why="fold the factor in and save it again"
    )
