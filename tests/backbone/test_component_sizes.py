"""Sizes of components: the shipped ones, those of a folder, and what offloading really moves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from torch import nn

from diffusae.backbone.component_configs import on_meta
from diffusae.backbone.component_sizes import (
    SHIPPED,
    ComponentSize,
    built_sizes,
    by_component,
    model_size,
    shipped_sizes,
    sizes_in_folder,
)
from diffusae.backbone.describe import ARCHITECTURES, configurations, known_architectures
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.offloading import modules_of, offload
from tiny_families import PIXELS, tiny_family

MODELS = sorted(set(known_architectures()) & shipped_sizes().keys() - {"sd14"})


def write_shipped_sizes() -> None:
    """Write `component_sizes.json` anew, one component a line, after a change of architectures."""
    models = []
    for name in known_architectures():
        parts = json.loads((ARCHITECTURES / f"{name}.json").read_text())
        sizes = built_sizes(parts, name).items()
        lines = ",\n".join(f"    {json.dumps(part)}: {json.dumps(size)}" for part, size in sizes)
        models.append(f"  {json.dumps(name)}: {{\n{lines}\n  }}")
    SHIPPED.write_text("{\n" + ",\n".join(models) + "\n}\n")


def test_every_architecture_has_sizes() -> None:
    """`python tests/backbone/test_component_sizes.py` writes them."""
    assert shipped_sizes().keys() >= set(known_architectures())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "sd14" else pytest.mark.slow) for name in MODELS],
)
def test_the_shipped_sizes_are_those_of_the_modules(name: str) -> None:
    """Slow: larger ones than `sd14`."""
    parts = json.loads((ARCHITECTURES / f"{name}.json").read_text())
    kept = {part: list(vars(size).values()) for part, size in shipped_sizes()[name].items()}
    assert kept == built_sizes(parts, name)


def test_the_worked_example() -> None:
    shapes = {"blocks.0.fc.weight": (4, 2), "blocks.0.fc.bias": (4,)}
    shapes |= {"blocks.1.fc.weight": (8, 2), "norm.weight": (3,)}
    assert ComponentSize.of(shapes) == ComponentSize(31, linear=24, layer=16, block=16, outside=3)


def test_published_totals() -> None:
    """CLIP ViT-L/14 has 123 M parameters, T5 v1.1 XXL's encoder 4.76 B, the VAEs 84 M."""
    sizes = shipped_sizes()["flux_dev"]
    millions = {name: round(size.parameters / 1e6) for name, size in sizes.items()}
    assert millions == {"denoiser": 11901, "vae": 84, "text_encoder": 123, "text_encoder_2": 4762}


@pytest.mark.parametrize("component", ["denoiser", "text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("name", ["sdxl", "flux_dev"])
def test_linear_weights_are_told_from_tables_by_their_names(name: str, component: str) -> None:
    config = by_component(configurations("owner/name", architecture=name))[component]
    modules = on_meta(config, name).modules()
    linear = sum(one.weight.numel() for one in modules if isinstance(one, nn.Linear))
    assert shipped_sizes()[name][component].linear == linear


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_a_folders_sizes_come_from_its_weight_files(family: str, tmp_path: Path) -> None:
    pipe = tiny_family(family)
    pipe.save_pretrained(tmp_path)
    pipe.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    options: dict[str, Any] = {"revision": None, "architecture": None}
    for variant in (None, "fp16"):
        size = model_size(tmp_path, variant=variant, **options)
        assert {name: one.parameters for name, one in size.components.items()} == {
            "denoiser" if module is denoiser_of(pipe) else name: sum(
                parameter.numel() for parameter in module.parameters()
            )
            for name, module in modules_of(pipe).items()
        }
    assert (size.unet_width, size.vae_width) == (32 if family == "sd" else None, 8)
    in_files = size.components
    for weights in tmp_path.glob("*/*.safetensors"):
        weights.unlink()
    assert sizes_in_folder(tmp_path, None) == {}
    assert model_size(tmp_path, variant=None, **options).components == in_files


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_no_more_of_a_denoiser_is_there_at_a_time_than_its_size_says(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group offloading: the parameters outside of blocks, and one block."""
    pytest.importorskip("accelerate")
    there: dict[int, dict[int, int]] = {}
    most: list[int] = [0]
    own = [ModuleGroup.onload_, ModuleGroup.offload_]

    def onload(group: Any) -> None:
        modules = [p for module in group.modules for p in module.parameters()]
        there[id(group)] = {id(p): p.numel() for p in [*modules, *group.parameters]}
        most[0] = max(most[0], sum(sum(weights.values()) for weights in there.values()))
        own[0](group)

    def gone(group: Any) -> None:
        there.pop(id(group), None)
        own[1](group)

    monkeypatch.setattr(ModuleGroup, "onload_", onload)
    monkeypatch.setattr(ModuleGroup, "offload_", gone)
    pipe = tiny_family(family)
    shapes = {name: tuple(p.shape) for name, p in denoiser_of(pipe).named_parameters()}
    size = ComponentSize.of(shapes)
    offload(pipe, "group", torch.device("cpu"))
    pipe("a cat", num_inference_steps=1, height=PIXELS, width=PIXELS, output_type="latent",
         **({"max_sequence_length": 24} if family == "flux" else {}))  # fmt: skip
    assert most[0] == size.outside + size.block < size.parameters


if __name__ == "__main__":
    write_shipped_sizes()
