"""Outputs of text encoders' layers for prompts: one vector per token, as the pipeline encodes
them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import execution_device
from diffusae.backbone.text_layers import TextLayer
from diffusae.capture.generate import call_options
from diffusae.errors import UserError, refuse_text


@dataclass(frozen=True)
class TokenOutputs:
    """One layer's output for `n` prompts, on the CPU, and the prompts' lengths."""

    outputs: Float[Tensor, "n tokens d_in"]
    ids: Int[Tensor, "n tokens"]
    """The tokenizer's ids, with padding."""
    lengths: Int[Tensor, " n"]
    """Tokens of a prompt up to and with its end token. The rest is padding."""


@torch.no_grad()
def capture_text(
    pipe: Any,
    layers: Mapping[str, TextLayer],
    prompts: Sequence[str],
    *,
    text_tokens: int | None = None,
) -> dict[str, TokenOutputs]:
    """{name: outputs} of these layers for prompts, through the pipeline's own `encode_prompt`.

    The output is the residual stream after the layer, before the encoder's last normalisation.

    Raises:
        UserError: the pipeline does not run an encoder with its prompts.
    """
    refuse_text("prompts", prompts)
    seen: dict[str, Tensor] = {}
    ids: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for encoder in {layer.encoder for layer in layers.values()}:
            module: nn.Module = getattr(pipe, encoder)

            def note(
                _module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                encoder: str = encoder,
            ) -> None:
                ids.setdefault(encoder, (args[0] if args else kwargs["input_ids"]).cpu())

            stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        for name, layer in layers.items():

            def keep(_module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                states = output[0] if isinstance(output, tuple) else output
                seen.setdefault(name, states.detach().cpu())

            module = getattr(pipe, layer.encoder).get_submodule(layer.path)
            stack.callback(module.register_forward_hook(keep).remove)
        _encode(pipe, list(prompts), text_tokens)
    outputs = {}
    for name, layer in layers.items():
        if name not in seen or len(seen[name]) != len(prompts):
            raise UserError(
                f"{type(pipe).__name__} does not run {layer.encoder} once with its prompts; choose "
                "another layer"
            )
        end = layer.tokenizer_of(pipe).eos_token_id
        tokens = ids[layer.encoder]
        outputs[name] = TokenOutputs(seen[name], tokens, lengths_of(tokens, end))
    return outputs


def own_tokens(
    pipe: Any, prompt: str, conditioning: str, *, length: int, text_tokens: int | None = None
) -> dict[int, str] | None:
    """{place among the text's tokens in a block: token} of what a branch of guidance reads: the
    prompt, or the empty text. Padding is left out. None: this family's tokens are not known.

    `length`: of the text's tokens in the block.
    """
    text = prompt if conditioning == "cond" else ""
    tokens = adapter_of(pipe).prompt_tokens(pipe, text, text_tokens)
    if tokens is None:
        return None
    return {place + length if place < 0 else place: token for place, token in tokens.items()}


def lengths_of(ids: Int[Tensor, "n tokens"], end: int) -> Int[Tensor, " n"]:
    """Tokens up to and with the first end token (CLIP may pad with end tokens); all if there is
    none."""
    is_end = ids == end
    first = is_end.int().argmax(dim=1) + 1
    return torch.where(is_end.any(dim=1), first, torch.full_like(first, ids.shape[1]))


def _encode(pipe: Any, prompts: list[str], text_tokens: int | None) -> None:
    """Call `encode_prompt` of any pipeline for its prompts alone."""
    known = inspect.signature(pipe.encode_prompt).parameters
    wanted: dict[str, Any] = {
        "prompt": prompts,
        "prompt_2": None,
        "prompt_3": None,
        "device": execution_device(pipe),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
        **call_options(pipe, text_tokens=text_tokens),
    }
    pipe.encode_prompt(**{name: value for name, value in wanted.items() if name in known})
