"""Vectors of pictures and texts: CLIP (arXiv 2103.00020) or SigLIP (arXiv 2303.15343)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusae.concepts.annotators import Images
from diffusae.concepts.pretrained import Pretrained, in_batches
from diffusae.errors import UserError, refuse_text

_TEXTS_AT_ONCE = 256


class ImageText:
    """Unit vectors of pictures and texts; the cosine of a pair is the "CLIP score" / 100.

    Args:
        source, revision, dtype, device: see `Pretrained`; a CLIP or SigLIP model.
        setting: the config key of the source, for error messages.
    """

    def __init__(
        self,
        source: str,
        *,
        setting: str = "source",
        revision: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        self._setting = setting
        self._from = Pretrained(source, setting, revision, dtype, device)
        self._known: dict[str, Tensor] = {}

    def identity(self) -> str:
        """What determines its vectors."""
        return f"{self._from.identity()} {self._from.dtype}"

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        from transformers import AutoModel

        model = self._from.model(AutoModel)
        if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
            raise UserError(
                f"{self._from.folder} is a {type(model).__name__}, which has no vectors of pictures"
                f" and texts; set {self._setting} to a CLIP or SigLIP model"
            )
        return model, self._from.tokenizer(), self._from.image_processor()

    @property
    def by_probability(self) -> bool:
        """Whether the model gives probabilities of pairs (SigLIP), not just cosines (CLIP)."""
        return getattr(self._parts[0], "logit_bias", None) is not None

    @torch.no_grad()
    def embed_images(self, images: Images) -> Float[Tensor, "n d"]:
        """One unit vector for each picture of uint8 [n, H, W, 3]."""
        model, _, image_processor = self._parts
        pixels = image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        made = model.get_image_features(pixel_values=pixels.to(model.device, model.dtype))
        return F.normalize(_pooled(made), dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """One unit vector for each text; the object remembers the vectors of all texts."""
        refuse_text("texts", texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        vectors = in_batches(self._read, new, size=_TEXTS_AT_ONCE, setting="texts")
        self._known.update(zip(new, vectors, strict=True))
        return torch.stack([self._known[text] for text in texts])

    def scores(
        self, images: Float[Tensor, "n d"], texts: Float[Tensor, "m d"]
    ) -> Float[Tensor, "n m"]:
        """How well each picture fits each text, higher is better: cosines, range [-1, 1] (CLIP), or
        probabilities (SigLIP).
        """
        cosines = images @ texts.T
        if not self.by_probability:
            return cosines
        model = self._parts[0]
        scale, bias = model.logit_scale.float().exp().cpu(), model.logit_bias.float().cpu()
        return torch.sigmoid(cosines * scale + bias)

    def _read(self, texts: Sequence[str]) -> Sequence[Tensor]:
        model, tokenizer, _ = self._parts
        # SigLIP was trained on padded texts; without padding its vectors would change.
        longest = int(getattr(model.config.text_config, "max_position_embeddings", 77))
        padding = {"padding": "max_length" if self.by_probability else True, "max_length": longest}
        tokens = tokenizer(list(texts), truncation=True, return_tensors="pt", **padding)
        inputs = {"input_ids": tokens["input_ids"].to(model.device)}
        if "attention_mask" in tokens and not self.by_probability:  # SigLIP reads the padding
            inputs["attention_mask"] = tokens["attention_mask"].to(model.device)
        return list(F.normalize(_pooled(model.get_text_features(**inputs)), dim=1))


def _pooled(made: Any) -> Tensor:
    # transformers 5 returns an object that holds the vectors, earlier versions the vectors.
    return getattr(made, "pooler_output", made).float().cpu()
