"""The tables of a plan, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from diffusae.planning.estimate import StreamEstimate, StudyEstimate
from diffusae.planning.rates import Rates
from diffusae.planning.sizes import PACKED, TOKENS_A_WORD
from diffusae.study.streams import SEEN_SPLITS, TRAINING_SPLIT
from diffusae.study.study import Study

PLAN = "plan.json"
WIDTH = 110


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
        table.add_row("shards of codes, at most", bytes_in_words(counted.code_bytes))
    table.add_row("shards of pictures, at most", bytes_in_words(counted.image_bytes))
    expected = bytes_in_words(counted.expected_bytes(rates.png_bytes_per_pixel))
    table.add_row("all shards, at most", bytes_in_words(counted.bytes_to_collect))
    table.add_row("all shards, expected", f"{expected} ({basis_of(rates)})")
    table.add_row("of these, there already", bytes_in_words(already))
    fits = (
        "" if counted.bytes_to_collect - already <= free else "  DOES NOT FIT: collect will refuse"
    )
    table.add_row("free disk", f"{bytes_in_words(free)}{fits}")
    table.add_row("collect", duration_in_words(rates.generation(counted.collected)))
    if counted.made_in_training is not None:
        made = rates.generation(counted.made_in_training)
        table.add_row("make pictures while training", duration_in_words(made))
    if counted.vectors_to_encode:
        how = "" if rates.encoded_per_second else "; encoding is assumed no faster than training"
        encoding = duration_in_words(rates.encoding_of_all(counted))
        table.add_row("encode dictionary, tune, test", f"{encoding}{how}")
    table.add_row(
        f"train {counted.saes} SAEs{_of_seeds(counted)}",
        duration_in_words(rates.training_of_all(counted)),
    )
    return table


def _of_seeds(counted: StudyEstimate) -> str:
    """How many of the SAEs are further seeds of a cell."""
    single = counted.saes_a_cell * len(counted.trained)
    return "" if counted.saes == single else f", {counted.saes - single} of them further seeds"


def basis_of(rates: Rates) -> str:
    """What the expected bytes rest on."""
    png = rates.png_bytes_per_pixel
    compressed = "as if PNG compressed nothing" if png is None else f"{png:.2f} bytes a PNG's pixel"
    return f"{compressed}; {TOKENS_A_WORD} tokens a word; codes packed to {PACKED}"


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
            "at_most": counted.bytes_to_collect,
            "expected": counted.expected_bytes(rates.png_bytes_per_pixel),
            "there_already": already,
            "free": free,
        },
        "rates": {
            "seconds_per_picture": rates.seconds_per_picture,
            "vectors_per_second": {str(d_in): r for d_in, r in rates.vectors_per_second.items()},
            "encoded_per_second": {str(d_in): r for d_in, r in rates.encoded_per_second.items()},
            "png_bytes_per_pixel": rates.png_bytes_per_pixel,
        },
        "seconds": {
            "collect": rates.generation(counted.collected),
            **({} if made is None else {"make_in_training": rates.generation(made)}),
            "encode": rates.encoding_of_all(counted),
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
        "expected_bytes": estimate.expected_bytes,
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
