"""Offloaded, sliced and tiled pipelines are captured and steered as any other, or refused by name.

On a CPU the "accelerator" is the CPU itself. So that weights are seen to be used only where they
would be on the accelerator, waiting weights hold NaN here (`sequential`: they are on the meta
device)."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from torch import Tensor, nn

from composing import compose
from diffusae.backbone.compiled import compile_denoiser
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import denoiser_of, execution_device
from diffusae.backbone.load import load_pipeline
from diffusae.backbone.offloading import compute_in_slices, offload, refuse_offloaded
from diffusae.backbone.random_weights import with_random_denoiser
from diffusae.backbone.settings import ModelSettings, Offload, Saving
from diffusae.capture.attention import capture_cross_attention
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from diffusae.study.model import load_model
from diffusae.study.study import Study
from tiny_families import FAMILIES, PIXELS, tiny_family

CPU = torch.device("cpu")


def seen_in(pipe: Any, family: str, *, edited: bool = False) -> dict[Any, Tensor]:
    """Final latents, pictures, updates and attention maps of two pictures."""
    unit, asked = pipe.vae_scale_factor * adapter_of(pipe).patch, FAMILIES[family].asked
    times = adapter_of(pipe).schedule(pipe.scheduler, 2, (PIXELS // unit) ** 2).tolist()
    path = FAMILIES[family].blocks["mid"][0]
    edits = [Edit(path, lambda updates, _grid: -updates)] if edited else []
    size: dict[str, Any] = {"height": PIXELS, "width": PIXELS}
    steered = steer(pipe, edits) if edits else nullcontext()
    with capture_cross_attention(pipe, times) as attention, steered:
        made = generate(
            pipe, ["a cat", "dogs"], [1, 2], steps=2, timesteps=times,
            hookpoints=FAMILIES[family].hookpoints, **size, **asked,
        )  # fmt: skip
    pictures = torch.from_numpy(made.images)
    return {"latents": made.latents, "pictures": pictures, **made.updates, **attention.maps}


def require_same(seen: dict[Any, Tensor], plain: dict[Any, Tensor]) -> None:
    assert seen.keys() == plain.keys()
    assert not [key for key in seen if not torch.equal(seen[key], plain[key])]


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that wait are NaN, until their component or group is called."""
    kept: dict[Tensor, Tensor] = {}

    def away(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if tensor.is_floating_point() and tensor not in kept:
                kept[tensor] = tensor.data
                tensor.data = torch.full_like(tensor, torch.nan)

    def back(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if tensor in kept:
                tensor.data = kept.pop(tensor)

    def group(move: Callable[[Iterable[Tensor]], None]) -> Callable[[Any], None]:
        def moved(one: Any) -> None:
            own = [weight for module in one.modules for weight in module.parameters()]
            move([*own, *one.parameters])

        return moved

    monkeypatch.setattr(ModuleGroup, "offload_", group(away))
    monkeypatch.setattr(ModuleGroup, "onload_", group(back))
    try:
        from accelerate.hooks import CpuOffload  # pyright: ignore
    except ImportError:
        return
    import accelerate  # pyright: ignore

    own = accelerate.cpu_offload
    # diffusers says "cpu:0", where no tensor is: they are on "cpu".
    monkeypatch.setattr(
        accelerate, "cpu_offload", lambda module, _device, **options: own(module, CPU, **options)
    )
    arrive = CpuOffload.pre_forward

    def init_hook(_hook: Any, module: nn.Module) -> nn.Module:
        away(module.parameters())
        return module

    def pre_forward(hook: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        back(module.parameters())
        return arrive(hook, module, *args, **kwargs)

    monkeypatch.setattr(CpuOffload, "init_hook", init_hook)
    monkeypatch.setattr(CpuOffload, "pre_forward", pre_forward)


@pytest.mark.parametrize("family", [pytest.param("sd", marks=pytest.mark.slow), "flux"])
@pytest.mark.parametrize("how", ["group", "model", "sequential"])
def test_an_offloaded_pipeline_is_captured_and_steered_to_the_bit(
    how: Offload, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    plain, edited = (seen_in(tiny_family(family), family, edited=e) for e in (False, True))
    poison(monkeypatch)
    pipe = tiny_family(family)
    offload(pipe, how, CPU)
    waiting = next(denoiser_of(pipe).parameters())
    assert waiting.is_meta if how == "sequential" else waiting.isnan().all()
    assert execution_device(pipe).type == "cpu"
    require_same(seen_in(pipe, family), plain)
    require_same(seen_in(pipe, family, edited=True), edited)
    require_same(seen_in(pipe, family), plain)
    assert not torch.equal(edited["latents"], plain["latents"])


def test_a_denoiser_that_waits_in_groups_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    plain = seen_in(tiny_family("flux"), "flux")
    poison(monkeypatch)
    pipe = tiny_family("flux")
    offload(pipe, "group", CPU)
    assert compile_denoiser(pipe, backend="eager") > 0
    seen = seen_in(pipe, "flux")
    torch.testing.assert_close(seen["latents"], plain["latents"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["group", "sequential"])
def test_what_reads_weights_outside_of_a_call_is_refused(
    how: Offload, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    pipe = tiny_family("sd")
    refuse_offloaded(pipe.text_encoder, "SAFREE")
    poison(monkeypatch)
    offload(pipe, how, CPU)
    with pytest.raises(UserError, match=r"SAFREE and offloading .* model\.offload=none"):
        refuse_offloaded(pipe.text_encoder, "SAFREE")
    with pytest.raises(UserError, match="random weights and offloading"):
        with_random_denoiser(pipe, seed=1)


def test_slices_make_the_same_pictures_up_to_rounding_and_tiles_nearly() -> None:
    plain = seen_in(tiny_family("sd"), "sd")
    sliced = tiny_family("sd")
    compute_in_slices(sliced, Saving(attention_slicing=True, vae_slicing=True))
    decoded: list[int] = []
    sliced.vae.decoder.register_forward_pre_hook(lambda _m, args: decoded.append(len(args[0])))
    seen = seen_in(sliced, "sd")
    assert decoded == [1, 1]
    for key in plain.keys() - {"pictures"}:
        torch.testing.assert_close(seen[key], plain[key], rtol=1e-3, atol=1e-4)
    tiled = tiny_family("sd")
    compute_in_slices(tiled, Saving(vae_tiling=True))
    tiled.vae.tile_latent_min_size, tiled.vae.tile_sample_min_size = 4, 32
    made = seen_in(tiled, "sd")
    assert torch.equal(made["latents"], plain["latents"])
    assert made["pictures"].shape == plain["pictures"].shape
    assert not torch.equal(made["pictures"], plain["pictures"])


def test_the_settings_of_a_model_reach_its_pipeline(tmp_path: Path) -> None:
    tiny_family("sd").save_pretrained(tmp_path / "sd")
    options = FAMILIES["sd"].overrides(tmp_path / "sd")
    options += ["model.attention_slicing=true", "model.vae_slicing=true", "model.vae_tiling=true"]
    pipe = load_model(ModelSettings.of(compose("plan", overrides=options)))
    assert pipe.vae.use_slicing and pipe.vae.use_tiling
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    assert type(attention.processor).__name__ == "SlicedAttnProcessor"


def test_a_transformer_has_no_attention_slicing_and_says_so() -> None:
    with pytest.raises(
        UserError, match=r"FluxTransformer2DModel .* set model\.attention_slicing=false"
    ):
        compute_in_slices(tiny_family("flux"), Saving(attention_slicing=True))


@pytest.mark.parametrize("how", ["model", "sequential", "group"])
def test_offloading_without_a_gpu_is_refused_before_anything_is_read(
    how: Offload, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"model\.offload={how} .* no GPU .* model\.offload=none"):
        load_pipeline(tmp_path, dtype=torch.float32, device="cpu", saving=Saving(offload=how))


def test_accelerate_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusae.backbone.packages.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"needs accelerate.*pip install 'diffusae\[offload\]'"):
        load_pipeline(tmp_path, dtype=torch.float32, device="meta", saving=Saving(offload="model"))


def test_a_study_names_all_choices_that_do_not_go_together(tmp_path: Path) -> None:
    options = ["debug=tiny", f"paths.outputs={tmp_path}", "model.quantization=bnb4"]
    options += ["model.offload=sequential", "model.compile=true", "model.gguf=x.bin"]
    with pytest.raises(UserError) as error:
        Study(compose("plan", overrides=options)).check()
    for expected in (
        r"model.offload=sequential moves single layers, and quantised ones",
        "model.gguf=x.bin must be the path of a file that ends in .gguf",
        "model.offload=sequential moves layers that model.compile=true compiles",
    ):
        assert expected in str(error.value)


def test_what_only_moves_weights_is_no_part_of_a_signature_and_the_rest_is_where_it_is_on(
    tmp_path: Path,
) -> None:
    def determines(*options: str) -> dict[str, Any]:
        cfg = compose("plan", overrides=["debug=tiny", f"paths.outputs={tmp_path}", *options])
        return Study(cfg).model_determines()

    plain = determines()
    assert determines("model.offload=group") == plain
    assert not plain.keys() & {"vae_tiling", "vae_slicing", "attention_slicing", "quantization"}
    assert determines("model.vae_tiling=true") == plain | {"vae_tiling": True}
    assert determines("model.quantization=bnb8") == plain | {"quantization": "bnb8"}
