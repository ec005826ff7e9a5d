"""AuraFlow: joint blocks over the picture's stream and the text's, then blocks over both as one
sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import Block, Tokens


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

    @property
    def registers(self) -> int:
        return self.denoiser.register_tokens.shape[1]

    def text_lengths(self, given: Mapping[str, Any], rows: int) -> list[int]:
        return [self.registers + tokens for tokens in super().text_lengths(given, rows)]

    def timestep(
        self, pipe: Any, given: Mapping[str, Any], *, running: bool
    ) -> tuple[float, float]:
        """The argument is rounded once, so a third of the error of two roundings is left: the 50
        steps of a bfloat16 model stay apart."""
        timestep, error = super().timestep(pipe, given, running=running)
        return timestep, error / 3
