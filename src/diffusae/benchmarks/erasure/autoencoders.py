"""The autoencoders that the erasure benchmark compares: of text encoders' layers, and, as a
baseline, of updates.

They are trained where they are missing, under the study's own settings, so that one command makes
the whole comparison.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_updates
from diffusae.benchmarks.erasure.defended import DefendedPictures
from diffusae.benchmarks.erasure.settings import Updates
from diffusae.collecting.collect import collect_alone
from diffusae.errors import together, unknown
from diffusae.interventions.edits import Edit
from diffusae.interventions.text import TextEdit
from diffusae.interventions.unlearning import ConceptLatents, Unlearn, concept_latents
from diffusae.interventions.windows import window_at
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.study.streams import stream_of
from diffusae.study.study import Study
from diffusae.training.cell import mirror_of, trained

GENERATION = {"kind": "generation"}


def text_saes(
    study: Study, cells: Iterable[Mapping[str, Any]]
) -> dict[str, tuple[str, SparseAutoencoder]]:
    """{the cell's directory: (layer, its autoencoder)}: the study's own first, then those of
    `cells`, which say what differs.

    Raises:
        UserError: a value that no cell has, a layer that was not collected.
    """
    saes: dict[str, tuple[str, SparseAutoencoder]] = {}
    for one in (study, *(_varied(study, values) for values in cells)):
        _trained(one)
        saes[one.cell_name] = (one.cell.block, load_sae(one.sae)[0])
    return saes


def text_edit(
    layer: str,
    sae: SparseAutoencoder,
    prompts: Sequence[str],
    strength: float,
    conditionings: Sequence[str],
) -> TextEdit:
    """Away from a concept where the strength, lambda, is below 0."""
    return TextEdit(
        layer=layer,
        sae=sae,
        concept_prompts=list(prompts),
        strength=strength,
        conditionings=tuple(conditionings),
    )


def _varied(study: Study, values: Mapping[str, Any]) -> Study:
    """The study with another layer, width or k, under a tag that tells them apart."""
    together(
        str(unknown("value in evaluation.ablations.cells:", name, ("layer", "d_sae", "k")))
        for name in values
        if name not in ("layer", "d_sae", "k")
    )
    cfg = copy.deepcopy(study.cfg)
    if "layer" in values:
        cfg.block.name = values["layer"]
    if sized := {name: values[name] for name in ("d_sae", "k") if name in values}:
        cfg.sae.update(sized)
        # A tag by k alone would put two widths in one place.
        cfg.sae.tag = f"k{cfg.sae.k}-d{cfg.sae.d_sae}"
    return Study(cfg)


def _trained(study: Study) -> None:
    if not trained(study):
        from diffusae.training.train import train_cell

        with mirror_of(study) as mirror:
            train_cell(study, mirror)


def updates_study(study: Study, settings: Updates) -> Study:
    """The experiment beside this one whose pictures' updates the ablation takes its latents
    from.
    """
    cfg: DictConfig = copy.deepcopy(study.cfg)
    cfg.name = f"{study.name}_updates"
    if "collection" in cfg:
        cfg.collection = OmegaConf.create(GENERATION)
    cfg.grid.blocks, cfg.grid.timesteps = list(settings.blocks), list(settings.timesteps)
    cfg.grid.conditionings = ["cond"]
    cfg.block.name, cfg.timestep.t, cfg.conditioning.branch = (
        settings.blocks[0],
        settings.timesteps[0],
        "cond",
    )
    cfg.prompts.counts = settings.counts
    cfg.activations.store_training = True  # its autoencoders are trained one by one
    cfg.sae.update(settings.sae)
    return Study(cfg)


class UpdateAblation:
    """Edits that unlearn a target in every collected block, each window with the latents of its t.

    Args:
        study: the benchmark's; its update autoencoders are made here where they are missing.
        settings: of the collection and its autoencoders.
        pictures: read the captions.
    """

    def __init__(self, study: Study, settings: Updates, pictures: DefendedPictures) -> None:
        beside = updates_study(study, settings)
        beside.check()
        collect_alone(beside)
        self._percentile = float(settings.percentile)
        self._cells: list[tuple[Study, SparseAutoencoder]] = []
        for cell in beside.grid:
            one = beside.at(cell)
            _trained(one)
            self._cells.append((one, load_sae(one.sae)[0]))
        self._pictures = pictures
        self._judged = {prompt.text for prompt in study.prompts if prompt.split in ("tune", "test")}

    def edits(self, target: str) -> Any:
        """A function of the factor that gives the edits."""
        concepts = [(one, sae, self._latents(one, sae, target)) for one, sae in self._cells]

        def at(factor: float) -> list[Edit]:
            for _, sae, _ in concepts:
                sae.to(self._pictures.pipe.device)  # where the updates are that it edits
            return [
                Edit(
                    one.hookpoints[one.cell.block],
                    Unlearn(sae, concept, factor=factor),
                    window=window_at(one.cell.t),
                    conditionings=("cond",),
                )
                for one, sae, concept in concepts
            ]

        return at

    @torch.no_grad()
    def _latents(self, study: Study, sae: SparseAutoencoder, target: str) -> ConceptLatents:
        """From the pictures of the split `dictionary`: a picture shows the concept where its
        caption names it. Short captions come twice by chance; those that are judged choose
        nothing.
        """
        manifest = Manifest.load(study.activations)
        texts = {
            prompt.image_id: prompt.text
            for prompt in study.prompts
            if prompt.text not in self._judged
        }
        codes = (
            (
                sae.encode_dense(
                    torch.from_numpy(np.asarray(sample.updates)).float().to(sae.W_enc.device)
                )
                .mean(dim=0)
                .cpu(),
                self._pictures.read(texts[sample.image_id]).names(target),
            )
            for sample in read_updates(
                study.activations, manifest, stream_of(study, manifest), "dictionary"
            )
            if sample.image_id in texts
        )
        return concept_latents(codes, percentile=self._percentile)
