"""Checkpoints of Revelio (arXiv 2411.16725): one `.pt` with `state_dict` and the training's
settings, pickled as an object of a class of its repository (`convert_pickle` reads their values).

    z = the k largest of ((x - b_dec) W_enc + b_enc), x_hat = z W_dec + b_dec

W_enc is [d_in, d_sae]. There is no ReLU: where fewer than k pre-activations are above 0, Revelio
keeps values below 0 and we keep 0. x is the output of a whole section of the U-Net (`mid_block`,
`up_blocks.1`), averaged over positions: one vector a picture.
"""

from __future__ import annotations

import re

from diffusae.sae.belongs import Belongs
from diffusae.sae.checkpoint import Checkpoint, Stated
from diffusae.sae.folded import Folded
from diffusae.sae.foreign_files import read_weights, whole_number
from diffusae.sae.sparsity import TopK

AXES = {"W_enc": 2, "b_enc": 1, "W_dec": 2, "b_dec": 1}
"""Name -> axes."""
_MODEL = re.compile(r"(?:^|.*/)([^/]+)/timestep_(\d+)")


def read(checkpoint: Checkpoint, stated: Stated) -> Folded:
    """The autoencoder.

    Raises:
        UserError: other tensors, or no k.
    """
    values = checkpoint.values
    sizes = {name: values.get(name) for name in ("d_sae", "d_in")}
    tensors = read_weights(checkpoint.weights, AXES, sizes, where=checkpoint.said_in)
    return Folded(
        W_enc=tensors["W_enc"].T,
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        sparsity=TopK(stated.k or whole_number(values, "k", where=checkpoint.said_in)),
    )


def belongs(checkpoint: Checkpoint) -> Belongs:
    """The section and, where the folder of features is called as in the repository, model and
    timestep ("caltech101/SD15/timestep_500"). The setting `timestep` of a training is not used: the
    repository leaves it at 0. Its prompt is empty, which is the unconditional branch.
    """
    section, features = checkpoint.values.get("module_name"), checkpoint.values.get("model_name")
    match = _MODEL.fullmatch(features) if isinstance(features, str) else None
    return Belongs(
        model=match[1] if match else None,
        hookpoint=section if isinstance(section, str) else None,
        quantity="pooled_output",
        timestep=float(match[2]) if match else None,
        conditioning="uncond",
    )
