"""A tiny pipeline under test: its runs, and a plain look at its blocks without the library's hooks.

The plain look replaces a block's `forward`. Which rows, steps and tokens it then sees is what the
family's entry in `tiny_families` says of the published pipeline.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.passes import CONDITIONINGS
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import Generation, generate
from diffusae.capture.hooks import CapturedUpdates, capture_updates
from tiny_families import FAMILIES, tiny_family

STEPS = 3
PROMPTS, SEEDS = ("a cat", "dogs"), (1, 2)
SIZE = {"height": 32, "width": 96}


class Case:
    """A family's tiny pipeline, which tests leave as it is."""

    def __init__(self, name: str) -> None:
        self.name, self.family = name, FAMILIES[name]
        self.pipe: Any = tiny_family(name)

    def __repr__(self) -> str:
        return self.name

    @property
    def adapter(self) -> Adapter:
        return adapter_of(self.pipe)

    @property
    def denoiser(self) -> nn.Module:
        return denoiser_of(self.pipe)

    @property
    def paths(self) -> dict[str, str]:
        return {block: path for block, (path, *_) in self.family.blocks.items()}

    def grid(self, block: str) -> tuple[int, ...]:
        return self.family.grid(block, **SIZE)

    def timesteps(self, steps: int = STEPS) -> list[float]:
        """As the adapter foretells them for a picture of this size."""
        positions = math.prod(self.family.latents_of(**SIZE)[1:]) // self.adapter.patch**2
        return self.adapter.schedule(self.pipe.scheduler, steps, positions).tolist()

    def make(self, prompts: Any = PROMPTS, seeds: Any = SEEDS, **options: Any) -> Generation:
        """Guided pictures, without the decoder unless it is asked for."""
        given: dict[str, Any] = self.family.asked | {"steps": STEPS, "decode": False} | options
        if self.family.needs:
            return self._called(prompts, seeds, **given)
        return generate(self.pipe, prompts, seeds, **{**SIZE, **given})

    def _called(
        self,
        prompts: Any,
        seeds: Any,
        *,
        steps: int,
        decode: bool,
        guidance: float,
        hookpoints: Any = None,
        timesteps: Any = (),
        conditionings: Any = CONDITIONINGS,
        progress: Any = None,
        text_tokens: int,
    ) -> Generation:
        """What `generate` gives, of a video or with a given picture."""
        kept: list[Tensor] = []

        def keep(_pipe: Any, index: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            kept[:] = [tensors["latents"]]
            if progress is not None:
                progress(index)
            return {}

        asked = {"guidance_scale": guidance, "num_inference_steps": steps}
        asked |= {"max_sequence_length": text_tokens, "callback_on_step_end": keep}
        kind = "np" if decode else "latent"
        recording: Any = nullcontext(CapturedUpdates())
        if hookpoints:
            recording = capture_updates(
                self.pipe, hookpoints, timesteps, conditionings=conditionings
            )
        with recording as captured:
            output = self.call(prompts, seeds, output_type=kind, **asked)[0]
        images = (output * 255).round().astype(np.uint8) if decode else None
        latents = self.family.unpack(self.pipe, kept[0], *SIZE.values()).float()
        return Generation(images, latents, captured.updates, captured.grids, captured.lengths)

    def record(self, **options: Any) -> Generation:
        """The same, with the updates of all blocks and branches at all timesteps."""
        given: dict[str, Any] = {
            "hookpoints": self.family.hookpoints,
            "timesteps": self.timesteps(),
            "conditionings": CONDITIONINGS if self.family.has_uncond else ("cond",),
        }
        return self.make(**given | options)

    def conditions(self, conditioning: str, prompts: Any = PROMPTS) -> dict[str, Any]:
        """The denoiser's arguments besides latents and time."""
        self.require("uncond" if conditioning == "uncond" else "cond")
        if any("image" in name for name in self.family.needs):
            pytest.skip("one pass of the denoiser needs the given picture's channels too")
        asked: dict[str, Any] = self.family.asked | SIZE | {"given": self.family.needs}
        return conditions(self.pipe, prompts, conditioning, **asked)

    def require(self, branch: str) -> None:
        """Skip the test if the pipeline never runs the branch."""
        if branch == "uncond" and not self.family.has_uncond:
            pytest.skip("the pipeline runs no uncond branch")

    @cached_property
    def plain(self) -> Generation:
        """A guided run with everything recorded and nothing edited."""
        return self.record()

    def latents(self) -> Tensor:
        """The first latents of the pictures."""
        return self._drawn([torch.Generator().manual_seed(seed) for seed in SEEDS])

    def _drawn(self, generators: list[torch.Generator]) -> Tensor:
        shape = self.family.latents_of(**SIZE)
        return torch.stack([torch.randn(shape, generator=one) for one in generators])

    def call(self, prompts: Any = PROMPTS, seeds: Any = SEEDS, **options: Any) -> Any:
        """The pipeline's own call for the same pictures. Some schedulers (Sana Sprint's) draw noise
        of the generators that drew the latents."""
        given = {"guidance_scale": self.family.asked["guidance"]} | self.family.call | SIZE
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = self.family.pack(self.pipe, self._drawn(generators))
        given |= {"num_inference_steps": STEPS, "generator": generators, "latents": latents}
        return self.pipe(prompt=list(prompts), **given | self.family.needs | options)

    def rows(self, number: int) -> tuple[int, dict[str, slice]]:
        """(the step, {branch: its rows}) of the denoiser's call of this number."""
        step, place = divmod(number, len(self.family.passes))
        branches, count = self.family.passes[place], len(PROMPTS)
        return step, {
            branch: slice(part * count, (part + 1) * count) for part, branch in enumerate(branches)
        }

    @contextmanager
    def replaced(self, block: str, look: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
        """`look(number of the call, before, after)` sees the picture's tokens of a block; `after`
        may be changed in place."""
        module = self.denoiser.get_submodule(self.paths[block])
        forward, names, calls = module.forward, inspect.signature(module.forward), iter(range(999))

        def spy(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            given = names.bind(*args, **kwargs).arguments
            look(next(calls), *self.family.picture(given, output))
            return output

        module.forward = spy  # type: ignore[method-assign]
        try:
            yield
        finally:
            del module.forward


def positions(tokens: Tensor) -> Tensor:
    """[rows, positions, d_in]: a U-Net's maps are row-major."""
    return tokens if tokens.ndim == 3 else tokens.flatten(2).transpose(1, 2)


def over_grid(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The same memory as [rows, *grid, d_in]."""
    return tokens.movedim(1, -1) if tokens.ndim == 4 else tokens.unflatten(1, grid)
