"""The tiny pipeline, built once for this folder. Tests must not change it."""

from __future__ import annotations

import pytest
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="session")
def pipe() -> StableDiffusionPipeline:
    return tiny_pipeline()
