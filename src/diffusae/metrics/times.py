"""The time of a picture under every defence, beside no steering, in turns (arXiv 2501.19066,
section 4: its time table).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from diffusae.backbone.hookpoints import execution_device
from diffusae.benchmarks.erasure.attacks import named
from diffusae.benchmarks.erasure.benchmark import ErasureBenchmark
from diffusae.benchmarks.erasure.defended import Ask, DefendedPictures
from diffusae.benchmarks.erasure.settings import ErasureSettings
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.evaluation.metric_settings import Count
from diffusae.evaluation.result import Resampling, Result, bootstrap_mean
from diffusae.interventions import defences as kinds
from diffusae.interventions.defences import Defence
from diffusae.jobs.progress import progress_bar
from diffusae.metrics.metric import Embedding, Metric
from diffusae.study.study import Study
from diffusae.table_files import write_table


@dataclass(frozen=True, kw_only=True)
class TimesSettings(ErasureSettings):
    """`conf/evaluation/times.yaml`: the defences of the erasure benchmark, against its first
    target.
    """

    rounds: Count
    """Prompts that name the target; each gives one picture under every defence."""


def time_rows(study: Study, settings: TimesSettings, _embedding: Embedding) -> list[Result]:
    """Seconds a picture, and their ratio to those without steering on the same prompt and seed;
    times.parquet has a row for each picture.

    One picture at a time, as a user makes one: what a defence computes for a prompt or a concept
    counts. A first picture of every defence is made before and does not count.
    """
    target = settings.targets[0].name
    asks = [Ask.plain(prompt) for prompt in study.prompts if prompt.split == "test"]
    chosen = named(asks, target)[: settings.rounds]
    if len(chosen) < settings.rounds:
        raise UserError(
            f"the split test has {len(chosen)} prompts that name {target!r}, evaluation.rounds asks"
            f" for {settings.rounds}; raise prompts.counts.test, or lower it"
        )
    pictures = DefendedPictures(study, steps=settings.steps)
    grid = ErasureBenchmark(study, settings, pictures).grid(target)
    strongest = {name: max(made, key=lambda made: made.strength) for name, made in grid.items()}
    seconds = _in_turns(pictures, strongest, chosen)
    table = pd.DataFrame(seconds).melt(var_name="defence", value_name="seconds")
    prompts = pd.Series([ask.image_id for ask in chosen] * len(seconds), name="image_id")
    write_table(study.evaluation(METRIC.name) / "times.parquet", table.assign(image_id=prompts))
    return _rows(study, settings, seconds, strongest, pictures)


def _in_turns(
    pictures: DefendedPictures, defences: Mapping[str, Defence], asks: Sequence[Ask]
) -> dict[str, list[float]]:
    """Seconds by defence, A B C A B C ..., so that a slower moment of the machine meets all."""
    seconds: dict[str, list[float]] = {name: [] for name in defences}
    with progress_bar("times", total=(len(asks) + 1) * len(defences)) as (advance, _):
        for turn, ask in enumerate([asks[0], *asks]):
            for name, defence in defences.items():
                taken = _seconds(pictures, defence, ask)
                if turn:
                    seconds[name].append(taken)
                advance(1)
    return seconds


def _seconds(pictures: DefendedPictures, defence: Defence, ask: Ask) -> float:
    """Of one picture on the CPU, so that a GPU has ended."""
    start = time.perf_counter()
    with defence.around(pictures.pipe):
        generate(
            pictures.pipe,
            [defence.rewrite(ask.prompt)],
            [ask.seed],
            steps=pictures.steps,
            negative_prompt=defence.negative_prompt,
            **pictures.asked,
        )
    return time.perf_counter() - start


def _rows(
    study: Study,
    settings: TimesSettings,
    seconds: Mapping[str, Sequence[float]],
    defences: Mapping[str, Defence],
    pictures: DefendedPictures,
) -> list[Result]:
    resampling: Resampling = {"n_resamples": settings.n_resamples, "seed": study.seed}
    plain = np.asarray(seconds[kinds.NONE])
    details = {
        "target": settings.targets[0].name,
        "steps": pictures.steps,
        "strengths": {name: defence.strength for name, defence in defences.items()},
        "device": str(execution_device(pictures.pipe)),
        "threads": torch.get_num_threads(),
    }
    rows = []
    for metric, unit, values in (
        ("seconds_a_picture", "seconds", seconds),
        (
            "time_beside_no_steering",
            "times",
            {n: np.asarray(s) / plain for n, s in seconds.items()},
        ),
    ):
        figures = {name: bootstrap_mean(taken, **resampling) for name, taken in values.items()}
        rows.append(
            Result(
                metric=metric,
                estimate=figures.pop(kinds.TEXT_EDIT),
                higher_is_better=False,
                unit=unit,
                cell=study.cell.coordinates(),
                baselines=figures,
                details=details,
            )
        )
    return rows


METRIC = Metric(
    name="times",
    title="How long does a picture take under every defence?",
    section="steering",
    settings=TimesSettings,
    rows=time_rows,
    needs="text",
)
