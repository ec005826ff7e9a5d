"""The curves of emergence as the report reads and draws them: IoU over t, and the t at which each
has emerged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.tables import cell_order

METRIC = "emergence"
READERS = ("cross_attention", "concept_attention", "noun_probe", "any_object_probe")
"""Readers whose own emergence is drawn beside the prediction's."""


@dataclass(frozen=True)
class Curve:
    """One row of results: the curve of a block, a branch and a tag of SAEs.

    Attributes:
        reached: the t from which on the curve stays above `share` of its final value.
        between: the moments around `reached`; None where there is none before.
        readers: baseline -> its own t.
        points: (t, IoU), t descending.
        chance: IoU of chance.
        rise: final minus first IoU.
    """

    block: str
    conditioning: str
    tag: str
    share: float
    reached: Estimate
    between: tuple[float, float] | None
    readers: Mapping[str, Estimate]
    points: Sequence[tuple[float, Estimate]]
    chance: Estimate
    rise: Estimate

    @property
    def name(self) -> str:
        """Such as "mid · cond"."""
        return f"{self.block} · {self.conditioning}"

    @property
    def rises(self) -> bool:
        """Whether the final IoU lies above the first with its whole interval; if not, `reached`
        says little.
        """
        return self.rise.ci95 is not None and self.rise.ci95[0] > 0


def curves_of(results: Iterable[Result]) -> list[Curve]:
    """The curves in the order: tag, block, conditioning.

    Raises:
        UserError: a row that lacks a field.
    """
    try:
        curves = [
            Curve(
                block=str(row.cell["block"]),
                conditioning=str(row.cell["conditioning"]),
                tag=str(row.details["tag"]),
                share=float(row.details["share"]),
                reached=row.estimate,
                between=None if (pair := row.details["between"]) is None else (pair[0], pair[1]),
                readers=row.baselines,
                points=[
                    (float(point["t"]), Estimate.from_json(point)) for point in row.details["curve"]
                ],
                chance=Estimate.from_json(row.details["chance"]),
                rise=Estimate.from_json(row.details["rise"]),
            )
            for row in results
            if row.metric == METRIC
        ]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"a row of {METRIC} is incomplete ({error!r}); make the report again"
        ) from error
    return sorted(
        curves, key=lambda curve: (curve.tag, cell_order(curve.block, 0.0, curve.conditioning))
    )
