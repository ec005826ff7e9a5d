"""HunyuanDiT: blocks over the picture's stream, which attends to the tokens of a BERT and of an
mT5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import Block
from diffusae.backbone.passes import PassesOf, perturbed

if TYPE_CHECKING:
    from torch import Tensor

_BERT_TOKENS = 77


class HunyuanDiTAdapter(Adapter):
    """Blocks of the second half also read the outputs of blocks of the first (long skips): there,
    the update holds what the skip adds.

    The denoiser predicts a variance besides, in channels of its own. Its prompts are 77 tokens of
    the BERT, then 256 of the mT5; no argument of the call changes these numbers.
    """

    family = "HunyuanDiT"
    denoisers = ("HunyuanDiT2DModel",)
    pipelines = ("HunyuanDiTPipeline", "HunyuanDiTPAGPipeline")
    blocks = {"blocks": Block("HunyuanDiTBlock", count="num_layers")}
    pads = True
    padded = {"HunyuanDiTPipeline": _BERT_TOKENS, "HunyuanDiTPAGPipeline": _BERT_TOKENS}

    @classmethod
    def passes(cls, pipeline: str) -> PassesOf:
        return perturbed if "PAG" in pipeline else super().passes(pipeline)

    def taken(self, given: Mapping[str, Any], rows: slice, batch: int) -> dict[str, Any]:
        """All rows share the rotary positions, whatever their number."""
        shared = {name: given[name] for name in ("image_rotary_emb",) if name in given}
        return super().taken(given, rows, batch) | shared

    def time_argument(self, timestep: float, count: int) -> Tensor:
        """In the denoiser's dtype, to which it casts its embeddings of the time."""
        return super().time_argument(timestep, count).to(self.denoiser.dtype)

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        return pipe.tokenizer, _BERT_TOKENS
