"""The time table: every defence on the same prompts, in turns, beside no steering."""

import itertools

import pandas as pd
import pytest

from composing import compose
from diffusae.benchmarks.erasure import benchmark as erasure_benchmark
from diffusae.errors import UserError
from diffusae.metrics import times
from diffusae.metrics.times import TimesSettings, time_rows
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.study.study import Study

SMALL = [
    "evaluation=times",
    "block.name=text_2",
    "evaluation.steps=2",
    "evaluation.rounds=2",
    "prompts.counts={train:8,validation:0,dictionary:0,tune:8,test:40}",
]


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    made = Study(compose("evaluate", overrides=[*SMALL, f"paths.outputs={tmp_path}"]))
    made.evaluation("times").mkdir(parents=True)
    sae = SparseAutoencoder(128, 256, TopK(8), seed=0)
    monkeypatch.setattr(
        erasure_benchmark, "text_saes", lambda *_: {made.cell_name: ("text_2", sae)}
    )
    return made


def test_every_defence_makes_the_same_pictures_in_turns(study, monkeypatch):
    asked = []
    clock = itertools.count()

    def generate(_pipe, prompts, seeds, **_given):
        asked.append((prompts[0], seeds[0]))

    monkeypatch.setattr(times, "generate", generate)
    monkeypatch.setattr(times.time, "perf_counter", lambda: float(next(clock) ** 2))
    by = {row.metric: row for row in time_rows(study, TimesSettings.of(study.cfg), pytest.fail)}
    table = pd.read_parquet(study.evaluation("times") / "times.parquet")
    defences = ["none", "text_edit", "negative_prompt", "safe_guidance", "safree", "trasce",
                "word_removal"]  # fmt: skip
    assert list(table["defence"].unique()) == defences
    assert table.groupby("image_id").size().tolist() == [7, 7]
    # Picture m begins at the clock's 2m and ends at its 2m + 1: it takes (2m + 1)^2 - (2m)^2 =
    # 4m + 1 seconds. The first seven do not count; "none" is 7 and 14, "safe_guidance" 10 and 17.
    none, safe = (4 * 7 + 1, 4 * 14 + 1), (4 * 10 + 1, 4 * 17 + 1)
    assert table.loc[table["defence"] == "none", "seconds"].tolist() == list(none)
    assert by["seconds_a_picture"].baselines["safe_guidance"].value == sum(safe) / 2
    expected = (safe[0] / none[0] + safe[1] / none[1]) / 2
    ratio = by["time_beside_no_steering"].baselines["safe_guidance"]
    assert ratio.value == pytest.approx(expected)
    assert ratio.n == 2
    assert by["time_beside_no_steering"].baselines["none"].value == 1.0
    plain = [ask for ask, name in zip(asked[7:], itertools.cycle(defences)) if name == "none"]
    steered = [ask for ask, name in zip(asked[7:], itertools.cycle(defences)) if name == "trasce"]
    assert plain == steered


def test_too_few_prompts_are_refused_before_anything_is_made(study):
    cfg = compose("evaluate", overrides=[*SMALL, "evaluation.rounds=999"])
    with pytest.raises(UserError, match=r"raise prompts\.counts\.test"):
        time_rows(study, TimesSettings.of(cfg), pytest.fail)
