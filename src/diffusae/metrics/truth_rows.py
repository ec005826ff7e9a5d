"""The figures of the benchmark of truth for one subject: recovery, sparse probing, absorption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from scipy import sparse

from diffusae.evaluation.absorption import absorption, mean_absorption
from diffusae.evaluation.factors import Labels, children
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.recovery import PictureCounts, SparseCodes, best_latents, mean_f1, says
from diffusae.evaluation.result import Resampling, Result
from diffusae.evaluation.sparse_probing import (
    Features,
    Truth,
    dense_probe,
    some_rows,
    sparse_probes,
)
from diffusae.metrics.subjects import Subject
from diffusae.settings import Within

VERSION = 1
CHOOSING = ("dictionary", "tune")


@dataclass(frozen=True, kw_only=True)
class TruthSettings(MetricSettings):
    """`conf/evaluation/truth.yaml`."""

    minimum_pictures: Count
    """That show a value, and that do not, both where latents are chosen and in the test split."""
    ks: tuple[Count, ...]
    """How many latents a sparse probe reads."""
    probe_rows: Count
    """Positions that a probe is fitted on at the most."""
    ridge: Annotated[float, Within(1e-9, 1e9)]
    """The penalty of a probe."""
    minimum_f1: Annotated[float, Within(0, 1)]
    """Of the latents between which absorption is looked for."""
    other_tags: tuple[str, ...]
    """Autoencoders of the cell with other seeds."""
    audit: Mapping[str, Any]
    """The metrics that are audited, each with its settings."""
    n_resamples: Count


@dataclass(frozen=True)
class Told:
    """Answers of one reader about local and whole factors, as counts of the test pictures."""

    columns: tuple[tuple[str, str], ...]
    counts: PictureCounts

    @classmethod
    def of(cls, parts: Sequence[tuple[Labels, np.ndarray]]) -> Told:
        """The labels of the test split and the answers at their rows, for each kind of factor."""
        counts = [PictureCounts.of(answers, labels.holds) for labels, answers in parts]
        whole = PictureCounts(
            *(
                np.concatenate([getattr(one, name) for one in counts], axis=1)
                for name in ("right", "said", "true")
            )
        )
        return cls(tuple(column for labels, _ in parts for column in labels.columns), whole)


@dataclass(frozen=True, eq=False)
class Kind:
    """Local or whole factors of a subject: codes and labels by split, of the values that enough
    pictures show.
    """

    codes: Mapping[str, SparseCodes]
    labels: Mapping[str, Labels]
    left_out: int

    @property
    def choosing(self) -> tuple[SparseCodes, Labels]:
        """What latents and thresholds are chosen on."""
        codes: SparseCodes = sparse.vstack([self.codes[split] for split in CHOOSING], format="csc")
        return codes, Labels.joined([self.labels[split] for split in CHOOSING])


def kinds_of(subject: Subject, minimum: int) -> tuple[Kind, Kind]:
    """Local factors and whole ones."""
    return (
        _kind(subject.at_positions, subject.local, minimum),
        _kind(subject.of_pictures, subject.whole, minimum),
    )


def _kind(codes: Mapping[str, SparseCodes], labels: Mapping[str, Labels], minimum: int) -> Kind:
    parts = [Labels.joined([labels[split] for split in CHOOSING]), labels["test"]]
    enough = np.all(
        [
            (part.pictures >= minimum) & ((~part.holds).any(axis=1).sum(axis=0) >= minimum)
            for part in parts
        ],
        axis=0,
    )
    kept = np.flatnonzero(enough).tolist()
    return Kind(
        codes, {split: one.only(kept) for split, one in labels.items()}, int((~enough).sum())
    )


def truth_rows(
    subject: Subject, settings: TruthSettings, cell: Mapping[str, Any], resampling: Resampling
) -> list[Result]:
    """The rows of one subject: a recovery for each factor and of all, a sparse probing for each k,
    and absorption.
    """
    kinds = kinds_of(subject, settings.minimum_pictures)
    rows = _recovery(kinds, cell, resampling)
    for k, told in _probing(kinds, settings, resampling.get("seed", 0)).items():
        rows.append(_row(f"probing_k{k}", told, range(len(told.columns)), cell, resampling))
    return [*rows, _absorption(subject, settings, cell, resampling)]


def _recovery(
    kinds: Sequence[Kind], cell: Mapping[str, Any], resampling: Resampling
) -> list[Result]:
    parts, chosen = [], []
    for kind in kinds:
        codes, labels = kind.choosing
        best = best_latents(codes, labels.flat)
        test = kind.labels["test"]
        parts.append((test, says(kind.codes["test"], best)))
        chosen += zip(best.latents.tolist(), best.f1.tolist(), test.pictures.tolist(), strict=True)
    told = Told.of(parts)
    f1 = told.counts.f1()
    values = {
        f"{factor} {value}": {
            "f1": None if np.isnan(own) else float(own),
            "latent": latent,
            "choosing_f1": choosing_f1,
            "test_pictures": pictures,
        }
        for (factor, value), own, (latent, choosing_f1, pictures) in zip(
            told.columns, f1, chosen, strict=True
        )
    }
    left_out = sum(kind.left_out for kind in kinds)
    every = range(len(told.columns))
    rows = [_row("recovery", told, every, cell, resampling, values_left_out=left_out)]
    for factor in dict.fromkeys(factor for factor, _ in told.columns):
        columns = [i for i in every if told.columns[i][0] == factor]
        own = {name: of for name, of in values.items() if name.startswith(f"{factor} ")}
        rows.append(_row(f"recovery_{factor}", told, columns, cell, resampling, values=own))
    return rows


def _probing(kinds: Sequence[Kind], settings: TruthSettings, seed: int) -> dict[int, Told]:
    parts: dict[int, list[tuple[Labels, np.ndarray]]] = {k: [] for k in settings.ks}
    for kind in kinds:
        features, truth = _split(kind.codes, kind, settings, seed)
        probes = sparse_probes(features, truth, settings.ks, ridge=settings.ridge)
        for k, answers in probes.items():
            parts[k].append((kind.labels["test"], answers))
    return {k: Told.of(of_k) for k, of_k in parts.items()}


def _split(
    features: Mapping[str, Any], kind: Kind, settings: TruthSettings, seed: int
) -> tuple[Features, Truth]:
    """The features of the three splits; of the fitting one, as many rows as a probe may read."""
    fitting: Any = features["dictionary"]
    fitting = sparse.csr_array(fitting) if sparse.issparse(fitting) else fitting
    rows = some_rows(fitting.shape[0], settings.probe_rows, seed)
    truth = Truth(kind.labels["dictionary"].flat[rows], kind.labels["tune"].flat)
    own = fitting[rows]
    own = sparse.csc_array(own) if sparse.issparse(own) else own
    return Features(own, features["tune"], features["test"]), truth


def reference_rows(
    subject: Subject,
    updates: Mapping[str, np.ndarray] | None,
    settings: TruthSettings,
    cell: Mapping[str, Any],
    resampling: Resampling,
) -> dict[str, dict[str, Result]]:
    """The same figures of readers without latents: by the reader's name, then by the row's.

    `always_yes`: what a value that is always claimed would have. Where updates are stored, also
    `neurons`, entries of the update in the place of latents, with either sign; and `dense_probe`,
    which reads all entries.
    """
    kinds = kinds_of(subject, settings.minimum_pictures)
    tests = [kind.labels["test"] for kind in kinds]
    always = Told.of([(labels, np.ones_like(labels.flat)) for labels in tests])
    columns: dict[str, Sequence[int]] = {"recovery": range(len(always.columns))}
    for factor in dict.fromkeys(factor for factor, _ in always.columns):
        own = [i for i, (name, _) in enumerate(always.columns) if name == factor]
        columns[f"recovery_{factor}"] = own
    probing = {f"probing_k{k}": columns["recovery"] for k in settings.ks}

    def rows(told: Told, of: Mapping[str, Sequence[int]]) -> dict[str, Result]:
        return {name: _row(name, told, own, cell, resampling) for name, own in of.items()}

    made = {"always_yes": rows(always, columns | probing)}
    if updates is None:
        return made
    signed, dense, probed = _of_updates(kinds, updates, settings, resampling.get("seed", 0))
    made["neurons"] = rows(signed, columns)
    for k, told in probed.items():
        made["neurons"] |= rows(told, {f"probing_k{k}": columns["recovery"]})
    made["dense_probe"] = rows(dense, columns | probing)
    return made


def _of_updates(
    kinds: tuple[Kind, Kind], updates: Mapping[str, np.ndarray], settings: TruthSettings, seed: int
) -> tuple[Told, Told, dict[int, Told]]:
    """What single entries tell, what all entries tell, and what k entries tell."""
    signed, dense, probed = [], [], {k: [] for k in settings.ks}
    for kind, local in zip(kinds, (True, False), strict=True):
        test = kind.labels["test"]
        own = {
            split: x.reshape(-1, x.shape[2]) if local else x.mean(axis=1)
            for split, x in updates.items()
        }
        features, truth = _split(own, kind, settings, seed)
        chosen, tested = (
            sparse.csc_array(np.concatenate([x, -x], axis=1))
            for x in (features.fitting, features.test)
        )
        signed.append((test, says(tested, best_latents(chosen, truth.fitting))))
        dense.append((test, dense_probe(features, truth, ridge=settings.ridge)))
        for k, answers in sparse_probes(features, truth, settings.ks, ridge=settings.ridge).items():
            probed[k].append((test, answers))
    return Told.of(signed), Told.of(dense), {k: Told.of(of_k) for k, of_k in probed.items()}


def _absorption(
    subject: Subject, settings: TruthSettings, cell: Mapping[str, Any], resampling: Resampling
) -> Result:
    local = subject.local
    labels = Labels.joined([local[split] for split in CHOOSING])
    codes: SparseCodes = sparse.vstack(
        [subject.at_positions[split] for split in CHOOSING], format="csc"
    )
    pairs = absorption(
        (codes, labels, children(labels)),
        (subject.at_positions["test"], local["test"], children(local["test"])),
        minimum_f1=settings.minimum_f1,
        minimum_pictures=settings.minimum_pictures,
    )
    excess = pairs.absorption().tolist() if pairs.names else []
    worst = sorted(zip(excess, pairs.names, strict=True), reverse=True)[:5]
    details = {
        "pairs": len(pairs.names),
        "worst": {f"{child} of {parent}": value for value, (parent, child) in worst},
        "minimum_f1": settings.minimum_f1,
    }
    estimate = mean_absorption(pairs, **resampling)
    return Result("absorption", estimate, False, "share", dict(cell), {}, details, VERSION)


def _row(
    name: str,
    told: Told,
    columns: Sequence[int],
    cell: Mapping[str, Any],
    resampling: Resampling,
    **details: Any,
) -> Result:
    estimate = mean_f1(told.counts, columns, **resampling)
    details = {"n_values": len(columns), **details}
    return Result(name, estimate, True, "F1", dict(cell), {}, details, VERSION)
