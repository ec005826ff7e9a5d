"""Pictures and words in one space: CLIP (arXiv 2103.00020) or SigLIP (arXiv 2303.15343) through
transformers.
"""

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
    """Unit vectors of pictures and texts, whose cosine says how well they fit (the "CLIP score"
    divided by 100).

    Args:
        source, revision, dtype, device: see `Pretrained`; a CLIP or SigLIP model.
        setting: the config value that names the source, for the messages.
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
        """Whether the model gives each pair a probability of its own (SigLIP) and not just a cosine
        (CLIP).
        """
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
        """One unit vector a text; each text is read once in the object's life."""
        refuse_text("texts", texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        vectors = in_batches(self._read, new, size=_TEXTS_AT_ONCE, setting="texts")
        self._known.update(zip(new, vectors, strict=True))
        return torch.stack([self._known[text] for text in texts])

    def scores(
        self, images: Float[Tensor, "n d"], texts: Float[Tensor, "m d"]
    ) -> Float[Tensor, "n m"]:
        """How well each picture fits each text: cosines, range [-1, 1], or for SigLIP
        probabilities; higher is better.
        """
        cosines = images @ texts.T
        if not self.by_probability:
            return cosines
        model = self._parts[0]
        scale, bias = model.logit_scale.float().exp().cpu(), model.logit_bias.float().cpu()
        return torch.sigmoid(cosines * scale + bias)

    def _read(self, texts: Sequence[str]) -> Sequence[Tensor]:
        model, tokenizer, _ = self._parts
        # SigLIP was trained on padded texts, and its vectors change without.
        longest = int(getattr(model.config.text_config, "max_position_embeddings", 77))
        padding = {"padding": "max_length" if self.by_probability else True, "max_length": longest}
        tokens = tokenizer(list(texts), truncation=True, return_tensors="pt", **padding)
        taken = {
            name: tokens[name].to(model.device)
            for name in ("input_ids", "attention_mask")
            if name in tokens
        }
        if self.by_probability:
            taken.pop("attention_mask", None)  # the padding is read, as in training
        return list(F.normalize(_pooled(model.get_text_features(**taken)), dim=1))


def _pooled(made: Any) -> Tensor:
    # transformers 5 returns an output with the vectors in it, earlier versions the vectors.
    return getattr(made, "pooler_output", made).float().cpu()
