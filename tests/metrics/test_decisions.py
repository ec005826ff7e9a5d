"""Decision times, from the pairs of captions to the rows of a small study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from composing import compose
from diffusae.errors import UserError, together
from diffusae.evaluation.result import Result, load_results
from diffusae.metrics.decisions import DecisionSettings, pairs_of
from diffusae.metrics.evaluate import evaluation_faults
from diffusae.prompts.prompt_set import Prompt
from diffusae.report.decisions import decisions_of
from diffusae.stages.evaluate import evaluate
from diffusae.study.study import Study

SMALL = [
    "debug=tiny",
    "evaluation=decisions",
    "model.steps=3",
    "prompts.counts={train:0,validation:0,dictionary:0,tune:0,test:30}",
    "evaluation.captions=2",
    "evaluation.moments=[0.5]",
    "evaluation.attributes.style=null",
    "evaluation.attributes.grain=null",
    "+evaluation.placements.moved=2.0",
]
WINDOWS = [(1.0, 0.0), (0.5, 0.0), (1.0, 0.6), (0.6, 0.2), (0.2, 0.0)]


def study_of(*overrides: str) -> Study:
    return Study(compose("evaluate", overrides=[*SMALL, *overrides]))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = study_of(f"paths.outputs={tmp_path_factory.mktemp('decisions')}")
    assert evaluate(study.cfg)
    return study


def rows_of(study: Study) -> list[Result]:
    return load_results(study.evaluation("decisions") / "results.json")


def test_a_row_for_every_attribute_placement_and_window(evaluated: Study) -> None:
    assert [row.metric for row in rows_of(evaluated)] == [
        f"{row}_{attribute}_{placement}"
        for placement in ("own", "moved")
        for attribute in ("noun", "colour", "tone")
        for row in ("decided", "shown_early", "shown_middle", "shown_final")
    ]


def test_shares_count_the_pictures_of_the_table(evaluated: Study) -> None:
    table = pd.read_parquet(evaluated.evaluation("decisions") / "pictures.parquet")
    assert len(table) == 2 * 3 * 2 * (1 + len(WINDOWS))
    for one in decisions_of(rows_of(evaluated)):
        mine = table[(table["attribute"] == one.attribute) & (table["placement"] == one.placement)]

        def share(window: tuple[float, float] | None, of: Any = mine) -> float:
            first, last = window or (np.nan, np.nan)
            same = np.isclose(of["first"], first, equal_nan=True)
            same &= np.isclose(of["last"], last, equal_nan=True)
            assert same.sum() == 2
            return float(of["shows_new"][same].mean())

        assert [value.value for _, value in one.curve] == [*map(share, WINDOWS[:2]), share(None)]
        assert [t for t, _ in one.curve] == [1.0, 0.5, 0.0]
        assert [(name, (first, last), value.value) for name, first, last, value in one.windows] == [
            (name, window, share(window))
            for name, window in zip(("early", "middle", "final"), WINDOWS[2:], strict=True)
        ]
        assert (one.old.value, one.new.value) == (share(None), share(WINDOWS[0]))
        assert (one.captions, one.pictures, one.steps) == (2, 12, 3)


def test_another_place_of_the_steps_is_another_result(evaluated: Study) -> None:
    outputs = f"paths.outputs={evaluated.cfg.paths.outputs}"
    assert not evaluate(study_of(outputs).cfg)
    with pytest.raises(UserError, match=r"placements|log_snr_shift"):
        evaluate(study_of(outputs, "model.log_snr_shift=1.0").cfg)


def test_a_word_that_the_caption_shares_with_no_other_is_exchanged() -> None:
    settings = DecisionSettings.of(study_of("evaluation.captions=1").cfg)
    texts = ("a red fish and a blue cat", "a red fish at night", "a blue sea", "a red blue cup")
    prompts = [Prompt(str(n), text, n, "test") for n, text in enumerate(texts)]
    found = {name: pairs_of(prompts, name, settings)[0] for name in ("noun", "colour", "tone")}
    assert {name: pair.prompt.text for name, pair in found.items()} == dict.fromkeys(
        ("noun", "colour", "tone"), "a red fish at night"
    )
    assert found["tone"].caption == "a red fish at dusk"
    with pytest.raises(UserError, match=r"1 captions of the split test name exactly one .* tone"):
        pairs_of(prompts, "tone", DecisionSettings.of(study_of().cfg))


def test_what_the_annotator_cannot_judge_is_refused_before_a_picture_is_made(
    tmp_path: Path,
) -> None:
    (tmp_path / "captions.txt").write_text("a happy red fish\na red tiger\n")
    study = study_of(
        f"paths.outputs={tmp_path}",
        "prompts=file",
        f"prompts.path={tmp_path}/captions.txt",
        "prompts.counts.test=2",
        "evaluation.attributes.noun=[fish,tiger]",
        "+evaluation.attributes.mood=[happy,sad]",
        "evaluation.attributes.tone=null",
        "evaluation.captions=1",
    )
    with pytest.raises(UserError) as raised:
        evaluate(study.cfg)
    for part in ("evaluation.attributes.noun: 'tiger'", "evaluation.attributes: 'mood'"):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("evaluation.moments=[0.5,0.7]", "must fall between 1 and 0"),
        ("evaluation.moments=[1.0]", "must fall between 1 and 0"),
        ("evaluation.windows.early=[0.2,0.6]", "must fall from its first t to its last one"),
        ("evaluation.windows.early=[0.9,0.8]", r"none of 3 steps lies in \[0.9, 0.8\]"),
        ("evaluation.placements.moved=40", "must be from -10 to 10"),
        ("+evaluation.placements.a-b=1", "use letters, digits and _"),
        ("evaluation.attributes.noun=[fish]", "has 1 values; give at least 2"),
        ("collection=text", "metric decisions needs pictures generated of captions"),
    ],
)
def test_settings_that_cannot_work_are_refused(override: str, fault: str) -> None:
    study = study_of(override)
    with pytest.raises(UserError, match=fault):
        together(evaluation_faults(study))


def test_values_that_are_null_are_left_out() -> None:
    cfg = study_of("evaluation.attributes.tone.fog=null").cfg
    assert DecisionSettings.of(cfg).words["tone"] == {
        "night": "at night", "dusk": "at dusk", "paper": "on paper",
    }  # fmt: skip


def test_a_shift_out_of_range_is_refused_with_the_other_settings() -> None:
    with pytest.raises(UserError, match=r"log_snr_shift=11.* must be"):
        study_of("model.log_snr_shift=11").check()
