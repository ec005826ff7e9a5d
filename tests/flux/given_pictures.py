"""Pipelines of FLUX that take a picture, and a plain look at their blocks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffusae.backbone.hookpoints import denoiser_of

PROMPTS, STEPS = ["a cat", "dogs"], 3
SIZE = {"height": 32, "width": 96}
POSITIONS = 2 * 6
"""Of the generated picture: 16 pixels each."""
BLOCKS: dict[str, str | int] = {
    "double": "transformer_blocks.1",
    "single": "single_transformer_blocks.0",
}


def call(pipe: Any, **options: Any) -> Tensor:
    """The last latents of the pipeline's own call for two prompts, in its own packing."""
    kept: list[Tensor] = []

    def keep(_pipe: Any, _step: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        kept[:] = [tensors["latents"]]
        return {}

    pipe(
        prompt=PROMPTS,
        num_inference_steps=STEPS,
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
        output_type="latent",
        callback_on_step_end=keep,
        **SIZE | options,
    )
    return kept[0]


@contextmanager
def replaced(pipe: Any, path: str, look: Callable[[Any, Any], Any]) -> Iterator[None]:
    """`look(the block's `hidden_states`, what it returns)` sees every call of a block; what it
    returns takes the place of the output, unless it is None."""
    module = denoiser_of(pipe).get_submodule(path)
    forward = module.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        other = look(args[0] if args else kwargs["hidden_states"], output)
        return output if other is None else other

    module.forward = spy  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
