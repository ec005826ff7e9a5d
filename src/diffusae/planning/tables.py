"""The tables of a plan, and its JSON."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from diffusae.planning.estimate import StreamEstimate, StudyEstimate
from diffusae.settings import Settings, Within
from diffusae.study.streams import SEEN_SPLITS, TRAINING_SPLIT
from diffusae.study.study import Study

log = logging.getLogger(__name__)

PLAN = "plan.json"
WIDTH = 110


@dataclass(frozen=True, kw_only=True)
class PlanSettings(Settings, part="plan"):
    """Rates of this machine or another (`conf/plan.yaml`)."""

    probe: bool
    """Whether rates that are not given are measured."""
    seconds_per_picture: Annotated[float, Within(1e-9, 10**9)] | None
    """Of a generation with all its steps; None: not given."""
    vectors_per_second: Annotated[float, Within(1e-9, 10**15)] | None
    """Of the training of one autoencoder; None: not given."""
    price_per_hour: Annotated[float, Within(0, 10**9)] | None
    """Of the machine that generates and trains; None: not given."""
    price_per_tb_month: Annotated[float, Within(0, 10**9)] | None
    """Of a terabyte of disk for a month; None: not given."""


@dataclass(frozen=True)
class Rates:
    """Seconds a picture, and vectors a second by d_in; None or absent where nobody gave or measured
    them.
    """

    seconds_per_picture: float | None
    vectors_per_second: dict[int, float]

    def generation(self, pictures: int) -> float | None:
        """Seconds that so many pictures take."""
        seconds = self.seconds_per_picture
        return None if seconds is None else seconds * pictures

    def training(self, study: StudyEstimate, stream: StreamEstimate) -> float | None:
        """Seconds that one SAE takes."""
        rate = self.vectors_per_second.get(stream.stream.d_in)
        return None if rate is None else study.vectors_seen(stream) / rate

    def training_of_all(self, study: StudyEstimate) -> float | None:
        """Seconds that all SAEs take, one after the other."""
        seconds = [(self.training(study, stream), stream.seeds) for stream in study.trained]
        known = [number * seeds for number, seeds in seconds if number is not None]
        return study.saes_a_cell * sum(known) if len(known) == len(seconds) else None


def measured_rates(study: Study, counted: StudyEstimate) -> Rates:
    """Rates as given, and the others measured where that needs no download."""
    settings, source = PlanSettings.of(study.cfg), Path(study.cfg.model.source).expanduser()
    seconds, vectors = settings.seconds_per_picture, settings.vectors_per_second
    widths = sorted({stream.stream.d_in for stream in counted.trained})
    by_width: dict[int, float] = {} if vectors is None else dict.fromkeys(widths, float(vectors))
    if settings.probe and seconds is None and study.kind != "generation":
        log.info(
            "a picture or prompt is measured for collection=generation only; give"
            " plan.seconds_per_picture"
        )
    elif settings.probe and seconds is None:
        if source.is_dir():
            from diffusae.planning import timing

            log.info("measuring a picture")
            seconds = timing.seconds_per_picture(study)
        else:
            log.warning(
                "model.source=%s is no local folder, and nothing is downloaded to measure it; give "
                "plan.seconds_per_picture for an estimate of time",
                source,
            )
    if settings.probe and vectors is None:
        from diffusae.planning import timing

        log.info("measuring training steps")
        by_width = {d_in: timing.vectors_per_second(study, d_in) for d_in in widths}
    return Rates(seconds, by_width)


def narrow_table(names: Sequence[str], *, title: str, caption: str | None = None) -> Table:
    """A table without frames, whose cells keep to one line."""
    return Table(
        *(Column(name, no_wrap=True) for name in names),
        title=title,
        caption=caption,
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )


def sizes_table(study: Study, counted: StudyEstimate) -> Table:
    table = Table("split", "pictures", "kept as", title=f"pictures of {study.name}")
    for split, count in counted.pictures.items():
        kept = "updates"
        if split in SEEN_SPLITS and counted.decoded:
            kept = f"{counted.held_out} and PNG"
        if split == TRAINING_SPLIT and counted.made_in_training is not None:
            kept = f"not kept; {counted.made_in_training:,} are made while training"
        table.add_row(split, f"{count:,}", kept)
    table.add_row(
        "all", f"{sum(counted.pictures.values()):,}", f"{counted.denoiser_passes:,} denoiser passes"
    )
    return table


def cells_table(counted: StudyEstimate, rates: Rates) -> Table:
    names = ("stream", "grid", "d_in", "train", "other", "disk", "epochs", "time")
    table = narrow_table(names, title="vectors and bytes a stream; " + _training_in_words(counted))
    for stream in counted.streams:
        height, width = stream.stream.grid
        others = sum(stream.vectors.values()) - stream.training_vectors
        row = [stream.stream.folder, f"{height}x{width}", str(stream.stream.d_in)]
        disk = bytes_in_words(stream.bytes + stream.code_bytes)
        row += [_count(stream.training_vectors), _count(others), disk]
        if stream.trained:
            epochs = f"{counted.epochs(stream) or 0.0:.1f}"
            row += [epochs, duration_in_words(rates.training(counted, stream))]
        table.add_row(*row)
    return table


def _training_in_words(counted: StudyEstimate) -> str:
    """Steps and vectors of one SAE's training, by block where blocks differ."""
    steps = {stream.stream.block: stream.steps for stream in counted.trained}
    if len(set(steps.values())) == 1:
        count = next(iter(steps.values()))
        return f"one SAE sees {count * counted.batch_size:,} vectors in {count:,} steps"
    return "steps of one SAE: " + ", ".join(f"{block} {count:,}" for block, count in steps.items())


def savings_table(counted: StudyEstimate, others: Mapping[int | None, StudyEstimate]) -> Table:
    """What storing fewer positions of each training picture would save."""
    names = ("kept a picture", "vectors, most", "least", "updates", "saves", "epochs, most")
    table = narrow_table(
        names,
        title="what storing less would save",
        caption="training pictures only: activations.positions_per_image, or max_vectors a cell",
    )
    for kept, other in others.items():
        vectors = [stream.training_vectors for stream in other.trained]
        saved = counted.stream_bytes - other.stream_bytes
        epochs = other.most_epochs
        table.add_row(
            "whole grid" if kept is None else f"{kept} positions",
            _count(max(vectors, default=0)),
            _count(min(vectors, default=0)),
            bytes_in_words(other.stream_bytes),
            "-" if not saved else f"{'' if saved > 0 else '-'}{bytes_in_words(abs(saved))}",
            "-" if epochs is None else f"{epochs:.1f}",
        )
    return table


def totals_table(counted: StudyEstimate, rates: Rates, *, free: int, already: int) -> Table:
    table = Table("in total", "", title="what it takes")
    vectors = sum(sum(stream.vectors.values()) for stream in counted.streams)
    table.add_row("vectors", f"{vectors:,}")
    numbers = sum(stream.training_numbers_bytes for stream in counted.trained)
    table.add_row("training vectors' numbers alone", bytes_in_words(numbers))
    table.add_row("shards of updates", bytes_in_words(counted.stream_bytes))
    if counted.held_out == "codes":
        table.add_row("shards of codes", bytes_in_words(counted.code_bytes))
    table.add_row("shards of pictures, at most", bytes_in_words(counted.image_bytes))
    table.add_row("of these, there already", bytes_in_words(already))
    fits = (
        "" if counted.bytes_to_collect - already <= free else "  DOES NOT FIT: collect will refuse"
    )
    table.add_row("free disk", f"{bytes_in_words(free)}{fits}")
    table.add_row("collect", duration_in_words(rates.generation(counted.collected)))
    if counted.made_in_training is not None:
        made = rates.generation(counted.made_in_training)
        table.add_row("make pictures while training", duration_in_words(made))
    table.add_row(
        f"train {counted.saes} SAEs{_of_seeds(counted)}",
        duration_in_words(rates.training_of_all(counted)),
    )
    return table


def _of_seeds(counted: StudyEstimate) -> str:
    """How many of the SAEs are further seeds of a cell."""
    single = counted.saes_a_cell * len(counted.trained)
    return "" if counted.saes == single else f", {counted.saes - single} of them further seeds"


def plan_json(
    study: Study,
    counted: StudyEstimate,
    others: Mapping[int | None, StudyEstimate],
    rates: Rates,
    *,
    assumed: bool,
    free: int,
    already: int,
) -> dict[str, Any]:
    """The contents of plan.json.

    Args:
        others: {positions kept of a training picture: the study with them}.
        assumed: whether the captions are.
        free, already: bytes of the disk, and of the collection so far.
    """
    made = counted.made_in_training
    return {
        "experiment": study.name,
        "pictures": counted.pictures,
        "pictures_decoded": counted.decoded,
        "denoiser_passes": counted.denoiser_passes,
        "streams": [_stream_json(stream, counted, rates) for stream in counted.streams],
        "training": {
            "split": TRAINING_SPLIT,
            "batch_size": counted.batch_size,
            "saes_a_cell": counted.saes_a_cell,
            "saes": counted.saes,
            "numbers_bytes": sum(stream.training_numbers_bytes for stream in counted.trained),
        },
        "bytes": {
            "updates": counted.stream_bytes,
            "codes": counted.code_bytes,
            "pictures_at_most": counted.image_bytes,
            "there_already": already,
            "free": free,
        },
        "rates": {
            "seconds_per_picture": rates.seconds_per_picture,
            "vectors_per_second": {str(d_in): r for d_in, r in rates.vectors_per_second.items()},
        },
        "seconds": {
            "collect": rates.generation(counted.collected),
            **({} if made is None else {"make_in_training": rates.generation(made)}),
            "train": rates.training_of_all(counted),
        },
        "captions": "assumed" if assumed else "read",
        "alternatives": [_alternative_json(kept, other) for kept, other in others.items()],
    }


def _stream_json(estimate: StreamEstimate, counted: StudyEstimate, rates: Rates) -> dict[str, Any]:
    stream, trained = estimate.stream, estimate.trained
    return {
        "folder": stream.folder,
        "grid": list(stream.grid),
        "d_in": stream.d_in,
        "vectors": estimate.vectors,
        "bytes": estimate.bytes,
        "code_bytes": estimate.code_bytes,
        "trained": trained,
        "training_numbers_bytes": estimate.training_numbers_bytes,
        "training_steps": estimate.steps if trained else None,
        "epochs": counted.epochs(estimate),
        "training_seconds": rates.training(counted, estimate) if trained else None,
    }


def _alternative_json(kept: int | None, counted: StudyEstimate) -> dict[str, Any]:
    vectors = [stream.training_vectors for stream in counted.trained]
    return {
        "positions_per_image": kept,
        "max_vectors": max(vectors, default=0),
        "updates_bytes": counted.stream_bytes,
        "bytes": counted.bytes_to_collect,
        "most_epochs": counted.most_epochs,
    }


def _count(count: int) -> str:
    return f"{count / 1e6:,.2f} M" if count >= 1_000_000 else f"{count:,}"


def bytes_in_words(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count / 1e3:.1f} kB"


def duration_in_words(seconds: float | None) -> str:
    if seconds is None:
        return "not measured"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
