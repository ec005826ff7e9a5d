"""Families without an adapter, and pipelines that need more than a prompt, are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusae.backbone.describe import describe
from diffusae.backbone.families.table import require_text_to_image
from diffusae.backbone.load import load_pipeline
from diffusae.errors import UserError
from tiny_pipeline import tiny_pipeline

STRANGE = {
    "ChromaPipeline": "ChromaTransformer2DModel",
    "QwenImagePipeline": "QwenImageTransformer2DModel",
    "Flux2Pipeline": "Flux2Transformer2DModel",
    "AuraFlowPipeline": "AuraFlowTransformer2DModel",
    "SanaPipeline": "SanaTransformer2DModel",
    "WanPipeline": "WanTransformer3DModel",
    "LTXPipeline": "LTXVideoTransformer3DModel",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole folder of a Stable Diffusion pipeline."""
    tiny_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def renamed(folder: Path, pipeline: str, **parts: Any) -> Path:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline} | parts))
    return folder


@pytest.mark.parametrize("name", STRANGE)
def test_a_family_without_an_adapter_is_named_with_what_an_adapter_would_need(
    tmp_path: Path, name: str
) -> None:
    parts = {"_class_name": name, "transformer": ["diffusers", STRANGE[name]]}
    (tmp_path / "model_index.json").write_text(json.dumps(parts))
    kind = STRANGE[name]
    refused = rf"{name} is not supported: its denoiser is a {kind}.*an adapter would have to know"
    with pytest.raises(UserError, match=refused):
        describe(tmp_path)
    with pytest.raises(UserError, match=refused):
        load_pipeline(tmp_path, dtype=torch.float32, device="cpu")


def test_a_pipeline_that_needs_a_picture_is_listed_by_no_stage(folder: Path) -> None:
    for name in ("StableDiffusionInpaintPipeline", "StableDiffusionImg2ImgPipeline"):
        with pytest.raises(UserError, match=f"{name} needs a picture besides the prompt"):
            describe(renamed(folder, name))
    with pytest.raises(
        UserError, match="StableDiffusionInstructPix2PixPipeline is none of the supported pipelines"
    ):
        describe(renamed(folder, "StableDiffusionInstructPix2PixPipeline"))


def test_a_folder_with_code_of_its_own_is_one_message(folder: Path) -> None:
    with pytest.raises(UserError, match="only components of diffusers and transformers are loaded"):
        describe(renamed(folder, "StableDiffusionPipeline", unet=["mine", "MyUNet"]))
    with pytest.raises(UserError, match="a pipeline of the folder's own code"):
        describe(renamed(folder, ["pipeline", "MyPipeline"]))  # type: ignore[arg-type]


def test_weights_of_a_variant_alone_name_the_setting(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(
        UserError,
        match=r"text_encoder has weights only .*model\.fp16\.safetensors.* set model.variant=fp16",
    ):
        load_pipeline(tmp_path, dtype=torch.float32, device="cpu")
    weights = tmp_path / "text_encoder" / "model.fp16.safetensors"
    weights.rename(weights.with_name("model.fp16-00001-of-00001.safetensors"))
    with pytest.raises(UserError, match=r"model.variant=fp16"):
        load_pipeline(tmp_path, dtype=torch.float32, device="cpu")


def test_what_makes_a_picture_of_a_prompt_passes() -> None:
    for name in (
        "StableDiffusionPipeline",
        "FluxPipeline",
        "PixArtSigmaPipeline",
        "StableDiffusionPAGPipeline",
    ):
        require_text_to_image(name)
