"""The tokens of a prompt are named at the places at which the blocks hold them.

The text encoders are made to give a token the same state wherever it stands and whatever stands
around it. So two prompts differ at the first block where their tokens differ.
"""

from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from diffusae.capture.text import own_tokens
from families.running import Case
from tiny_families.flux2 import dev
from tiny_pipeline import seeded

FIRST = {
    "sd3": "transformer_blocks.0",
    "sd35_without_t5": "transformer_blocks.0",
    "flux": "transformer_blocks.0",
    "flux2_klein": "transformer_blocks.0",
    "chroma": "transformer_blocks.0",
    "qwen_image": "transformer_blocks.0",
    "aura_flow": "joint_transformer_blocks.0",
    "cogview4": "transformer_blocks.0",
    "hidream": "double_stream_blocks.0",
    "lumina2": "context_refiner.0",
    "z_image": "context_refiner.0",
}
"""{family: its first block with a text stream}"""
EITHER_SIDE = ("aura_flow", "flux2_klein", "qwen_image", "z_image")
"""Families whose prompts may be padded on either side."""
PROMPTS = ("a cat sits", "a dog sits", "ab c cat or two cats")


def forgetful(pipe: Any) -> None:
    """Without attention and MLPs, only the embeddings of the tokens are left."""
    for name, encoder in pipe.components.items():
        if name.startswith("text_encoder") and encoder is not None:
            for path, parameter in encoder.named_parameters():
                if parameter.ndim > 1 and "embed" not in path and "shared" not in path:
                    parameter.data.zero_()


def named(case: Case, prompt: str, branch: str, length: int) -> dict[int, str]:
    tokens = case.family.asked.get("text_tokens")
    own = own_tokens(case.pipe, prompt, branch, length=length, text_tokens=tokens)
    assert own is not None and all(0 <= place < length for place in own)
    return own


def differing(one: dict[int, str], other: dict[int, str]) -> list[int]:
    """The places at which two prompts have other tokens; CLIP also pads with its end token."""
    end = "<|endoftext|>"
    return sorted(p for p in one.keys() | other.keys() if one.get(p, end) != other.get(p, end))


@pytest.mark.parametrize(
    ("name", "flips"), [*((name, False) for name in FIRST), *((name, True) for name in EITHER_SIDE)]
)
def test_states_differ_exactly_where_the_named_tokens_do(name: str, flips: bool) -> None:
    """A prompt against one with another word, and against a longer one."""
    case = Case(name)
    forgetful(case.pipe)
    if flips:
        tokenizer = case.pipe.tokenizer
        tokenizer.padding_side = {"left": "right", "right": "left"}[tokenizer.padding_side]
    time = case.timesteps(2)[0]
    made = case.make(
        PROMPTS, (1, 2, 3), steps=2, hookpoints={"words": f"{FIRST[name]}:before@text"},
        timesteps=[time],
    )  # fmt: skip
    states, lengths = made.updates["words", time, "cond"], made.lengths["words", time, "cond"]
    one, *others = (named(case, p, "cond", n) for p, n in zip(PROMPTS, lengths, strict=True))
    for row, other in enumerate(others, start=1):
        changed = (states[0] != states[row]).any(dim=-1).nonzero().flatten().tolist()
        assert changed and changed == differing(one, other)
    assert any("cat" in token for token in one.values())
    empty = named(case, PROMPTS[0], "uncond", made.lengths["words", time, "uncond"][0])
    assert len(empty) < len(one)
    if name in ("lumina2", "z_image"):  # whose blocks mask all else
        assert len(one) == lengths[0]
        assert len(empty) == made.lengths["words", time, "uncond"][0]


def test_right_padded_prompts_of_cogview4_are_not_named() -> None:
    """Their pipeline pads on the left as well, so the prompt lies between."""
    case = Case("cogview4")
    case.pipe.tokenizer.padding_side = "right"
    assert own_tokens(case.pipe, "a cat", "cond", length=16) is None


def test_flux2_devs_tokens_are_those_that_its_encoder_is_given() -> None:
    """Its tokenizer would put another `<s>` before the one of the template."""
    pipe = seeded(dev, 0)
    own, start = pipe.tokenizer.backend_tokenizer, pipe.tokenizer.convert_tokens_to_ids("<s>")
    own.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    assert pipe.tokenizer("a").input_ids[0] == start
    given: dict[str, Any] = {}
    encoder: Any = pipe.text_encoder
    encoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: given.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        pipe.encode_prompt(prompt=["a cat sits"], max_sequence_length=48)
    tokens = pipe.tokenizer.convert_ids_to_tokens(given["input_ids"][0])
    mask = given["attention_mask"][0].tolist()
    expected = {place: token for place, token in enumerate(tokens) if mask[place]}
    assert own_tokens(pipe, "a cat sits", "cond", length=48, text_tokens=48) == expected
    assert 0 < len(expected) < 48 and max(expected) == 47
