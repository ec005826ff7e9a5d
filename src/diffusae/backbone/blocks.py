"""What is known of a denoiser's blocks before anything runs: where they are, how wide they are, and
which of their tokens are the picture's and which the text's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grid = tuple[int, ...]
"""(h, w) of a block's positions, or (frames, h, w) of a video's; (tokens,) of its text's."""
Site = Literal["update", "before", "after", "mlp_in", "mlp_out", "attn_out"]
"""What is read of a block: its output minus its input, its input, its output, the input and output
of its MLP, the output of its attention."""
TokenStream = Literal["picture", "text"]
"""Whose tokens are read."""

Within = Literal["whole", "after_text", "before_text"]
"""Where a stream's tokens lie in a sequence: they are all of it, or it holds the text first, or it
holds the picture first."""


@dataclass(frozen=True)
class Tokens:
    """Where the tokens of one stream are in a block's call."""

    argument: str = "hidden_states"
    """The argument of the block's `forward` that holds them."""
    output: int = -1
    """Their place in what the block returns, if that is a tuple."""
    within: Within = "whole"


@dataclass(frozen=True)
class Block:
    """What is known of the members of one list of blocks, such as `transformer_blocks`."""

    kind: str
    """The class of a member."""
    count: str
    """The key of the denoiser's configuration that holds their number."""
    picture: Tokens | None = Tokens()
    """None: the block holds no tokens of the picture."""
    text: Tokens | None = None
    """None: the block holds no tokens of the text; it may read them by cross-attention."""


@dataclass(frozen=True)
class HookpointInfo:
    """A transformer block, as known before anything runs."""

    path: str
    d_in: int
    """Channels of the block's input, output and update."""
    level: int = 0
    """Number of halvings of the finest grid at the block; always 0 in a transformer."""
    kind: str = "Transformer2DModel"
    """The block's class."""
    picture: Tokens | None = Tokens()
    text: Tokens | None = None
    ends_text: bool = False
    """Whether the block reads the text's tokens and returns none of them."""
    layers: int = 0
    """Basic transformer blocks in a U-Net's 2D transformer."""
    site: Site = "update"
    stream: TokenStream = "picture"

    @property
    def name(self) -> str:
        """The hookpoint as configurations and manifests name it: `transformer_blocks.11`, or
        `transformer_blocks.11:mlp_out@text`."""
        site = "" if self.site == "update" else f":{self.site}"
        return self.path + site + ("" if self.stream == "picture" else f"@{self.stream}")

    def grid(self, *finest: int) -> Grid:
        """The block's positions for a finest grid of this size. Odd sizes round up."""
        scale = 2**self.level
        return *finest[:-2], *(-(-size // scale) for size in finest[-2:])
