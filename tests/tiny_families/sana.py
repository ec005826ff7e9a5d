"""Sana, and Sana Sprint, which is distilled to few steps with guidance as an input."""

import string
from typing import Any

from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.pipelines.sana.pipeline_sana import SanaPipeline
from diffusers.pipelines.sana.pipeline_sana_sprint import SanaSprintPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_scm import SCMScheduler
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from tiny_families.parts import T5_TOKENS, Family


def gemma_tokenizer() -> Any:
    """Letters as tokens, and " cat" as one, after `<bos>`."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [*special, "▁", *string.ascii_lowercase, "ca", "cat", "▁cat"]
    merges: Any = [("c", "a"), ("ca", "t"), ("▁", "cat")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def gemma(width: int) -> Any:
    config: dict[str, Any] = {"vocab_size": len(gemma_tokenizer()), "hidden_size": width}
    config |= {"intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096}
    return Gemma2Model(Gemma2Config(**config))


def deep_compression() -> Any:
    """Latents of 4 channels, 32 pixels an entry."""
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8, 8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8, 8, 8),
        encoder_layers_per_block=(1, 1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1, 1),
        encoder_qkv_multiscales=((), (), (), (), (), ()),
        decoder_qkv_multiscales=((), (), (), (), (), ()),
        scaling_factor=0.41407,
    )


def _parts(**options: Any) -> dict[str, Any]:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=12,
        num_layers=3,
        num_cross_attention_heads=3,
        cross_attention_head_dim=16,
        cross_attention_dim=48,
        caption_channels=32,
        sample_size=32,
        **options,
    )
    return {
        "transformer": transformer,
        "vae": deep_compression(),
        "text_encoder": gemma(32),
        "tokenizer": gemma_tokenizer(),
    }


def sana() -> Any:
    """As Sana 1.5: keys and queries are normalised across heads. The time is scaled."""
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    parts = _parts(qk_norm="rms_norm_across_heads", timestep_scale=0.5)
    return SanaPipeline(**parts, scheduler=scheduler)


def sana_sprint() -> Any:
    parts = _parts(qk_norm="rms_norm_across_heads", guidance_embeds=True)
    scheduler: Any = SCMScheduler()
    return SanaSprintPipeline(**parts, scheduler=scheduler)


_BLOCKS: dict[str, tuple[str, tuple[int, ...], int]] = {
    block: (f"transformer_blocks.{place}", (2, 2), 48)
    for place, block in enumerate(("down", "mid", "up"))
}
_CALL = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": T5_TOKENS}
FAMILIES = {
    "sana": Family(
        sana,
        _BLOCKS,
        {"guidance": 5.0, "text_tokens": T5_TOKENS},
        latents=(4, 2, 2),
        call=_CALL,
        empty_prompt_is_encoded=False,  # without the instruction that precedes every prompt
    ),
    "sana_sprint": Family(
        sana_sprint,
        _BLOCKS,
        {"guidance": 4.5, "text_tokens": T5_TOKENS},
        latents=(4, 2, 2),
        passes=(("cond",),),
        unguided={},
        call=_CALL | {"intermediate_timesteps": None},
    ),
}
