"""The verdicts on registered claims, made of the cases that were evaluated on fresh pictures.

`claims` makes them, and `report` again when there are more evaluations. An evaluation counts only
if it began after the claims were registered.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from diffusae.errors import UserError
from diffusae.evaluation.case_tests import Differences
from diffusae.evaluation.claims import TABLES, Claim, ClaimCell, Compared, Other, Verdict, judged
from diffusae.files import atomic_path, atomic_write_json, verified
from diffusae.parsing import read_json, reading, typed
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import RECORD, Parent, RunRecord
from diffusae.runs.survey import finished_runs
from diffusae.summaries.registration import Registered
from diffusae.summaries.three_stages import is_there
from diffusae.table_files import read_table

log = logging.getLogger(__name__)

STAGE = "claims"
Series = Any
"""A pandas Series; pandas' published types lose it at the first selection of rows."""


@dataclass(frozen=True)
class Judgement:
    """All verdicts, and what they are of.

    Attributes:
        name, source: of the claims.
        alpha: of Holm's correction over all of them.
        signature, registered, git_commit, git_dirty: the registration's; empty and None before.
        changed: whether the claims are other ones now: the verdicts are stale then.
    """

    name: str
    source: str
    alpha: float
    verdicts: list[Verdict]
    signature: str = ""
    registered: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    changed: bool = False

    @property
    def scope(self) -> str:
        """What the verdicts do not say."""
        return (
            "One autoencoder of every cell was judged, of one training seed: the verdicts do not"
            " say what another training would give."
        )

    @property
    def counted(self) -> str:
        """Such as "3 of 18 claims hold, 2 fail, 1 is undecided, 12 are not evaluated"."""
        states = [verdict.state for verdict in self.verdicts]
        n = {state: states.count(state) for state in set(states)}
        undecided, unasked = n.get("undecided", 0), n.get("not evaluated", 0)
        return (
            f"{n.get('holds', 0)} of {len(states)} claims hold, {n.get('fails', 0)} fail,"
            f" {undecided} {'is' if undecided == 1 else 'are'} undecided,"
            f" {unasked} {'is' if unasked == 1 else 'are'} not evaluated"
        )


def judgement_of(registered: Registered) -> Judgement:
    """The verdicts as they were last written; all claims "not evaluated" where there are none."""
    claims, record = registered.claims, registered.record
    if record is None:
        note = "not registered yet: run `diffusae claims`"
        return Judgement(
            claims.name, claims.source, claims.alpha,
            judged(claims, dict.fromkeys(claims.stated, note)),
        )  # fmt: skip
    directory = _directory(registered)
    if not any(finished_runs(directory, ".")):
        return _judgement(registered, record, judged(claims, {}))
    remedy = f"remove {directory} and run `diffusae claims` again"
    path = verified(directory / "claims.json")
    with reading(path, remedy=remedy):
        stored = typed(Judgement, read_json(path, remedy=remedy))
    return Judgement(**{**vars(stored), "changed": registered.changed})


def summarise_claims(registered: Registered) -> None:
    """Write claims.json and claims.md of what is evaluated. Nothing is done before the claims are
    registered, where the verdicts are up to date, and where the claims were changed: then the
    registered ones keep their verdicts.
    """
    record = registered.record
    if record is None or registered.changed:
        return
    root = registered.directory.parent
    directory = _directory(registered)
    runs = dict(finished_runs(root / "evaluation", "*/*"))
    late = {path: run for path, run in runs.items() if run.started >= record.started}
    for path in runs.keys() - late.keys():
        log.warning("left out: %s was evaluated before the claims were registered", path)
    determines = {"claims": registered.values, "tag": registered.study.cfg.sae.tag}
    parents: dict[str, str] = {"register": Parent.of(record)}
    parents |= {
        f"evaluate {path.parent.name}/{path.name}": Parent.of(r) for path, r in late.items()
    }
    with directory_lock(directory):
        if is_there(directory, determines, parents):
            return
        (directory / RECORD).unlink(missing_ok=True)
        with registered.study.recorded(
            directory, STAGE, determines=determines, parents=parents, locks=False
        ):
            found = {
                name: _compared(registered, claim, late)
                for name, claim in registered.claims.stated.items()
            }
            judgement = _judgement(registered, record, judged(registered.claims, found))
            atomic_write_json(directory / "claims.json", asdict(judgement))
            with atomic_path(directory / "claims.md") as temporary:
                temporary.write_text(claims_markdown(judgement), encoding="utf-8")
    log.info("%s: %s", judgement.counted, directory / "claims.md")


def _directory(registered: Registered) -> Path:
    """Of the verdicts on autoencoders with the study's tag."""
    return registered.directory.parent / STAGE / str(registered.study.cfg.sae.tag)


def _judgement(registered: Registered, record: RunRecord, verdicts: list[Verdict]) -> Judgement:
    claims = registered.claims
    about = (record.signature, record.started, record.git_commit, record.git_dirty)
    return Judgement(
        claims.name, claims.source, claims.alpha, verdicts, *about, changed=registered.changed
    )


def _compared(
    registered: Registered, claim: Claim, runs: Mapping[Path, RunRecord]
) -> Compared | str:
    """The differences of a claim, or why there are none."""
    try:
        return {
            name: _differences(registered, claim, other, runs)
            for name, other in claim.against.items()
        }
    except UserError as error:
        return str(error)


def _differences(
    registered: Registered, claim: Claim, other: Other, runs: Mapping[Path, RunRecord]
) -> Differences:
    table = TABLES[claim.metric]

    def cases(cell: ClaimCell, column: str, select: Mapping[str, Any]) -> Series:
        tag, root = registered.study.cfg.sae.tag, registered.directory.parent
        directory = root / "evaluation" / claim.metric / f"{cell.key}-{tag}"
        if directory not in runs:
            raise UserError(f"{claim.metric} at {cell.key} is not evaluated")
        return _cases(directory, claim, column, select)

    own = cases(claim.cell, claim.column, claim.select)
    low, high = table.columns[claim.column]
    seed, single = registered.claims.seed, table.cluster
    if other.value is not None:
        values, span, test = own - other.value, (low - other.value, high - other.value), None
    else:
        others = cases(
            other.cell or claim.cell, other.column or claim.column, other.select or claim.select
        )
        if claim.test == "permutation":
            return Differences(
                own.to_numpy(), others.to_numpy(), (low, high), min(len(own), len(others)),
                claim.test, seed,
            )  # fmt: skip
        values, span, test = (own - others).dropna(), (low - high, high - low), claim.test
    if values.empty:
        raise UserError("both sides of the comparison have no case in common")
    by_picture = values.groupby(level=single).mean()
    if test == "mcnemar" and not np.isin(by_picture, (-1, 0, 1)).all():
        raise UserError("test=mcnemar needs shares of 0 and 1, one a picture; choose sign_flip")
    return Differences(by_picture.to_numpy(), None, span, len(values), test, seed)


def _cases(directory: Path, claim: Claim, column: str, select: Mapping[str, Any]) -> Series:
    """The value of every selected case of the split `test`, by its keys; rows of one case are
    averaged.

    Raises:
        UserError: no row is selected, or a column is missing.
    """
    table = TABLES[claim.metric]
    remedy = f"remove {directory} and run `diffusae claims` again"
    try:
        rows: Any = read_table(
            verified(directory / table.file), dict.fromkeys((*table.keys, column), "any"),
            remedy=remedy,
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"{directory / table.file} is missing; {remedy}") from None
    wanted = {**({"split": "test"} if "split" in rows else {}), **select}
    if missing := [name for name in wanted if name not in rows]:
        raise UserError(f"{table.file} of {claim.metric} has no column {', '.join(missing)}")
    for name, value in wanted.items():
        rows = rows[_is(rows[name], value)]
    values = rows.assign(**{column: _numbers(rows[column])})
    known = values.dropna(subset=[column]).groupby(list(table.keys))[column].mean()
    if known.empty:
        chosen = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise UserError(f"{table.file} of {claim.metric} has no value of {column} at {chosen}")
    return known


def _is(column: Series, value: Any) -> Any:
    """Whether each entry is this value; numbers up to rounding."""
    if not isinstance(value, float):
        return column == value
    return np.isclose(_numbers(column, errors="coerce"), value)


def _numbers(column: Series, *, errors: Literal["raise", "coerce"] = "raise") -> Series:
    numbers: Any = pd.to_numeric(column, errors=errors)
    return numbers.astype(float)


def claims_markdown(judgement: Judgement) -> str:
    """The verdicts as a page."""
    stale = "\n\n**The claims were changed after this: it is stale.**" if judgement.changed else ""
    lines = [
        f"# Claims: {judgement.name}",
        "",
        f"Claims of {judgement.source}, registered {judgement.registered} as"
        f" {judgement.signature} at commit {judgement.git_commit}"
        f"{' (with changes)' if judgement.git_dirty else ''}. {judgement.counted}. Holm's"
        f" correction over all of them, alpha = {judgement.alpha:g}. {judgement.scope}{stale}",
        "",
        "| claim | verdict | difference [95 %] | against | pictures (cases) | p | adjusted |"
        " p (fails) | adjusted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for verdict in judgement.verdicts:
        lines.append(f"| {' | '.join(cells_of(verdict))} |")
    return "\n".join(lines) + "\n"


COLUMNS = (
    "claim", "verdict", "difference", "against", "pictures", "p", "p adjusted", "p (fails)",
    "p (fails) adjusted",
)  # fmt: skip
"""What `cells_of` gives."""


def cells_of(verdict: Verdict) -> list[str]:
    """A verdict as the cells of a table."""
    claim = verdict.claim
    text = f"{verdict.text}: {verdict.note}" if verdict.note else verdict.text
    if verdict.effect is None or verdict.ci95 is None:
        return [claim.sentence, text, "–", claim.comparison, "0", "–", "–", "–", "–"]
    low, high = verdict.ci95
    ps = (verdict.p, verdict.p_adjusted, verdict.p_fails, verdict.p_fails_adjusted)
    return [
        claim.sentence,
        text,
        f"{verdict.effect:+.3f} [{low:+.3f}, {high:+.3f}]",
        f"{claim.comparison}; hardest: {verdict.baseline}",
        f"{verdict.pictures} ({verdict.cases})",
        *(f"{p:.2g}" for p in ps),
    ]
