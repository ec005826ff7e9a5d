"""A pipeline's predictions for given pictures, with guidance and edits, for white-box attacks.

P4D (arXiv 2309.06135, eq. 4) searches a prompt with which the defended model predicts, on the same
noised pictures, what the undefended model predicts from the target's own prompt: it minimises
||e_undefended(x_t | target) - e_defended(x_t | prompt)||^2. The pipeline is called as usual, inside
the defence's context. Its scheduler feeds it the noised pictures at every step ("teacher forcing")
and records the guided prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.backbone.branches import replace_method
from diffusae.backbone.hookpoints import execution_device
from diffusae.backbone.noising import is_flow_matching, noised
from diffusae.capture.generate import generate
from diffusae.capture.offload import Offload
from diffusae.errors import UserError, refuse_text
from diffusae.interventions.defences import Defence


class GuidedPredictions:
    """Predictions for a few pictures at a few steps, under any defence and any prompts.

        pipe: with a scheduler that noises as DDIM does.
        latents: of clean pictures, in the denoiser's scale.
        seeds: of the pictures' noise.
        steps: steps of the schedule; each is one pass.
        batch_size: pictures a call.
        asked: further arguments of `generate`.

    Raises:
        UserError: another kind of scheduler.
    """

    def __init__(
        self,
        pipe: Any,
        latents: Float[Tensor, "n c h w"],
        seeds: Sequence[int],
        *,
        steps: int,
        batch_size: int,
        **asked: Any,
    ) -> None:
        if is_flow_matching(pipe.scheduler):
            raise UserError(
                f"{type(pipe.scheduler).__name__} does not noise as DDIM does; leave the white-box"
                " attack out of evaluation.attacks"
            )
        self.pipe, self.latents, self.seeds = pipe, latents, tuple(seeds)
        self.steps, self.batch_size, self.asked = steps, batch_size, asked
        self.noise = torch.stack(
            [
                torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
                for latent, seed in zip(latents, seeds, strict=True)
            ]
        )

    def __call__(
        self, prompts: Sequence[Sequence[str]], defence: Defence
    ) -> Float[Tensor, "cases n steps c h w"]:
        """The guided predictions, float32 on the CPU.

        Args:
            prompts: cases, each with one prompt for every picture.
        """
        for case in (prompts, *prompts):
            refuse_text("prompts", case)
        flat = [
            (defence.rewrite(text), picture)
            for case in prompts
            for picture, text in enumerate(case)
        ]
        parts = []
        for start in range(0, len(flat), self.batch_size):
            batch = flat[start : start + self.batch_size]
            places = [picture for _, picture in batch]
            offload = Offload()
            with defence.around(self.pipe), self._forced(places, offload) as seen:
                generate(
                    self.pipe,
                    [text for text, _ in batch],
                    [self.seeds[place] for place in places],
                    steps=self.steps,
                    negative_prompt=defence.negative_prompt,
                    decode=False,
                    **self.asked,
                )
            offload.wait()
            parts.append(torch.stack(seen, dim=1))
        return torch.cat(parts).unflatten(0, (len(prompts), len(self.seeds)))

    @contextmanager
    def _forced(self, places: Sequence[int], offload: Offload) -> Iterator[list[Tensor]]:
        """A scheduler that feeds these pictures, noised, and records each step's prediction."""
        scheduler, seen = self.pipe.scheduler, list[Tensor]()
        device = execution_device(self.pipe)
        clean, noise = (of_all[list(places)].to(device) for of_all in (self.latents, self.noise))

        def scale_model_input(sample: Tensor, timestep: Any = None) -> Tensor:
            fed = noised(scheduler, clean, noise, float(timestep))
            branches, left = divmod(len(sample), len(fed))
            if left:
                raise UserError(
                    f"{type(self.pipe).__name__} runs {len(sample)} rows for {len(fed)}"
                    " pictures; leave the white-box attack out of evaluation.attacks"
                )
            return torch.cat([fed] * branches).to(sample)

        def step(model_output: Tensor, timestep: Any, sample: Tensor, **_: Any) -> tuple[Tensor]:
            seen.append(offload(model_output, torch.float32))
            return (sample,)

        with ExitStack() as stack:
            replace_method(stack, scheduler, "scale_model_input", lambda _own: scale_model_input)
            replace_method(stack, scheduler, "step", lambda _own: step)
            yield seen


def mean_squared_differences(
    predicted: Float[Tensor, "cases n steps c h w"], wanted: Float[Tensor, "1 n steps c h w"]
) -> Float[Tensor, " cases"]:
    """P4D's objective of each case; lower = closer to the undefended model's predictions."""
    return (predicted - wanted).square().flatten(1).mean(dim=1)
