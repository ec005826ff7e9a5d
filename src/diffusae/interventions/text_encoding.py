"""Text edits around an unmodified pipeline call, by hooks on the layers of its text encoders.

The pipeline's own `encode_prompt` is observed to tell conditional from unconditional encodings.
Within one call it runs each text encoder for the prompt and then, under guidance, for the negative
prompt (Stable Diffusion 1, 2, XL and 3, PixArt). FLUX calls it once for the prompt and then, under
true guidance, once more for the negative prompt. The number of runs is checked.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.backbone.branches import replace_method
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.text_layers import TextLayer, find_text_layers, list_text_layers
from diffusae.errors import UserError, together
from diffusae.interventions.text import TextEdit, steering_vectors

logger = logging.getLogger(__name__)

Note = Callable[[int, Tensor, Tensor], None]
"""note(edit's number, its changes of the encoding's vectors, these vectors)"""

_GUIDED = "do_classifier_free_guidance"


@contextmanager
def edited_encodings(pipe: Any, edits: Mapping[int, TextEdit], note: Note) -> Iterator[None]:
    """Apply `edits`, in their order, to every prompt that the pipeline encodes inside.

    `note` is called for every edited encoding. A concept prompt is encoded by the pipeline's own
    `encode_prompt` twice, when the first prompt comes: without any edit, which gives x_C, and with
    its edit, which shows whether the denoiser's input depends on the layer at all. Encoders that
    run outside of `encode_prompt` are left alone.

    An edit that did not act, or changed nothing that the denoiser reads, gets a warning at the end
    of the context. The hooks are removed at the end, after an error too.

    Raises:
        UserError: an unknown layer, an SAE of another width, a concept prompt without a token, a
            pipeline that encodes prompts in another way, an encoding to edit that is not made.
    """
    if not hasattr(pipe, "encode_prompt"):
        raise UserError(
            f"{type(pipe).__name__} has no encode_prompt, so its text encodings cannot be told"
            " apart; use one of the pipelines in docs/models.md"
        )
    names = dict.fromkeys(edit.layer for edit in edits.values())
    layers = find_text_layers(list_text_layers(pipe), names)
    together(_faults(pipe, edits, layers))
    encodings = _Encodings(pipe, edits, layers, note)
    with ExitStack() as stack:
        replace_method(stack, pipe, "encode_prompt", encodings.around_encode_prompt)
        if hasattr(pipe, "check_inputs"):
            replace_method(stack, pipe, "check_inputs", encodings.around_check_inputs)
        for encoder in dict.fromkeys(layer.encoder for layer in layers.values()):
            own: nn.Module = getattr(pipe, encoder)
            stack.callback(own.register_forward_pre_hook(encodings.before_encoder(encoder)).remove)
        for layer in layers.values():
            module = getattr(pipe, layer.encoder).get_submodule(layer.path)
            # transformers records the hidden states that some pipelines read by a hook of its own:
            # this hook must come before it.
            hook = module.register_forward_hook(encodings.after_layer(layer), prepend=True)
            stack.callback(hook.remove)
        hook = denoiser_of(pipe).register_forward_pre_hook(lambda *_: encodings.before_denoiser())
        stack.callback(hook.remove)
        yield
    encodings.warn()


@dataclass
class _Trial:
    """An encoding of a concept prompt, in which no edit acts but `tried`."""

    owner: _Encodings
    tried: int | None = None
    seen: dict[str, Float[Tensor, "prompts tokens d_in"]] = field(default_factory=dict)
    """{layer: its unedited output}"""


_trial: ContextVar[_Trial | None] = ContextVar("trial", default=None)


class _Encodings:
    """The prompts that are encoded in one context."""

    def __init__(
        self, pipe: Any, edits: Mapping[int, TextEdit], layers: Mapping[str, TextLayer], note: Note
    ) -> None:
        self._pipe, self._edits, self._layers, self._note = pipe, edits, layers, note
        self._vectors: dict[tuple[int, Any], Float[Tensor, "tokens d_in"]] = {}
        self._reached: dict[int, set[str]] = {number: set() for number in edits}
        self._read = dict.fromkeys(edits, False)
        self._length: Any = None
        self._order: tuple[str, ...] | None = None
        """The encodings, in order, that the running `encode_prompt` makes with each encoder."""
        self._runs: Counter[str] = Counter()
        self._current: dict[str, str] = {}
        self._in_call = False
        self._calls = 0
        self._unsettled = False

    def around_encode_prompt(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The pipeline's `encode_prompt`, observed."""
        signature = inspect.signature(own)

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            if _trial.get() is not None:
                return own(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            order = self._order_of(bound.arguments)
            self._length = bound.arguments.get("max_sequence_length")
            if order:
                self._learn(own, bound)
            self._runs.clear()
            self._order, self._unsettled = order, True
            try:
                return own(*args, **kwargs)
            finally:
                self._order = None
                self._current.clear()

        encode_prompt.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        return encode_prompt

    def around_check_inputs(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The pipeline's `check_inputs`, which runs first in every pipeline call."""

        def check_inputs(*args: Any, **kwargs: Any) -> Any:
            self._in_call, self._calls = True, 0
            return own(*args, **kwargs)

        return check_inputs

    def before_encoder(self, encoder: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if self._order is None or _trial.get() is not None:
                return
            run = self._runs[encoder]
            self._runs[encoder] += 1
            if run >= len(self._order):
                raise UserError(
                    f"{type(self._pipe).__name__} runs {encoder} more than {len(self._order)} times"
                    " in one encode_prompt, so its conditional and unconditional encodings cannot"
                    " be told apart; use one of the pipelines in docs/models.md"
                )
            self._current[encoder] = self._order[run]

        return hook

    def after_layer(self, layer: TextLayer) -> Callable[..., Any]:
        here = {number: edit for number, edit in self._edits.items() if edit.layer == layer.name}

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            trial = _trial.get()
            if trial is not None:
                if trial.owner is not self:
                    return None
                trial.seen[layer.name] = x
                acting = {n: edit.strength for n, edit in here.items() if n == trial.tried}
            else:
                conditioning = self._current.get(layer.encoder)
                if conditioning is None:
                    return None
                acting = {
                    number: edit.signed_strength(conditioning)
                    for number, edit in here.items()
                    if conditioning in edit.conditionings
                }
                for number in acting:
                    self._reached[number].add(conditioning)
            for number, strength in acting.items():
                x = self._added(number, strength, x, noted=trial is None)
            if not acting:
                return None
            return (x, *output[1:]) if isinstance(output, tuple) else x

        return hook

    def before_denoiser(self) -> None:
        """At the first denoiser call after encoding: check that all edits have acted by now."""
        if not self._unsettled:
            return
        self._unsettled = self._in_call = False
        self._calls = 0
        for number, edit in self._edits.items():
            missing = [name for name in edit.conditionings if name not in self._reached[number]]
            if missing:
                raise UserError(self._missing(number, missing[0]))

    def warn(self) -> None:
        """Log the edits that did not act, or had no effect."""
        for number, edit in self._edits.items():
            at = (number, edit.layer)
            if not self._reached[number]:
                logger.warning("edit %d at %s never acted: no prompt was encoded", *at)
            elif not self._read[number]:
                logger.warning(
                    "edit %d at %s changed nothing: its strength is %g, or the denoiser reads no"
                    " layer from this one on; take another strength, or an earlier layer",
                    *at,
                    edit.strength,
                )

    def _order_of(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """The encodings, in order, that `encode_prompt` makes; embeddings given are not made."""
        made = given.get("prompt_embeds") is None
        if _GUIDED in given:
            unconditional = given[_GUIDED] and given.get("negative_prompt_embeds") is None
            order = ("cond",) * made + ("uncond",) * bool(unconditional)
        else:  # one encoding in each call of encode_prompt: the first is the prompt's
            order = (("cond", "uncond")[min(self._calls, 1)],) * made
            if self._calls > 1:
                raise UserError(
                    f"{type(self._pipe).__name__} calls encode_prompt more than twice a picture, so"
                    " its encodings cannot be told apart; use one of the pipelines in"
                    " docs/models.md"
                )
            self._calls += self._in_call
        if any(given.get(name) is not None for name in ("prompt_embeds", "negative_prompt_embeds")):
            logger.warning(
                "the prompt was given as embeddings: they are steered only if they were made inside"
                " this context"
            )
        return order

    def _learn(self, own: Callable[..., Any], bound: inspect.BoundArguments) -> None:
        """Encode the concept prompts with the running call's arguments, once for each length."""
        for number, edit in self._edits.items():
            if (number, self._length) in self._vectors:
                continue
            concept = inspect.BoundArguments(bound.signature, bound.arguments.copy())
            concept.arguments.update(_concept_arguments(concept.arguments, list(edit.prompts)))
            if "cond" not in edit.conditionings and "clip_skip" in concept.arguments:
                # Pipelines skip layers of the prompt's encoding alone.
                concept.arguments["clip_skip"] = None
            plain, seen = self._tried(own, concept, None)
            self._vectors[number, self._length] = steering_vectors(edit.sae, seen[edit.layer])
            edited, _ = self._tried(own, concept, number)
            self._read[number] |= _differ(plain, edited)

    @torch.no_grad()
    def _tried(
        self, own: Callable[..., Any], concept: inspect.BoundArguments, number: int | None
    ) -> tuple[Any, dict[str, Tensor]]:
        trial = _Trial(self, number)
        token = _trial.set(trial)
        try:
            return own(*concept.args, **concept.kwargs), trial.seen
        finally:
            _trial.reset(token)

    def _added(
        self, number: int, strength: float, x: Float[Tensor, "prompts tokens d_in"], *, noted: bool
    ) -> Float[Tensor, "prompts tokens d_in"]:
        vectors = self._vectors[number, self._length].to(x.device)
        if len(vectors) != x.shape[1]:
            raise UserError(
                f"a prompt of {x.shape[1]} tokens cannot be steered by a concept prompt of"
                f" {len(vectors)}: the pipeline pads them to different lengths; use one of the"
                " pipelines in docs/models.md"
            )
        change = strength * vectors
        if noted:
            self._note(number, change, x.detach())
        return (x.float() + change).to(x.dtype)

    def _missing(self, number: int, conditioning: str) -> str:
        edit = self._edits[number]
        start = (
            f"edit {number} at {edit.layer} is to act on {conditioning}, but no text was encoded"
        )
        if conditioning == "cond":
            return (
                f"{start} for it: the prompt was given as embeddings; give it as text, or make the"
                " embeddings inside the context"
            )
        return (
            f"{start} for it: the call runs without guidance, or takes zeros or given embeddings in"
            " its place (Stable Diffusion XL without a negative prompt); raise the guidance scale"
            " (FLUX: true_guidance), give a negative prompt, or edit 'cond' alone"
        )


def _faults(
    pipe: Any, edits: Mapping[int, TextEdit], layers: Mapping[str, TextLayer]
) -> Iterator[str]:
    for number, edit in edits.items():
        layer = layers[edit.layer]
        if edit.sae.d_in != layer.d_in:
            yield (
                f"edit {number}: {edit.layer} gives vectors of {layer.d_in}, and its SAE takes"
                f" {edit.sae.d_in}; train one on this layer"
            )
        tokenizer = layer.tokenizer_of(pipe)
        for prompt in edit.prompts:
            tokens = tokenizer(prompt, add_special_tokens=False).input_ids
            if not set(tokens) - set(tokenizer.all_special_ids):
                yield (
                    f"concept prompt {prompt!r} tokenises to nothing that {layer.tokenizer} knows;"
                    " use other words"
                )


def _concept_arguments(given: Mapping[str, Any], prompts: list[str]) -> dict[str, Any]:
    """Arguments of `encode_prompt` for concept prompts: only text, for every encoder."""
    changed: dict[str, Any] = {"prompt": prompts, "num_images_per_prompt": 1, _GUIDED: False}
    changed |= {"prompt_2": None, "prompt_3": None, "prompt_attention_mask": None}
    changed |= {name: None for name in given if name.endswith("_embeds")}
    return {name: value for name, value in changed.items() if name in given}


def _differ(one: Any, other: Any) -> bool:
    """Whether any tensor differs between the results of two `encode_prompt` calls."""
    pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
    return any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in pairs)
