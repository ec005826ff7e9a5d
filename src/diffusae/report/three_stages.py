"""The three-stage table as the report reads it: what edits do early, in the middle and at the
end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.tables import NO_DATA, cell_order, number, plain, text_of

CONTROLS = ("no_edit", "random_latent", "neuron", "difference_of_means", "dictionary_concepts")
"""What stands beside the concepts, in the order of the page; others follow."""
MEASURES = ("success", "reached", "kept", "distance", "similarity", "lpips", "sufficient_strength")
"""What a line can hold, in the order of the page."""
EDITS = ("spatial", "style", "tone", "grain")


@dataclass(frozen=True)
class Measure:
    """One figure of the concepts, beside the controls.

    Attributes:
        own: of the concepts.
        controls: method -> its figure.
        differences: method -> concepts minus it, of the same cases; what was not compared is
            missing.
        standing: method -> "better", "worse", "alike" or "unclear": the concepts beside it.
        chance: what a blind throw reaches; None where there is no such thing.
    """

    unit: str
    higher_is_better: bool
    own: Estimate
    controls: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    standing: Mapping[str, str]
    chance: float | None

    def mark(self, control: str) -> str:
        """▲ the concepts are better than the control, ▼ worse, = alike, ? not to be told; "" not
        compared.
        """
        return {"better": "▲", "worse": "▼", "alike": "=", "unclear": "?"}.get(
            self.standing.get(control, ""), ""
        )


@dataclass(frozen=True)
class Line:
    """One edit at one cell: `measures` are named success, reached, kept, distance, similarity,
    lpips, sufficient_strength.
    """

    window: str
    bounds: tuple[float, float]
    edit: str
    together: bool
    blocks: tuple[str, ...]
    block: str
    t: float
    conditioning: str
    tag: str
    strengths: Mapping[str, float]
    measures: Mapping[str, Measure]

    @property
    def place(self) -> str:
        """Such as "down · t = 0.80 · cond"."""
        return place_of(self.blocks, self.t, self.conditioning)

    @property
    def slot(self) -> tuple[Any, ...]:
        """What it shares with the other edits at the same place."""
        return (self.window, self.blocks, self.block, self.t, self.conditioning, self.tag)

    @property
    def distance(self) -> Measure | None:
        """The change of the picture: of the rest (spatial), of the annotator's features, or what
        SSIM leaves.
        """
        return self.measures.get("distance") or self.measures.get("similarity")


def place_of(blocks: Sequence[str], t: float, conditioning: str) -> str:
    """Such as "down · t = 0.80 · cond", or "down + mid + up · t = 0.50 · cond"."""
    return f"{' + '.join(blocks)} · t = {t:.2f} · {conditioning}"


def lines_of(results: Iterable[Result]) -> list[Line]:
    """The lines in the order: window, edit, one block before several, cell, tag.

    Raises:
        UserError: a row that lacks a field.
    """
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    try:
        for row in results:
            cell, details = row.cell, row.details
            bounds = (float(details["bounds"][0]), float(details["bounds"][1]))
            place = {
                "window": str(details["window"]),
                "bounds": bounds,
                "edit": str(details["edit"]),
                "together": bool(details["together"]),
                "blocks": tuple(map(str, details["blocks"])),
                "block": str(cell["block"]),
                "t": float(cell["t"]),
                "conditioning": str(cell["conditioning"]),
                "tag": str(details["tag"]),
            }
            line = lines.setdefault(
                tuple(place.values()), {**place, "strengths": {}, "measures": {}}
            )
            line["strengths"] = line["strengths"] or details.get("strengths", {})
            line["measures"][details["measure"]] = Measure(
                unit=row.unit,
                higher_is_better=row.higher_is_better,
                own=row.estimate,
                controls=row.baselines,
                differences={
                    name: Estimate.from_json(difference)
                    for name, difference in details["differences"].items()
                },
                standing=details["standing"],
                chance=details["chance"],
            )
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"a row of the three-stage table is incomplete ({error!r}); make the report again"
        ) from error
    return sorted(
        (Line(**line) for line in lines.values()),
        key=lambda line: (
            -line.bounds[0],
            place_in(EDITS, line.edit),
            line.together,
            cell_order(line.block, line.t, line.conditioning),
            line.tag,
        ),
    )


def window_text(bounds: tuple[float, float]) -> str:
    """Such as "1 ≥ t ≥ 0.6"."""
    return f"{bounds[0]:g} ≥ t ≥ {bounds[1]:g}"


def controls_of(lines: Iterable[Line]) -> list[str]:
    """The controls of any line, in order."""
    names = {
        name for line in lines for measure in line.measures.values() for name in measure.controls
    }
    return sorted(names, key=lambda name: place_in(CONTROLS, name))


@dataclass(frozen=True)
class Verdict:
    """What the rows say of one claim. `holds`: None where it is open."""

    window: str
    claim: str
    holds: bool | None
    verdict: str
    evidence: list[str]


def verdicts_of(claims: Iterable[Mapping[str, Any]]) -> list[Verdict]:
    """The claims in words made from their figures, in the order of the file.

    Raises:
        UserError: a claim that lacks a field.
    """
    try:
        return [
            Verdict(
                claim["window"],
                claim["text"],
                claim["holds"],
                _verdict(claim),
                [_evidence(cell) for cell in claim["cells"]],
            )
            for claim in claims
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"a claim is incomplete ({error!r}); make the report again") from error


def _verdict(claim: Mapping[str, Any]) -> str:
    cells = claim["cells"]
    if not cells:
        return "not evaluated"
    counts = [sum(cell["rises"] is state for cell in cells) for state in (True, False, None)]
    words = ("above the controls", "not above them", "undecided")
    counted = ", ".join(
        f"{count} {word}" for count, word in zip(counts, words, strict=True) if count
    )
    head = {True: "holds", False: "does not hold", None: "undecided"}[claim["holds"]]
    return f"{head} ({len(cells)} cell{'s' if len(cells) > 1 else ''}: {counted})"


def _evidence(cell: Mapping[str, Any]) -> str:
    own = Estimate.from_json(cell)
    place = place_of(cell["blocks"], cell["cell"]["t"], cell["cell"]["conditioning"])
    if own.value is None:
        return f"{place}: {NO_DATA}"
    against = [
        (
            f"{signed(Estimate.from_json(difference))} over {plain(name)}"
            if difference is not None
            else f"not compared with {plain(name)}"
        )
        for name, difference in cell["differences"].items()
    ]
    return f"{place}: {text_of(own, 2)}, n = {own.n}; {', '.join(against)}"


def signed(figure: Estimate, decimals: int = 2) -> str:
    """A difference with its sign and interval, such as "+0.70 [+0.55, +0.85]"."""
    if figure.value is None:
        return text_of(figure, decimals)
    shown = _signed(figure.value, decimals)
    if figure.ci95 is None:
        return shown
    return f"{shown} [{_signed(figure.ci95[0], decimals)}, {_signed(figure.ci95[1], decimals)}]"


def _signed(value: float, decimals: int) -> str:
    text = number(value, decimals)
    return (
        text
        if text.startswith("-") or not any(digit in text for digit in "123456789")
        else f"+{text}"
    )


def place_in(known: Sequence[str], name: str) -> tuple[int, str]:
    """The key that sorts names: the known ones in their order, then the others."""
    return (known.index(name) if name in known else len(known), name)
