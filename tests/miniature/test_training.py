"""The training of the miniature's parts, at a tiny size."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from cli_trials import command
from composing import compose
from diffusae.miniature.autoencoder import AutoencoderTraining, RandomCrops
from diffusae.miniature.fit import falling_rate, fit
from diffusae.miniature.pool import build_pool
from diffusae.miniature.settings import TrainingSettings
from diffusae.miniature.train import MiniatureTraining
from diffusae.miniature.worlds import SHAPES


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return build_pool(tmp_path_factory.mktemp("pool"), 12, world=SHAPES)


def train_autoencoder(pool, directory, *legs):
    for steps in legs:
        torch.manual_seed(0)
        training = AutoencoderTraining(steps=8, latent_channels=4)
        crops = RandomCrops(pool.pictures, size=16, length=8 * 4, seed=0)
        fit(training, crops, batch_size=4, steps=steps, directory=directory, accelerator="cpu")
    return training


def test_training_lowers_the_error_and_resumes_where_it_stopped(pool, tmp_path):
    whole = train_autoencoder(pool, tmp_path / "whole", 8)
    resumed = train_autoencoder(pool, tmp_path / "resumed", 5, 8)
    torch.manual_seed(0)
    start = AutoencoderTraining(steps=8, latent_channels=4)
    data = RandomCrops(pool.pictures, size=16, length=32, seed=1)
    crops = torch.stack([data[i] for i in range(16)])

    @torch.no_grad()
    def error(training) -> float:
        latents = training.autoencoder.encode(crops).latent_dist.mean
        return float((training.autoencoder.decode(latents).sample - crops).square().mean())

    assert error(whole) < error(start)
    # A resumed run draws new noise of the posterior: weights agree closely, not exactly.
    assert error(resumed) == pytest.approx(error(whole), rel=0.2)


def test_a_finished_training_is_loaded_not_repeated(pool, tmp_path):
    first = train_autoencoder(pool, tmp_path, 4)
    again = train_autoencoder(pool, tmp_path, 4)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_learning_rate_warms_up_stays_and_falls():
    steps = (0, 49, 99, 500, 799, 900, 1000)
    rates = [falling_rate(step, steps=1000, warmup=100, last_part=0.2) for step in steps]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_a_pool_is_drawn_once_and_holds_exact_labels(tmp_path):
    pool = build_pool(tmp_path, 5, world=SHAPES)
    assert len(pool) == 5
    assert json.loads((tmp_path / "captions.json").read_text()) == pool.captions
    changed = (tmp_path / "pictures.npy").stat().st_mtime_ns
    again = build_pool(tmp_path, 5, world=SHAPES)
    assert (tmp_path / "pictures.npy").stat().st_mtime_ns == changed
    np.testing.assert_array_equal(pool.nouns, again.nouns)
    for nouns, colours in zip(pool.nouns, pool.colours, strict=True):
        np.testing.assert_array_equal(nouns > 0, colours > 0)


def short(directory, *overrides, scenes=8, steps=1, **values):
    """A training of few steps."""
    parts = dict.fromkeys(("autoencoder_steps", "annotator_steps", "denoiser_steps"), steps)
    own = {"scenes": scenes, "batch_size": 4, "accelerator": "cpu", "workers": 1}
    training = compose("miniature", list(overrides)).training
    return MiniatureTraining(directory, TrainingSettings(**{**training, **parts, **own, **values}))


@pytest.mark.parametrize("world", ["shapes", "scenes"])
def test_every_part_trains_and_the_folder_runs_in_plain_diffusers(tmp_path, world):
    from diffusers import StableDiffusionPipeline

    from diffusae.miniature.annotator import MiniatureAnnotator

    training = short(tmp_path / "training", f"world={world}", scenes=16, steps=2)
    training.assemble(tmp_path / "folder")
    pipe: Any = StableDiffusionPipeline.from_pretrained(tmp_path / "folder")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red fish", num_inference_steps=2, output_type="np").images
    assert picture.shape == (1, 64, 64, 3)
    annotator = MiniatureAnnotator(tmp_path / "folder" / "annotator")
    assert len(annotator.annotate((picture * 255).astype(np.uint8))) == 1


def test_training_continues_from_a_folder_and_leaves_parts_of_0_steps_unchanged(tmp_path):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    short(tmp_path / "first").assemble(tmp_path / "folder")
    kept_parts = {"autoencoder_steps": 0, "annotator_steps": 0}
    further = short(tmp_path / "second", start_from=str(tmp_path / "folder"), **kept_parts)
    further.assemble(tmp_path / "further")
    kept, moved = (
        [
            kind.from_pretrained(tmp_path / name / part).state_dict()
            for name in ("folder", "further")
        ]
        for kind, part in ((AutoencoderKL, "vae"), (UNet2DConditionModel, "unet"))
    )
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    assert not all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])
    weights = "annotator/annotator.safetensors"
    first, second = tmp_path / "folder" / weights, tmp_path / "further" / weights
    assert first.read_bytes() == second.read_bytes()


def test_the_command_trains_the_named_part_on_the_named_world(monkeypatch, capsys, tmp_path):
    done = []
    monkeypatch.setattr(MiniatureTraining, "annotator", lambda self: done.append(self.world.name))
    run = command(monkeypatch, capsys)
    ended = run("miniature", "world=scenes", "part=annotator", f"directory={tmp_path}")
    assert (ended.code, done) == (0, ["scenes"])
