"""The autoencoders of a cell that differ from the study's own in their seed alone: `stability`."""

from __future__ import annotations

import copy

from omegaconf import OmegaConf

from diffusae.activations.schema import Cell
from diffusae.evaluation.settings import StabilitySettings
from diffusae.study.study import Study


def twins_of(study: Study) -> list[Study]:
    """The cell trained with each other seed, under a tag of its own: those whose figures are joined
    with the study's, and then the one that is only compared with it.
    """
    twins = []
    for seed in dict.fromkeys([*_of_figures(study), *_compared_with(study)]):
        twin = _tagged(study, seed)
        twin.cfg.seed = seed
        twins.append(twin)
    return twins


def in_figures(study: Study) -> list[Study]:
    """The twins whose figures are joined with the study's own, as its metric reads them: the same
    draws of pictures, another autoencoder and dictionary.
    """
    views = [_tagged(study, seed) for seed in _of_figures(study)]
    for view in views:
        if OmegaConf.select(view.cfg, "evaluation.other_tag") is not None:
            view.cfg.evaluation.other_tag = study.cfg.sae.tag
    return views


def compared(study: Study) -> Study:
    """The study with a twin as the autoencoder that a metric with `other_tag` compares with, and
    with all of them for a metric with `other_tags`.
    """
    seeds = [*_compared_with(study), *_of_figures(study)]
    if seeds and "other_tags" in study.cfg.evaluation:
        study.cfg.evaluation.other_tags = [_tag(study, seed) for seed in dict.fromkeys(seeds)]
    if seeds and "other_tag" in study.cfg.evaluation:
        study.cfg.evaluation.other_tag = _tag(study, seeds[0])
    return study


def is_twin(cell_name: str, seed: int | None) -> bool:
    """Whether a run of this cell and this seed is of a further seed."""
    return cell_name.endswith(f"-seed{seed}")


def saes_at(study: Study, cell: Cell) -> int:
    """How many autoencoders a cell has, one a seed."""
    return 1 + len({*_of_figures(study, cell), *_compared_with(study, cell)})


def _of_figures(study: Study, cell: Cell | None = None) -> list[int]:
    settings = StabilitySettings.of(study.cfg)
    more = range(1, settings.seeds) if _chosen(settings, cell or study.cell) else ()
    return [study.seed + n for n in more]


def _compared_with(study: Study, cell: Cell | None = None) -> list[int]:
    settings = StabilitySettings.of(study.cfg)
    if settings.seed is None or not _chosen(settings, cell or study.cell):
        return []
    return [settings.seed]


def _chosen(settings: StabilitySettings, cell: Cell) -> bool:
    return settings.cells is None or cell.key in settings.cells


def _tagged(study: Study, seed: int) -> Study:
    cfg = copy.deepcopy(study.cfg)
    cfg.sae.tag = _tag(study, seed)
    return Study(cfg)


def _tag(study: Study, seed: int) -> str:
    return f"{study.cfg.sae.tag}-seed{seed}"
