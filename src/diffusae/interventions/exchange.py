"""Another caption in a part of the generation: the conditional inputs of the denoiser are
exchanged there.

All that a caption decides reaches the denoiser as arguments: text states, pooled vectors, masks
(`capture.conditions`). So their rows are exchanged, whatever the family. The unconditional branch
keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.passes import Branches
from diffusae.capture.clock import running_clock
from diffusae.errors import UserError
from diffusae.interventions.edits import ROUNDING
from diffusae.interventions.windows import Window


@dataclass(frozen=True)
class Exchange:
    """Another caption of a picture in the steps of one window."""

    caption: str
    window: Window

    def acts_at(self, t: float) -> bool:
        """Whether t is in the window, up to the rounding of t = 1 - i / (N - 1)."""
        return self.window[1] - ROUNDING <= t <= self.window[0] + ROUNDING


@contextmanager
def exchanged_conditions(
    pipe: Any, exchanges: Sequence[Exchange], conditions: Mapping[str, Any]
) -> Iterator[None]:
    """Inside, pictures see the conditions of their other captions in the steps of their windows.

    Only the unconditional rows are left alone: further branches, such as the perturbed one of PAG,
    follow the caption.

    Args:
        exchanges: one for each picture of the call.
        conditions: of the other captions, picture by picture, as `capture.conditions.conditions`
            gives them for `cond`.

    Raises:
        UserError: rows of a call that are unknown; captions that give the denoiser the same
            conditions, or conditions of another length; a window without a step.
    """
    seen: set[int] = set()
    with running_clock(pipe) as clock:
        adapter = adapter_of(pipe)

        def exchange(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            assert clock.now is not None
            t, branches = clock.schedule.t(clock.now), clock.branches()
            acting = [n for n, one in enumerate(exchanges) if one.acts_at(t)]
            if not acting or branches == ("uncond",):
                return None
            given = adapter.given(args, kwargs)
            rows = _Rows(acting, branches, len(exchanges), seen)
            given |= {name: rows.put(given.get(name), new) for name, new in conditions.items()}
            if same := [exchanges[n] for n in acting if n not in seen]:
                raise UserError(
                    f"the model sees no difference between the caption {same[0].caption!r} and the"
                    " one that it stands for; exchange words that its tokenizer knows"
                )
            return (), given

        handle = adapter.denoiser.register_forward_pre_hook(exchange, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
    if idle := [one for n, one in enumerate(exchanges) if n not in seen]:
        raise UserError(
            f"no step lies in the window {list(idle[0].window)}; widen it or take more steps"
        )


@dataclass
class _Rows:
    """The rows of some pictures in one denoiser call, in every branch that follows the caption.

    Example: of 3 pictures with the branches [uncond, cond], the picture 1 has the row 4.
    """

    acting: Sequence[int]
    branches: Branches
    pictures: int
    changed: set[int]
    """Pictures with an input that has become another one, in this call or before."""

    def put(self, own: Any, new: Any) -> Any:
        """An argument of the call with the rows of another one that has a row for each picture;
        what does not lie along the batch stays.
        """
        if isinstance(own, dict) and isinstance(new, dict):
            return {name: self.put(value, new.get(name)) for name, value in own.items()}
        if isinstance(own, list | tuple) and isinstance(new, list | tuple):
            return type(own)(self.put(*pair) for pair in zip(own, new, strict=True))
        rows = self.pictures * len(self.branches)
        if not (isinstance(own, Tensor) and isinstance(new, Tensor)) or not own.ndim:
            return own
        if (len(own), len(new)) != (rows, self.pictures):
            return own
        if own.shape[1:] != new.shape[1:]:
            raise UserError(
                f"two captions give the model inputs of {list(own.shape[1:])} and"
                f" {list(new.shape[1:])}, so they cannot be exchanged; use a pipeline of"
                " docs/models.md, which pads its captions"
            )
        following = [place for place, branch in enumerate(self.branches) if branch != "uncond"]
        places = [(n, place * self.pictures + n) for place in following for n in self.acting]
        result = own.clone()
        for n, row in places:
            result[row] = new[n]
            if n not in self.changed and not torch.equal(result[row], own[row]):
                self.changed.add(n)
        return result
