"""FLUX.2: dev, with guidance as an input, and klein, which runs guidance in two passes.

The tokenizer of dev is a plain one here: diffusers' own is a processor that needs torchvision.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tiny_families.parts import PIXELS, Family, places

TOKENS = 48
_QWEN3 = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
_MISTRAL = (
    "<s>{% for message in messages %}{% if message.role == 'system' %}"
    "[SYSTEM_PROMPT]{{ message.content[0].text[:8] }}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{{ message.content[0].text }}[/INST]{% endif %}{% endfor %}"
)
"""As published, but for the length of the system's message."""
_ENCODER: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
_ENCODER |= {"num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}


def chat_tokenizer(template: str, *special: str, **options: Any) -> Any:
    """Bytes as tokens, "cat" and " cat" as one each, and those of the template."""
    vocabulary = [*sorted(ByteLevel.alphabet()), "ca", "cat", "Ġcat", "<|endoftext|>"]
    merges: Any = [("c", "a"), ("ca", "t"), ("Ġ", "cat")]
    made = Qwen2Tokenizer({token: i for i, token in enumerate(vocabulary)}, merges, **options)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    made.chat_template = template
    return made


def qwen3(tokenizer: Any) -> Any:
    """The pipeline reads its hidden states 9, 18 and 27."""
    return Qwen3ForCausalLM(
        Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=28, **_ENCODER)
    )


def mistral(tokenizer: Any) -> Any:
    """The pipeline reads its hidden states 10, 20 and 30."""
    text = {"model_type": "mistral", "num_hidden_layers": 31, "vocab_size": len(tokenizer)}
    seen: dict[str, Any] = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16}
    seen |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Mistral3Config(text_config=text | _ENCODER, vision_config=seen, image_token_index=4)
    return Mistral3ForConditionalGeneration(config)


def _autoencoder() -> Any:
    """The statistics of its batch norm are not those of a new one."""
    made: Any = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
        sample_size=PIXELS,
    )
    made.bn.running_mean.normal_()
    made.bn.running_var.uniform_(0.5, 2.0)
    return made


def _parts(*, guidance_embeds: bool) -> dict[str, Any]:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {"transformer": transformer, "vae": _autoencoder(), "scheduler": scheduler}


def klein(*, is_distilled: bool = False) -> Any:
    special = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
    tokenizer = chat_tokenizer(_QWEN3, *special)
    return Flux2KleinPipeline(
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
        is_distilled=is_distilled,
        **_parts(guidance_embeds=False),
    )


def dev() -> Any:
    special = ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "<s>")
    tokenizer: Any = chat_tokenizer(_MISTRAL, *special, padding_side="left")
    return Flux2Pipeline(
        text_encoder=mistral(tokenizer), tokenizer=tokenizer, **_parts(guidance_embeds=True)
    )


def picture(given: Mapping[str, Any], output: Any) -> tuple[Tensor, Tensor]:
    """Double-stream blocks return (text, picture); single-stream blocks hold the text first."""
    if isinstance(output, tuple):
        return given["hidden_states"], output[1]
    return given["hidden_states"][:, TOKENS:], output[:, TOKENS:]


def patched(pipe: Any, latents: Tensor) -> Tensor:
    """What the pipeline's call takes as latents; it packs them itself."""
    return pipe._patchify_latents(latents)


def _keep(pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    pipe.kept = tensors["latents"]
    return {}


def unpacked(pipe: Any, _decodable: Tensor, height: int, width: int) -> Tensor:
    """The pipeline's own last latents; those that it returns are in the autoencoder's scale."""
    side = pipe.vae_scale_factor * 2
    grid = pipe.kept.new_zeros(len(pipe.kept), 1, height // side, width // side)
    whole = pipe._unpack_latents_with_ids(pipe.kept, pipe._prepare_latent_ids(grid))
    del pipe.kept
    return pipe._unpatchify_latents(whole)


_BLOCKS = places("transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.1")


def _family(make: Any, **options: Any) -> Family:
    return Family(
        make,
        _BLOCKS,
        {"guidance": 4.0, "text_tokens": TOKENS},
        call={"max_sequence_length": TOKENS, "callback_on_step_end": _keep},
        picture=picture,
        pack=patched,
        unpack=unpacked,
        attention="text_first",
        **options,
    )


_DISTILLED: dict[str, Any] = {"passes": (("cond",),), "unguided": {}}
FAMILIES = {
    "flux2_dev": _family(dev, **_DISTILLED),
    "flux2_klein": _family(klein, passes=(("cond",), ("uncond",))),
    "flux2_klein_distilled": _family(partial(klein, is_distilled=True), **_DISTILLED),
}
