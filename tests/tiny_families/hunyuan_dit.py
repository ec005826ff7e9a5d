"""HunyuanDiT."""

import string
from typing import Any

from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiT2DModel
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import HunyuanDiTPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import BertConfig, BertModel, BertTokenizer

from tiny_families.parts import Family, family_vae, t5, t5_tokenizer


def bert_tokenizer() -> Any:
    """Letters as tokens, and "cat" as one, after `[CLS]`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [mark + letter for letter in string.ascii_lowercase for mark in ("", "##")]
    tokens = [*special, *letters, "cat"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return BertTokenizer(vocab=vocabulary, model_max_length=77)


def bert(width: int) -> Any:
    config: dict[str, Any] = {"vocab_size": len(bert_tokenizer()), "hidden_size": width}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    return BertModel(BertConfig(**config, max_position_embeddings=80))


def hunyuan_dit() -> Any:
    """As version 1.1: picture size and style are inputs. Blocks 4 and 5 read the outputs of blocks
    1 and 0 besides.
    """
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=32,
        num_layers=6,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        use_style_cond_and_image_meta_size=True,
    )
    # The published DDPM draws from the pictures' generators.
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.03,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        steps_offset=1,
    )
    absent: Any = None
    return HunyuanDiTPipeline(
        transformer=transformer,
        vae=family_vae(),
        text_encoder=bert(32),
        tokenizer=bert_tokenizer(),
        text_encoder_2=t5(32),
        tokenizer_2=t5_tokenizer(),
        scheduler=scheduler,
        safety_checker=absent,
        feature_extractor=absent,
        requires_safety_checker=False,
    )


FAMILIES = {
    "hunyuan_dit": Family(
        hunyuan_dit,
        {
            "down": ("blocks.1", (4, 4), 32),
            "mid": ("blocks.3", (4, 4), 32),
            "up": ("blocks.5", (4, 4), 32),
        },
        {"guidance": 5.0},
        call={"use_resolution_binning": False},
    )
}
