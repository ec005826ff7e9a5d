"""The miniature's diffusion transformer: PixArt's, which has no skip connections."""

from __future__ import annotations

from typing import Any

from diffusers import PixArtTransformer2DModel
from torch import nn

HEADS, HEAD_WIDTH, LAYERS, PATCH = 6, 32, 7, 2


def build_transformer(latent_channels: int, text_width: int) -> PixArtTransformer2DModel:
    """A transformer of 7 blocks of width 192 over 8 x 8 patches of the latents."""
    width = HEADS * HEAD_WIDTH
    transformer = PixArtTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=LAYERS,
        cross_attention_dim=width,
        caption_channels=text_width,
        sample_size=16,
        patch_size=PATCH,
        interpolation_scale=1,  # positions count from 0 to 7, as in a DiT of this size
        activation_fn="gelu",  # on a CPU the usual approximation of it takes three times as long
    )
    start_as_identity(transformer)
    return transformer


def start_as_identity(transformer: Any) -> None:
    """DiT's first weights ("adaLN-Zero", Peebles and Xie 2023, section 3.2).

    Every block then returns its input, and the prediction is 0. With PyTorch's own first weights a
    transformer learns much more slowly.
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    patches = transformer.pos_embed.proj
    nn.init.xavier_uniform_(patches.weight.data.flatten(1))
    nn.init.zeros_(patches.bias)
    time = transformer.adaln_single.emb.timestep_embedder
    for layer in (time.linear_1, time.linear_2):
        nn.init.normal_(layer.weight, std=0.02)
    blocks = transformer.transformer_blocks
    nn.init.zeros_(transformer.adaln_single.linear.weight)
    for table in (transformer.scale_shift_table, *(block.scale_shift_table for block in blocks)):
        nn.init.zeros_(table)
    for layer in (transformer.proj_out, *(block.attn2.to_out[0] for block in blocks)):
        nn.init.zeros_(layer.weight)
