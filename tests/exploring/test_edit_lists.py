"""Edit lists on a study: several edits in one generation, and what cannot be done there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from composing import compose
from diffusae.errors import UserError
from diffusae.exploring.cells import OpenCell
from diffusae.exploring.listed_edits import (
    STYLE_LATENTS,
    UNDER_OBJECTS,
    EditPreparer,
    TextLayer,
    text_layers,
)
from diffusae.exploring.making import PictureMaker
from diffusae.exploring.opened import OpenStudy
from diffusae.runs.record import read_record, run_record
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import save_sae
from diffusae.stages.steer import steer
from diffusae.steering.edit_list import EditList
from diffusae.steering.text_steering import at_layer
from exploring.tiny_study import composed

PROMPT = "a flat drawing of a red fish"
EARLY, MIDDLE = "down-t1.00-cond-k4", "down-t0.50-cond-k4"
PAINTED = {"height": 4, "width": 4, "rows": ["0000", "0110", "0110", "0000"]}
MOVED: dict[str, Any] = {
    "cell": MIDDLE,
    "latents": [5],
    "intervention": "spatial",
    "strength": 3.0,
    "region": PAINTED,
    "window": [0.5, 0.0],
}
AMPLIFIED: dict[str, Any] = {
    "cell": EARLY,
    "concept": "fish",
    "intervention": "amplify",
    "strength": 4.0,
    "window": [0.5, 0.5],
}


def edit_list(*edits: dict[str, Any]) -> EditList:
    return EditList.of({"prompt": PROMPT, "picture_seed": 0, "edits": list(edits)})


@pytest.fixture(scope="module")
def maker(study: OpenStudy) -> PictureMaker:
    return PictureMaker(lambda: study.pipe, study.settings)


@pytest.fixture(scope="module")
def preparer(study: OpenStudy) -> EditPreparer:
    cells = {cell.name: cell for cell in study.cells}
    return EditPreparer(study.settings, cells, lambda: study.pipe.device)


def denoiser_runs(pipe: Any, make: Callable[[], Any]) -> tuple[int, Any]:
    """How often the denoiser's first layer ran, and what was made."""
    runs: list[int] = []
    handle = pipe.unet.conv_in.register_forward_hook(lambda *_: runs.append(1))
    try:
        made = make()
    finally:
        handle.remove()
    return len(runs), made


def test_several_cells_are_edited_in_one_generation_each_in_its_window(maker, preparer):
    prepared = preparer.prepare(edit_list(MOVED, AMPLIFIED))
    assert [one.latents for one in prepared.of_updates] == [(5,), (3, 7)]
    assert [one.edit.window for one in prepared.of_updates] == [(0.5, 0.0), (0.5, 0.5)]
    assert {one.edit.conditionings for one in prepared.of_updates} == {("cond",)}
    assert prepared.first == 0.5
    before = maker.unedited(PROMPT, 0)
    both = maker.edited(PROMPT, 0, prepared)
    alone = [
        maker.edited(PROMPT, 0, preparer.prepare(edit_list(one))) for one in (MOVED, AMPLIFIED)
    ]
    for one, other in ((both, before), (both, alone[0]), (both, alone[1])):
        assert (one != other).any()


def test_a_window_that_is_not_given_is_that_of_the_cells_t(preparer):
    own = {name: value for name, value in AMPLIFIED.items() if name != "window"}
    (prepared,) = preparer.prepare(edit_list(own)).of_updates
    assert prepared.edit.window == (1.0, 0.6)


def test_what_lies_before_the_first_edit_is_not_computed_again_and_is_the_same(study, preparer):
    prepared = preparer.prepare(edit_list(MOVED))
    fresh, pipe = PictureMaker(lambda: study.pipe, study.settings), study.pipe
    alone_runs, alone = denoiser_runs(pipe, lambda: fresh.edited(PROMPT, 1, prepared))
    unedited_runs, unedited = denoiser_runs(pipe, lambda: fresh.unedited(PROMPT, 1))
    runs, replayed = denoiser_runs(pipe, lambda: fresh.edited(PROMPT, 1, prepared))
    again_runs, again = denoiser_runs(pipe, lambda: fresh.unedited(PROMPT, 1))
    # t = 1, .5, 0: the first lies before the window.
    assert (alone_runs, unedited_runs, runs, again_runs) == (3, 3, 2, 0)
    assert (alone == replayed).all() and (again == unedited).all()


def test_a_twin_has_as_many_other_latents_in_the_same_form(preparer):
    edits = edit_list(MOVED, AMPLIFIED)
    own, twin = preparer.prepare(edits), preparer.random_twin(edits)
    again = preparer.random_twin(edits)
    for one, other, same in zip(own.of_updates, twin.of_updates, again.of_updates, strict=True):
        assert len(one.latents) == len(other.latents)
        assert not set(one.latents) & set(other.latents)
        assert same.latents == other.latents
        assert type(one.edit.change) is type(other.edit.change)
        assert one.edit.window == other.edit.window


def test_the_command_makes_the_picture_of_the_list(directory: Path, maker, preparer, tmp_path):
    edits = edit_list(MOVED, AMPLIFIED)
    path = tmp_path / "edits.yaml"
    path.write_text(edits.to_yaml())
    cfg = composed(directory.parent, "steer", f"edits={path}")
    assert steer(cfg)
    (made,) = (directory / "steer").glob(f"edits-{edits.digest[:8]}-*-0")
    assert {one.name for one in made.iterdir() if one.name[0] != "."} == {
        "before.png",
        "after.png",
        "strip.png",
        "run.json",
    }
    after = np.asarray(Image.open(made / "after.png"))
    assert (after == maker.edited(PROMPT, 0, preparer.prepare(edits))).all()
    assert (np.asarray(Image.open(made / "before.png")) == maker.unedited(PROMPT, 0)).all()
    record = read_record(made)
    assert record is not None and record.determines["edits"] == edits.to_json()["edits"]
    assert set(record.parents) == {
        f"{stage} {cell}" for stage in ("train", "label") for cell in (EARLY, MIDDLE)
    }
    assert not steer(cfg)  # it is there already


def test_prompt_and_seed_of_the_command_have_the_last_word(directory: Path, tmp_path):
    path = tmp_path / "edits.yaml"
    path.write_text(edit_list(MOVED).to_yaml())
    assert steer(composed(directory.parent, "steer", f"edits={path}", "prompt=a", "picture_seed=4"))
    (made,) = (directory / "steer").glob("edits-*-a-4")
    record = read_record(made)
    assert record is not None
    assert (record.determines["prompt"], record.determines["picture_seed"]) == ("a", 4)


@pytest.fixture(scope="module")
def steerers(directory: Path, study: OpenStudy) -> Path:
    """A study beside the tiny one, with an autoencoder of a layer of the text encoder."""
    layer = at_layer(study.settings, "text_2", name="steerers")
    sae = SparseAutoencoder(128, 64, TopK(4), input_scaling="none", seed=1)
    cell = {"cell": layer.cell.coordinates()}
    with run_record(
        layer.sae, stage="train", config=layer.config(), determines=cell, parents={}, seed=0
    ):
        save_sae(layer.sae, sae, cell)
    assert layer.directory == directory.parent / "steerers"
    return layer.directory


def test_text_is_steered_by_a_layer_of_a_study_beside_this_one(
    study, steerers, maker, preparer, directory, tmp_path
):
    assert text_layers(study.settings) == [TextLayer("text_2", "k4", "steerers")]
    text = {"layer": "text_2", "concept": "neon", "strength": 0.5, "name": "steerers"}
    prepared = preparer.prepare(edit_list(MOVED, text))
    assert prepared.first == float("inf")  # nothing of the unedited picture is used again
    both, moved = (
        maker.edited(PROMPT, 0, preparer.prepare(one))
        for one in (edit_list(MOVED, text), edit_list(MOVED))
    )
    assert (both != moved).any()
    assert preparer.random_twin(edit_list(text)) is None
    twin = preparer.random_twin(edit_list(MOVED, text))
    assert twin is not None and len(twin.of_text) == 1
    path = tmp_path / "edits.yaml"
    path.write_text(edit_list(MOVED, text).to_yaml())
    assert steer(composed(directory.parent, "steer", f"edits={path}"))
    (made,) = (directory / "steer").glob(f"edits-{edit_list(MOVED, text).digest[:8]}-*")
    assert (np.asarray(Image.open(made / "after.png")) == both).all()
    record = read_record(made)
    assert record is not None and "text steerers text_2" in record.parents


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"layer": "text_2", "concept": "neon", "strength": 1.0, "name": "elsewhere"},
            "study beside this one: 'elsewhere'",
        ),
        (MOVED | {"cell": "side-t1.00-cond-k4"}, "edit 1: unknown cell of this study: 'side"),
        (MOVED | {"latents": [64]}, r"latents \[64\] do not exist .* latents 0 to 63"),
        (AMPLIFIED | {"concept": "car"}, r"concept in .* 'car'; known: background, fish"),
        ({"layer": "text_2", "concept": "neon", "strength": 1.0}, "train"),
        ({"layer": "text_2", "concept": "plaid", "strength": 1.0}, "plaid"),
    ],
)
def test_what_a_study_does_not_have_is_refused_before_a_model_is_loaded(study, edit, message):
    cells = {cell.name: cell for cell in study.cells}
    preparer = EditPreparer(study.settings, cells, lambda: pytest.fail("loaded"))
    with pytest.raises(UserError, match=message):
        preparer.check(edit_list(edit))


def test_a_cell_of_a_text_encoder_is_no_place_for_latents(study):
    settings = at_layer(study.settings, "text_2")
    cell = OpenCell.of_study(settings)
    preparer = EditPreparer(study.settings, {cell.name: cell}, lambda: pytest.fail("loaded"))
    with pytest.raises(UserError, match="give an edit with layer: text_2"):
        preparer.check(edit_list(MOVED | {"cell": cell.name}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["edits=none.yaml"], "there is no edit list none.yaml"),
        (["edits=e.yaml", "concept=fish"], "concept is for one edit"),
        (["edits=e.yaml", "with_text.concept=neon"], "with_text is for one edit"),
    ],
)
def test_a_command_that_cannot_be_is_refused(outputs_of, overrides, message):
    with pytest.raises(UserError, match=message):
        steer(composed(outputs_of, "steer", *overrides))


@pytest.fixture
def outputs_of(directory: Path) -> Path:
    return directory.parent


def test_a_list_without_a_prompt_asks_for_one(directory: Path, tmp_path):
    path = tmp_path / "edits.yaml"
    path.write_text(EditList.of({"edits": [MOVED]}).to_yaml())
    with pytest.raises(UserError, match="has no prompt; add one to it, or give prompt="):
        steer(composed(directory.parent, "steer", f"edits={path}"))


def test_styles_are_pushed_with_the_settings_of_the_command():
    settings = compose("steer", ["intervention=global", "prompt=a"]).intervention
    assert (settings.n_latents, tuple(settings.under_objects)) == (STYLE_LATENTS, UNDER_OBJECTS)
