"""`diffusae concepts` and `diffusae look`, and latents for `diffusae steer`."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusae.cli.arguments import CommandLine
from diffusae.errors import UserError
from diffusae.exploring.concept_table import concept_table
from diffusae.exploring.maps import ConceptMaps
from diffusae.runs.record import read_record
from diffusae.stages.concepts import concepts
from diffusae.stages.look import _row_by_row, look
from diffusae.stages.steer import steer
from exploring.conftest import PROMPT
from exploring.tiny_study import ByHand, composed

GRID = ("grid.blocks=[down,mid]", "grid.timesteps=[1.0,0.5]")


@pytest.fixture
def outputs(directory):
    return directory.parent


def printed(capsys, outputs, *overrides: str) -> str:
    capsys.readouterr()
    concepts(composed(outputs, "concepts", *overrides))
    return capsys.readouterr().out


def test_concepts_lists_the_latents_of_all_cells(capsys, outputs):
    text = printed(capsys, outputs, "format=csv")
    rows = pd.read_csv(io.StringIO(text))
    assert sorted(zip(rows["cell"], rows["latent"], rows["label"], strict=True)) == [
        ("down-t0.50-cond-k4", 5, "fish"),
        ("down-t0.50-cond-k4", 9, "background"),
        ("down-t1.00-cond-k4", 3, "fish"),
        ("down-t1.00-cond-k4", 7, "fish"),
        ("down-t1.00-cond-k4", 9, "background"),
    ]


def test_concepts_of_a_word_are_its_latents_with_counts_and_iou(capsys, outputs):
    rows = json.loads(printed(capsys, outputs, "word=Fish", "format=json"))
    assert [row["latent"] for row in rows] == [5, 3, 7]
    assert rows[0] == {
        "cell": "down-t0.50-cond-k4",
        "latent": 5,
        "label": "fish",
        "count": 6,
        "mean_iou": 0.75,
        "share": 1.0,
        "similarity": 1.0,
    }


def test_a_table_on_the_terminal_says_what_it_leaves_out(capsys, outputs):
    text = printed(capsys, outputs, "rows=2")
    assert "background" in text and "and 3 more rows" in text


def test_a_word_that_is_no_label_is_answered_with_the_nearest_labels(study):
    dictionaries = {cell.name: cell.dictionary for cell in study.cells if cell.labelled}
    made = concept_table(dictionaries, "trout", ByHand)
    assert (made.exact, made.labels) == (False, ["fish", "background"])
    assert made.rows["label"].tolist() == ["fish"] * 3 + ["background"] * 2
    assert made.rows["similarity"].tolist() == [0.96] * 3 + [0.28] * 2
    with pytest.raises(UserError, match=r"no vector for it.*'lamp'; known: background, fish"):
        concept_table(dictionaries, "lamp", ByHand)


def test_another_embedding_than_the_dictionaries_is_refused(study):
    class Other(ByHand):
        name = "other"

    dictionaries = {cell.name: cell.dictionary for cell in study.cells if cell.labelled}
    with pytest.raises(UserError, match="with the embedding by hand, and other is configured"):
        concept_table(dictionaries, "trout", Other)


def test_a_bare_word_is_the_word_of_concepts_alone():
    def overrides(*words: str) -> tuple[str, ...]:
        return CommandLine.parse(words, bare="word").overrides

    assert overrides("hot dog", "format=csv") == ("word='hot dog'", "format=csv")
    assert overrides("name=a", "it's") == ("name=a", "word='it\\'s'")
    with pytest.raises(UserError, match="'two words' is 2 words, and one text is taken; quote it"):
        overrides("two", "words")
    assert CommandLine.parse(["fish"]).overrides == ("fish",)


@pytest.fixture(scope="module")
def looked(directory):
    """What `look` leaves of the two labelled cells."""
    asked = composed(directory.parent, "look", f"prompt={PROMPT}", "concept=fish", *GRID)
    assert look(asked)
    assert not look(asked)  # it is there already
    (made,) = (directory / "look").iterdir()
    return made


def test_look_writes_the_maps_of_a_concept_over_t_beside_the_picture(looked, study, run):
    assert looked.name == "fish-cond-k4-a-flat-drawing-of-a-red-fish-0"
    maps = load_file(looked / "maps.safetensors")
    assert {name: tuple(values.shape) for name, values in maps.items()} == {
        "down-t1.00-cond-k4": (2, 16, 16),
        "down-t0.50-cond-k4": (1, 16, 16),
    }
    cell = study.cell("down", t=0.5)
    assert torch.allclose(maps[cell.name], run.maps(cell, "fish").values)
    about = json.loads((looked / "look.json").read_text())
    assert [(cell["t"], cell["latents"]) for cell in about["cells"]] == [(1.0, [3, 7]), (0.5, [5])]
    with Image.open(looked / "picture.png") as picture:
        assert np.array_equal(np.asarray(picture), run.picture)
    assert (looked / "look.png").is_file()


def test_the_strip_has_a_row_a_block_and_its_moments_from_the_first_on(study):
    cells = {(block, t): study.cell(block, t=t) for block, t in (("mid", 0.5), ("down", 1.0))}
    picture = np.zeros((8, 8, 3), np.uint8)
    mid, down = (
        ConceptMaps(cells[place], PROMPT, picture, [1], torch.full((1, 2, 2), value))
        for place, value in ((("mid", 0.5), 2.5), (("down", 1.0), 4.0))
    )
    strip = _row_by_row([mid, down])
    assert [caption for caption, _ in strip] == [
        "picture", "mid, t = 1: no latent", "mid, t = 0.5: 2.5",
        "picture", "down, t = 1: 4", "down, t = 0.5: no latent",
    ]  # fmt: skip
    assert [shown is None for _, shown in strip] == [False, True, False, False, False, True]


def test_look_is_recorded_with_the_cells_that_it_was_made_of(looked):
    record = read_record(looked)
    assert record is not None and record.status == "finished"
    assert set(record.parents) == {
        f"{stage} down-t{t}-cond-k4" for stage in ("train", "label") for t in ("1.00", "0.50")
    }


def test_look_takes_latents_of_one_cell_that_need_no_label(directory, tmp_path):
    cfg = composed(
        directory.parent, "look", f"prompt={PROMPT}", "latents=[1,2]", "block=mid", "timestep.t=0.5"
    )
    assert look(cfg)
    made = directory / "look" / "latents-1-2-mid-t0.50-cond-k4-a-flat-drawing-of-a-red-fish-0"
    assert load_file(made / "maps.safetensors")["mid-t0.50-cond-k4"].shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["concept=fish"], "prompt is missing"),
        (["prompt=a"], "give one of the two: concept"),
        (["prompt=a", "concept=fish", "latents=[1]"], "give one of the two: concept"),
        (["prompt=a", "latents=373"], r"latents=373 must be a list of latents"),
        (["prompt=a", "latents=[a]"], r"must hold whole numbers"),
        (["prompt=a", "concept=car"], r"concept of these cells 'car'; known: background, fish"),
        (["prompt=a", "concept=fish", "grid.blocks=[mid]"], "no cond cell of the grid is labelled"),
        (["prompt=a", "latents=[64]", "block=down", "timestep.t=0.5"], "latents 0 to 63"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(outputs, overrides, message):
    with pytest.raises(UserError, match=message):
        look(composed(outputs, "look", *GRID, *overrides))


@pytest.mark.parametrize("intervention", ["spatial", "global", "amplify", "ablate", "clamp"])
def test_steer_takes_latents_for_every_intervention_on_updates(directory, intervention):
    asked = [f"intervention={intervention}", "strengths=[3]", "block=down", "timestep.t=0.5"]
    cfg = composed(directory.parent, "steer", f"prompt={PROMPT}", "latents=[5,37]", *asked)
    assert steer(cfg)
    (made,) = (directory / "steer").glob(f"{intervention}-latents-5-37-*")
    assert {path.suffix for path in made.iterdir() if path.name[0] != "."} == {".png", ".json"}
    record = read_record(made)
    assert record is not None and record.determines["latents"] == [5, 37]
    assert set(record.parents) == {"train"}


def test_two_autoencoders_of_a_cell_keep_their_steered_pictures_apart(directory, tmp_path):
    study = shutil.copytree(directory, tmp_path / directory.name)
    shutil.copytree(study / "sae/down-t0.50-cond-k4", study / "sae/down-t0.50-cond-other")
    asked = [f"prompt={PROMPT}", "latents=[5]", "strengths=[3]", "block=down", "timestep.t=0.5"]
    ours, other = (composed(tmp_path, "steer", *asked, *more) for more in ((), ("sae.tag=other",)))
    assert steer(ours) and steer(other)
    names = {path.name for path in (study / "steer").glob("spatial-latents-5-top*")}
    end = "a-flat-drawing-of-a-red-fish-0"
    assert names == {
        f"spatial-latents-5-top-left-down-t0.50-cond-{tag}-{end}" for tag in ("k4", "other")
    }
    # A name from before names had the tag: its pictures are found, and the other tag's are not.
    earlier = study / f"steer/spatial-latents-5-top-left-down-t0.50-{end}"
    (study / f"steer/spatial-latents-5-top-left-down-t0.50-cond-k4-{end}").rename(earlier)
    shutil.rmtree(study / f"steer/spatial-latents-5-top-left-down-t0.50-cond-other-{end}")
    assert not steer(ours)
    assert steer(other)


def test_a_concept_and_its_latents_make_the_same_picture(directory):
    asked = ["block=down", "timestep.t=1.0", "strengths=[2]", f"prompt={PROMPT}"]
    for what in ("concept=fish", "latents=[3,7]"):
        assert steer(composed(directory.parent, "steer", what, *asked))
    one, other = (
        next((directory / "steer").glob(f"spatial-{what}-*t1.00*")) / "strength-2.png"
        for what in ("fish", "latents-3-7")
    )
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"concept is missing; give concept='...' or latents=\[...\]"),
        (["concept=fish", "latents=[1]"], "concept and latents are both given"),
        (["latents=[]"], r"latents=\[\] must be a list"),
        (["latents=[1]", "intervention=text"], "latents is for other interventions"),
        (["latents=[99]", "block=down", "timestep.t=0.5"], "latent 99 does not exist"),
    ],
)
def test_latents_that_cannot_be_steered_are_refused(outputs, overrides, message):
    with pytest.raises(UserError, match=message):
        steer(composed(outputs, "steer", "prompt=a", *overrides))
