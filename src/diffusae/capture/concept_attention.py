"""ConceptAttention: where a denoiser with joint blocks sees a concept (arXiv 2502.04320).

Concepts are words of their own, beside the prompt. Each is one token, and all of them go through
the joint blocks as another text: they attend to the picture and to each other, with the text's
weights, while picture and prompt never see them. In every block the saliency of a concept at a
position is the dot product of two outputs of the attention, before its last projection: that of the
position, as the running call has it, and that of the concept. A softmax over the concepts follows,
and then the mean over blocks.

So a block runs once more at the recorded steps, with the concepts in the prompt's place. It is a
copy without hooks that shares the weights, and pictures stay equal to the bit.

Choices of the published code are settings, or are these:

- the concepts' tokens get the modulation of the prompt's (as for Stable Diffusion 3 there; for
  FLUX.1 its code takes a pooled vector of zeros);
- with rotary positions they stand where the first token of the prompt stands (as there);
- there is no scale before the softmax (as there), and no mean over steps: a map is of one moment.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.backbone.branches import rows_of
from diffusae.backbone.families.table import adapter_of, list_hookpoints
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.joint_blocks import joint_blocks
from diffusae.backbone.passes import Branches
from diffusae.capture.account import Account, check_visited, in_order
from diffusae.capture.attention import word_tokens
from diffusae.capture.clock import Clock
from diffusae.capture.conditions import conditions
from diffusae.capture.hooks import Moment, hook_blocks
from diffusae.capture.offload import Offload
from diffusae.errors import UserError, unknown


@dataclass
class CapturedConcepts:
    """The recording of `capture_concept_attention`, complete after its context."""

    maps: dict[float, Float[Tensor, "pictures positions concepts"]] = field(default_factory=dict)
    """{timestep: saliency}, float32 on the CPU. It sums to 1 over the concepts. Positions are
    row-major over the finest grid."""


@torch.no_grad()
def encode_concepts(
    pipe: Any, concepts: Sequence[str], *, token: Literal["first", "mean"] = "first", **asked: Any
) -> Float[Tensor, "concepts d_text"]:
    """Every concept as a prompt of its own through the model's text encoders: the first of its
    tokens, or their mean.

    Args:
        asked: as `conditions` takes it.

    Raises:
        UserError: no concepts, one comes twice, or one has no token.
    """
    if not concepts or len(set(concepts)) < len(concepts):
        raise UserError(
            f"collection.concepts={list(concepts)} must be one word or more, each once; give others"
        )
    states = conditions(pipe, concepts, "cond", **asked)["encoder_hidden_states"]
    tokenizer, limit = adapter_of(pipe).words(pipe, asked.get("text_tokens"))
    encoded = []
    for concept, state in zip(concepts, states, strict=True):
        places = word_tokens(tokenizer, concept, concept, limit=limit)
        if not places:
            raise UserError(f"the concept {concept!r} has no token; give another word")
        encoded.append(state[places[:1] if token == "first" else places].mean(dim=0))
    return torch.stack(encoded)


@contextmanager
def capture_concept_attention(
    pipe: Any,
    timesteps: Collection[float],
    concepts: Float[Tensor, "concepts d_text"],
    *,
    blocks: Collection[str] | None = None,
    unit_length: bool = False,
    layout: Branches | None = None,
) -> Iterator[CapturedConcepts]:
    """Record the saliency of concepts in the conditional branch at the wanted scheduler timesteps.

    Args:
        concepts: from `encode_concepts`.
        blocks: paths of the joint blocks whose maps are averaged; None: all.
        unit_length: scale a concept's output to length 1 before the dot product, as the published
            code does for Stable Diffusion 3 alone.
        layout: as in `capture_updates`, which also raises the same errors.

    Raises:
        UserError: the model has no joint blocks, or not those that are named.
    """
    if not timesteps:
        raise UserError("no timestep is wanted; name at least one to record")
    denoiser = denoiser_of(pipe)
    paths = joint_blocks(list_hookpoints(denoiser), type(denoiser).__name__)
    chosen = set(paths if blocks is None else blocks)
    if strange := chosen - set(paths):
        raise unknown("joint block", min(strange), paths)
    last = max(map(paths.index, chosen))
    ran = {path: path for path in paths[: last + 1]}
    wanted, captured = frozenset(timesteps), CapturedConcepts()
    parts: defaultdict[float, list[tuple[int, Tensor]]] = defaultdict(list)
    account, offload = Account(pipe, [paths[last]], timesteps, ["cond"]), Offload()
    stream = _ConceptStream(denoiser, concepts, unit_length=unit_length)

    def due(clock: Clock) -> Collection[str]:
        return ran if clock.now in wanted and "cond" in clock.branches() else ()

    def visit(path: str, moment: Moment, *_: Tensor) -> None:
        if path not in due(clock):
            return
        rows = moment.branches()
        saliency = stream.run(path)
        if path in chosen:
            stream.maps.append(saliency[rows_of("cond", len(saliency), rows)])
        if path == paths[last]:
            number = account.enter(clock, path, "cond")
            mean = offload(torch.stack(stream.maps).mean(dim=0), torch.float32)
            parts[moment.timestep].append((number, mean))

    with ExitStack() as stack:
        clock = stack.enter_context(
            hook_blocks(pipe, ran, visit, timesteps=wanted, layout=layout, due=due)
        )
        clock.watchers.append(stream.begin)
        stack.enter_context(stream.watching(ran, lambda: bool(due(clock))))
        yield captured
    check_visited(timesteps, clock)
    account.close()
    offload.wait()
    captured.maps.update((timestep, in_order(calls)) for timestep, calls in parts.items())


class _ConceptStream:
    """The concepts on their way through the blocks of one denoiser call."""

    def __init__(
        self, denoiser: nn.Module, concepts: Float[Tensor, "concepts d_text"], *, unit_length: bool
    ) -> None:
        self._denoiser, self._concepts, self._unit_length = denoiser, concepts, unit_length
        self._copies: dict[str, nn.Module] = {}
        self._given: dict[str, Any] = {}
        self._picture: Tensor | None = None
        self.begin()

    def begin(self) -> None:
        """A denoiser call begins."""
        self.states: Tensor | None = None
        self.maps: list[Tensor] = []

    @contextmanager
    def watching(self, paths: Collection[str], wanted: Callable[[], bool]) -> Iterator[None]:
        """Keep what a block is given, and the picture's attention output in it."""
        with ExitStack() as stack:
            for path in paths:
                block: Any = self._denoiser.get_submodule(path)
                names = list(inspect.signature(type(block).forward).parameters)[1:]

                def keep(
                    _m: nn.Module,
                    args: tuple[Any, ...],
                    kwargs: dict[str, Any],
                    names: list[str] = names,
                ) -> None:
                    if wanted():
                        self._given = dict(zip(names, args, strict=False)) | kwargs

                def see(_m: nn.Module, args: tuple[Any, ...]) -> None:
                    if wanted():
                        self._picture = args[0]

                for handle in (
                    block.register_forward_pre_hook(keep, with_kwargs=True),
                    block.attn.to_out[0].register_forward_pre_hook(see),
                ):
                    stack.callback(handle.remove)
            yield

    @torch.no_grad()
    def run(self, path: str) -> Float[Tensor, "rows positions concepts"]:
        """Take the concepts through a block that has just run; their saliency in it."""
        given, picture = self._given, self._picture
        assert picture is not None
        words = given["encoder_hidden_states"]
        if self.states is None:
            embed = unhooked(self._denoiser.get_submodule("context_embedder"))
            self.states = embed(self._concepts.to(words)).expand(len(words), -1, -1)
        block: Any = self._copies.setdefault(path, unhooked(self._denoiser.get_submodule(path)))
        changed = given | {"encoder_hidden_states": self.states}
        if (rotary := given.get("image_rotary_emb")) is not None:
            changed["image_rotary_emb"] = _rotary(rotary, words.shape[1], len(self._concepts))
        seen: list[Tensor] = []
        projection = getattr(block.attn, "to_add_out", None)
        if projection is None:  # the last block of Stable Diffusion 3 projects no text
            handle = block.attn.register_forward_hook(lambda _m, _a, out: seen.append(out[1]))
        else:
            handle = projection.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        try:
            self.states = block(**changed)[0]
        finally:
            handle.remove()
        (concepts,) = seen
        concepts = concepts.float()
        if self._unit_length:
            concepts = F.normalize(concepts, dim=-1)
        return (picture.float() @ concepts.transpose(1, 2)).softmax(dim=-1)


def unhooked(module: nn.Module) -> nn.Module:
    """A copy that shares the weights, without anybody's hooks."""
    made = copy.copy(module)
    made.__dict__ = dict(module.__dict__)
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
                  "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"):  # fmt: skip
        setattr(made, hooks, OrderedDict())
    made._modules = {
        name: None if child is None else unhooked(child) for name, child in module._modules.items()
    }
    return made


def _rotary(rotary: Sequence[Tensor], tokens: int, concepts: int) -> tuple[Tensor, ...]:
    """Rotary positions of concepts and picture from those of text and picture."""
    return tuple(torch.cat([part[:1].expand(concepts, -1), part[tokens:]]) for part in rotary)
