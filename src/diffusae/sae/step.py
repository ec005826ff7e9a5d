"""One training step of one or of several autoencoders, whole: losses, gradients, clipping, Adam,
projections. On a CUDA device it is one replay of a captured graph, and nothing waits for a result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.sae.across_processes import world_size
from diffusae.sae.replay import CudaGraphs, Recorder, Replay
from diffusae.sae.watch import Watch, named

if TYPE_CHECKING:
    from diffusae.sae.module import SAEModule

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """One training of several.

    Attributes:
        stream: where its batches come from.
    """

    stream: str
    module: SAEModule


class Result(NamedTuple):
    """Of one step, member by member. The next step may overwrite it."""

    losses: Float[Tensor, " members"]
    figures: list[dict[str, Float[Tensor, ""]]]


class Step:
    """The training step of `members` by their names; the name of a single one is "".

    Args:
        optimizer: Adam, with a group of parameters for every member.
        clip: the greatest norm of a member's gradient; None: no clipping.
        done: steps that were done before.
        after: what else belongs to a step, such as a moving average; carried out at its end.
        recorder: captures steps; None: CUDA graphs on a CUDA device.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        optimizer: torch.optim.Optimizer,
        *,
        clip: float | None = None,
        done: int = 0,
        after: Sequence[Callable[[], None]] = (),
        recorder: Recorder | None = None,
    ) -> None:
        self.members = dict(members)
        self.modules = [member.module for member in members.values()]
        self.optimizer, self.clip, self.done, self.after = optimizer, clip, done, after
        device = self.modules[0].total_variance.device
        waits = device.type != "cuda" and recorder is None
        self._watch = None if waits else Watch(self.members, done)
        if not waits and (reason := self._why_not_captured()) is not None:
            logger.info("the training step is not captured as a CUDA graph: %s", reason)
            recorder = None
        elif not waits:
            recorder = recorder or CudaGraphs()
        self._replay = None if recorder is None else Replay(self._whole, recorder)
        for group in optimizer.param_groups:
            # What is captured reads the rate from the device. A checkpoint may have the other kind.
            rate = group["lr"] if waits else torch.zeros((), device=device)
            group.update(lr=float(rate) if waits else rate, capturable=not waits)

    def __call__(self, batches: Mapping[str, Float[Tensor, "batch d_in"]]) -> Result:
        """Train every member on the batch of its stream.

        Raises:
            UserError: the loss of a member is not finite. Where nothing waits for the device, some
                steps later, with the step where it happened.
        """
        for group, module in zip(self.optimizer.param_groups, self.modules, strict=True):
            rate = module.lr * module.lr_factor(self.done)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if self._watch is None:
            result = self._whole(batches, None)
        else:
            run = self._whole if self._replay is None else self._replay
            result = run(batches, self._watch.may_be_dead())
            vectors = [len(batches[member.stream]) for member in self.members.values()]
            self._watch.saw(result.losses, vectors)
        self.done += 1
        return result

    def check(self) -> None:
        """Raise `UserError` where a loss so far was not finite. Waits for the device."""
        if self._watch is not None:
            self._watch.check()

    def _whole(self, batches: Mapping[str, Tensor], revive: bool | None) -> Result:
        """The step; for `revive` see `SAEModule.gradients`."""
        losses, figures = [], []
        for name, member in self.members.items():
            with named(name):
                loss, measured = member.module.gradients(batches[member.stream], revive=revive)
            losses.append(loss)
            figures.append(measured)
        for module in self.modules:
            module.share_gradients()
            module.autoencoder.project_decoder_gradient()
            if self.clip is not None:
                module.clip_gradients(self.clip)
        self.optimizer.step()
        for module in self.modules:
            module.autoencoder.project()
        for follow in self.after:
            follow()
        return Result(torch.stack(losses), figures)

    def _why_not_captured(self) -> str | None:
        if world_size() > 1:
            return "several processes train together"
        for module in self.modules:
            sae = module.autoencoder
            if not (sae.dense or sae.sparsity.by_row):
                return (
                    f"the sparsity {sae.sparsity.name} chooses over a batch; trainer.kernels=dense"
                    " chooses without a wait for the device"
                )
        return None
