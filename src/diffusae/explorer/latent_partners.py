"""What a latent's page computes from codes and directions: its histogram, its partners in other
cells, and the latents that are near to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusae.errors import UserError
from diffusae.explorer.activity import correlation
from diffusae.explorer.catalogue import CatalogueCell
from diffusae.explorer.directions import Partner
from diffusae.explorer.explored import Explored
from diffusae.explorer.find_page import address_of, text_of
from diffusae.report import charts
from diffusae.report.vega import ChartBook
from diffusae.study.seeds import is_twin

NEAREST = 8
"""Latents of the same cell."""
ELSEWHERE = 12
"""Other cells whose partners are shown."""
MOST_WEIGHTS = 2e7
"""Of all autoencoders together, which the page itself reads: 80 MB."""


@dataclass(frozen=True)
class ShownPartner:
    """A latent with nearly the same direction, and its activity.

    Attributes:
        correlation: of the maps on common pictures; None: it was not computed.
    """

    partner: Partner
    address: str
    label: str
    frequency: str
    mean: str
    correlation: float | None


@dataclass(frozen=True)
class Computed:
    """What is computed from codes and directions.

    Attributes:
        histogram: a chart's element; None: it cannot be drawn, for the reason in `no_histogram`.
        silent: share of positions where the latent is not active; pictures: those looked at.
        over_t: the latent and its partners at the other times of its block, branch and tag.
        elsewhere: its partners in other cells, those with the largest cosines; left_out: how many
            cells are not shown.
        seeds: its partners in autoencoders of the same cell with another seed.
        nearest: latents of the same cell.
        common: pictures on which maps were compared; 0: they were not.
        charts: the charts' data, for the end of the page.
    """

    histogram: Any
    no_histogram: str
    silent: float
    pictures: int
    over_t: list[ShownPartner]
    elsewhere: list[ShownPartner]
    left_out: int
    seeds: list[ShownPartner]
    nearest: list[ShownPartner]
    common: int
    no_correlation: str
    charts: Any

    @classmethod
    def of(
        cls, explored: Explored, cell: CatalogueCell, latent: int, tops: Sequence[str]
    ) -> Computed:
        """Compute it, on the top pictures of these ids; what cannot be computed says why."""
        book = ChartBook()
        histogram, silent, pictures, no_histogram = None, 0.0, 0, ""
        try:
            made = explored.activity.histogram(cell, latent)
            pictures, total = made.pictures, made.silent + int(made.counts.sum())
            silent = made.silent / total if total else 0.0
            if len(made.counts):
                about = f"histogram of the values of latent {latent} where it is active"
                chart = charts.activations(made.edges.tolist(), made.counts.tolist())
                histogram = book.chart(chart, alt=about)
        except UserError as error:
            no_histogram = str(error)
        partners = explored.directions.partners(cell, latent, explored.catalogue.cells)
        near = [one for one in partners if is_seed(one.cell, cell) or is_moment(one.cell, cell)]
        others = sorted((one for one in partners if one not in near), key=lambda o: -o.cosine)
        chosen = [*near, *others[:ELSEWHERE]]
        correlations, common, reason = correlate(explored, cell, latent, tops, chosen)
        shown = [shown_partner(explored, one, correlations.get(one.cell.name)) for one in chosen]
        seeds = [one for one in shown if is_seed(one.partner.cell, cell)]
        over_t = [one for one in shown if is_moment(one.partner.cell, cell)]
        own = shown_partner(explored, Partner(cell, latent, 1.0), None)
        return cls(
            histogram,
            no_histogram,
            silent,
            pictures,
            sorted([own, *over_t], key=lambda one: -one.partner.cell.cell.t) if over_t else [],
            shown[len(near) :],
            len(others[ELSEWHERE:]),
            seeds,
            [
                shown_partner(explored, one, None)
                for one in explored.directions.nearest(cell, latent, NEAREST)
            ],
            common,
            reason,
            book.data,
        )


def is_moment(other: CatalogueCell, cell: CatalogueCell) -> bool:
    """Whether a cell is the same block, branch and tag at another t."""
    one, two = other.cell, cell.cell
    same = (one.block, one.conditioning, one.tag) == (two.block, two.conditioning, two.tag)
    return same and one.t != two.t


def is_seed(other: CatalogueCell, cell: CatalogueCell) -> bool:
    """Whether a cell is an autoencoder of the same updates that differs in its seed alone."""
    names = sorted((other.name, cell.name), key=len)
    seed = names[1].rpartition("-seed")[2]
    return (
        other.cell.place == cell.cell.place
        and seed.isdigit()
        and is_twin(names[1], int(seed))
        and names[1] == f"{names[0].partition('-seed')[0]}-seed{seed}"
    )


def shown_partner(explored: Explored, partner: Partner, correlation: float | None) -> ShownPartner:
    """A partner with its label and activity."""
    catalogue = explored.catalogue
    row = partner.cell.first + partner.latent
    entry = int(catalogue.main[row])
    return ShownPartner(
        partner,
        address_of(partner.cell.name, partner.latent),
        catalogue.labels[catalogue.entry_labels[entry]] if entry >= 0 else "",
        text_of("frequency", catalogue.statistics["frequency"][row]),
        text_of("mean", catalogue.statistics["mean"][row]),
        correlation,
    )


def correlate(
    explored: Explored,
    cell: CatalogueCell,
    latent: int,
    tops: Sequence[str],
    partners: Sequence[Partner],
) -> tuple[dict[str, float | None], int, str]:
    """{cell's name: correlation of the partner's maps with the latent's}, on how many of its top
    pictures, and why on none.
    """
    cells = [one.cell for one in partners]
    try:
        count = explored.activity.pictures_at_once([cell, *cells])
        chosen = list(tops[:count])
        if not chosen:
            return {}, 0, "the latent is active in no picture" if not tops else _TOO_LARGE
        own = explored.activity.maps_from_codes(cell, latent, chosen).maps
        made = {
            one.cell.name: correlation(
                own, explored.activity.maps_from_codes(one.cell, one.latent, chosen).maps
            )
            for one in partners
        }
    except UserError as error:
        return {}, 0, str(error)
    return made, len(chosen), ""


_TOO_LARGE = "the study stores no codes, and encoding its updates here would take too long"


def is_quick(explored: Explored) -> bool:
    """Whether `Computed` takes some tenths of a second: by the weights of all autoencoders."""
    weights = sum(2 * cell.d_in * cell.size for cell in explored.catalogue.cells)
    return weights < MOST_WEIGHTS
