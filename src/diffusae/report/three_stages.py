"""The three-stage table as the report reads it: what edits do early, in the middle and at the
end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.evaluation.three_stages import Answer, CellAnswer, Coordinates, Staged
from diffusae.parsing import typed
from diffusae.report.tables import HELD, NO_DATA, cell_order, number, plain, text_of

CONTROLS = (
    "no_edit",
    "random_latent",
    "neuron",
    "difference_of_means",
    "chosen_latents",
    "dictionary_concepts",
)
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
        draws: how the random draws spread: n, mean, low, high, max; empty where there is one.
    """

    unit: str
    higher_is_better: bool
    own: Estimate
    controls: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    standing: Mapping[str, str]
    chance: float | None
    draws: Mapping[str, float] = field(default_factory=dict)

    @property
    def most(self) -> str:
        """The best random draw in words, such as "at most 0.45 of 10 draws"; "" for one draw."""
        if self.draws.get("n", 1) < 2:
            return ""
        return f"at most {number(self.draws['max'], 2)} of {self.draws['n']:g} draws"

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
    strengths: dict[str, float]
    measures: dict[str, Measure]
    own_t: bool = False
    """Whether the SAE is that of the window's own t, as in the paper."""

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


def place_of_answer(cell: CellAnswer) -> str:
    """The place of a claim's cell, in the same words."""
    return place_of(cell.blocks, cell.cell.t, cell.cell.conditioning)


def lines_of(results: Iterable[Result]) -> list[Line]:
    """The lines in the order: window, edit, one block before several, cell, tag.

    Raises:
        UserError: a row that lacks a field.
    """
    lines: dict[tuple[Any, ...], Line] = {}
    for row in results:
        try:
            staged, cell = Staged.of(row), typed(Coordinates, row.cell)
        except UserError as error:
            raise UserError(
                f"a row of the three-stage table is incomplete ({error}); make the report again"
            ) from error
        line = Line(
            window=staged.window,
            bounds=staged.bounds,
            edit=staged.edit,
            together=staged.together,
            blocks=tuple(staged.blocks),
            block=cell.block,
            t=cell.t,
            conditioning=cell.conditioning,
            tag=staged.tag,
            strengths={},
            measures={},
            own_t=staged.own_t,
        )
        line = lines.setdefault((*line.slot, line.bounds, line.edit, line.together), line)
        line.strengths.update(staged.strengths or {})
        line.measures[staged.measure] = Measure(
            unit=row.unit,
            higher_is_better=row.higher_is_better,
            own=row.estimate,
            controls=row.baselines,
            differences=staged.differences,
            standing=staged.standing,
            chance=staged.chance,
            draws=staged.draws or {},
        )
    return sorted(
        lines.values(),
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


def answer_text(answer: Answer) -> str:
    """The answer to a claim, such as "holds (1 cell: 1 above the controls)"."""
    cells = answer.cells
    if not cells:
        return "not evaluated"
    counts = [sum(cell.rises is state for cell in cells) for state in (True, False, None)]
    words = ("above the controls", "not above them", "undecided")
    counted = ", ".join(
        f"{count} {word}" for count, word in zip(counts, words, strict=True) if count
    )
    return f"{HELD[answer.holds]} ({len(cells)} cell{'s' if len(cells) > 1 else ''}: {counted})"


def evidence(cell: CellAnswer) -> str:
    """The success of an edit at one cell, and how far it lies over the controls."""
    own, place = cell.own, place_of_answer(cell)
    if own.value is None:
        return f"{place}: {NO_DATA}"
    against = [
        (
            f"{signed(difference)} over {plain(name)}"
            if difference is not None
            else f"not compared with {plain(name)}"
        )
        for name, difference in cell.differences.items()
    ]
    return f"{place}: {text_of(own, 2)}, n = {own.counted}; {', '.join(against)}"


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
