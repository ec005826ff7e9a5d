"""Which metrics `run` computes at which cells, and with which settings: `metrics`, `metrics_at`,
`metric_settings` and `stability` of its configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffusae.activations.schema import Cell
from diffusae.backbone.settings import ModelSettings
from diffusae.errors import together, unknown
from diffusae.evaluation.claims import Registration
from diffusae.evaluation.settings import StabilitySettings
from diffusae.interventions.windows import window_at
from diffusae.metrics.directed import DirectedSettings
from diffusae.metrics.evaluate import evaluation_faults
from diffusae.metrics.registry import may_count, metric, names
from diffusae.study.resolvers import expand_home
from diffusae.study.seeds import compared
from diffusae.study.settings import RunSettings
from diffusae.study.study import Study

Studies = Mapping[str, Study]
"""One cell as a study, once for each of its metrics."""


def chosen_metrics(study: Study) -> dict[Cell, list[str]]:
    """The metrics of every cell of the grid: those of `metrics`, and those that `metrics_at` names
    for it.

    Raises:
        UserError: no metrics, unknown ones, a cell that the grid lacks; all in one.
    """
    settings = RunSettings.of(study.cfg)
    everywhere, somewhere = settings.metrics, settings.metrics_at
    keys = [cell.key for cell in study.grid]
    faults = [] if everywhere else [f"metrics is empty; name at least one of {', '.join(names())}"]
    parts: dict[str, Sequence[str]] = {
        "metrics": everywhere,
        "metrics_at": list(somewhere),
        "metric_settings": list(settings.metric_settings),
    }
    faults += [
        str(unknown(f"metric in {part}:", name, names()))
        for part, named in parts.items()
        for name in named
        if name not in names()
    ]
    wanted = {f"metrics_at.{name}": cells or [] for name, cells in somewhere.items()}
    wanted["stability.cells"] = StabilitySettings.of(study.cfg).cells or []
    faults += [
        str(unknown(f"cell in {part}:", key, keys))
        for part, cells in wanted.items()
        for key in cells
        if key not in keys
    ]
    together(faults)
    return {
        cell: [*everywhere, *(name for name in somewhere if cell.key in (somewhere[name] or []))]
        for cell in study.grid
    }


def studies_at(study: Study, chosen: Mapping[Cell, Sequence[str]]) -> dict[Cell, Studies]:
    """Every cell as a study of each of its metrics.

    Raises:
        UserError: what some metric cannot do in this study, all in one.
    """
    own = RunSettings.of(study.cfg).metric_settings
    config = cache(lambda metric: config_of(metric, own.get(metric) or {}))
    cells: dict[Cell, Studies] = {
        cell: {metric: compared(Study(config(metric)).at(cell)) for metric in metrics}
        for cell, metrics in chosen.items()
    }
    first = {metric: one for studies in reversed(cells.values()) for metric, one in studies.items()}
    # What a metric cannot do in a study is the same at all cells but those of a text's tokens.
    looked_at = [*first.values(), *(one for at in cells.values() for one in _of_text(at))]
    together(dict.fromkeys(fault for one in looked_at for fault in evaluation_faults(one)))
    return cells


def _of_text(studies: Studies) -> list[Study]:
    """The studies of a cell whose tokens are a text's; none of any other cell."""
    return [one for one in studies.values() if one.text_fault]


@dataclass(frozen=True)
class MadeAnew:
    """Pictures that a metric makes.

    Attributes:
        cells: how many.
        pictures: of all cells together, at most.
        generations: the same in whole generations of the model. What lies before the window of a
            cell is not computed again for an edited picture, and a metric may take fewer steps.
    """

    metric: str
    cells: int
    pictures: int
    generations: float


def made_anew(study: Study) -> list[MadeAnew]:
    """What the interventions of a study's `metrics` and `metrics_at` make: those metrics that count
    their pictures. Cells that the grid lacks are left out, which `run` refuses.
    """
    everywhere, somewhere = _plain(study.cfg, "metrics"), _plain(study.cfg, "metrics_at")
    own = _plain(study.cfg, "metric_settings")
    rows = []
    for name in dict.fromkeys([*everywhere, *somewhere]):
        keys = [cell.key for cell in study.grid] if name in everywhere else somewhere[name] or []
        moments = [cell.t for cell in study.grid if cell.key in keys]
        rows += _counted(study, name, moments, own.get(name) or {})
    return rows


def made_for_claims(study: Study, claims: Registration) -> list[MadeAnew]:
    """What the metrics of registered claims make, beside the fresh pictures."""
    cells: dict[str, dict[str, float]] = {}
    for claim in claims.stated.values():
        cells.setdefault(claim.metric, {}).update((cell.key, cell.t) for cell in claim.cells)
    return [
        row
        for name, moments in cells.items()
        for row in _counted(
            study, name, list(moments.values()), claims.settings.get(name) or {},
            option=claims.options.get(name),
        )
    ]  # fmt: skip


def _counted(
    study: Study,
    name: str,
    moments: Sequence[float],
    own: Mapping[str, Any],
    *,
    option: str | None = None,
) -> Iterator[MadeAnew]:
    """What a metric makes at cells of these moments; nothing where it does not count it."""
    if not may_count(name) or (made := metric(name).made) is None:
        return
    cfg = compose("evaluate", overrides=[f"evaluation={option or name}"])
    cfg.evaluation.merge_with(dict(own))
    settings, steps = metric(name).settings.of(cfg), ModelSettings.of(study.cfg).steps
    pictures = made(settings)
    edited = isinstance(settings, DirectedSettings)  # from the window of the cell's moment on
    whole = sum(window_at(t)[0] if edited else 1.0 for t in moments)
    share = (settings.steps or steps) / steps
    yield MadeAnew(name, len(moments), pictures * len(moments), pictures * whole * share)


def _plain(cfg: DictConfig, name: str) -> Any:
    """A part of the configuration with its values; empty where the command does not have it."""
    part = OmegaConf.select(cfg, name)
    return {} if part is None else OmegaConf.to_container(part, resolve=True)


def config_of(metric: str, settings: Mapping[str, Any], *, option: str | None = None) -> DictConfig:
    """The command's configuration with the option of a metric, and values in the place of its own.

    Args:
        settings: values in the place of the option's own; a whole option, with its `name`, takes
            the option's place.
        option: of `evaluation`; None: it is called as the metric.

    Raises:
        UserError: a value that the option does not have.
    """
    overrides = HydraConfig.get().overrides.task
    cfg = compose("run", overrides=[*overrides, f"evaluation={option or metric}"])
    together(
        str(unknown(f"value in metric_settings.{metric}:", name, cfg.evaluation))
        for name in settings
        if name not in cfg.evaluation
    )
    if "name" in settings:  # a whole option, as `/evaluation@metric_settings.decisions: ...` gives
        cfg.evaluation = OmegaConf.create(dict(settings))
    else:
        cfg.evaluation.merge_with(dict(settings))
    expand_home(cfg)
    return cfg
