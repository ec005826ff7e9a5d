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
from diffusae.planning.estimate import Group, StudyEstimate, estimate
from diffusae.planning.tables import (
    PlanSettings,
    Rates,
    bytes_in_words,
    duration_in_words,
    narrow_table,
)
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


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way.

    Attributes:
        stores: whether training pictures are stored.
        held_out: what is stored of the dictionary, tune and test pictures.
        pictures: that are made in all.
        bytes: of the collection.
        seconds: of generation and training; None where a rate is unknown.
        price: of the machine for these hours, and of the disk as long; None where a number is
            unknown.
    """

    stores: bool
    held_out: HeldOut
    pictures: int
    bytes: int
    seconds: float | None
    price: float | None

    @classmethod
    def of(cls, counted: StudyEstimate, rates: Rates, settings: PlanSettings) -> Way:
        """The way that an estimate counts."""
        making, training = rates.generation(counted.made), rates.training_of_all(counted)
        seconds = None if making is None or training is None else making + training
        hourly, monthly = settings.price_per_hour, settings.price_per_tb_month
        price = None
        if seconds is not None and hourly is not None and monthly is not None:
            disk = counted.bytes_to_collect / 1e12 * monthly / HOURS_OF_A_MONTH
            price = seconds / 3600 * (hourly + disk)
        return cls(
            stores=counted.made_in_training is None,
            held_out=counted.held_out,
            pictures=counted.made,
            bytes=counted.bytes_to_collect,
            seconds=seconds,
            price=price,
        )

    @property
    def name(self) -> str:
        """What becomes of training pictures."""
        return "stored" if self.stores else "made while training"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "store_training": self.stores,
            "held_out": self.held_out,
            "pictures": self.pictures,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "price": self.price,
        }


def ways_of(study: Study, description: Description, groups: list[Group], rates: Rates) -> list[Way]:
    """Training on stored pictures, and while pictures are made; each with updates of the other
    pictures, and with their codes.
    """
    settings = PlanSettings.of(study.cfg)
    return [
        Way.of(
            estimate(study, description, store_training=stores, held_out=held_out, groups=groups),
            rates,
            settings,
        )
        for stores, held_out in product((True, False), get_args(HeldOut))
    ]


def ways_table(ways: Sequence[Way], configured: ActivationSettings) -> Table:
    """The ways side by side, the configured one marked."""
    table = narrow_table(
        ("training pictures", "others", "pictures made", "disk", "hours", "price"),
        title="ways to store the study: its training pictures, and the others' updates or codes",
        caption=verdict(ways),
    )
    for way in ways:
        ours = (way.stores, way.held_out) == (configured.store_training, configured.held_out)
        table.add_row(
            f"{way.name}{' (as configured)' if ours else ''}",
            way.held_out,
            f"{way.pictures:,}",
            bytes_in_words(way.bytes),
            duration_in_words(way.seconds),
            "-" if way.price is None else f"{way.price:,.2f}",
        )
    return table


def codes_table() -> Table:
    """What is read where codes are stored."""
    table = Table("metric", "reads", title="activations.held_out=codes", box=SIMPLE_HEAD)
    for metric, read in READ_OF_CODES.items():
        table.add_row(metric, read)
    return table


def verdict(ways: Sequence[Way]) -> str:
    """Which way is cheapest, or what decides it."""
    first, least = ways[0], min(ways, key=lambda way: way.bytes)
    saved = f"{bytes_in_words(first.bytes - least.bytes)} less disk"
    more = least.pictures - first.pictures
    prices = [(way.price, way) for way in ways if way.price is not None]
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
