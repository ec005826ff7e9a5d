"""Families without an adapter, and pipelines that need more than a prompt, are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from composing import compose
from diffusae.backbone.describe import describe
from diffusae.backbone.families.table import require_text_to_image
from diffusae.backbone.load import load_pipeline
from diffusae.capture.hooks import capture_updates
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from diffusae.stages.collect import collect
from diffusae.stages.hookpoints import hookpoints
from diffusae.stages.plan import plan
from tiny_families import tiny_family
from tiny_pipeline import tiny_pipeline

STRANGE = {
    "AllegroPipeline": "AllegroTransformer3DModel",
    "CogVideoXPipeline": "CogVideoXTransformer3DModel",
    "DiTPipeline": "DiTTransformer2DModel",
    "HunyuanVideoPipeline": "HunyuanVideoTransformer3DModel",
    "MochiPipeline": "MochiTransformer3DModel",
    "OmniGenPipeline": "OmniGenTransformer2DModel",
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


def test_every_stage_and_context_refuses_what_has_no_adapter(tmp_path: Path) -> None:
    """`hookpoints`, `plan` and `collect` of a folder; `capture_updates` and `steer` of a running
    pipeline."""
    folder = tmp_path / "model"
    folder.mkdir()
    parts = {"_class_name": "MochiPipeline", "transformer": ["diffusers", STRANGE["MochiPipeline"]]}
    (folder / "model_index.json").write_text(json.dumps(parts))
    source = [f"model.source={folder}", f"paths.outputs={tmp_path}", "debug=tiny", "model=custom"]
    asked = [*source, "model.hookpoints.mid=0", "grid.blocks=[mid]", "block=mid"]
    for name, stage in {"hookpoints": hookpoints, "plan": plan, "collect": collect}.items():
        with pytest.raises(UserError, match=r"MochiTransformer3DModel.*an adapter would have to"):
            stage(compose(name, source if name == "hookpoints" else asked))
    pipe = tiny_pipeline()
    pipe.unet = type("MochiTransformer3DModel", (torch.nn.Module,), {})()
    with (
        pytest.raises(UserError, match=r"MochiTransformer3DModel.*an adapter would have to"),
        capture_updates(pipe, {"mid": 0}, [1.0]),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"MochiTransformer3DModel.*an adapter would have to"),
        steer(pipe, [Edit("blocks.0", lambda updates, _grid: updates)]),
    ):
        pass


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


def test_stable_diffusion_3_without_t5_is_listed_and_loaded(tmp_path: Path) -> None:
    """As `from_pretrained(..., text_encoder_3=None, tokenizer_3=None)` leaves it: its text states
    have zeros in T5's place."""
    tiny_family("sd35_without_t5").save_pretrained(tmp_path)
    described = describe(tmp_path, text_layers=True)
    assert {layer.encoder for layer in described.text_layers.values()} == {
        "text_encoder",
        "text_encoder_2",
    }
    assert list(described.hookpoints) == [f"transformer_blocks.{place}" for place in range(3)]
    pipe: Any = load_pipeline(tmp_path, dtype=torch.float32, device="cpu", scheduler="keep")
    assert pipe.text_encoder_3 is None and pipe.tokenizer_3 is None
