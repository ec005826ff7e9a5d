"""The paper's tagger, RAM (arXiv 2306.03514), by adapter: its package is optional."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diffusae.concepts.annotators import Images
from diffusae.concepts.words import Vocabulary
from diffusae.devices import default_device
from diffusae.errors import UserError, unknown
from diffusae.files import sha256_of
from diffusae.sources import first_line
from diffusae.tensor_files import read_tensors

MODELS = ("ram", "ram_plus")


class RamTagger:
    """The tags of RAM or RAM++ that the vocabulary knows.

    The package is in no registry: `pip install git+https://github.com/xinyu1205/recognize-anything`
    (needs torchvision and timm). Its weights are a pickle, which is never read: docs/annotators.md
    has the command that makes safetensors of them.

    Args:
        weights: the safetensors file.
        model: "ram_plus" or "ram".
        image_size: side in pixels that the weights were trained at.
        vit: its vision transformer.
        device: None is the GPU where there is one.

    Raises:
        UserError: an unknown model; at the first use: the package or the weights are missing, or do
            not fit together.
    """

    reads_captions = False

    def __init__(
        self,
        weights: str | Path,
        *,
        model: str = "ram_plus",
        image_size: int = 384,
        vit: str = "swin_l",
        device: str | None = None,
    ) -> None:
        if model not in MODELS:
            raise unknown("model of RAM", model, MODELS)
        self.weights, self.kind, self.image_size, self.vit = Path(weights), model, image_size, vit
        self.device = default_device(device)

    def identity(self) -> dict[str, Any]:
        self._require_weights()
        return {
            "tagger": self.kind,
            "weights": sha256_of(self.weights),
            "image_size": self.image_size,
            "vit": self.vit,
        }

    def _require_weights(self) -> None:
        if self.weights.suffix != ".safetensors" or not self.weights.is_file():
            raise UserError(
                f"tagger.weights={self.weights} is no safetensors file; docs/annotators.md says how"
                " to make one of RAM's checkpoint"
            )

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        self._require_weights()
        try:
            from ram import get_transform, models  # type: ignore[import-not-found]
        except ImportError as error:
            raise UserError(
                f"RAM is not installed ({first_line(error)}); run: pip install"
                " git+https://github.com/xinyu1205/recognize-anything, or choose another tagger:"
                " tagger=florence2, siglip, clip or caption"
            ) from error
        network = getattr(models, self.kind)(image_size=self.image_size, vit=self.vit)
        tensors = read_tensors(self.weights, remedy="make it again")
        try:
            report = network.load_state_dict(tensors, strict=False)
        except RuntimeError as error:
            raise UserError(
                f"{self.weights} does not fit {self.kind} ({first_line(error)}); make it again"
            ) from error
        # The package holds the text side and the label embeddings; the file, the picture side.
        if missing := [name for name in report.missing_keys if name.startswith("visual_encoder")]:
            raise UserError(
                f"{self.weights} lacks {len(missing)} weights of {self.kind} (such as"
                f" {missing[0]}); set tagger.model and tagger.vit to what they were trained for"
            )
        return network.eval().to(self.device), get_transform(image_size=self.image_size)

    @torch.no_grad()
    def tag(
        self, images: Images, vocabulary: Vocabulary, captions: Sequence[str] | None
    ) -> list[list[str]]:
        network, transform = self._parts
        pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
        tags = network.generate_tag(pixels.to(self.device))[0]
        return [vocabulary.labels_of(line.split("|")) for line in tags]
