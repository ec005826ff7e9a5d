"""What the tests of counting share: pipelines of real classes from the tiny ones' parts, and a
plain hook of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from torch import Tensor

from tiny_families import PIXELS, T5_TOKENS

PROMPTS = ["a cat", "dogs"]


def as_class(pipe: Any, name: str, **parts: Any) -> Any:
    """A pipeline of another class of diffusers from the same components."""
    kind = getattr(diffusers, name)
    known = kind.__init__.__annotations__ or {}
    given = {key: value for key, value in pipe.components.items() if key in known} | parts
    if "requires_safety_checker" in known:
        given["requires_safety_checker"] = False
    made = kind(**given)
    made.set_progress_bar_config(disable=True)
    return made


def arguments(pictures: int, **options: Any) -> dict[str, Any]:
    """Of a call of a Stable Diffusion pipeline of the tiny size: three guided steps."""
    latents = torch.randn(pictures, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {
        "prompt": PROMPTS[:pictures],
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
    }
    return given | {"latents": latents, "output_type": "latent"} | options


def longer(pictures: int, **options: Any) -> dict[str, Any]:
    """Of a call of a family with T5."""
    return arguments(
        pictures, max_sequence_length=T5_TOKENS, height=PIXELS, width=PIXELS, **options
    )


@contextmanager
def plain_hook(denoiser: Any, path: str) -> Iterator[list[tuple[float, Tensor]]]:
    """[(the denoiser's time argument, output minus input of one block)] of every call, by PyTorch
    alone.
    """
    seen: list[tuple[float, Tensor]] = []
    times: list[float] = []

    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        time = kwargs["timestep"] if "timestep" in kwargs else args[1]
        times.append(float(torch.as_tensor(time).flatten()[0]))

    def after(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        made = output if isinstance(output, Tensor) else output[-1]
        update = made - given
        seen.append((times[-1], update if update.ndim == 3 else update.flatten(2).transpose(1, 2)))

    handles = [
        denoiser.register_forward_pre_hook(before, with_kwargs=True),
        denoiser.get_submodule(path).register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
