"""Evaluating one cell by one metric, with its baselines on the same pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from diffusae.concepts.embeddings import WordEmbedding
from diffusae.errors import unknown
from diffusae.evaluation.result import Result, save_results
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.labelling.annotate import annotator_faults, determining
from diffusae.metrics.cohesion import cohesion_rows
from diffusae.metrics.composition import composition_results
from diffusae.metrics.erasure import erasure_rows
from diffusae.metrics.faithfulness import faithfulness_rows
from diffusae.metrics.global_intervention import global_rows
from diffusae.metrics.knowledge import knowledge_results
from diffusae.metrics.latents import latent_rows, other_sae
from diffusae.metrics.purity import PANEL as PURITY_PANEL
from diffusae.metrics.purity import purity_results
from diffusae.metrics.reconstruction import reconstruction_rows
from diffusae.metrics.spatial_intervention import spatial_rows
from diffusae.metrics.text_steering import steering_rows
from diffusae.report.before_after import captioned, panel_name
from diffusae.report.purest import purity_panel
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import parent_signature, run_record, state
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.steering.global_directions import edited_studies
from diffusae.study.study import Study

log = logging.getLogger(__name__)

Embedding = Callable[[], WordEmbedding]

# Metric name -> what computes its rows, and the stages that it is made from.
METRICS: dict[str, tuple[Callable[[Study, Embedding], list[Result]], tuple[str, ...]]] = {
    "composition": (composition_results, ("label", "annotate")),
    "reconstruction": (reconstruction_rows, ("train",)),
    "spatial": (spatial_rows, ("label", "annotate")),
    "global": (global_rows, ("train", "annotate")),
    "global_together": (global_rows, ("train", "annotate")),
    "cohesion": (cohesion_rows, ("label",)),
    "latents": (latent_rows, ("train", "annotate")),
    "faithfulness": (faithfulness_rows, ("train", "annotate")),
    "purity": (purity_results, ("train",)),
    "knowledge": (knowledge_results, ("train",)),
    "steering": (steering_rows, ("train",)),
    "erasure": (erasure_rows, ("train",)),
}


OF_GENERATION = ("composition", "spatial", "global", "global_together", "faithfulness")
"""Metrics that need pictures generated of captions: another kind of collection has none."""

OF_PICTURES = ("cohesion", "latents")
"""Metrics that need pictures, generated or given."""

OF_LABELS = ("purity", "knowledge")
"""Metrics that need class labels, which given pictures have."""

JUDGED = ("spatial", "global", "global_together", "faithfulness", "steering", "erasure")
"""Metrics that make new pictures, which the annotator of this very run judges."""


def needed(metrics: Iterable[str]) -> set[str]:
    """The stages that these metrics are made from; labelling reads annotations."""
    stages = {stage for metric in metrics for stage in METRICS[metric][1]}
    return stages | ({"annotate"} if "label" in stages else set())


def kind_faults(study: Study, metrics: Iterable[str]) -> Iterator[str]:
    """Every metric that the study's kind of collection cannot have, and an annotator that cannot
    judge its pictures.
    """
    metrics = list(metrics)
    generated = study.kind == "generation" and "annotate" in needed(metrics)
    if generated or any(metric in JUDGED for metric in metrics):
        yield from annotator_faults(study)
    for metric in metrics:
        if study.kind != "generation" and metric in OF_GENERATION:
            yield (
                f"metric {metric} needs pictures generated of captions, which"
                f" collection={study.kind} has not; leave it out"
            )
        elif study.kind != "pictures" and metric in OF_LABELS:
            yield (
                f"metric {metric} needs class labels, which collection={study.kind} has not; choose"
                " given pictures such as collection=pictures_world, or leave it out"
            )
        elif study.kind == "text" and metric in OF_PICTURES:
            yield f"metric {metric} needs pictures, which collection=text has not; leave it out"
        elif metric in OF_PICTURES and study.kind == "pictures" and study.cfg.collection.pooled:
            yield f"metric {metric} needs the positions of pictures; set collection.pooled=false"


def evaluated(study: Study, metric: str) -> bool:
    """Whether this very evaluation is finished; `UserError` where another one's result is in its
    place.
    """
    if metric not in METRICS:
        raise unknown("evaluation", metric, METRICS)
    directory = study.evaluation(metric)
    return (
        state(directory, determines=_determines(study), parents=_parents(study, metric))
        == "finished"
    )


@tells_memory("evaluation", "evaluation.batch_size", "model.batch_size", "prompts.counts.test")
def evaluate_cell(study: Study, mirror: WandbMirror, embedding: Embedding) -> None:
    """Write one cell's results.json of the study's metric, unless it is there."""
    metric = study.cfg.evaluation.name
    if evaluated(study, metric):
        return
    directory = study.evaluation(metric)
    with (
        directory_lock(directory),
        run_record(
            directory,
            stage="evaluate",
            config=study.config(),
            determines=_determines(study),
            parents=_parents(study, metric),
            seed=study.cfg.seed,
        ),
    ):
        results = METRICS[metric][0](study, embedding)
        save_results(directory / "results.json", results)
    mirror.summary(
        {f"test/{result.metric}": result.value for result in results if result.value is not None}
    )
    if pictures := captioned(directory):
        mirror.panel(panel_name(metric), pictures)
    if metric == "purity" and mirror.mode != "disabled":
        mirror.panel(PURITY_PANEL, purity_panel(study))


def spread_of(result: Result) -> tuple[Any, int]:
    return result.estimate.ci95, result.estimate.n


def _determines(study: Study) -> dict[str, Any]:
    parts = {name: study.part(name) for name in ("evaluation", "embedding")}
    if study.cfg.evaluation.name in JUDGED:
        parts["annotator"] = determining(study.part("annotator"))
    if study.cfg.evaluation.get("name_by_tagger"):
        parts["tagger"] = determining(study.part("tagger"))
    return {"cell": study.cell.coordinates(), **parts, "seed": study.cfg.seed}


def _parents(study: Study, metric: str) -> dict[str, str]:
    directories = {"train": study.sae, "label": study.concepts, "annotate": study.annotations}
    parents: dict[str, str] = {
        stage: parent_signature(directories[stage], stage=stage) for stage in METRICS[metric][1]
    }
    if metric == "latents" and (other := other_sae(study)) is not None:
        parents["other"] = parent_signature(other, stage="train")
    if metric == "knowledge" and study.cfg.evaluation.random_activations is not None:
        beside = study.directory / study.cfg.evaluation.random_activations
        parents["collect random_weights"] = parent_signature(beside, stage="collect")
    if global_rows is METRICS[metric][0]:
        for there in edited_studies(study):
            parents[f"train {there.cell_name}"] = parent_signature(there.sae, stage="train")
    return parents
