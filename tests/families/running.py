"""A tiny pipeline under test: its runs, and a plain look at its blocks without the library's hooks.

The plain look replaces a block's `forward`. Which rows, steps and tokens it then sees is what the
family's entry in `tiny_families` says of the published pipeline.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.capture.generate import Generation, generate
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
        height, width = self.family.latents_of(**SIZE)[-2:]
        positions = (height // self.adapter.patch) * (width // self.adapter.patch)
        return self.adapter.schedule(self.pipe.scheduler, steps, positions).tolist()

    def make(self, prompts: Any = PROMPTS, seeds: Any = SEEDS, **options: Any) -> Generation:
        """Guided pictures, without the decoder unless it is asked for."""
        given: dict[str, Any] = self.family.asked | SIZE
        given |= {"steps": STEPS, "decode": False} | options
        return generate(self.pipe, prompts, seeds, **given)

    def record(self, **options: Any) -> Generation:
        """The same, with the updates of all blocks at all timesteps."""
        given = {"hookpoints": self.family.hookpoints, "timesteps": self.timesteps()}
        return self.make(**given | options)

    @cached_property
    def plain(self) -> Generation:
        """A guided run with everything recorded and nothing edited."""
        return self.record()

    def latents(self) -> Tensor:
        """The first latents of the pictures."""
        shape = self.family.latents_of(**SIZE)
        return torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
        )

    def call(self, **options: Any) -> Any:
        """The pipeline's own call for the same pictures."""
        given = {"guidance_scale": self.family.asked["guidance"]} | self.family.call | SIZE
        generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
        latents = self.family.pack(self.pipe, self.latents())
        given |= {"num_inference_steps": STEPS, "generator": generators, "latents": latents}
        return self.pipe(prompt=list(PROMPTS), **given | options)

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
