"""What people put onto a model: LoRA, IP-Adapter, ControlNet, and a pipeline made from another. The
rows that are recorded are a plain hook's, and edits act."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
    StableDiffusionImg2ImgPipeline,
)
from safetensors.torch import save_file
from torch import Tensor

from counted_pipelines import PROMPTS, plain_hook
from diffusae.backbone.load import load_pipeline
from diffusae.capture.attention import capture_cross_attention
from diffusae.capture.hooks import capture_updates
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from tiny_pipeline import HOOKPOINTS, tiny_pipeline

MID, UP = HOOKPOINTS["mid"], HOOKPOINTS["up"]
TIMES = [667, 334, 1]
SIZE = {"height": 16, "width": 16}


def arguments(**options: Any) -> dict[str, Any]:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given = {"prompt": PROMPTS[:2], "guidance_scale": 5.0, "num_inference_steps": 3}
    return {**given, "latents": latents, "output_type": "latent", **options}


def check(pipe: Any, given: dict[str, Any], path: str = MID) -> tuple[dict[Any, Tensor], Tensor]:
    """(updates, final latents). Updates are a plain hook's: the rows of `uncond`, then those
    of `cond`. A negated update changes the picture."""
    with plain_hook(pipe.unet, path) as seen, capture_updates(pipe, {"at": path}, TIMES) as got:
        latents = pipe(**given).images
    assert [len(update) for _, update in seen] == [4, 4, 4]
    for timestep, (_, update) in zip(TIMES, seen, strict=True):
        assert torch.equal(got.updates["at", timestep, "uncond"], update[:2])
        assert torch.equal(got.updates["at", timestep, "cond"], update[2:])
    assert torch.equal(pipe(**given).images, latents)
    with steer(pipe, [Edit(path, lambda updates, _grid: -updates)]) as steering:
        assert not torch.equal(pipe(**given).images, latents)
    assert steering.steps == {0: 3}
    return got.updates, latents


def differ(one: dict[Any, Tensor], other: dict[Any, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(not torch.allclose(one[key], other[key], atol=1e-5) for key in one)


def test_a_controlnets_residuals_are_in_the_updates() -> None:
    """They are added to what the upper half of the U-Net reads."""
    pipe = tiny_pipeline()
    plain, _ = check(pipe, arguments(**SIZE), UP)
    torch.manual_seed(3)
    controlnet = ControlNetModel.from_unet(
        pipe.unet, conditioning_channels=3, conditioning_embedding_out_channels=(16, 32)
    ).eval()
    for name, parameter in controlnet.named_parameters():
        if "controlnet_" in name:  # they begin at zero
            torch.nn.init.normal_(parameter, std=0.3)
    parts: dict[str, Any] = dict(pipe.components)
    controlled: Any = StableDiffusionControlNetPipeline(
        **parts, controlnet=controlnet, requires_safety_checker=False
    )
    controlled.set_progress_bar_config(disable=True)
    updates, _ = check(controlled, arguments(image=torch.rand(2, 3, 16, 16)), UP)
    assert differ(updates, plain)


def test_an_ip_adapters_pictures_are_in_the_updates_and_not_in_the_attention_to_the_text() -> None:
    pipe: Any = tiny_pipeline()
    plain, _ = check(pipe, arguments(**SIZE))
    torch.manual_seed(3)
    tokens, width, embedded = 4, 32, 12
    weights: dict[str, Tensor] = {}
    crossed = [name for name in pipe.unet.attn_processors if ".attn2." in name]
    for place, name in enumerate(crossed):
        attention = pipe.unet.get_submodule(name.removesuffix(".processor"))
        for part in ("to_k_ip", "to_v_ip"):
            shape = attention.to_k.out_features, width
            weights[f"{2 * place + 1}.{part}.weight"] = torch.randn(shape) * 0.3
    size = tokens * width
    projection = {"proj.weight": torch.randn(size, embedded), "proj.bias": torch.zeros(size)}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    pipe.load_ip_adapter(
        {"image_proj": projection, "ip_adapter": weights}, subfolder=None, weight_name=None,
        image_encoder_folder=None,
    )  # fmt: skip
    pictures = [torch.randn(2, 1, embedded)]  # of uncond and of cond
    given = arguments(ip_adapter_image_embeds=pictures, **SIZE)
    updates, _ = check(pipe, given)
    assert differ(updates, plain)
    with capture_cross_attention(pipe, TIMES, hookpoints={"mid": MID}) as attention:
        pipe(**given)
    for probabilities in attention.maps.values():
        assert probabilities.shape == (2, 16, 16)  # pictures, positions, tokens of the text
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 16))


def test_a_pipeline_made_from_another_is_hooked_and_the_other_is_told_apart() -> None:
    pipe = tiny_pipeline()
    other: Any = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    assert other.unet is pipe.unet
    given = arguments(image=torch.rand(2, 3, 16, 16), strength=1.0, latents=None)
    given |= {"generator": torch.Generator().manual_seed(1)}

    def again() -> dict[str, Any]:
        given["generator"].manual_seed(1)
        return given

    with plain_hook(pipe.unet, MID) as seen, capture_updates(other, {"mid": MID}, TIMES) as got:
        other(**again())
    for timestep, (_, update) in zip(TIMES, seen, strict=True):
        assert torch.equal(got.updates["mid", timestep, "cond"], update[2:])
    wrong = pytest.raises(UserError, match="runs the denoiser of this StableDiffusionPipeline")
    with wrong, capture_updates(pipe, {"mid": MID}, TIMES):
        other(**again())
    check(pipe, arguments(**SIZE))


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """Of rank 2, on all queries of the denoiser's cross-attention."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for path, module in tiny_pipeline().unet.named_modules():
        if path.endswith("attn2.to_q"):
            shape = module.weight.shape
            for part, size in (("A", (2, shape[1])), ("B", (shape[0], 2))):
                name = f"unet.{path}.lora_{part}.weight"
                weights[name] = torch.randn(size, generator=generator)
    assert weights
    save_file(weights, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


def test_a_lora_is_in_the_updates_and_the_hookpoints_stay(lora: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    options: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    plain, _ = check(load_pipeline(tmp_path / "pipeline", **options), arguments(**SIZE))
    pipe: Any = load_pipeline(tmp_path / "pipeline", lora=str(lora), **options)
    updates, latents = check(pipe, arguments(**SIZE))
    assert differ(updates, plain)
    pipe.fuse_lora()
    fused, same = check(pipe, arguments(**SIZE))
    torch.testing.assert_close(same, latents, rtol=1e-2, atol=1e-3)
    for key, update in fused.items():
        torch.testing.assert_close(update, updates[key], rtol=1e-2, atol=1e-3)
    other = {f"transformer.{name}": torch.zeros(2, 3) for name in ("x.lora_A.weight",)}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors (does not load|has no weights)"):
        load_pipeline(tmp_path / "pipeline", lora=str(tmp_path / "other.safetensors"), **options)


def test_a_lora_that_is_a_pickle_or_not_there_is_refused(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    torch.save({}, tmp_path / "lora.bin")
    for name in ("lora.bin", "nothing.safetensors"):
        with pytest.raises(UserError, match=rf"{name} must be a \.safetensors file"):
            load_pipeline(
                tmp_path / "pipeline", dtype=torch.float32, device="cpu", lora=str(tmp_path / name)
            )


def test_peft_is_named_where_it_is_missing(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusae.backbone.packages.find_spec", lambda _name: None)
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    with pytest.raises(UserError, match=r"model\.lora needs peft.*'diffusae\[lora\]'"):
        load_pipeline(tmp_path / "pipeline", dtype=torch.float32, device="cpu", lora=str(lora))
