"""A pipeline that no configuration names is hooked as it is."""

from typing import Any

from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline

from diffusae.backbone.families.table import adapter_of
from diffusae.capture.generate import generate
from tiny_families import FAMILIES, PIXELS, tiny_family


def test_another_class_with_the_same_kind_of_denoiser_is_captured() -> None:
    parts = tiny_family("pixart").components
    config: dict[str, Any] = {
        name: value
        for name, value in parts["transformer"].config.items()
        if not name.startswith("_")
    }
    config["use_additional_conditions"] = False
    denoiser = PixArtTransformer2DModel(**config)
    names = ("tokenizer", "text_encoder", "vae", "scheduler")
    other: Any = PixArtSigmaPipeline(transformer=denoiser, **{name: parts[name] for name in names})
    other.set_progress_bar_config(disable=True)
    times = adapter_of(other).schedule(other.scheduler, 3, 16).tolist()
    asked: dict[str, Any] = FAMILIES["pixart"].asked | {"steps": 3}
    made = generate(
        other,
        ["a cat", "dogs"],
        [1, 2],
        hookpoints={"any": 1, "last": -1},
        timesteps=times,
        height=PIXELS,
        width=PIXELS,
        **asked,
    )
    assert set(made.updates) == {
        (block, timestep, branch)
        for block in ("any", "last")
        for timestep in times
        for branch in ("cond", "uncond")
    }
    assert made.grids == {"any": (4, 4), "last": (4, 4)}
