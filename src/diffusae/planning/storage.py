"""Training on stored pictures beside training while pictures are made: disk, hours and price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

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


@dataclass(frozen=True, kw_only=True)
class Way:
    """One of the two ways.

    Attributes:
        name: for people. stores: whether training pictures are stored.
        pictures: that are made in all.
        bytes: of the collection.
        seconds: of generation and training; None where a rate is unknown.
        price: of the machine for these hours, and of the disk as long; None where a number is
            unknown.
    """

    name: str
    stores: bool
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
        stores = counted.made_in_training is None
        return cls(
            name="stored" if stores else "made while training",
            stores=stores,
            pictures=counted.made,
            bytes=counted.bytes_to_collect,
            seconds=seconds,
            price=price,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "store_training": self.stores,
            "pictures": self.pictures,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "price": self.price,
        }


def ways_of(
    study: Study, description: Description, groups: list[Group], rates: Rates
) -> tuple[Way, Way]:
    """Training on stored pictures, and while pictures are made."""
    settings = PlanSettings.of(study.cfg)
    stored, online = (
        Way.of(estimate(study, description, store_training=stores, groups=groups), rates, settings)
        for stores in (True, False)
    )
    return stored, online


def ways_table(stored: Way, online: Way, *, configured: bool) -> Table:
    """Both ways side by side. `configured`: which one `activations.store_training` chooses."""
    table = narrow_table(
        ("training pictures", "pictures made", "disk", "hours", "price"),
        title="with and without stored training pictures",
        caption=verdict(stored, online),
    )
    for way in (stored, online):
        table.add_row(
            f"{way.name}{' (as configured)' if way.stores == configured else ''}",
            f"{way.pictures:,}",
            bytes_in_words(way.bytes),
            duration_in_words(way.seconds),
            "-" if way.price is None else f"{way.price:,.2f}",
        )
    return table


def verdict(stored: Way, online: Way) -> str:
    """Which way is cheaper, or what decides it."""
    saved = f"{bytes_in_words(stored.bytes - online.bytes)} less disk"
    more = online.pictures - stored.pictures
    if stored.price is not None and online.price is not None:
        cheaper = min(stored, online, key=lambda way: way.price or 0.0)
        return f"cheaper: {cheaper.name}"
    if more <= 0:
        return f"cheaper: {online.name}, with no more pictures and {saved}"
    return (
        f"made while training: {more:,} more pictures and {saved}; plan.price_per_hour and"
        " plan.price_per_tb_month decide"
    )
