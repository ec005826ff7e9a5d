"""examples.parquet: read in order, captioned, and refused where it is damaged."""

import pandas as pd
import pytest

from diffusae.errors import UserError
from diffusae.report.before_after import captioned, load_examples, panel_name
from stages.evaluated_interventions import png

RED, BLUE = (200, 0, 0), (0, 0, 200)


def kept(directory, **columns):
    rows = [
        {
            "case": case,
            "image_id": "p0",
            "prompt": f"a {case}",
            "method": method,
            "strength": strength,
            "success": success,
            "picture": png(colour),
        }
        for case in ("fish to top_left", "boat to top")
        for method, strength, success, colour in (
            ("no_edit", 0.0, False, RED),
            ("concepts", 3.0, True, BLUE),
        )
    ]
    pd.DataFrame(rows).assign(**columns).to_parquet(directory / "examples.parquet", index=False)


def test_cases_keep_the_order_of_the_file_and_their_pictures(tmp_path):
    kept(tmp_path)
    examples = load_examples(tmp_path)
    assert [(one.case, one.prompt) for one in examples] == [
        ("fish to top_left", "a fish to top_left"),
        ("boat to top", "a boat to top"),
    ]
    assert [(one.method, one.strength, one.success) for one in examples[0].pictures] == [
        ("no_edit", 0.0, False),
        ("concepts", 3.0, True),
    ]
    assert [tuple(one.image[10, 10]) for one in examples[0].pictures] == [RED, BLUE]


def test_captions_tell_case_method_strength_and_outcome(tmp_path):
    kept(tmp_path)
    captions = [caption for caption, _ in captioned(tmp_path)]
    assert captions[:2] == ["fish to top_left: no edit", "fish to top_left: concepts x 3, reached"]
    assert [picture.shape for _, picture in captioned(tmp_path)] == [(64, 64, 3)] * 4
    kept(tmp_path, success=[True, False] * 2)
    assert [caption for caption, _ in captioned(tmp_path)][:2] == [
        "fish to top_left: no edit, there already",
        "fish to top_left: concepts x 3, not reached",
    ]


def test_an_evaluation_without_pictures_has_none(tmp_path):
    assert load_examples(tmp_path) == []
    assert captioned(tmp_path) == []


def test_a_missing_column_and_a_picture_that_does_not_decode_are_named(tmp_path):
    kept(tmp_path, picture=b"no picture")
    with pytest.raises(UserError, match=r"examples\.parquet holds a picture that does not decode"):
        load_examples(tmp_path)
    kept(tmp_path)
    path = tmp_path / "examples.parquet"
    pd.read_parquet(path).drop(columns="strength").to_parquet(path, index=False)
    with pytest.raises(UserError, match=r"lacks the columns strength; evaluate this cell again"):
        load_examples(tmp_path)


def test_the_pictures_of_an_evaluation_have_a_name_of_their_own_in_wandb():
    assert panel_name("global_together") == "before_after/global_together"
