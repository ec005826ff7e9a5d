"""`train` on shards that are not what they should be, and what its record says of choices that it
made itself.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.errors import UserError
from diffusae.files import sha256_of
from diffusae.runs.metric_log import read_metrics
from diffusae.runs.record import read_record, run_record
from diffusae.sae.metrics import Reconstruction, decoder_similarity
from diffusae.sae.storage import load_sae
from diffusae.stages import train as stage
from diffusae.stages import train_grid
from diffusae.study.seeds import twins_of
from diffusae.study.study import Study
from diffusae.training import cell as training_run
from diffusae.training import train as training
from diffusae.training import train_grid as together
from small_collections import stream_of, write_random
from stages.evaluated_interventions import record_again

TRAINING = "mid/t1.00/cond/shard-000000.tar"


@pytest.fixture
def activations(tmp_path) -> Path:
    """Two streams that differ by nothing but the step: 20 training pictures of 10 vectors, and 3
    for validation.
    """
    streams = [
        stream_of((2, 5), 32, t=t, step_index=index, timestep=timestep)
        for t, index, timestep in ((1.0, 0, 801), (0.0, 4, 1))
    ]
    root = tmp_path / "activations"
    with run_record(root, stage="collect", config={}, determines={}, parents={}, seed=0):
        write_random(root, streams, [("train", 20), ("validation", 3)])
    return root


@pytest.fixture
def composed(activations) -> Callable[..., DictConfig]:
    def make(*overrides: str, command: str = "train") -> DictConfig:
        cell = ["timestep=early", "block=mid", "conditioning=cond", "trainer.accelerator=cpu"]
        paths = [f"paths.outputs={activations.parent}", f"paths.activations={activations}"]
        return compose(command, ["debug=tiny", *cell, *paths, *overrides])

    return make


def put_nan(activations: Path, *, image: int) -> None:
    """Write a NaN into one picture's shard, and hashes that fit, as a program that does not check
    would.
    """
    path = activations / TRAINING
    before = sha256_of(path)
    content = bytearray(path.read_bytes())
    place = content.index(f"g0i{image}.npy".encode())
    values = content.index(b"\n", content.index(b"NUMPY", place)) + 1
    content[values : values + 2] = np.float16(np.nan).tobytes()
    path.write_bytes(content)
    for file in (activations / "manifest.json", activations / "groups" / "000000.json"):
        file.write_text(file.read_text().replace(before, sha256_of(path)))
    record_again(activations)
    Manifest.load(activations)


@pytest.mark.filterwarnings("ignore")
def test_a_nan_in_a_shard_ends_training_with_the_step_and_keeps_the_finite_checkpoint(
    activations, composed
):
    put_nan(activations, image=7)
    # Two batches hold all vectors, so one of the first two has it; nothing was saved before either.
    study = Study(composed("trainer.checkpoint_every=1", "activations.batch_size=100"))
    with pytest.raises(
        UserError, match=r"the loss is nan at step [01]; .* activations that are not finite"
    ):
        stage.train(study.cfg)
    record = read_record(study.sae)
    assert record is not None
    assert record.status == "failed"
    assert "the loss is nan" in str(record.error)
    assert not (study.sae / "sae.safetensors").exists()
    for path in (study.sae / "checkpoints").glob("*.ckpt"):
        saved = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.isfinite(weights).all() for weights in saved.values())


@pytest.mark.filterwarnings("ignore")
def test_nothing_of_the_weights_depends_on_validation_vectors(composed, tmp_path):
    from diffusae.sae.autoencoder import SparseAutoencoder

    seen: list[torch.Tensor] = []
    initialise = SparseAutoencoder.initialise

    def noted(self: SparseAutoencoder, vectors: torch.Tensor) -> None:
        seen.append(vectors.clone())
        initialise(self, vectors)

    one = ["grid.timesteps=[1.0]", "grid.blocks=[mid]", "grid.conditionings=[cond]"]
    study = Study(composed())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparseAutoencoder, "initialise", noted)
        stage.train(study.cfg)
        grid = Study(composed(*one, "name=grid", command="train_grid"))
        train_grid.train_grid(grid.cfg)
    data = training.data_of(study)
    assert len(seen) == 2  # alone, and in a grid
    assert all(torch.equal(vectors, data.first_batch()) for vectors in seen)
    validation = {tuple(row) for batch in data.val_dataloader() for row in batch.tolist()}
    assert not validation & {tuple(row) for vectors in seen for row in vectors.tolist()}


@pytest.mark.filterwarnings("ignore")
def test_seeds_trained_side_by_side_are_those_trained_alone_each_on_its_own_order(composed):
    precise = "sae.selection_precision=float32"
    study = Study(composed("stability.seeds=2", precise))
    (twin,) = twins_of(study)
    together.train_seeds([study, twin])
    assert all(map(training_run.trained, (study, twin)))
    assert not list(study.sae.parent.glob(".seeds-*"))
    weights = {
        seed: (of.sae / "sae.safetensors").read_bytes() for seed, of in ((0, study), (1, twin))
    }
    for seed, expected in weights.items():
        alone = Study(composed(f"seed={seed}", f"name=alone{seed}", precise))
        stage.train(alone.cfg)
        assert (alone.sae / "sae.safetensors").read_bytes() == expected
    assert weights[0] != weights[1]


def test_a_shard_of_another_step_with_equal_shapes_is_named_before_training(activations, composed):
    foreign = activations / TRAINING.replace("t1.00", "t0.00")
    expected, foreign_hash = sha256_of(activations / TRAINING), sha256_of(foreign)
    assert expected != foreign_hash
    shutil.copy(foreign, activations / TRAINING)
    study = Study(composed())
    with pytest.raises(
        UserError,
        match=f"{TRAINING}: hash: expected sha256 {expected}, found sha256 {foreign_hash}",
    ):
        stage.train(study.cfg)
    assert not (study.sae / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_record_tells_what_auto_chose_and_a_stopped_training_goes_on_with_it(
    composed, monkeypatch
):
    study = Study(composed())
    assert study.cfg.sae.selection_precision == "auto"
    monkeypatch.setattr("diffusae.sae.precision.fastest", lambda _device: "bfloat16")
    with pytest.raises(KeyboardInterrupt), training.recorded(study):
        raise KeyboardInterrupt
    monkeypatch.setattr("diffusae.sae.precision.fastest", lambda _device: "float32")
    assert training.selection_precision(study) == "bfloat16"
    stage.train(study.cfg)
    record = read_record(study.sae)
    assert record is not None
    assert record.status == "finished"
    assert record.config["sae"]["selection_precision"] == "bfloat16"
    assert study.cfg.trainer.kernels == "auto"
    assert record.config["trainer"]["kernels"] == "torch"
    # What was taken is no part of the signature: auto on another machine finds this training
    # finished.
    assert record.determines["sae"]["selection_precision"] == "auto"
    assert stage.train(study.cfg) is False
    assert training.selection_precision(Study(composed("sae.selection_precision=int8"))) == "int8"


@pytest.mark.filterwarnings("ignore")
def test_a_training_with_first_values_of_younger_options_is_signed_as_before_there_was_a_choice(
    composed,
):
    known = {
        "d_sae",
        "encoder_bias",
        "selection_precision",
        "input_scaling",
        "lr",
        "aux_coefficient",
        "k_aux",
        "dead_after_vectors",
        "warmup_steps",
        "decay_steps",
        "gradient_clip",
        "ema",
        "tag",
        "k",
        "sparsity",
    }
    study = Study(composed())
    assert study.sae_determines().keys() == known
    stage.train(study.cfg)
    for changed in ("sae.initial_bias=zero", "sae.decoder_norm=free", "sae.adam_epsilon=1e-8"):
        name = changed.partition("=")[0]
        with pytest.raises(UserError, match=rf"differs[^\n]*\n  {name}: \(absent\) -> "):
            stage.train(composed(changed))


def test_the_kernels_reach_the_autoencoder_and_the_record_and_are_no_part_of_the_signature(
    composed, monkeypatch
):
    monkeypatch.setattr("diffusae.sae.autoencoder.kernels_by_name", lambda name: f"{name}'s")
    study = Study(composed("trainer.kernels=triton"))
    assert training.module_of(study, 32).autoencoder.kernels == "triton's"
    assert study.config()["trainer"]["kernels"] == "triton"  # as run.json has it
    assert training_run._determines(study) == training_run._determines(Study(composed()))


@pytest.mark.filterwarnings("ignore")
def test_ema_saves_the_moving_average_of_the_weights_with_decoder_rows_of_unit_norm(
    composed, monkeypatch
):
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = training.SAEModule.training_step

    def watched(module, *args, **kwargs) -> torch.Tensor:
        loss = step(module, *args, **kwargs)
        steps.append(
            (module.autoencoder.W_enc.detach().clone(), module.autoencoder.W_dec.detach().clone())
        )
        return loss

    monkeypatch.setattr(training.SAEModule, "training_step", watched)
    study = Study(
        composed("sae.ema=0.5", "sae.selection_precision=float32", "trainer.validate_every=4")
    )
    stage.train(study.cfg)
    W_enc, W_dec = steps[0]
    for encoder, decoder in steps[1:]:
        W_enc = 0.5 * W_enc + 0.5 * encoder
        W_dec = torch.nn.functional.normalize(0.5 * W_dec + 0.5 * decoder, dim=1)
    saved = load_sae(study.sae)[0]
    assert len(steps) == 10
    torch.testing.assert_close(saved.W_enc.data, W_enc)
    torch.testing.assert_close(saved.W_dec.data, W_dec)
    torch.testing.assert_close(saved.W_dec.norm(dim=1), torch.ones(64))
    assert not torch.allclose(saved.W_enc, steps[-1][0], atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ema", ["null", "0.5"])
@pytest.mark.parametrize("validate_every", [4, 5, 20])
def test_the_saved_figures_are_of_the_saved_weights_whenever_validation_was_last_due(
    composed, ema, validate_every
):
    study = Study(
        composed(f"sae.ema={ema}", f"trainer.validate_every={validate_every}")
    )  # of 10 steps
    stage.train(study.cfg)
    sae, metadata = load_sae(study.sae)
    vectors = torch.cat(list(training.data_of(study).val_dataloader()))
    reconstruction = Reconstruction(sae.d_in)
    reconstruction.update(sae(vectors), vectors)
    expected = reconstruction.compute() | decoder_similarity(sae.directions)
    validation = metadata["validation"]
    assert {name: validation[f"val/{name}"] for name in expected} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-5
    )
    rows = [row for row in read_metrics(study.sae / "metrics.jsonl") if "val/fvu" in row]
    assert len(rows) == {4: 3, 5: 2, 20: 1}[validate_every]
    assert (rows[-1]["step"], rows[-1]["val/fvu"]) == (9, validation["val/fvu"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("place", "validate_every", "checkpoint_every"),
    [
        ("save_trained", 5, 5),  # after the last step, which is a checkpoint's and has a validation
        ("validate", 5, 5),  # in the validation of a checkpoint's step
        ("save_trained", 4, 9),  # after a checkpoint that no validation follows
    ],
)
def test_a_training_stopped_at_a_validation_or_its_end_goes_on_to_the_same_average_and_figures(
    composed, monkeypatch, place, validate_every, checkpoint_every
):
    def study(name: str) -> Study:
        every = [
            f"trainer.validate_every={validate_every}",
            f"trainer.checkpoint_every={checkpoint_every}",
        ]
        return Study(
            composed("sae.ema=0.5", "sae.selection_precision=float32", f"name={name}", *every)
        )

    def kill(*_args: object, **_values: object) -> None:
        raise KeyError("killed")

    whole, stopped = study("whole"), study("stopped")
    stage.train(whole.cfg)
    with monkeypatch.context() as killing:
        killing.setattr(
            *((training, place) if place == "save_trained" else (training.SAEModule, place)), kill
        )
        with pytest.raises(KeyError, match="killed"):
            stage.train(stopped.cfg)
    stage.train(stopped.cfg)
    for name in ("sae.safetensors", "metrics.jsonl", "cfg.json"):
        assert (stopped.sae / name).read_bytes() == (whole.sae / name).read_bytes(), name
    assert json.loads((stopped.sae / "cfg.json").read_text())["metadata"]["validation"].keys() >= {
        "val/l0"
    }


@pytest.mark.filterwarnings("ignore")
def test_a_grid_that_was_stopped_goes_on_with_its_own_configuration_alone(composed, monkeypatch):
    one = ["grid.timesteps=[1.0]", "grid.blocks=[mid]", "grid.conditionings=[cond]"]
    one += ["sae.selection_precision=float32", "trainer.checkpoint_every=2"]

    def kill(*_args: object) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as killing:
        killing.setattr(together, "save_trained", kill)
        with pytest.raises(KeyError, match="killed"):
            train_grid.train_grid(composed(*one, "sae.lr=0.01", command="train_grid"))
    cfg = composed(*one, command="train_grid")
    with pytest.raises(UserError, match=r"sae.lr: 0.01 -> 0.002"):
        train_grid.train_grid(cfg)
    sae = Study(cfg).sae
    shutil.rmtree(sae)  # as the message advises
    assert list(sae.parent.glob(".grid-*/checkpoints/*.ckpt"))
    train_grid.train_grid(cfg)
    single = Study(composed("name=single", *one))
    stage.train(single.cfg)
    assert (sae / "sae.safetensors").read_bytes() == (single.sae / "sae.safetensors").read_bytes()
    assert not list(sae.parent.glob(".grid-*"))


@pytest.mark.parametrize(("explained", "message"), [(-0.2, True), (0.0, False), (None, False)])
def test_an_autoencoder_that_is_worse_than_the_mean_is_told_when_it_is_saved(
    monkeypatch, caplog, explained, message
):
    """`train` and `train_grid` both save by `save_trained`."""
    monkeypatch.setattr(training, "save_sae", lambda *_: None)
    cfg = SimpleNamespace(
        sae=SimpleNamespace(lr=0.5, input_scaling="none"), trainer=SimpleNamespace(steps=9)
    )
    cell = SimpleNamespace(coordinates=dict)
    study: Any = SimpleNamespace(cfg=cfg, cell=cell, cell_name="mid-t0.50-cond-k10", sae=None)
    stream: Any = SimpleNamespace(hookpoint="mid_block")
    module: Any = SimpleNamespace(autoencoder=None)
    training.save_trained(study, module, stream, {"val/explained_variance": explained})
    assert ("mid-t0.50-cond-k10: this autoencoder is WORSE THAN THE MEAN" in caplog.text) is message
    assert ("Lower sae.lr=0.5" in caplog.text) is message
