"""The benchmark of truth at one cell: which of the pictures' factors its latents are, and an audit
of every metric on subjects whose answer is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from diffusae.concepts.settings import DictionarySettings
from diffusae.errors import UserError, unknown
from diffusae.evaluation.result import NO_DATA, Estimate, Resampling, Result, bootstrap_mean
from diffusae.evaluation.sensitivity import ORACLE, smallest_difference
from diffusae.evaluation.stability import matched_cosines, matched_maps
from diffusae.metrics.audit import AUDITED, Bench, audits, settings_of
from diffusae.metrics.metric import Beside, Embedding, Metric
from diffusae.metrics.subjects import Subject, Subjects, sae_of, subjects_of
from diffusae.metrics.truth_rows import VERSION, TruthSettings, reference_rows, truth_rows
from diffusae.study.study import Study

AUDIT = "audit_"
"""How the names of the rows of audited metrics begin."""
PERMUTED, RANDOM = "permuted_labels", "random_weights"
Rows = Callable[[Subject], list[Result]]


def benchmark_rows(study: Study, settings: TruthSettings, embedding: Embedding) -> list[Result]:
    """The rows of truth, then those of the audited metrics. Every row has the same figure of the
    oracle, of permuted labels and of random weights as baselines.
    """
    subjects = subjects_of(study, settings.other_tags)
    resampling: Resampling = {"n_resamples": settings.n_resamples, "seed": study.seed}
    cell = study.cell.coordinates()
    permuted = subjects.trained.permuted(study.seed)
    oracle = cache(subjects.trained.oracle)  # audits of the same factors share its dictionary
    beside = reference_rows(subjects.trained, subjects.updates, settings, cell, resampling)
    rows = _compared(
        lambda subject: truth_rows(subject, settings, cell, resampling),
        subjects,
        permuted,
        oracle(None),
    )
    rows = [_beside(row, beside) for row in rows]
    rows += _stability(subjects, settings, cell, resampling)
    bench = Bench(embedding, settings.audit, DictionarySettings.of(study.cfg), cell, resampling)
    for audit in audits(subjects.trained.names):
        if audit.metric in settings.audit:
            rows_of = partial(audit.rows, bench)
            made = _compared(rows_of, subjects, permuted, oracle(audit.oracle))
            rows += [_audited(audit.metric, row) for row in made]
    about = {"sae": study.cfg.sae.tag}
    return [replace(row, details=about | row.details) for row in rows]


def _audited(metric: str, row: Result) -> Result:
    return replace(row, metric=f"{AUDIT}{row.metric}", details={"audited": metric} | row.details)


def _compared(
    rows_of: Rows, subjects: Subjects, permuted: Subject, oracle: Subject
) -> list[Result]:
    """The rows of the trained subject with the others' as baselines, the spread over seeds, and the
    smallest difference that they can see.
    """
    others = {ORACLE: oracle, PERMUTED: permuted}
    if subjects.random is not None:
        others[RANDOM] = subjects.random
    figures = {name: _by_name(rows_of(subject)) for name, subject in others.items()}
    seeds = [_by_name(rows_of(subject)) for subject in subjects.reseeded.values()]
    rows = []
    for row in rows_of(subjects.trained):
        values = [row.value, *(of[row.metric].value for of in seeds if row.metric in of)]
        beside = {
            name: of[row.metric].estimate if row.metric in of else NO_DATA
            for name, of in figures.items()
        }
        details = row.details | smallest_difference(
            row.estimate, beside, [value for value in values if value is not None]
        )
        rows.append(replace(row, baselines=beside, details=details))
    return rows


def _by_name(rows: Sequence[Result]) -> dict[str, Result]:
    return {row.metric: row for row in rows}


def _beside(row: Result, others: Mapping[str, Mapping[str, Result]]) -> Result:
    """A row with further baselines."""
    more = {name: of[row.metric].estimate for name, of in others.items() if row.metric in of}
    return replace(row, baselines={**row.baselines, **more})


def _stability(
    subjects: Subjects, settings: TruthSettings, cell: Mapping[str, Any], resampling: Resampling
) -> list[Result]:
    """How alike the latents of other seeds are, by their directions and by their maps, over the
    latents that enough test pictures show; n counts latents. Labels have no part in it.
    """
    trained, random = subjects.trained, subjects.random
    active = (trained.of_pictures["test"] > 0).sum(axis=0)
    latents = np.flatnonzero(active >= settings.minimum_pictures)
    seed = resampling.get("seed", 0)

    def directions(other: Subject) -> np.ndarray:
        assert trained.directions is not None and other.directions is not None
        return matched_cosines(trained.directions, other.directions).numpy()[latents]

    def maps(other: Subject) -> np.ndarray:
        return matched_maps(trained.at_positions["test"], other.at_positions["test"], latents)

    def mean(values: np.ndarray) -> Estimate:
        return bootstrap_mean(values, **resampling)

    rows = []
    for name, measure in (("stability_directions", directions), ("stability_maps", maps)):
        by_seed = [measure(other) for other in subjects.reseeded.values()]
        own, beside, spread = NO_DATA, {}, []
        if by_seed:
            own = mean(np.mean(by_seed, axis=0))
            beside = {ORACLE: mean(measure(trained.reordered(seed)))}
            beside |= {RANDOM: NO_DATA if random is None else mean(measure(random))}
            spread = [float(one.mean()) for one in by_seed]
        details = {"other_tags": list(subjects.reseeded), "n_latents": len(latents)}
        details |= smallest_difference(own, beside, spread)
        rows.append(Result(name, own, True, "cosine", dict(cell), beside, details, VERSION))
    return rows


def _faults(study: Study, settings: TruthSettings) -> Iterator[str]:
    for name, given in settings.audit.items():
        if name not in AUDITED:
            yield str(unknown("metric in evaluation.audit:", name, AUDITED))
            continue
        try:
            settings_of(name, given)
        except UserError as error:
            yield from (f"evaluation.audit.{name}: {fault}" for fault in error.faults)
    if study.held_out.coded and settings.other_tags:
        yield (
            "evaluation.other_tags needs stored updates, and activations.held_out=codes stores"
            " codes of one autoencoder; set evaluation.other_tags=[]"
        )
    if study.cfg.sae.tag in settings.other_tags:
        yield (
            f"evaluation.other_tags names {study.cfg.sae.tag}, which is this autoencoder; name"
            " those of other seeds"
        )


def _others(study: Study, settings: TruthSettings) -> list[Beside]:
    """The autoencoders of other seeds."""
    return [Beside(f"other {tag}", sae_of(study, tag), "train") for tag in settings.other_tags]


def _chart(row: str) -> str | None:
    return None if row.startswith(AUDIT) else _CHARTS.get(row)


_CHARTS = {
    "recovery": "Recovery: F1 of the best latent, mean over all values",
    "absorption": "Absorption",
}
METRIC = Metric(
    name="truth",
    title="Do latents equal what the pictures show, and do the metrics tell truth from chance?",
    section="truth",
    chart=_chart,
    claims={"recovery": "Latents equal what the pictures show, better than neurons and chance"},
    settings=TruthSettings,
    rows=benchmark_rows,
    made_from=("train", "annotate"),
    needs="captions",
    faults=_faults,
    beside=_others,
    parts=lambda _: ("dictionary", "annotator"),
)
