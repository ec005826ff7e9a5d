"""LPIPS (arXiv 1801.03924), the paper's distance of global edits (Emergence, section 6.2)."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8

from diffusae.errors import UserError, unknown
from diffusae.sources import first_line

Net = Literal["alex", "vgg", "squeeze"]
Pictures = UInt8[np.ndarray, "n height width 3"]


class PerceptualDistance:
    """LPIPS by torchmetrics, with the networks of torchvision (extra `lpips`).

    Both libraries store weights as pickles of their own, which torch reads as weights only;
    torchvision downloads its network once.

    Args:
        net: the network whose features are compared; "alex" is LPIPS' own default (*open* in the
            paper).
        batch_size: pairs at a time.
        device: the device that it runs on.

    Raises:
        UserError: an unknown network or a batch size below 1; in use: torchvision is missing or
            does not fit torch, the network's weights cannot be downloaded, pictures of unequal
            sizes, out of memory.
    """

    def __init__(
        self, net: Net = "alex", *, batch_size: int = 16, device: torch.device | str = "cpu"
    ) -> None:
        if net not in get_args(Net):
            raise unknown("network of LPIPS", net, get_args(Net))
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1; raise it")
        self.net: Net = net
        self.batch_size, self.device = batch_size, torch.device(device)

    def load(self) -> PerceptualDistance:
        """Load the network now, so that a missing one fails before pictures are made; self."""
        _ = self._metric
        return self

    @cached_property
    def _metric(self) -> Any:
        try:
            import torchvision  # type: ignore[import-not-found]  # noqa: F401
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            return LearnedPerceptualImagePatchSimilarity(self.net, normalize=True).to(self.device)
        # A torchvision for another torch raises a RuntimeError.
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"LPIPS needs a torchvision that fits torch {torch.__version__}"
                f" ({first_line(error)}); run: pip install diffusae[lpips], or use SSIM, which"
                " needs nothing more"
            ) from error
        except OSError as error:
            folder = f"{torch.hub.get_dir()}/checkpoints"
            raise UserError(
                f"the weights of torchvision's {self.net} could not be downloaded"
                f" ({first_line(error)}); put the file that torchvision names into {folder}, which"
                " is searched first"
            ) from error

    @torch.no_grad()
    def __call__(self, before: Pictures, after: Pictures) -> list[float]:
        """The distance of each pair; 0 = they look the same, lower = more alike, rarely above 1."""
        if before.shape != after.shape:
            raise UserError(
                f"pictures of {before.shape} and {after.shape} cannot be compared; make both alike"
            )
        metric = self._metric
        distances: list[float] = []
        for first in range(0, len(before), self.batch_size):
            pair = [
                torch.from_numpy(pictures[first : first + self.batch_size])
                .to(self.device)
                .permute(0, 3, 1, 2)
                / 255
                for pictures in (before, after)
            ]
            try:
                distances += metric.net(*pair, normalize=True).flatten().tolist()
            except torch.OutOfMemoryError as error:
                smaller = max(self.batch_size // 2, 1)
                raise UserError(
                    f"out of memory with batch_size={self.batch_size}; try batch_size={smaller}"
                ) from error
        return distances
