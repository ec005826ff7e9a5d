"""The ways to store a study beside each other: disk, hours and price, and what reads codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from rich.box import SIMPLE_HEAD
from rich.table import Table

from diffusae.activations.settings import ActivationSettings, HeldOut
from diffusae.backbone.describe import Description
from diffusae.planning.estimate import StudyEstimate, estimate
from diffusae.planning.rates import PlanSettings, Rates, processes_of
from diffusae.planning.sizes import Group
from diffusae.planning.tables import basis_of, bytes_in_words, duration_in_words, narrow_table
from diffusae.study.study import Study

HOURS_OF_A_MONTH = 730

READ_OF_CODES = {
    "label, cohesion, latents": "codes, with the same results",
    "composition": "codes, with the same results; no linear probes beside them",
    "spatial, global, global_together": "codes; no controls difference_of_means and neuron",
    "reconstruction": "updates of validation pictures: half for baselines, half for the figures",
    "faithfulness": "the mean update of validation pictures in the place of dictionary pictures",
}
"""Metrics (and `label`) -> what they read where codes of the dictionary, tune and test pictures are
stored.
"""


ASSUMED = (
    "pictures and encoding are divided evenly, a stream's SAEs belong to one process, and exchanges"
    " take no time; every process has a GPU, for plan.price_per_hour"
)
"""Of several processes."""


@dataclass(frozen=True)
class Time:
    """What a number of processes takes.

    Attributes:
        seconds: of generation, encoding and training; None where a rate is unknown.
        price: of what the processes have for these hours, and of the disk as long; None where a
            number is unknown.
    """

    processes: int
    seconds: float | None
    price: float | None


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way.

    Attributes:
        stores: whether training pictures are stored.
        held_out: what is stored of the dictionary, tune and test pictures.
        pictures: that are made in all.
        bytes: of the collection, at most. expected_bytes: the same, as far as it is known.
        times: by one process, and by all of the study where these are more.
    """

    stores: bool
    held_out: HeldOut
    pictures: int
    bytes: int
    expected_bytes: int
    times: tuple[Time, ...]

    @classmethod
    def of(
        cls, counted: StudyEstimate, rates: Rates, settings: PlanSettings, *, processes: int
    ) -> Way:
        """The way that an estimate counts."""
        expected = counted.expected_bytes(rates.png_bytes_per_pixel)
        hourly, monthly = settings.price_per_hour, settings.price_per_tb_month
        times = []
        for number in sorted({1, processes}):
            seconds, price = rates.all_of(counted, number), None
            if seconds is not None and hourly is not None and monthly is not None:
                disk = expected / 1e12 * monthly / HOURS_OF_A_MONTH
                price = seconds / 3600 * (number * hourly + disk)
            times.append(Time(number, seconds, price))
        return cls(
            stores=counted.made_in_training is None,
            held_out=counted.held_out,
            pictures=counted.made,
            bytes=counted.bytes_to_collect,
            expected_bytes=expected,
            times=tuple(times),
        )

    @property
    def name(self) -> str:
        """What becomes of training pictures."""
        return "stored" if self.stores else "made while training"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `seconds` and `price` are those of one process."""
        return {
            "store_training": self.stores,
            "held_out": self.held_out,
            "pictures": self.pictures,
            "bytes": self.bytes,
            "expected_bytes": self.expected_bytes,
            "seconds": self.times[0].seconds,
            "price": self.times[0].price,
            "times": [vars(time) for time in self.times],
        }


def ways_of(study: Study, description: Description, groups: list[Group], rates: Rates) -> list[Way]:
    """Training on stored pictures, and while pictures are made; each with updates of the other
    pictures, and with their codes.
    """
    return [
        Way.of(
            estimate(study, description, store_training=stores, held_out=held_out, groups=groups),
            rates,
            PlanSettings.of(study.cfg),
            processes=processes_of(study),
        )
        for stores, held_out in product((True, False), get_args(HeldOut))
    ]


def ways_table(ways: Sequence[Way], configured: ActivationSettings, rates: Rates) -> Table:
    """The ways side by side, the configured one marked."""
    names = ["training pictures", "others", "pictures made", "at most", "expected"]
    for time in ways[0].times:
        names += ["hours" if time.processes == 1 else f"by {time.processes}", "price"]
    about = [verdict(ways), f"expected disk: {basis_of(rates)}"]
    about += ["encoding is counted once: as codes are made, or when updates are first read"]
    if len(ways[0].times) > 1:
        about.append(f"{ways[0].times[-1].processes} processes: {ASSUMED}")
    table = narrow_table(
        names,
        title="ways to store the study (* as configured): its training pictures, and the others'"
        " updates or codes",
        caption="\n".join(about),
    )
    for way in ways:
        ours = (way.stores, way.held_out) == (configured.store_training, configured.held_out)
        row = [f"{way.name}{' *' if ours else ''}", way.held_out, f"{way.pictures:,}"]
        row += [bytes_in_words(way.bytes), bytes_in_words(way.expected_bytes)]
        for time in way.times:
            price = "-" if time.price is None else f"{time.price:,.2f}"
            row += [duration_in_words(time.seconds), price]
        table.add_row(*row)
    return table


def codes_table() -> Table:
    """What is read where codes are stored."""
    table = Table("metric", "reads", title="activations.held_out=codes", box=SIMPLE_HEAD)
    for metric, read in READ_OF_CODES.items():
        table.add_row(metric, read)
    return table


def verdict(ways: Sequence[Way]) -> str:
    """Which way is cheapest for all processes, or what decides it."""
    first, least = ways[0], min(ways, key=lambda way: way.expected_bytes)
    saved = f"{bytes_in_words(first.expected_bytes - least.expected_bytes)} less disk"
    more = least.pictures - first.pictures
    prices = [(price, way) for way in ways if (price := way.times[-1].price) is not None]
    if len(prices) == len(ways):
        _, cheapest = min(prices, key=lambda priced: priced[0])
        return f"cheapest: {cheapest.name}, {cheapest.held_out} of the others"
    said = f"{least.name}, {least.held_out} of the others"
    if more <= 0:
        return f"cheapest: {said}, with no more pictures and {saved}"
    return (
        f"{said}: {more:,} more pictures and {saved}; plan.price_per_hour and"
        " plan.price_per_tb_month decide"
    )
