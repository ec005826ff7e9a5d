"""What the shipped weights must reach on held-out scenes. The gate measures everything."""

from typing import Any

import numpy as np
import pytest
import torch

from diffusae.backbone.load import load_pipeline
from diffusae.miniature.annotator import MiniatureAnnotator
from diffusae.miniature.autoencoder import reconstruct
from diffusae.miniature.folder import size_in_bytes
from diffusae.miniature.gate import check_annotator, check_autoencoder
from diffusae.miniature.shipped import SHIPPED
from diffusae.miniature.worlds import SHAPES


@pytest.fixture(scope="module")
def back():
    pipe = load_pipeline(SHIPPED, dtype=torch.float32, device="cpu")
    return lambda pictures: reconstruct(pipe.vae, pictures)  # type: ignore[attr-defined]


def test_the_weights_fit_in_the_package():
    assert size_in_bytes(SHIPPED) < 24e6


def test_the_autoencoder_passes_its_bounds(back):
    figures = check_autoencoder(SHAPES, back, n=60)
    assert [figure.name for figure in figures if not figure.passed] == []


def test_the_annotator_passes_its_bound_and_names_colour_and_style(back):
    annotator = MiniatureAnnotator(SHIPPED / "annotator")
    figures: dict[str, Any] = {
        figure.name: figure for figure in check_annotator(SHAPES, annotator.annotate, back, n=80)
    }
    assert figures["annotator mean IoU, renders"].passed
    for kind in ("renders", "autoencoded renders"):
        assert figures[f"annotator colour right, {kind}"].value > 0.95
        assert figures[f"annotator style right, {kind}"].value > 0.95


def test_the_folder_runs_in_plain_diffusers_and_follows_its_seed():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(SHIPPED)
    pipe.set_progress_bar_config(disable=True)

    def drawn(seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        settings = {"num_inference_steps": 4, "output_type": "np", "generator": generator}
        made = pipe("a red star , flat", **settings)
        return np.asarray(made.images)  # type: ignore[union-attr]

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert np.abs(drawn(1) - drawn(2)).mean() > 0.01
