"""`train_online` gives the files of `collect` and `train_grid`, to the bit, and stores no training
picture.
"""

from __future__ import annotations

import json
import signal
import time
from itertools import accumulate
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from command import Started
from diffusae.activations.order import order_of_shards
from diffusae.cli import config_directory
from diffusae.collecting import online as collecting
from diffusae.errors import UserError
from diffusae.runs.record import read_record
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import evaluate
from diffusae.stages.export_cell import export_cell
from diffusae.stages.train_grid import train_grid
from diffusae.stages.train_online import train_online
from diffusae.study.study import Study
from diffusae.training import train_grid as together

pytestmark = pytest.mark.filterwarnings("ignore")

# mid has 64 positions, down 256. An epoch of mid has 7 batches in 2 chunks, of down 28 in 7 chunks.
TINY = [
    "debug=tiny",
    "grid.timesteps=[1.0]",
    "grid.blocks=[mid,down]",
    "grid.conditionings=[cond]",
    "grid.k=[2,4]",
    "model.steps=2",
    "model.batch_size=2",
    "prompts.counts={train: 7, validation: 1, dictionary: 1, tune: 1, test: 1}",
    "activations.group_size=3",
    "activations.buffer_vectors=300",
    "sae.ema=0.5",
    "sae.selection_precision=float32",
    "trainer.accelerator=cpu",
    "+steps={mid: 9, down: 30}",
    'trainer.steps="${steps.${block.name}}"',
]
UNSTORED = "activations.store_training=false"
CELLS = [f"{block}-t1.00-cond-k{k}" for block in ("mid", "down") for k in (2, 4)]


def composed(directory: Path, *overrides: str, command: str) -> DictConfig:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return compose(
            command, overrides=[*TINY, f"paths.outputs={directory}", "name=study", *overrides]
        )


def files(directory: Path) -> dict[str, bytes]:
    """What the trainings wrote, but for their records."""
    names = ("sae.safetensors", "cfg.json", "metrics.jsonl")
    sae = directory / "study" / "sae"
    return {f"{cell}/{name}": (sae / cell / name).read_bytes() for cell in CELLS for name in names}


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """The same study with all pictures stored, trained block by block: their steps differ."""
    directory = tmp_path_factory.mktemp("stored")
    collect(composed(directory, command="collect"))
    for block in ("mid", "down"):
        train_grid(
            composed(directory, f"grid.blocks=[{block}]", f"block={block}", command="train_grid")
        )
    return directory


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    """The splits that are not trained on."""
    directory = tmp_path_factory.mktemp("unstored")
    assert collect(composed(directory, UNSTORED, command="collect"))
    return directory


def unstored_in(collected: Path) -> list[str]:
    return [UNSTORED, f"paths.activations={collected}/study/activations"]


@pytest.fixture
def unstored(collected) -> list[str]:
    """Overrides of a study that has these splits."""
    return unstored_in(collected)


def counted(patch: pytest.MonkeyPatch) -> list[str]:
    """The training pictures that are made from now on, by id."""
    ids: list[str] = []
    fill = collecting.GroupFilling.kept

    def kept(self, record):
        ids.append(record.image_id)
        return fill(self, record)

    patch.setattr(collecting.GroupFilling, "kept", kept)
    return ids


@pytest.fixture
def made(monkeypatch) -> list[str]:
    return counted(monkeypatch)


def online(directory: Path, overrides: list[str]) -> bool:
    return train_online(composed(directory, *overrides, command="train_online"))


@pytest.fixture(scope="module")
def trained(collected, tmp_path_factory) -> tuple[Path, list[str]]:
    """The study, trained without a stop, and the pictures that were made."""
    directory = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        ids = counted(patch)
        assert online(directory, unstored_in(collected))
    return directory, ids


def made_again_from(picture: int) -> int:
    """Pictures that a run makes which goes on at this one: 11, without whole groups before it."""
    sizes = [(3, 3, 1)[index] for index in order_of_shards(3, seed=0, epoch=0)]
    return 11 - max((end for end in accumulate(sizes) if end <= picture), default=0)


def test_weights_figures_and_configuration_are_those_of_stored_training_to_the_bit(stored, trained):
    directory, ids = trained
    assert files(directory) == files(stored)
    # mid needs one epoch and the first chunk of the next, which are 4 pictures; down needs less.
    assert len(ids) == 11


def test_the_records_are_those_of_trainings_whose_parent_is_the_collection_of_the_other_splits(
    stored, trained, collected, unstored
):
    directory, _ = trained
    assert not list((directory / "study" / "sae").glob(".online-*"))
    assert not online(directory, unstored)  # all are finished
    record, whole = (read_record(root / "study" / "sae" / CELLS[0]) for root in (directory, stored))
    collection = read_record(collected / "study" / "activations")
    assert record and whole and collection
    assert (record.stage, record.determines) == ("train", whole.determines)
    assert record.parents == {"collect": collection.signature}


def test_evaluation_and_export_take_the_autoencoders_as_any_others(trained, unstored):
    directory, _ = trained
    cell = [*unstored, "timestep=early", "block=mid", "sae.k=2"]
    evaluate(composed(directory, *cell, "evaluation=reconstruction", command="evaluate"))
    results = directory / "study" / "evaluation" / "reconstruction" / CELLS[0] / "results.json"
    named = {row["metric"]: row for row in json.loads(results.read_text())}
    assert named["explained_variance"]["baselines"].keys() >= {"pca"}
    export_cell(composed(directory, *cell, command="export"))
    card = next((directory / "study" / "export").rglob("README.md")).read_text()
    assert "made while training, not stored" in card


def test_a_run_that_is_killed_goes_on_to_the_same_files_without_making_all_pictures_again(
    stored, unstored, tmp_path, made
):
    started = Started("train_online", *TINY, *unstored, f"paths.outputs={tmp_path}", "name=study")
    notes = (tmp_path / "study" / "sae").glob
    while started.poll() is None and not list(notes(".online-*/*-30/checkpoints/step-00000002*")):
        time.sleep(0.01)
    started.kill(signal.SIGKILL)
    assert started.ended().returncode == -signal.SIGKILL
    # down has trained on 5 pictures and mid on its first chunk, the first 4.
    assert online(tmp_path, unstored)
    assert files(tmp_path) == files(stored)
    assert len(made) <= made_again_from(4) < 11


def test_a_stop_within_a_chunk_goes_on_with_its_next_batch(
    stored, unstored, tmp_path, monkeypatch, made
):
    fit, calls = together.Together.fit, []

    def stopped(self, until, **given):
        calls.append(until)
        if len(calls) < 6:
            return fit(self, until, **given)
        fit(self, until - 1, **given)
        raise KeyError("killed")

    with monkeypatch.context() as killing:
        killing.setattr(together.Together, "fit", stopped)
        with pytest.raises(KeyError, match="killed"):
            online(tmp_path, unstored)
    # Picture by picture: a chunk of down is a picture, and the fourth also completes one of mid.
    assert calls == [4, 8, 12, 4, 16, 20] and len(made) == 5
    made.clear()
    assert online(tmp_path, unstored)
    assert files(tmp_path) == files(stored)
    assert len(made) == made_again_from(4)


def test_what_is_not_collected_or_otherwise_is_refused_before_anything_is_made(
    unstored, tmp_path, monkeypatch
):
    monkeypatch.setattr(collecting, "load_model", None)
    with pytest.raises(UserError, match="holds no finished collection of the other splits"):
        online(tmp_path, [UNSTORED])
    with pytest.raises(UserError, match=r"(?s)holds another run of collect.*seed: 0 -> 1"):
        online(tmp_path, [*unstored, "seed=1"])
    with pytest.raises(UserError, match="train_online is for training pictures that are not sto"):
        online(tmp_path, [])


@pytest.mark.parametrize(
    ("command", "overrides", "message"),
    [
        ("train_grid", [UNSTORED], "train_grid reads what is stored; use `diffusae train_online`"),
        ("train", [UNSTORED], "train reads what is stored; use `diffusae train_online`"),
        ("collect", [UNSTORED, "activations.source=/there"], "activations.source names one"),
        ("run", [UNSTORED, "stability.seed=1"], "set stability.seed=null"),
        (
            "train_online",
            [UNSTORED, "trainer.devices=2"],
            "train_online trains in one process, and trainer.devices=2; set trainer.devices=1",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, command, overrides, message):
    with pytest.raises(UserError, match=message):
        Study(composed(tmp_path, *overrides, command=command)).check()


def test_the_collection_of_the_other_splits_is_told_apart_and_holds_no_training_shard(collected):
    root = collected / "study" / "activations"
    record = read_record(root)
    assert record is not None and record.determines["store_training"] is False
    splits = {
        shard["split"] for shard in json.loads((root / "manifest.json").read_text())["shards"]
    }
    assert splits == {"validation", "dictionary", "tune", "test"}
