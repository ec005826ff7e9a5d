"""How many pictures are made at a time: `model.batch_size`, which is a number or `auto`."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakKeyDictionary

import torch

from diffusae.backbone.hookpoints import execution_device
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.memory import is_out_of_memory
from diffusae.study.model import sampling

log = logging.getLogger(__name__)

LARGEST = 128
"""The most pictures that `auto` takes."""
ON_CPU = 8
"""What `auto` takes where there is no CUDA device: a larger batch is not faster there."""
SMALL, SMALL_ON_CPU = 128**2, 16
"""Pictures of so few pixels are 5 % faster in batches of 16 (the miniature, two cores, AVX2)."""
SHARE = 0.8
"""Of a GPU's free memory that `auto` fills. The rest is for what is recorded."""

_measured: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def pictures_at_once(model: ModelSettings, pipe: Any) -> int:
    """The pictures of one call of the loaded model.

    `auto` on a GPU makes one picture and two pictures in two steps, and takes the largest power of
    two, up to 128, that should fit into the free memory. It measures once for a loaded model.
    """
    if model.batch_size != "auto":
        return model.batch_size
    device = execution_device(pipe)
    if device.type != "cuda":
        return SMALL_ON_CPU if model.height * model.width <= SMALL else ON_CPU
    if pipe not in _measured:
        _measured[pipe] = _measure(model, pipe, device)
        log.info("model.batch_size=auto makes %d pictures at a time", _measured[pipe])
    return _measured[pipe]


def largest_fitting(one: int, two: int, free: int) -> int:
    """The largest power of two, from 1 to 128, of pictures that fit.

    Example: one picture takes 3 GB and two take 5 GB, so the first needs 3 GB and each of the
    others 2 GB. Of 40 GB, 32 may be filled: 15 pictures fit, and 8 are taken.

    Args:
        one, two: bytes that one picture and two pictures take at most.
        free: bytes.
    """
    others = int((SHARE * free - one) / max(two - one, 1))
    return min(LARGEST, 2 ** (max(1 + others, 1).bit_length() - 1))


def _measure(model: ModelSettings, pipe: Any, device: torch.device) -> int:
    one = _peak(model, pipe, device, 1)
    try:
        two = _peak(model, pipe, device, 2)
    except UserError as error:
        if is_out_of_memory(error):
            return 1
        raise
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return largest_fitting(one, two, torch.cuda.mem_get_info(device)[0] + unused)


def _peak(model: ModelSettings, pipe: Any, device: torch.device, pictures: int) -> int:
    """The most bytes that a call with so many pictures takes beside the model."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    generate(pipe, ["a picture"] * pictures, list(range(pictures)), **sampling(model, steps=2))
    return torch.cuda.max_memory_allocated(device) - before
