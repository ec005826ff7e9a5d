"""Evaluating one cell by the metric that `evaluation` names, with its baselines on the same
pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from diffusae.errors import UserError
from diffusae.evaluation.result import save_results
from diffusae.evaluation.seeds import results_over_seeds
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.labelling.annotate import determining
from diffusae.metrics.metric import Beside, Embedding, Metric
from diffusae.metrics.registry import metric
from diffusae.report.before_after import captioned, panel_name
from diffusae.runs.record import parent_signature, state
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.study.seeds import in_figures
from diffusae.study.study import Study


def metric_of(study: Study) -> Metric[Any]:
    """The metric that the study's `evaluation` names; `UserError` for an unknown one."""
    return metric(study.cfg.evaluation.name)


def evaluation_faults(study: Study) -> Iterator[str]:
    """Why the study's metric cannot be computed: its collection, its settings, or both together.
    Nothing is loaded.
    """
    chosen = metric_of(study)
    yield from chosen.unfit(study)
    try:
        settings = chosen.settings.of(study.cfg)
    except UserError as error:
        yield from error.faults
    else:
        yield from chosen.faults(study, settings)


def runs_beside(study: Study) -> Sequence[Beside]:
    """The finished runs that the study's metric reads beside the cell's own."""
    chosen = metric_of(study)
    runs = list(chosen.beside(study, chosen.settings.of(study.cfg)))
    for view in _views(study):
        runs += chosen.beside(view, chosen.settings.of(view.cfg))
        runs.append(Beside(f"train {view.cell_name}", view.sae, "train"))
        if "label" in chosen.made_from:
            runs.append(Beside(f"label {view.cell_name}", view.concepts, "label"))
    return runs


def _views(study: Study) -> list[Study]:
    """The cell's autoencoders of other seeds whose figures are joined with its own."""
    return in_figures(study) if metric_of(study).seeded else []


def evaluated(study: Study) -> bool:
    """Whether this very evaluation is finished; `UserError` where another one's result is in its
    place.
    """
    directory = study.evaluation(metric_of(study).name)
    known = state(directory, determines=_determines(study), parents=lambda: _parents(study))
    return known == "finished"


@tells_memory("evaluation", "evaluation.batch_size", "model.batch_size", "prompts.counts.test")
def evaluate_cell(study: Study, mirror: WandbMirror, embedding: Embedding) -> None:
    """Write results.json of the study's metric at its cell, unless it is there."""
    if evaluated(study):
        return
    chosen = metric_of(study)
    directory, settings = study.evaluation(chosen.name), chosen.settings.of(study.cfg)
    with study.recorded(
        directory, "evaluate", determines=_determines(study), parents=_parents(study)
    ):
        results = chosen.rows(study, settings, embedding)
        if views := _views(study):
            others = (chosen.rows(v, chosen.settings.of(v.cfg), embedding) for v in views)
            results = results_over_seeds([results, *others], seed=study.seed)
        save_results(directory / "results.json", results)
    mirror.summary(
        {f"test/{result.metric}": result.value for result in results if result.value is not None}
    )
    if pictures := captioned(directory):
        mirror.panel(panel_name(chosen.name), pictures)
    if chosen.panel is not None and mirror.mode != "disabled":
        mirror.panel(chosen.panel.name, list(chosen.panel.pictures(study, settings)))


def _determines(study: Study) -> dict[str, Any]:
    chosen = metric_of(study)
    settings = chosen.settings.of(study.cfg)
    parts = {name: study.part(name) for name in ("evaluation", "embedding")}
    judge = ("annotator",) if chosen.judges else ()
    for name in (*judge, *chosen.parts(settings)):
        parts[name] = determining(study.part(name))
    parts |= chosen.determines(study, settings)
    return {"cell": study.cell.coordinates(), **parts, "seed": study.seed}


def _parents(study: Study) -> dict[str, str]:
    directories = {"train": study.sae, "label": study.concepts, "annotate": study.annotations}
    own = [Beside(stage, directories[stage], stage) for stage in metric_of(study).made_from]
    return {
        run.name: parent_signature(run.directory, stage=run.stage)
        for run in (*own, *runs_beside(study))
    }
