"""Steering through the text encoder as configured: the layer's SAE and the concept's prompts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusae.activations.schema import Cell
from diffusae.backbone.settings import ModelSettings
from diffusae.backbone.text_layers import find_text_layer, names_text_layer
from diffusae.errors import UserError, unknown
from diffusae.interventions.text import TextEdit
from diffusae.runs.record import parent_signature
from diffusae.sae.storage import load_sae
from diffusae.study.model import describe_model
from diffusae.study.study import Study


@dataclass(frozen=True)
class Steered:
    """A steering through the text encoder, without its strength.

    Attributes:
        study: at the layer's cell, whose SAE is used.
        concept: a name in `concept_prompts`.
        conditionings: the encodings that are edited.
    """

    study: Study
    concept: str
    conditionings: tuple[str, ...]

    @property
    def layer(self) -> str:
        """The text encoder's layer."""
        return self.study.cell.block

    @property
    def prompts(self) -> list[str]:
        """The concept's prompts; `UserError` for a concept that has none."""
        return prompts_of(self.study.cfg, self.concept)

    def determines(self) -> dict[str, Any]:
        """Its parts that decide a picture, besides the strength."""
        return {
            "layer": self.layer,
            "concept_prompts": self.prompts,
            "conditionings": list(self.conditionings),
        }

    def trained(self) -> str:
        """The signature of the layer's SAE.

        Raises:
            UserError: the SAE or the layer does not exist; the known layers are listed.
        """
        if not self.study.sae.exists():
            described = describe_model(ModelSettings.of(self.study.cfg), text_layers=True)
            find_text_layer(described.text_layers, self.layer)
        return parent_signature(self.study.sae, stage="train")

    def edits(self, device: Any) -> Callable[[float], TextEdit]:
        """A function: strength -> edit."""
        sae, _ = load_sae(self.study.sae)
        sae.to(device)
        prompts = tuple(self.prompts)
        return lambda strength: TextEdit(self.layer, sae, prompts, strength, self.conditionings)


def prompts_of(cfg: DictConfig, concept: str) -> list[str]:
    """The prompts of a concept in `concept_prompts`.

    Raises:
        UserError: it has none; the concepts with prompts are listed.
    """
    if concept not in cfg.concept_prompts:
        kind = f"concept in concept_prompts (add one with '+concept_prompts.{concept}=[...]')"
        raise unknown(kind, concept, cfg.concept_prompts)
    return [str(prompt) for prompt in cfg.concept_prompts[concept]]


def at_layer(
    study: Study, layer: str, *, name: str | None = None, sae_tag: str | None = None
) -> Study:
    """The study at the cell of a text encoder's layer; `name`, `sae_tag`: of another study or SAE.

    The encoder runs once, before the first step: its cells have t = 1 and hold encodings of
    prompts.
    """
    cfg = copy.deepcopy(study.cfg)
    if name is not None:
        cfg.name = name
        if not OmegaConf.is_interpolation(cfg.paths, "experiment"):  # an opened study's directory
            beside = str(study.directory.parent / name)
            cfg.paths.experiment = beside.replace("${", "\\${")
    if sae_tag is not None:
        cfg.sae.tag = sae_tag
    return Study(cfg).at(Cell(cfg.model.name, layer, 1.0, "cond"))


def faults_of(
    study: Study,
    *,
    layer: str,
    concept: str,
    strengths: Sequence[float],
    conditionings: Sequence[str],
) -> Iterator[str]:
    """Why the study cannot be steered so, before anything is loaded."""
    try:
        prompts_of(study.cfg, concept)
    except UserError as error:
        yield str(error)
    if not names_text_layer(layer):
        yield (
            f"layer {layer!r} is no layer of a text encoder; take one such as text_2 (text2_ and"
            " text3_ for further encoders)"
        )
    wrong = [strength for strength in strengths if not math.isfinite(strength) or strength == 0]
    if wrong or not strengths:
        yield (
            f"strength={wrong or strengths} must be finite numbers other than 0, which changes"
            " nothing; below 0 steers away from the concept, above 0 towards it"
        )
    if "uncond" in conditionings and "uncond" not in study.branches:
        yield (
            f"{study.cfg.model.name} runs without classifier-free guidance, so there is no encoding"
            " of uncond to steer; set conditionings=[cond]"
        )
