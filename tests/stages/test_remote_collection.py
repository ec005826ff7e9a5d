"""Stages read a collection that lies elsewhere as they read their own."""

import json

import numpy as np
import pytest

from command import serve
from composing import compose
from diffusae.activations import transport
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from diffusae.runs.record import read_record, run_record
from diffusae.stages.collect import collect
from diffusae.stages.train import train
from diffusae.study.study import Study
from local_server import served
from small_collections import sample_of, stream_of


def config(stage, outputs, *overrides):
    return compose(
        stage,
        overrides=["debug=tiny", f"paths.outputs={outputs}", "trainer.accelerator=cpu", *overrides],
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small collection as `collect` leaves it, and what `train` makes of it where it lies."""
    outputs = tmp_path_factory.mktemp("made")
    root = Study(config("collect", outputs)).activations
    stream = stream_of((4, 4), 8)
    writer = ActivationWriter(root, streams=[stream], header={"model": "miniature", "steps": 5})
    rng = np.random.default_rng(0)

    def record(n, split):
        updates = {stream.folder: rng.normal(size=(16, 8)).astype(np.float32)}
        return sample_of(f"{n:06d}", n, split, updates, prompt="a fish")

    with run_record(root, stage="collect", config={}, determines={"seed": 0}, parents={}, seed=0):
        for index, split in enumerate(["train", "train", "validation"]):
            writer.write_group(
                index, [record(8 * index + n, split) for n in range(8)], with_images=False
            )
        writer.finish()
    train(config("train", outputs))
    return outputs


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_from_a_server_gives_the_same_weights_and_signature(made, tmp_path, workers):
    serve()  # from which workers fork
    here = Study(config("train", made))
    with served(here.activations) as server:
        cfg = config(
            "train", tmp_path, f"activations.source={server.url}", f"activations.workers={workers}"
        )
        assert train(cfg) is True
    original = Study(cfg).sae
    assert (original / "sae.safetensors").read_bytes() == (
        here.sae / "sae.safetensors"
    ).read_bytes()
    ours, theirs = read_record(original), read_record(here.sae)
    assert ours is not None and theirs is not None and ours.signature == theirs.signature
    assert train(cfg) is False  # finished, and the server is gone


def test_collect_leaves_a_collection_elsewhere_as_it_is(made, tmp_path):
    root = Study(config("collect", made)).activations
    assert collect(config("collect", tmp_path, f"activations.source=file://{root}")) is False
    assert (
        json.loads((tmp_path / "tiny/activations/mirror.json").read_text())["url"]
        == f"file://{root}"
    )


def test_a_collection_of_another_model_or_at_no_place_is_refused_before_training(
    made, tmp_path, monkeypatch
):
    monkeypatch.setattr(transport, "PAUSE_S", 0.0)
    root = Study(config("collect", made)).activations
    with pytest.raises(
        UserError,
        match=r"holds updates of model miniature, model.name=sd14; choose model=miniature",
    ):
        train(config("train", tmp_path, f"activations.source=file://{root}", "model=sd14"))
    with pytest.raises(UserError, match=r"manifest.json is not found at file:///nowhere"):
        train(config("train", tmp_path / "b", "activations.source=file:///nowhere"))
    with pytest.raises(
        UserError, match=r"activations.cache_bytes=0 must be a whole number .* or null"
    ):
        train(
            config(
                "train",
                tmp_path / "c",
                f"activations.source=file://{root}",
                "activations.cache_bytes=0",
            )
        )
