"""Claims that were registered before they were looked at, and what the pictures say of them.

A claim compares one figure with others, case by case: `own - other`, where `other` is a control of
the same cases, the same figure at another cell, or a constant. With the claim's `margin`, the
smallest difference that counts:

| `expects` | the claim holds where it is shown that | and fails where it is shown that |
|---|---|---|
| more | own - other > 0 | own - other < margin: the opposite, or nothing that counts |
| less | own - other < 0 | own - other > -margin |
| no_more | own - other < margin ("cannot", "is fixed") | own - other > 0 |
| alike | -margin < own - other < margin ("is saturated") | own - other is not 0 |

Where both are shown, the claim holds: the difference is there, and smaller than what counts. A
claim against several others holds where it holds against all of them (the largest p value counts),
and fails where it fails against one (the least p value, times their number).

Both p values are corrected by Holm over **all** claims of the registration: one that has no data
counts with a p value of 1. So the chance that any claim is wrongly said to hold is at most alpha,
and the chance that any is wrongly said to fail is at most alpha.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from diffusae.errors import unknown
from diffusae.evaluation.case_tests import Differences, TestName, holm, needed
from diffusae.evaluation.result import Interval

Expects = Literal["more", "less", "no_more", "alike"]
State = Literal["holds", "fails", "undecided", "not evaluated"]
SHARE, COSINE = (0.0, 1.0), (-1.0, 1.0)
MOST_NEEDED = 10**7
"""More pictures than these decide nothing in practice."""


@dataclass(frozen=True)
class CaseTable:
    """The table of cases that a metric leaves beside its results.json.

    Attributes:
        file: its name.
        keys: the columns that say which case a row is; rows of the same case are averaged.
        columns: the figures, each with the least and the greatest value that it can have.
        single: whether every picture has one case only.
        edits: whether it is of edited pictures, of which a claim needs many captions.
    """

    file: str
    keys: tuple[str, ...]
    columns: Mapping[str, Interval]
    single: bool = False
    edits: bool = False

    @property
    def cluster(self) -> str:
        """The column whose values are independent of each other."""
        return self.keys[0]


_RESTYLED = CaseTable(
    "pictures.parquet",
    ("image_id", "target"),
    dict.fromkeys(("rose", "reached", "kept", "similarity"), SHARE),
    single=True,
    edits=True,
)
TABLES: Mapping[str, CaseTable] = {
    "composition": CaseTable(
        "objects.parquet",
        ("image_id", "noun"),
        dict.fromkeys(
            (
                *("iou", "cross_attention", "concept_attention", "noun_probe", "any_object_probe"),
                *("chance", "centre_prior", "other_picture"),
            ),
            SHARE,
        ),
    ),
    "cohesion": CaseTable(
        "concepts.parquet", ("latent",), {"cohesion": COSINE, "separability": COSINE}, single=True
    ),
    "spatial": CaseTable(
        "objects.parquet",
        ("image_id", "noun", "region"),
        dict.fromkeys(("success", "found", "rest"), SHARE),
        edits=True,
    ),
    "global": _RESTYLED,
    "global_together": _RESTYLED,
    "decisions": CaseTable(
        "pictures.parquet",
        ("image_id",),
        dict.fromkeys(("shows_old", "shows_new"), SHARE),
        single=True,
        edits=True,
    ),
}
"""The metrics of which claims can be made."""


@dataclass(frozen=True)
class ClaimCell:
    """A cell of the grid."""

    block: str
    t: float
    conditioning: str

    @property
    def key(self) -> str:
        """As `diffusae.activations.schema.Cell` writes it, such as `mid-t0.50-cond`."""
        return f"{self.block}-t{self.t:.2f}-{self.conditioning}"


@dataclass(frozen=True)
class Other:
    """What a figure is compared with: the figure itself, but for what is given here.

    Attributes:
        cell: another cell. column: another column of the same rows.
        select: other rows, such as {method: random_latent}.
        value: a constant in the place of all these.
    """

    cell: ClaimCell | None = None
    column: str | None = None
    select: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None


@dataclass(frozen=True)
class Claim:
    """A claim as it is registered.

    Attributes:
        sentence: what is claimed, in words.
        metric, column: its figure. cell: where.
        against: {name: what it is compared with}.
        expects, margin: what is claimed of the difference, as above.
        test: of a difference, see `diffusae.evaluation.case_tests`.
        select: the rows of the table of cases, {column: value}; those of the split `test` in any
            case.
        window: the edited window of t, where pictures are edited: early, middle or final.
    """

    sentence: str
    metric: str
    column: str
    cell: ClaimCell
    against: Mapping[str, Other]
    expects: Expects
    margin: float
    test: TestName
    select: Mapping[str, Any] = field(default_factory=dict)
    window: str | None = None

    @property
    def cells(self) -> list[ClaimCell]:
        """All cells that it needs, each once."""
        others = [other.cell for other in self.against.values() if other.cell is not None]
        return list(dict.fromkeys([self.cell, *others]))

    @property
    def comparison(self) -> str:
        """Such as "iou more than centre_prior, other_picture"."""
        words = {"more": "more than", "less": "less than", "no_more": "no more than"}
        within = "" if self.expects in ("more", "less") else f" (within {self.margin:g})"
        names = ", ".join(self.against)
        return f"{self.column} {words.get(self.expects, self.expects + ' to')} {names}{within}"


@dataclass(frozen=True)
class Verdict:
    """What the pictures say of a claim.

    Attributes:
        claim, name: what was asked.
        state: holds, fails, undecided, or not evaluated.
        baseline: the comparison that is hardest for the claim, of which all figures are.
        effect, ci95: the mean difference and its 95 % interval.
        pictures, cases: how many it is made of.
        p, p_adjusted: that the claim holds. p_fails, p_fails_adjusted: that it fails.
        pictures_needed: how many would decide it; None: it is decided, or no number would.
        note: why nothing is known.
    """

    name: str
    claim: Claim
    state: State
    baseline: str = ""
    effect: float | None = None
    ci95: Interval | None = None
    pictures: int = 0
    cases: int = 0
    p: float = 1.0
    p_adjusted: float = 1.0
    p_fails: float = 1.0
    p_fails_adjusted: float = 1.0
    pictures_needed: int | None = None
    note: str = ""

    @property
    def text(self) -> str:
        """The verdict in words."""
        if self.state != "undecided":
            return self.state
        if self.pictures_needed is None:
            return "undecided (no number of pictures would decide it)"
        return f"undecided (about {self.pictures_needed} pictures would decide it)"


@dataclass(frozen=True)
class Registration:
    """Claims, and how they are judged.

    Attributes:
        name: of the file, such as "emergence". source: whose claims these are.
        alpha: of Holm's correction. power: of `pictures_needed`.
        seed: of the noise of the fresh pictures. captions: how many of them in the split `test`.
        least_captions: fewer decide nothing where pictures are edited.
        options: {metric: option of `evaluation`} where it has another name.
        settings: {metric: values in the place of its own}.
        stated: the claims by name. blocks, cells: what they refer to.
    """

    name: str
    source: str
    alpha: float
    power: float
    seed: int
    captions: int
    least_captions: int
    stated: Mapping[str, Claim]
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blocks: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, Any] = field(default_factory=dict)


Compared = Mapping[str, Differences]
"""{name of what a claim is against: the differences}."""


def p_values(claim: Claim, compared: Compared) -> tuple[float, float, str]:
    """The p values of "holds" and "fails", and the name of the comparison that is hardest for the
    claim.
    """
    turned = _turned(claim, compared)
    holds, fails = {}, []
    for name, one in turned.items():
        holding, failing = _bounds(claim, one)
        holds[name] = max(side.p_below(bound) for side, bound in holding)
        fails += [side.p_below(bound) for side, bound in failing]
    hardest = max(holds, key=lambda name: (holds[name], -_lead(claim, turned[name])))
    return holds[hardest], min(1.0, min(fails) * len(fails)), hardest


def _turned(claim: Claim, compared: Compared) -> Compared:
    """The differences such that "less" is "more", the other way round."""
    if claim.expects != "less":
        return compared
    return {name: one.negative for name, one in compared.items()}


def _lead(claim: Claim, one: Differences) -> float:
    """How far a difference is on the claim's side."""
    if claim.expects == "alike":
        return -abs(one.effect)
    return -one.effect if claim.expects == "no_more" else one.effect


Bounds = Sequence[tuple[Differences, float]]
"""Differences, and what each of them is to lie below."""


def _bounds(claim: Claim, one: Differences) -> tuple[Bounds, Bounds]:
    """What shows that a claim holds, all of it together, and what shows that it fails, any of it.
    "less" is turned already.
    """
    above, below = (one.negative, 0.0), (one, claim.margin)
    if claim.expects in ("more", "less"):
        return [above], [below]
    if claim.expects == "no_more":
        return [below], [above]
    return [below, (one.negative, claim.margin)], [above, (one, 0.0)]


def _needed(claim: Claim, compared: Compared, *, level: float, power: float) -> int | None:
    """The fewest pictures that would decide a claim in either way, at the first step of Holm."""

    def n(bounds: Bounds) -> list[float]:
        return [needed(one, bound, level=level, power=power) for one, bound in bounds]

    shown = [_bounds(claim, one) for one in _turned(claim, compared).values()]
    holding = max(max(n(holds)) for holds, _ in shown)
    failing = min(min(n(fails)) for _, fails in shown)
    least = min(holding, failing)
    return int(least) if least <= MOST_NEEDED else None


def judged(registered: Registration, found: Mapping[str, Compared | str]) -> list[Verdict]:
    """The verdict on every claim, in the order of the registration.

    Args:
        found: {claim: its differences, or why there are none}; a claim that is missing has none.
    """
    stated, none = registered.stated, (1.0, 1.0, "")
    known = {name: one for name in stated if (one := found.get(name)) and not isinstance(one, str)}
    asked = {
        name: p_values(claim, known[name]) if name in known else none
        for name, claim in stated.items()
    }
    holds = holm([p for p, *_ in asked.values()])
    fails = holm([p for _, p, _ in asked.values()])
    verdicts = []
    for name, *adjusted in zip(stated, holds, fails, strict=True):
        if name in known:
            verdicts.append(_verdict(registered, name, known[name], asked[name], adjusted))
        else:
            note = str(found.get(name) or "nothing was evaluated")
            verdicts.append(Verdict(name, stated[name], "not evaluated", note=note))
    return verdicts


def _verdict(
    registered: Registration,
    name: str,
    compared: Compared,
    asked: tuple[float, float, str],
    adjusted: Sequence[float],
) -> Verdict:
    """The verdict on a claim that has data."""
    claim, (p, p_fails, hardest) = registered.stated[name], asked
    one, least = compared[hardest], registered.least_captions
    few = TABLES[claim.metric].edits and one.n < least
    state: State = "undecided"
    if not few and min(adjusted) <= registered.alpha:
        state = "holds" if adjusted[0] <= registered.alpha else "fails"
    wanted = None
    if state == "undecided":
        level = registered.alpha / len(registered.stated)
        wanted = _needed(claim, compared, level=level, power=registered.power)
        wanted = max(wanted, least) if wanted is not None and few else wanted
    return Verdict(
        name=name,
        claim=claim,
        state=state,
        baseline=hardest,
        effect=one.effect,
        ci95=one.interval,
        pictures=one.n,
        cases=one.cases,
        p=p,
        p_adjusted=adjusted[0],
        p_fails=p_fails,
        p_fails_adjusted=adjusted[1],
        pictures_needed=wanted,
        note=f"{one.n} of at least {least} captions" if few else "",
    )


def registration_faults(registered: Registration, cells: Iterable[str]) -> list[str]:
    """What is wrong with claims in a study whose grid has these cells; nothing is loaded."""
    known, faults = list(cells), []
    numbers = {"alpha": registered.alpha, "power": registered.power}
    faults += [
        f"claims.{name}={value} must be above 0 and below 1"
        for name, value in numbers.items()
        if not 0 < value < 1
    ]
    if registered.captions < 2 or registered.least_captions < 1:
        faults.append("claims.captions must be at least 2, and claims.least_captions at least 1")
    if not registered.stated:
        faults.append("claims.stated is empty; state a claim")
    for name, claim in registered.stated.items():
        faults += [f"claims.stated.{name}: {fault}" for fault in _claim_faults(claim, known)]
    return faults


def _claim_faults(claim: Claim, cells: Sequence[str]) -> Iterable[str]:
    yield from (
        str(unknown("cell of the grid", cell.key, cells))
        for cell in claim.cells
        if cell.key not in cells
    )
    if claim.metric not in TABLES:
        wrong = unknown("metric of a claim", claim.metric, TABLES)
        yield f"{wrong} Metrics of plug-ins cannot be claimed."
        return
    table = TABLES[claim.metric]
    columns = [claim.column, *(one.column for one in claim.against.values() if one.column)]
    yield from (
        str(unknown(f"column of {claim.metric}", column, table.columns))
        for column in columns
        if column not in table.columns
    )
    if not claim.against:
        yield "against is empty; name what the figure is compared with"
    if not 0 < claim.margin < 1:
        yield f"margin={claim.margin} must be above 0 and below 1"
    if claim.test == "mcnemar" and not table.single:
        yield (
            f"test=mcnemar is for one case a picture, and {claim.metric} has several; choose"
            " sign_flip"
        )
    if (claim.test == "permutation") != (table.cluster != "image_id"):
        proper = "sign_flip" if table.cluster == "image_id" else "permutation"
        yield f"test={claim.test}: the cases of {claim.metric} need {proper}"
