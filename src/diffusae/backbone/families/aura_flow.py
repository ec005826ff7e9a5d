"""AuraFlow: joint blocks over the picture's stream and the text's, then blocks over both as one
sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusae.backbone.adapters import Adapter, tokens_of
from diffusae.backbone.blocks import Block, Tokens

_REGISTERS = 8
"""Learned tokens before the text, of every denoiser of the class."""


class PaddedPrompts:
    """The tokenizer of prompts that are padded as the pipeline pads them: on the left, unless the
    tokenizer says otherwise, which moves every token of the prompt."""

    is_fast = True

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer, self.model_max_length = tokenizer, limit

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The strings of tokens."""
        return self.tokenizer.convert_ids_to_tokens(ids)

    def __call__(
        self, text: Any, *, truncation: bool = False, max_length: int | None = None, **kwargs: Any
    ) -> Any:
        """Ids of the tokens, and with `return_offsets_mapping` where each begins and ends in the
        prompt; (0, 0) for padding. Without `truncation` there is no padding either."""
        if not truncation:
            return self.tokenizer(text, **kwargs)
        most = max_length or self.model_max_length
        kwargs |= {"truncation": True, "max_length": most, "padding": "max_length"}
        return self.tokenizer(text, **kwargs)


class AuraFlowAdapter(Adapter):
    """Time from 0 to 1. The text's stream begins with learned tokens (registers), which belong to
    no word of the prompt; T5's tokens follow.
    """

    family = "AuraFlow"
    denoisers = ("AuraFlowTransformer2DModel",)
    pipelines = ("AuraFlowPipeline",)
    blocks = {
        "joint_transformer_blocks": Block(
            "AuraFlowJointTransformerBlock",
            count="num_mmdit_layers",
            picture=Tokens(output=1),
            text=Tokens("encoder_hidden_states", output=0),
        ),
        "single_transformer_blocks": Block(
            "AuraFlowSingleTransformerBlock",
            count="num_single_dit_layers",
            picture=Tokens(within="after_text"),
            text=Tokens(within="after_text"),
        ),
    }
    pads = True
    padded = {"AuraFlowPipeline": 256}
    time = (0.0, 0.001)

    @classmethod
    def most_text(cls, pipeline: str, own: int, text_tokens: int | None) -> int:
        return _REGISTERS + super().most_text(pipeline, own, text_tokens)

    @property
    def registers(self) -> int:
        return self.denoiser.register_tokens.shape[1]

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        tokenizer, limit = super().words(pipe, text_tokens)
        return PaddedPrompts(tokenizer, limit), limit

    def prompt_tokens(
        self, pipe: Any, prompt: str, text_tokens: int | None
    ) -> dict[int, str] | None:
        tokenizer, limit = self.words(pipe, text_tokens)
        return tokens_of(tokenizer, prompt, limit, first=self.registers)

    def text_lengths(self, given: Mapping[str, Any], rows: int) -> list[int]:
        return [self.registers + tokens for tokens in super().text_lengths(given, rows)]

    def timestep(
        self, pipe: Any, given: Mapping[str, Any], *, running: bool
    ) -> tuple[float, float]:
        """The argument is rounded once, so a third of the error of two roundings is left: the 50
        steps of a bfloat16 model stay apart."""
        timestep, error = super().timestep(pipe, given, running=running)
        return timestep, error / 3
