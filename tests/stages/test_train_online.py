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

from command import Started
from diffusae.activations.order import order_of_shards
from diffusae.collecting import online as collecting
from diffusae.errors import UserError
from diffusae.runs.record import read_record
from diffusae.stages.evaluate import evaluate
from diffusae.stages.export_cell import export_cell
from diffusae.stages.train_online import train_online
from diffusae.study.study import Study
from diffusae.training import train_grid as together
from stages.online_study import CELLS, TINY, UNSTORED, composed, files, unstored_in

pytestmark = pytest.mark.filterwarnings("ignore")


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
        ("run", [UNSTORED, "stability.seeds=3"], "stability.seeds=1"),
        ("run", [UNSTORED, "stability.seeds=many"], "stability.seeds=many"),
        ("train_grid", ["trainer.devices=2"], "train_grid trains in one process, and trainer.dev"),
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
