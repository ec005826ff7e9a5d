"""The plan against what is really collected, and that it loads nothing it need not."""

import json
import logging
import shutil
from types import SimpleNamespace

import hydra
import pytest

from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_updates
from diffusae.activations.schema import IMAGES
from diffusae.backbone.describe import describe
from diffusae.cli import config_directory
from diffusae.collecting import collect as collecting
from diffusae.errors import UserError
from diffusae.planning import timing
from diffusae.planning.estimate import estimate
from diffusae.planning.sizes import bytes_finished
from diffusae.planning.tables import duration_in_words
from diffusae.stages import plan as stage
from diffusae.stages.collect import collect
from diffusae.study.streams import SEEN_SPLITS
from diffusae.study.study import Study

GIVEN = ["plan.seconds_per_picture=2.0", "plan.vectors_per_second=1000"]
THINNED = ["activations.positions_per_image=8", "grid.timesteps=[1.0,0.0]", "grid.blocks=[mid]"]


def composed(directory, *overrides, stage="plan"):
    return compose(stage, overrides=["debug=tiny", f"paths.outputs={directory}", *overrides])


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """A thinned collection of the miniature, really generated."""
    directory = tmp_path_factory.mktemp("planned")
    study = Study(composed(directory, *THINNED, stage="collect"))
    collect(study.cfg)
    return study


def test_the_estimate_is_what_is_then_collected(collected):
    manifest = Manifest.load(collected.activations)
    model = collected.cfg.model
    counted = estimate(collected, describe(model.source))
    assert {one.stream.folder for one in counted.streams} == {
        stream.folder for stream in manifest.streams
    }
    for one in counted.streams:
        stream = manifest.stream(one.stream.block, one.stream.t, one.stream.conditioning)
        assert (stream.grid, stream.d_in) == (one.stream.grid, one.stream.d_in)
        assert one.vectors == {split: manifest.vectors(stream, split) for split in manifest.splits}
        stored = sum(shard.bytes for shard in manifest.entries if shard.stream == stream.folder)
        if one.trained:
            assert one.bytes == one.expected_bytes == pytest.approx(stored, rel=0.03)
        else:  # the tokens of a caption's words are not known
            assert stored < one.bytes < 2.5 * stored
            assert one.expected_bytes == pytest.approx(stored, rel=0.5)
        # Nothing trains on attention: only splits that are looked at have it.
        splits = {split for split, count in one.vectors.items() if count}
        assert splits == set(manifest.splits if one.trained else SEEN_SPLITS)
    pictures = sum(shard.bytes for shard in manifest.entries if shard.stream == IMAGES)
    assert pictures <= counted.image_bytes
    # Of every picture, 24 of 31 kB would be 2 bytes a pixel.
    a_pixel = counted.expected_bytes(3) - counted.expected_bytes(2)
    assert a_pixel == 20 * 64 * 64 == counted.pixels
    assert counted.expected_bytes(None) == counted.expected_bytes(3)
    assert counted.pictures == {
        split: counts["images"] for split, counts in manifest.splits.items()
    }
    assert bytes_finished(collected.activations) == sum(shard.bytes for shard in manifest.entries)


def test_only_the_training_split_is_thinned(collected):
    manifest = Manifest.load(collected.activations)
    stream = manifest.stream("mid", 0.0, "cond")
    assert {split: manifest.positions(stream, split) for split in manifest.splits} == {
        "train": 8, "validation": 64, "dictionary": 64, "tune": 64, "test": 64,
    }  # fmt: skip
    for split in manifest.splits:
        for sample in read_updates(collected.activations, manifest, stream, split):
            assert ("positions" in sample.meta) == (split == "train")


@pytest.mark.parametrize(
    "override",
    [
        "activations.positions_per_image=9",
        "activations.positions_per_image=null",
        "activations.max_vectors=9",
    ],
)
def test_other_limits_on_a_finished_collection_are_refused_with_the_difference(
    collected, unloadable, override
):
    cfg = composed(collected.cfg.paths.outputs, *THINNED, override, stage="collect")
    with pytest.raises(UserError, match=r"subsampling\.(positions_per_image: 8|max_vectors: )"):
        collect(cfg)


def test_a_study_that_keeps_all_is_signed_as_before_there_was_a_choice(tmp_path):
    assert "subsampling" not in collecting._determines(Study(composed(tmp_path)))


def test_the_cap_is_never_exceeded_and_less_than_a_position_a_picture_below_it(tmp_path):
    for cap in (8, 100, 511, 512, 10_000):
        study = Study(composed(tmp_path, f"activations.max_vectors={cap}"))
        for one in estimate(study, describe(study.cfg.model.source)).trained:
            whole = 8 * one.stream.positions
            assert one.training_vectors <= min(cap, whole)
            assert one.training_vectors > min(cap, whole) - 8
            assert one.vectors["test"] == 6 * one.stream.positions


def test_given_rates_are_all_it_takes_and_nothing_is_loaded(
    tmp_path, unloadable, monkeypatch, capsys
):
    monkeypatch.setattr(timing, "module_of", None)
    stage.plan(composed(tmp_path, *GIVEN))
    plan = json.loads((tmp_path / "tiny" / "plan.json").read_text())
    assert plan["pictures"] == {"train": 8, "validation": 4, "dictionary": 8, "tune": 6, "test": 6}
    assert plan["denoiser_passes"] == 32 * 5 * 2
    assert len(plan["streams"]) == 18 + 3
    assert plan["seconds"]["collect"] == 32 * 2.0
    assert plan["seconds"]["train"] == pytest.approx(18 * 10 * 64 / 1000)
    # 20 pictures of (256 + 64 + 64) positions at 6 streams, at the rate of training
    assert plan["seconds"]["encode"] == pytest.approx(20 * 6 * 384 / 1000)
    assert plan["streams"][0]["epochs"] == pytest.approx(640 / (8 * 256))
    shown = capsys.readouterr().out
    assert "320 denoiser passes" in shown
    assert "train 18 SAEs" in shown
    assert "encoding is assumed no faster than training" in shown
    assert "as if PNG compressed nothing; 1.4 tokens a word" in shown


def test_the_pictures_of_claims_are_counted_and_timed_where_that_is_asked_for(
    tmp_path, unloadable, capsys
):
    """270 fresh ones: 256 of `test`, 8 of `dictionary` and 6 of `tune`. Decisions have 3 attributes
    of 50 captions, without an exchange and with one in 7 windows.
    """
    for asked in ("true", "false"):
        cfg = composed(tmp_path, *GIVEN, "model.steps=25", f"plan.claims={asked}")
        with hydra.initialize_config_dir(str(config_directory()), version_base="1.3"):
            stage.plan(cfg)
        shown = capsys.readouterr().out
        plan = json.loads((tmp_path / "tiny" / "plan.json").read_text())
        if asked == "true":
            rows = {row["metric"]: row for row in plan["claims"]}
            fresh, decisions = rows["(fresh pictures)"], rows["decisions"]
            assert fresh["pictures"] == fresh["generations"] == 270
            assert (decisions["cells"], decisions["pictures"]) == (1, 3 * 50 * (1 + 7))
            cells = rows["spatial"]["cells"]
            assert rows["spatial"]["pictures"] == cells * (72 + 8 * 4 * 14 + 64 * 30) > 0
            assert duration_in_words(270 * 2.0) in shown
    assert plan["claims"] == [] and "diffusae claims" not in shown


def test_further_seeds_are_counted_and_timed_at_the_cells_that_have_them(
    tmp_path, unloadable, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "200")
    planned = {}
    for seeds in (1, 3):
        cells = "stability.cells=[mid-t0.50-cond,up-t0.00-cond]"
        cfg = composed(tmp_path / str(seeds), *GIVEN, f"stability.seeds={seeds}", cells)
        stage.plan(cfg)
        planned[seeds] = json.loads((Study(cfg).directory / "plan.json").read_text())
    shown = capsys.readouterr().out
    assert "train 18 SAEs" in shown
    assert "train 22 SAEs, 4 of them further seeds" in shown
    assert [plan["training"]["saes"] for plan in planned.values()] == [18, 22]
    # All SAEs of this study see equally many vectors.
    assert planned[3]["seconds"]["train"] == pytest.approx(planned[1]["seconds"]["train"] * 22 / 18)


def test_rates_that_are_not_given_are_measured(tmp_path):
    stage.plan(
        composed(tmp_path, "grid.timesteps=[0.5]", "prompts.counts.train=1", "model.batch_size=1")
    )
    plan = json.loads((tmp_path / "tiny" / "plan.json").read_text())
    assert plan["rates"]["seconds_per_picture"] > 0
    assert plan["rates"]["vectors_per_second"]["128"] > 0
    assert plan["rates"]["encoded_per_second"]["128"] > 0
    assert plan["seconds"]["collect"] > 0
    png = plan["rates"]["png_bytes_per_pixel"]
    assert 0.3 < png < 3
    pixels = 20 * 64 * 64
    assert plan["bytes"]["at_most"] - plan["bytes"]["expected"] > (3 - png) * pixels - 1


def test_without_rates_time_is_not_made_up(tmp_path, unloadable, monkeypatch, capsys):
    monkeypatch.setattr(timing, "module_of", None)
    stage.plan(composed(tmp_path, "plan.probe=false"))
    plan = json.loads((tmp_path / "tiny" / "plan.json").read_text())
    assert plan["seconds"] == {"collect": None, "encode": None, "train": None}
    assert "not measured" in capsys.readouterr().out


def unreachable(*_: object) -> None:
    raise UserError("the hub cannot be reached")


def test_a_hub_model_is_not_downloaded_to_be_measured(tmp_path, unloadable, monkeypatch, caplog):
    described = describe(composed(tmp_path).model.source)
    monkeypatch.setattr(stage, "describe_model", lambda _model, **_asked: described)
    monkeypatch.setattr(stage, "GpuMemory", unreachable)  # which would wait for the hub
    with caplog.at_level(logging.WARNING):
        stage.plan(composed(tmp_path, "model.source=owner/name", "plan.vectors_per_second=10"))
    assert "give plan.seconds_per_picture" in caplog.text


def test_a_model_that_cannot_be_had_is_told_with_what_would_serve(tmp_path, unloadable):
    cfg = composed(tmp_path, "model=sd14", f"model.source={tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"set model.source to a local folder"):
        stage.plan(cfg)


def test_an_unknown_hookpoint_lists_those_that_exist(tmp_path, unloadable):
    with pytest.raises(UserError, match=r"known: .*mid_block.attentions.0"):
        stage.plan(composed(tmp_path, "model.hookpoints.mid=mid_block.attentions.7"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.seconds_per_picture=0", "plan.seconds_per_picture=0 must be a number from 1e-09"),
        ("plan.png_bytes_per_pixel=4", "plan.png_bytes_per_pixel=4 must be a number from 0 to 3"),
        ("plan.processes=0", "plan.processes=0 must be a whole number from 1"),
        (
            "activations.positions_per_image=1.5",
            "positions_per_image=1.5 must be a whole number .*, or null",
        ),
        ("activations.max_vectors=0", "max_vectors=0 must be a whole number from 1"),
        ("activations.max_vectors=7", "max_vectors=7 is below the 8 training pictures"),
        ("activations.ignore_free_disk=perhaps", "ignore_free_disk=perhaps must be true or false"),
    ],
)
def test_settings_that_cannot_hold_are_refused_before_anything_loads(
    tmp_path, unloadable, override, message
):
    with pytest.raises(UserError, match=message):
        stage.plan(composed(tmp_path, override))


def test_collect_refuses_what_does_not_fit_and_goes_on_when_told_to(
    tmp_path, monkeypatch, unloadable
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_000_000))
    with pytest.raises(
        UserError, match=r"are needed .* 0.00 GB \(1000000 bytes\) are free.*ignore_free_disk=true"
    ):
        collect(composed(tmp_path, stage="collect"))
    with pytest.raises(AssertionError, match="the model was loaded"):
        collect(composed(tmp_path, "activations.ignore_free_disk=true", stage="collect"))


def test_the_plan_says_when_collect_would_refuse(tmp_path, monkeypatch, unloadable, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_000_000))
    stage.plan(composed(tmp_path, *GIVEN))
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_what_is_collected_already_needs_no_disk_again(collected, tmp_path, monkeypatch):
    description = describe(collected.cfg.model.source)
    needed = estimate(collected, description).bytes_to_collect
    # Pictures are counted as if PNG compressed nothing, so some need remains.
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=needed // 4))
    collecting._require_disk(collected, description)
    with pytest.raises(UserError, match="are needed"):
        collecting._require_disk(Study(composed(tmp_path, *THINNED)), description)
