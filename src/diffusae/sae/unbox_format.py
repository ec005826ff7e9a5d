"""Checkpoints of sdxl-unbox (SDXL-Turbo SAEs, arXiv 2410.22366) and of Concept Steerers (arXiv
2501.19066): `config.json` and `state_dict.pth`, one TopK autoencoder of the same class.

    z = relu(the k largest of (encoder.weight (x - pre_bias) + latent_bias)),
    x_hat = decoder.weight z + pre_bias

encoder.weight is [n_dirs, d_model], decoder.weight [d_model, n_dirs]. What an SAE was trained on
stands in the name of its folder alone: sdxl-unbox has updates of U-Net blocks, Concept Steerers
outputs of text encoders' layers.
"""

from __future__ import annotations

from diffusae.errors import UserError
from diffusae.sae.belongs import Belongs
from diffusae.sae.checkpoint import Checkpoint, Stated
from diffusae.sae.folded import Folded
from diffusae.sae.foreign_files import read_weights, whole_number
from diffusae.sae.sparsity import TopK

AXES = {"encoder.weight": 2, "decoder.weight": 2, "pre_bias": 1, "latent_bias": 1}
"""Name -> axes."""
_T5_WIDTH = 4096


def read(checkpoint: Checkpoint, stated: Stated) -> Folded:
    """The autoencoder.

    Raises:
        UserError: other tensors, or others than the configuration says.
    """
    values = checkpoint.values
    tensors = read_weights(
        checkpoint.weights,
        AXES,
        {name: values.get(name) for name in ("d_model", "n_dirs_local")},
        of="decoder.weight",
        ignored=("stats_last_nonzero",),
        where=checkpoint.said_in,
    )
    return Folded(
        W_enc=tensors["encoder.weight"],
        b_enc=tensors["latent_bias"],
        W_dec=tensors["decoder.weight"].T,
        b_dec=tensors["pre_bias"],
        sparsity=TopK(stated.k or whole_number(values, "k", where=checkpoint.said_in)),
    )


def belongs(checkpoint: Checkpoint) -> Belongs:
    """Of sdxl-unbox: SDXL Turbo in one step, without guidance. The published files of FLUX lie in
    no such folder, so nothing is known of them.
    """
    hookpoint = checkpoint.hookpoint()
    if hookpoint is None or not hookpoint.startswith("unet."):
        return Belongs(hookpoint=hookpoint)
    return Belongs.at(
        hookpoint, quantity="update", model="stabilityai/sdxl-turbo", t=1.0, conditioning="cond"
    )


def is_of_steerers(checkpoint: Checkpoint) -> bool:
    """Whether it is one of Concept Steerers: their class writes one value more."""
    return "auxk_coef" in checkpoint.values


def belongs_of_steerers(checkpoint: Checkpoint) -> Belongs:
    """The layer's output, of the prompt's encoding.

    Raises:
        UserError: an SAE of two text encoders side by side.
    """
    hookpoint = checkpoint.hookpoint()
    places = (hookpoint or "").rpartition(".layers.")[2]
    if places.count(".") == 1:
        both = places.replace(".", " and ")
        raise UserError(
            f"{checkpoint.path} takes the layers {both} of two text encoders"
            " side by side; an SAE here belongs to one layer of one encoder; choose another SAE"
        )
    width = checkpoint.header.shapes.get("pre_bias", (0,))[0]
    if hookpoint and width == _T5_WIDTH:
        # The published script hooks T5's block and calls it a layer of CLIP in its files.
        hookpoint = f"text_encoder_2.encoder.block.{places}"
    if hookpoint is None:
        return Belongs(quantity="output", t="all", conditioning="cond")
    return Belongs.at(hookpoint, quantity="output", t="all", conditioning="cond")
