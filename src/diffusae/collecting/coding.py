"""What codes the dictionary, tune and test pictures while they are made: every autoencoder of the
grid.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from diffusae.activations.schema import CodeStream
from diffusae.activations.settings import ActivationSettings
from diffusae.activations.stored_numbers import stored_numbers
from diffusae.backbone.describe import Description
from diffusae.backbone.hookpoints import find
from diffusae.errors import UserError
from diffusae.labelling.codes import PictureEncoder
from diffusae.runs.record import parent_signature
from diffusae.sae.storage import load_sae, weights_sha256
from diffusae.study.streams import hookpoints_of
from diffusae.study.study import Study

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coder:
    """One autoencoder at one stream, and what its codes are called."""

    codes: CodeStream
    encoder: PictureEncoder

    def __call__(self, updates: np.ndarray) -> bytes:
        """The stored codes of a picture's updates [positions, d_in], rounded as they are stored."""
        return self.encoder(updates).to_bytes()


def untrained(study: Study) -> list[str]:
    """The trainings of the grid that are not finished, by name."""
    return [training.cell_name for training in study.trainings if not _finished(training)]


def collections_due(study: Study, *, in_parts: bool = False) -> list[Study]:
    """What there is to collect: the study's collection, and that of codes once all autoencoders of
    the grid are trained. Before that, it is said that they are waited for.

    Args:
        in_parts: several tasks work at one collection, or it is merged: then the last that is due.
    """
    held_out = study.held_out
    if not held_out.coded:
        return [study]
    if waiting := untrained(study):
        log.info(
            "dictionary, tune and test pictures wait for %d of %d autoencoders, which encode them;"
            " run `diffusae collect` again when all are trained",
            len(waiting),
            len(study.trainings),
        )
        return [study]
    return [held_out] if in_parts else [study, held_out]


def _finished(training: Study) -> bool:
    with suppress(UserError):
        parent_signature(training.sae, stage="train")
        return True
    return False


def weights_of(study: Study) -> dict[str, str]:
    """The SHA-256 of the weights of every autoencoder of the grid, by the name of its cell."""
    return {one.cell_name: weights_sha256(one.sae) for one in study.trainings}


def coders_of(study: Study, description: Description) -> Iterator[Coder]:
    """Every autoencoder of the grid, loaded.

    Raises:
        UserError: one is not trained, is damaged, or takes vectors of another length.
    """
    dtype = stored_numbers(ActivationSettings.of(study.cfg).dtype).read
    for training in study.trainings:
        parent_signature(training.sae, stage="train")
        sae, _ = load_sae(training.sae)
        block = find(description.hookpoints, hookpoints_of(study)[training.cell.block])
        if sae.d_in != block.d_in:
            raise UserError(
                f"{training.sae} takes vectors of {sae.d_in} entries, and {training.cell.block} has"
                f" {block.d_in}; train it on this block"
            )
        codes = CodeStream(
            stream=training.cell.folder,
            tag=training.cfg.sae.tag,
            d_sae=sae.d_sae,
            sha256=weights_sha256(training.sae),
        )
        yield Coder(codes, PictureEncoder(sae, dtype))
