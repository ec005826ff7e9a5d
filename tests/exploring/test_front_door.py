"""`import diffusae`: what a notebook does with a finished study, and what it is told."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import diffusae
from diffusae import UserError
from diffusae.concepts.maps import activation_maps
from diffusae.files import write_sealed
from exploring.tiny_study import OPTIONS

HEAVY = ("torch", "diffusers", "transformers", "hydra", "numpy", "pandas", "matplotlib")


def test_importing_diffusae_imports_no_library():
    asked = f"import sys, diffusae; print([n for n in {HEAVY} if n in sys.modules])"
    path = str(Path(diffusae.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {asked}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_package_says_that_it_is_typed():
    assert (Path(diffusae.__file__).parent / "py.typed").is_file()


def test_the_seven_lines_work_as_they_are_written(directory, monkeypatch):
    monkeypatch.chdir(directory.parents[0])
    study = diffusae.open("tiny")
    cell = study.cell("down", t=0.5)
    run = study.generate("a flat drawing of a red fish", seed=0, capture=[cell])
    maps = run.maps(cell).top(5).plot()
    steered = study.steer(run, cell.latent(37), region="top_left", strength=3)
    assert isinstance(maps, Figure) and isinstance(steered.plot(), Figure)
    assert steered.plot()._repr_png_().startswith(b"\x89PNG")
    assert (steered.picture != run.picture).any()
    assert cell.concepts("fish").table()["latent"].tolist() == [5]


def test_a_study_lists_its_trained_cells(study):
    names = [cell.name for cell in study.cells]
    assert names == ["down-t0.50-cond-k4", "down-t1.00-cond-k4", "mid-t0.50-cond-k4"]
    assert study.cell("down", t=0.5).sae.d_sae == 64


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.cell("side", t=0.5), r"block of this study: 'side'; known: down, mid, up"),
        (lambda s: s.cell("down", t=0.3), r"no t=0.3; its moments are t = 1, 0.5, 0"),
        (
            lambda s: s.cell("up", t=0.5),
            r"not trained; run `diffusae train name=tiny block.name=up timestep.t=0.5"
            r" conditioning.branch=cond`",
        ),
        (lambda s: s.cell("down", t=0.5, tag="k9"), r"'k9'; known: k4"),
        (lambda s: s.cell("mid", t=0.5).concepts(), r"not labelled; run `diffusae label name=tiny"),
        (lambda s: s.cell("down", t=0.5).latent(64), r"\[64\] do not exist .* latents 0 to 63"),
        (lambda s: s.cell("down", t=0.5).concept("car"), r"'car'; known: background, fish"),
        (lambda s: s.generate(" "), "the prompt is empty"),
    ],
)
def test_what_a_study_does_not_have_is_told_with_what_it_has(study, ask, message):
    with pytest.raises(UserError, match=message):
        ask(study)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"strength": 1}, "needs a region .top_left, "),
        ({"strength": 1, "region": "middle"}, r"region .*'middle'; known: .*top_left"),
        ({"strength": 1, "region": "top", "intervention": "ablate"}, "the others take none"),
        ({"strength": 1, "intervention": "push"}, "'push'; known: ablate, amplify, clamp"),
        ({"intervention": "global", "strength": -1}, "must be above 0"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(study, run, edit: dict[str, Any], message):
    latents = study.cell("down", t=0.5).latent(1)
    with pytest.raises(UserError, match=message):
        study.steer(run, latents, **edit)


def test_a_picture_of_a_run_is_the_one_of_the_commands_and_its_cells_are_recorded(study, run):
    cell = study.cell("down", t=0.5)
    assert run.picture.shape == (64, 64, 3) and run.picture.dtype == np.uint8
    assert run.updates(cell).shape == (256, 64)
    values, indices = run.codes(cell)
    assert values.shape == indices.shape == (256, 4)
    with pytest.raises(UserError, match=r"mid-t0.50-cond'; known: down-t0.50-cond, down-t1.00"):
        run.updates(study.cell("mid", t=0.5))


def test_maps_are_those_of_the_codes_and_the_largest_means_are_on_top(study, run):
    cell = study.cell("down", t=0.5)
    codes = run.codes(cell)
    _, latents, wanted = activation_maps(codes.values[None], codes.indices[None], (16, 16))
    maps = run.maps(cell)
    assert maps.latents == latents.tolist()
    assert torch.equal(maps.values, wanted)
    means = maps.top(3).table()["mean"].tolist()
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx(float(wanted.mean(dim=(1, 2)).max()))


def test_maps_of_a_word_are_those_of_its_latents(study, run):
    cell = study.cell("down", t=1.0)
    by_word = run.maps(cell, "Fish")
    assert by_word.latents == [3, 7]
    assert torch.equal(by_word.values, run.maps(cell, [3, 7]).values)
    assert torch.equal(by_word.together(), by_word.values[0] + by_word.values[1])
    assert by_word.table()["labels"].tolist() == ["fish", "fish"]


def test_a_model_is_opened_without_a_study_and_takes_an_autoencoder_by_its_directory(directory):
    model = diffusae.load_model("miniature", "model.steps=3")
    place = model.cell("down", t=0.5)
    run = model.generate("a fish", seed=1, capture=place)
    assert run.updates(place).shape == (256, 64)
    with pytest.raises(UserError, match=r"has no autoencoder; give the directory"):
        run.maps(place)
    with_sae = model.cell("down", t=0.5, sae=directory / "sae" / "down-t0.50-cond-k4")
    assert len(run.maps(with_sae).top(2).latents) == 2
    other = model.cell("down", t=0.5, sae=directory / "sae" / "mid-t0.50-cond-k4")
    with pytest.raises(UserError, match="takes vectors of 128 entries"):
        run.maps(other)


def test_an_unknown_model_is_told_with_those_that_there_are():
    with pytest.raises(UserError, match=r"'miniatur'; known: .*Did you mean 'miniature'"):
        diffusae.load_model("miniatur")


def test_a_directory_without_a_study_is_told_with_the_studies_beside_it(directory):
    with pytest.raises(UserError, match=r"no study in .*tiny2.*`diffusae run.*holds .*tiny"):
        diffusae.open(directory.parent / "tiny2")


def test_a_study_is_opened_with_the_overrides_of_its_commands(directory):
    study = diffusae.open(directory, *OPTIONS)
    assert study.settings.cfg.model.steps == 3
    assert study.directory == directory
    with pytest.raises(UserError, match=r"unknown setting 'sae.kk'"):
        diffusae.open(directory, "sae.kk=3")


def changed_record(directory: Path, to: Path, change) -> Path:
    """A copy of the study in whose first record `change` has changed the configuration."""
    copy = shutil.copytree(directory, to / "copy")
    for path in copy.glob("sae/*/run.json"):
        record = json.loads(path.read_text())
        change(record["config"])
        record.pop("checksum")
        write_sealed(path, record)
    return copy


def test_a_model_source_that_only_a_record_names_is_not_loaded(directory, tmp_path):
    copy = changed_record(directory, tmp_path, lambda cfg: cfg["model"].update(source="me/evil"))
    with pytest.raises(UserError, match=r"names the model source me/evil.*model_source='me/evil'"):
        diffusae.open(copy)
    assert diffusae.open(copy, model_source="mine").settings.cfg.model.source == "mine"


@pytest.mark.parametrize("name", ["gguf", "lora"])
def test_a_lora_that_only_a_record_names_is_not_loaded(directory, tmp_path, name):
    copy = changed_record(directory, tmp_path, lambda cfg: cfg["model"].update({name: "evil"}))
    for model_source in (None, "mine"):
        with pytest.raises(UserError, match=rf"names model\.{name}=evil.*'model\.{name}=evil'"):
            diffusae.open(copy, model_source=model_source)


def test_nothing_that_a_record_says_is_fetched_run_or_resolved(directory, tmp_path):
    def change(cfg):
        cfg["activations"]["source"] = "pipe:touch /tmp/evil"
        cfg["paths"]["experiment"] = "/elsewhere"
        cfg["logger"]["mode"] = "online"
        cfg["plugins"] = ["evil_package"]
        cfg["model"]["variant"] = "${oc.env:HOME}"

    cfg = diffusae.open(changed_record(directory, tmp_path, change)).settings.cfg
    assert cfg.activations.source is None
    assert cfg.paths.experiment == str(tmp_path / "copy")
    assert cfg.logger.mode != "online"
    assert cfg.plugins == []
    assert cfg.model.variant == "${oc.env:HOME}"


def test_a_part_that_a_record_names_is_built_from_the_list_alone(directory, tmp_path):
    evil = {"_target_": "os.system", "command": "true"}
    copy = changed_record(directory, tmp_path, lambda cfg: cfg.update(embedding=evil))
    with pytest.raises(UserError, match=r"os\.system.*refused"):
        diffusae.open(copy).concepts("trout")


def test_a_record_that_was_changed_by_hand_is_damaged(directory, tmp_path):
    copy = shutil.copytree(directory, tmp_path / "copy")
    for path in copy.glob("sae/*/run.json"):
        path.write_text(path.read_text().replace('"steps": 3', '"steps": 4'))
    with pytest.raises(UserError, match="no study"):
        diffusae.open(copy)


def test_every_name_of_the_package_is_documented():
    for name in diffusae.__all__:
        assert re.search(r"\w", getattr(diffusae, name).__doc__ or "")
