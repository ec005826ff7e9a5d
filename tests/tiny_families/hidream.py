"""HiDream: double and single stream blocks of experts, four text encoders, the last a Llama."""

from collections.abc import Mapping
from typing import Any

from diffusers.models.transformers.transformer_hidream_image import HiDreamImageTransformer2DModel
from diffusers.pipelines.hidream_image.pipeline_hidream_image import HiDreamImagePipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from tiny_families.language_models import WIDTH, byte_tokenizer, llama
from tiny_families.parts import T5_TOKENS, Family, family_vae, places, t5, t5_tokenizer
from tiny_pipeline import text_encoder, tiny_tokenizer


def hidream() -> Any:
    axes: Any = (4, 6, 6)
    scheduler: Any = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[32, WIDTH],
        text_emb_dim=64,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=axes,
        max_resolution=(8, 8),
        llama_layers=[0, 1, 2, 2],
    )
    clips = [
        text_encoder(CLIPTextModelWithProjection, max_position_embeddings=T5_TOKENS)
        for _ in range(2)
    ]
    tokenizer = byte_tokenizer(model_max_length=T5_TOKENS)
    pipe: Any = HiDreamImagePipeline(
        transformer=transformer,
        vae=family_vae(shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clips[0],
        text_encoder_2=clips[1],
        text_encoder_3=t5(32),
        text_encoder_4=llama(tokenizer),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        tokenizer_4=tokenizer,
        scheduler=scheduler,
    )
    pipe.default_sample_size = 8
    return pipe


def picture(given: Mapping[str, Any], output: Any) -> tuple[Tensor, Tensor]:
    """The first tokens, as many as the mask shows: those of a picture that is no square are padded
    to those of the largest square."""
    count = int(given["hidden_states_masks"][0].cumprod(dim=0).sum())
    after = output if isinstance(output, Tensor) else output[0]
    return given["hidden_states"][:, :count], after[:, :count]


FAMILIES = {
    "hidream": Family(
        hidream,
        places("double_stream_blocks.0", "double_stream_blocks.1", "single_stream_blocks.1"),
        {"guidance": 5.0, "text_tokens": T5_TOKENS},
        call={"max_sequence_length": T5_TOKENS},
        picture=picture,
        attention="picture_first",
        strong=r"caption_projection",
    )
}
