"""ConceptAttention beside a generation: against a slow computation, and with the same pictures."""

from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.capture.attention import capture_cross_attention
from diffusae.capture.concept_attention import capture_concept_attention, encode_concepts, unhooked
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from tiny_families import FAMILIES, tiny_family

HEIGHT, WIDTH, STEPS = 64, 48, 2
GRID = (4, 3)
PROMPTS, SEEDS = ("a cat", "dogs"), (1, 2)
CONCEPTS = ("cat", "sky", "tree")
JOINT = ("sd3", "flux")


def times_of(pipe: Any) -> list[float]:
    return adapter_of(pipe).schedule(pipe.scheduler, STEPS, GRID[0] * GRID[1]).tolist()


def asked(family: str) -> dict[str, Any]:
    return FAMILIES[family].asked | {"height": HEIGHT, "width": WIDTH}


def make(pipe: Any, family: str, prompts=PROMPTS, seeds=SEEDS, **options: Any) -> Any:
    return generate(pipe, prompts, seeds, steps=STEPS, **asked(family), **options)


def heads(values: Tensor, attention: Any) -> Tensor:
    return values.unflatten(-1, (attention.heads, -1)).transpose(1, 2)


def normed(values: Tensor, norm: nn.Module | None) -> Tensor:
    return values if norm is None else norm(values)


def attended(attention: Any, picture: Tensor, words: Tensor, rotary: Any) -> tuple[Tensor, Tensor]:
    """Attention outputs of words and picture over both, written out; before the projections."""
    keys, queries, values = [], [], []
    for states, names in ((words, "add_{}_proj"), (picture, "to_{}")):
        q, k, v = (heads(getattr(attention, names.format(x))(states), attention) for x in "qkv")
        added = "norm_added_" if states is words else "norm_"
        queries.append(normed(q, getattr(attention, f"{added}q", None)))
        keys.append(normed(k, getattr(attention, f"{added}k", None)))
        values.append(v)
    query, key, value = (torch.cat(part, dim=2) for part in (queries, keys, values))
    turn: Any = apply_rotary_emb
    if rotary is not None:
        query, key = turn(query, rotary), turn(key, rotary)
    shares = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    out = (shares @ value).transpose(1, 2).flatten(2)
    return out[:, : words.shape[1]], out[:, words.shape[1] :]


def modulated(norm: Any, states: Tensor, temb: Tensor, last: bool) -> tuple[Tensor, Any]:
    """The normed states and the gates that follow; of the last block of SD 3 none follow."""
    if last:
        return norm(states, temb), None
    first, *others = norm(states, emb=temb)
    return first, others


def slow_saliency(pipe: Any, family: str, calls: list[dict[str, Any]]) -> Tensor:
    """Every block in turn from the arguments of its calls in one pass; nothing of ours is used."""
    denoiser, maps = pipe.transformer, []
    states = denoiser.context_embedder(embedded(pipe, family))
    for block, given in zip(denoiser.transformer_blocks, calls, strict=True):
        picture, words, temb = (
            given[n] for n in ("hidden_states", "encoder_hidden_states", "temb")
        )
        last = getattr(block, "context_pre_only", False)
        states = states.expand(len(picture), -1, -1)
        rotary = given.get("image_rotary_emb")
        own = concept_rotary = None
        if rotary is not None:
            tokens = words.shape[1]
            assert torch.equal(rotary[0][0], rotary[0][tokens - 1])  # all text stands at one place
            own = rotary
            concept_rotary = tuple(
                torch.cat([part[: len(CONCEPTS)], part[tokens:]]) for part in rotary
            )
        of_picture, *_ = block.norm1(picture, emb=temb)
        of_words, _ = modulated(block.norm1_context, words, temb, last)
        of_concepts, gates = modulated(block.norm1_context, states, temb, last)
        _, seen = attended(block.attn, of_picture, of_words, own)
        concepts, _ = attended(block.attn, of_picture, of_concepts, concept_rotary)
        maps.append((seen @ concepts.transpose(1, 2)).softmax(dim=-1))
        if not last:
            gate, shift, scale, gate_mlp = (one.unsqueeze(1) for one in gates)
            states = states + gate * block.attn.to_add_out(concepts)
            inner = block.norm2_context(states) * (1 + scale) + shift
            states = states + gate_mlp * block.ff_context(inner)
    return torch.stack(maps)


def embedded(pipe: Any, family: str) -> Tensor:
    """Every word as a prompt of its own: after the start token of CLIP, or first of T5's."""
    place = 1 if family == "sd3" else 0
    given = [conditions(pipe, [word], "cond", **asked(family)) for word in CONCEPTS]
    return torch.cat([one["encoder_hidden_states"][:, place] for one in given])


@pytest.fixture(scope="module", params=JOINT)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pipe(family: str) -> Any:
    return tiny_family(family)


@pytest.fixture(scope="module")
def concepts(pipe: Any, family: str) -> Tensor:
    return encode_concepts(pipe, CONCEPTS, **asked(family))


def test_a_concept_is_the_first_token_of_its_own_prompt_or_the_mean_of_its_tokens(
    pipe: Any, family: str, concepts: Tensor
) -> None:
    torch.testing.assert_close(concepts, embedded(pipe, family))
    mean = encode_concepts(pipe, CONCEPTS, token="mean", **asked(family))
    states = conditions(pipe, ["tree"], "cond", **asked(family))["encoder_hidden_states"][0]
    tokenizer, _ = adapter_of(pipe).words(pipe, asked(family).get("text_tokens"))
    count = len(tokenizer.tokenize("tree"))
    first = 1 if family == "sd3" else 0
    torch.testing.assert_close(mean[2], states[first : first + count].mean(dim=0))


@torch.no_grad()
def test_the_maps_are_those_of_a_slow_computation_at_every_step(
    pipe: Any, family: str, concepts: Tensor
) -> None:
    times, calls = times_of(pipe), []
    handles = [
        block.register_forward_pre_hook(
            lambda _m, _a, kwargs: calls.append(dict(kwargs)), with_kwargs=True
        )
        for block in pipe.transformer.transformer_blocks
    ]
    with capture_concept_attention(pipe, times, concepts) as captured:
        make(pipe, family)
    for handle in handles:
        handle.remove()
    depth, passes = len(pipe.transformer.transformer_blocks), 2 if family == "flux" else 1
    assert len(calls) == depth * passes * STEPS  # the concepts' pass calls no hook of others
    for step, time in enumerate(times):
        start = step * depth * passes
        expected = slow_saliency(pipe, family, calls[start : start + depth])[:, -2:]  # cond is last
        found = captured.maps[time]
        assert found.shape == (2, GRID[0] * GRID[1], 3)
        torch.testing.assert_close(found, expected.mean(dim=0), rtol=1e-4, atol=1e-6)
        assert float((found[0] - found[1]).abs().max()) > 1e-5
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(found.shape[:2]))


def test_pictures_updates_and_attention_are_the_same_to_the_bit_beside_it(
    pipe: Any, family: str, concepts: Tensor
) -> None:
    times, mid = times_of(pipe), {"mid": FAMILIES[family].blocks["mid"][0]}
    with capture_cross_attention(pipe, times) as attention:
        alone = make(pipe, family, hookpoints=mid, timesteps=times)
    with (
        capture_cross_attention(pipe, times) as beside,
        capture_concept_attention(pipe, times[1:], concepts) as captured,
    ):
        both = make(pipe, family, hookpoints=mid, timesteps=times)
    assert (alone.images == both.images).all() and torch.equal(alone.latents, both.latents)
    assert alone.updates.keys() == both.updates.keys()
    assert all(torch.equal(alone.updates[key], both.updates[key]) for key in alone.updates)
    assert all(torch.equal(attention.maps[key], beside.maps[key]) for key in attention.maps)
    assert set(captured.maps) == {times[1]}
    hooks = [len(module._forward_pre_hooks) for module in denoiser_of(pipe).modules()]
    assert not any(hooks)


def test_chosen_blocks_are_averaged_alone_and_lengths_can_be_left_out(
    pipe: Any, family: str, concepts: Tensor
) -> None:
    times = times_of(pipe)[:1]

    def maps(**options: Any) -> Tensor:
        with capture_concept_attention(pipe, times, concepts, **options) as captured:
            make(pipe, family)
        return captured.maps[times[0]]

    depth = len(pipe.transformer.transformer_blocks)
    single = [maps(blocks=[f"transformer_blocks.{place}"]) for place in range(depth)]
    torch.testing.assert_close(torch.stack(single).mean(dim=0), maps())
    assert not torch.allclose(maps(unit_length=True), maps())
    with pytest.raises(UserError, match=r"unknown joint block 'transformer_blocks.9'; known"):
        maps(blocks=["transformer_blocks.9"])


def test_a_picture_has_the_same_map_alone(pipe: Any, family: str, concepts: Tensor) -> None:
    times = times_of(pipe)
    found = []
    for chosen in (slice(None), slice(1, 2)):
        with capture_concept_attention(pipe, times, concepts) as captured:
            make(pipe, family, PROMPTS[chosen], SEEDS[chosen])
        found.append(captured.maps[times[0]][-1])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_copies_share_weights_and_have_no_hooks() -> None:
    inner = nn.Linear(2, 2)
    module = nn.Sequential(inner)
    seen: list[int] = []
    inner.register_forward_hook(lambda *_: seen.append(1))
    made: Any = unhooked(module)
    made(torch.ones(1, 2))
    assert not seen and made[0].weight is inner.weight
    made[0].register_forward_pre_hook(lambda *_: seen.append(2))
    module(torch.ones(1, 2))
    assert seen == [1]


@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_a_model_without_joint_blocks_is_refused_by_name(name: str) -> None:
    pipe = tiny_family(name)
    with (
        pytest.raises(UserError, match=r"needs joint blocks .* and \w+ has (Transf|Basic)"),
        capture_concept_attention(pipe, [1], torch.ones(2, 8)),
    ):
        pass


def test_concepts_are_words_each_once(pipe: Any, family: str) -> None:
    for wrong in ([], ["cat", "cat"]):
        with pytest.raises(UserError, match="must be one word or more, each once"):
            encode_concepts(pipe, wrong, **asked(family))
