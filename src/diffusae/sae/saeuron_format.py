"""Checkpoints of SAeUron (arXiv 2501.18052) and of SAEmnesia, which uses its code: `cfg.json` and
`sae.safetensors` in a folder that is called by the hookpoint. Tensors are those of Sparsify.

Trained with BatchTopK (`batch_topk`), the SAEs are used with the k largest of every position: the
published scripts set `batch_topk` and `sample_topk` to false before they encode. So an SAE of
either kind is read as TopK with the same k.
"""

from __future__ import annotations

from typing import Any

from diffusae.sae.belongs import Belongs
from diffusae.sae.checkpoint import Checkpoint, Stated
from diffusae.sae.folded import Folded
from diffusae.sae.foreign_files import read_weights, require, whole_number
from diffusae.sae.sparsity import TopK

AXES = {"W_dec": 2, "b_dec": 1, "encoder.weight": 2, "encoder.bias": 1}
"""Name -> axes."""
MARKS = ("batch_topk", "sample_topk", "input_unit_norm")
"""Entries of `cfg.json` that tell it from Sparsify's."""


def read(checkpoint: Checkpoint, stated: Stated) -> Folded:
    """The autoencoder.

    Raises:
        UserError: other tensors, or a configuration under which SAeUron computes something else.
    """
    values = checkpoint.values
    require(
        values,
        "input_unit_norm",
        False,
        why="a norm of each vector cannot be folded into weights; choose another SAE",
    )
    require(
        values,
        "sample_topk",
        False,
        why="its k counts the latents of a whole picture; choose another SAE",
    )
    sizes = {"num_latents": values.get("num_latents") or None, "d_in": values.get("d_in")}
    tensors = read_weights(checkpoint.weights, AXES, sizes)
    return Folded(
        W_enc=tensors["encoder.weight"],
        b_enc=tensors["encoder.bias"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        sparsity=TopK(stated.k or whole_number(values, "k")),
    )


def belongs(checkpoint: Checkpoint) -> Belongs:
    """The block's output at all steps, of the branch with the prompt. The files do not say the
    model.
    """
    common: dict[str, Any] = {"t": "all", "conditioning": "cond", "quantity": "output"}
    hookpoint = checkpoint.hookpoint()
    return Belongs(**common) if hookpoint is None else Belongs.at(hookpoint, **common)
