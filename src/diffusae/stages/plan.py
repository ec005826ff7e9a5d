"""Plan: what a study will take, told before anything loads, and how long, at given or measured rates."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from diffusae.files import atomic_write_json
from diffusae.runs.disk import free_bytes
from diffusae.stages import probe
from diffusae.stages.collect import check_hookpoints
from diffusae.stages.collection import SEEN_SPLITS, TRAINING_SPLIT
from diffusae.stages.estimate import Estimate, StreamEstimate, bytes_finished, estimate
from diffusae.stages.model import describe_model
from diffusae.stages.study import Study

log = logging.getLogger(__name__)

PLAN = "plan.json"
_WIDTH = 110


@dataclass(frozen=True)
class Rates:
    """Seconds a picture, and vectors a second by d_in; None or absent where nobody gave or measured them."""

    seconds_per_picture: float | None
    vectors_per_second: dict[int, float]

    def generation(self, study: Estimate) -> float | None:
        """Seconds that the pictures take."""
        each = self.seconds_per_picture
        return None if each is None else each * sum(study.pictures.values())

    def training(self, study: Estimate, stream: StreamEstimate) -> float | None:
        """Seconds that one SAE takes."""
        rate = self.vectors_per_second.get(stream.stream.d_in)
        return None if rate is None else study.vectors_seen / rate

    def training_of_all(self, study: Estimate) -> float | None:
        """Seconds that all SAEs take, one after the other."""
        each = [self.training(study, stream) for stream in study.trained]
        return None if None in each else sum(seconds for seconds in each if seconds is not None)


def plan(cfg: DictConfig) -> None:
    """Print what the study will take, and write it to `plan.json` in its directory."""
    study = Study(cfg)
    study.check()
    description = describe_model(cfg.model)
    check_hookpoints(study, description)
    counted = estimate(study, description)
    console = Console()
    console.width = max(console.width, _WIDTH)  # numbers that are cut are of no use
    console.print(_sizes(study, counted))
    rates = _rates(study, counted)
    free, there = free_bytes(study.activations), bytes_finished(study.activations)
    console.print(_cells(counted, rates))
    console.print(_totals(counted, rates, free=free, there=there))
    atomic_write_json(study.directory / PLAN, _json(study, counted, rates, free=free, there=there))
    console.print(f"written to {study.directory / PLAN}", soft_wrap=True)


def _rates(study: Study, counted: Estimate) -> Rates:
    """Rates as given, and the others measured where that needs no download."""
    settings, source = study.cfg.plan, Path(study.cfg.model.source).expanduser()
    seconds, vectors = settings.seconds_per_picture, settings.vectors_per_second
    widths = sorted({stream.stream.d_in for stream in counted.trained})
    by_width: dict[int, float] = {} if vectors is None else dict.fromkeys(widths, float(vectors))
    if settings.probe and seconds is None:
        if source.is_dir():
            log.info("measuring a picture")
            seconds = probe.seconds_per_picture(study)
        else:
            log.warning(
                "model.source=%s is no local folder, and nothing is downloaded to measure it; give "
                "plan.seconds_per_picture for an estimate of time",
                source,
            )
    if settings.probe and vectors is None:
        log.info("measuring training steps")
        by_width = {d_in: probe.vectors_per_second(study, d_in) for d_in in widths}
    return Rates(seconds, by_width)


def _sizes(study: Study, counted: Estimate) -> Table:
    table = Table("split", "pictures", "kept as", title=f"pictures of {study.name}")
    for split, count in counted.pictures.items():
        kept = "updates and PNG" if split in SEEN_SPLITS else "updates"
        table.add_row(split, f"{count:,}", kept)
    table.add_row(
        "all", f"{sum(counted.pictures.values()):,}", f"{counted.denoiser_passes:,} denoiser passes"
    )
    return table


def _cells(counted: Estimate, rates: Rates) -> Table:
    names = ("stream", "grid", "d_in", "train", "other", "disk", "epochs", "time")
    table = Table(
        *(Column(name, no_wrap=True) for name in names),
        title="vectors and bytes a stream; "
        f"one SAE sees {counted.vectors_seen:,} vectors in {counted.steps:,} steps",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for each in counted.streams:
        height, width = each.stream.grid
        others = sum(each.vectors.values()) - each.training_vectors
        row = [each.stream.folder, f"{height}x{width}", str(each.stream.d_in)]
        row += [f"{each.training_vectors:,}", f"{others:,}", _bytes(each.bytes)]
        if each.trained:
            epochs = counted.vectors_seen / each.training_vectors if each.training_vectors else 0.0
            row += [f"{epochs:.1f}", _duration(rates.training(counted, each))]
        table.add_row(*row)
    return table


def _totals(counted: Estimate, rates: Rates, *, free: int, there: int) -> Table:
    table = Table("in total", "", title="what it takes")
    vectors = sum(sum(each.vectors.values()) for each in counted.streams)
    table.add_row("vectors", f"{vectors:,}")
    table.add_row("shards of updates", _bytes(counted.stream_bytes))
    table.add_row("shards of pictures, at most", _bytes(counted.image_bytes))
    table.add_row("of these, there already", _bytes(there))
    fits = "" if counted.bytes_to_collect - there <= free else "  DOES NOT FIT: collect will refuse"
    table.add_row("free disk", f"{_bytes(free)}{fits}")
    table.add_row("collect", _duration(rates.generation(counted)))
    table.add_row(f"train {len(counted.trained)} SAEs", _duration(rates.training_of_all(counted)))
    return table


def _json(study: Study, counted: Estimate, rates: Rates, *, free: int, there: int) -> dict[str, Any]:
    return {
        "experiment": study.name,
        "pictures": counted.pictures,
        "pictures_decoded": counted.decoded,
        "denoiser_passes": counted.denoiser_passes,
        "streams": [
            {
                "folder": each.stream.folder,
                "grid": list(each.stream.grid),
                "d_in": each.stream.d_in,
                "vectors": each.vectors,
                "bytes": each.bytes,
                "trained": each.trained,
                "epochs": counted.vectors_seen / each.training_vectors
                if each.trained and each.training_vectors
                else None,
                "training_seconds": rates.training(counted, each) if each.trained else None,
            }
            for each in counted.streams
        ],
        "training": {
            "split": TRAINING_SPLIT,
            "steps": counted.steps,
            "batch_size": counted.batch_size,
            "vectors_seen": counted.vectors_seen,
        },
        "bytes": {
            "updates": counted.stream_bytes,
            "pictures_at_most": counted.image_bytes,
            "there_already": there,
            "free": free,
        },
        "rates": {
            "seconds_per_picture": rates.seconds_per_picture,
            "vectors_per_second": {str(d_in): rate for d_in, rate in rates.vectors_per_second.items()},
        },
        "seconds": {"collect": rates.generation(counted), "train": rates.training_of_all(counted)},
    }


def _bytes(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not measured"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
