"""Every site and both streams of every family against plain hooks on the submodules, and edits at
the sites of some.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from diffusae.backbone.families.table import adapter_of, list_hookpoints
from diffusae.backbone.hookpoints import find
from diffusae.backbone.sites import SITES, STREAMS
from diffusae.capture.generate import Generation
from diffusae.capture.hooks import hook_blocks
from diffusae.capture.sequences import named_arguments, to_positions
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from families.running import PROMPTS, Case
from tiny_families import FAMILIES, tiny_family

STEPS, POSITIONS = 2, 12  # 2 x 6 positions of a picture of 32 x 96 pixels

Part = Callable[[int], slice]
"""(tokens of a row's text) -> the places of a stream in the row."""


def whole(_text: int) -> slice:
    return slice(None)


def first(text: int) -> slice:
    return slice(text)


def after(text: int) -> slice:
    return slice(text, text + POSITIONS)


def picture(_text: int) -> slice:
    return slice(POSITIONS)


def behind(start: int) -> Part:
    return lambda text: slice(start, start + text)


class Place(NamedTuple):
    """Where a plain hook sees a hookpoint's tokens."""

    path: str
    side: Literal["input", "output"]
    name: str | int = 0
    """Of the input, or the place among the outputs of the module at `path`."""
    part: Part = whole
    turn: tuple[int, int] = (0, 1)
    """(the number of the module's call, the number of its calls) in one call of the block."""


Places = Mapping[str, Place]


def stream(
    path: str,
    mlp: str = "ff",
    attention: str = "attn1",
    *,
    text: bool = False,
    given: str = "hidden_states",
    output: int = 0,
    attended: int = 0,
    part: Part = whole,
    turn: tuple[int, int] = (0, 1),
) -> Places:
    """All sites of one stream of a block, but the update."""
    sites = {
        "before": Place(path, "input", given, part),
        "after": Place(path, "output", output, part),
    }
    if mlp:
        sites |= {
            "mlp_in": Place(f"{path}.{mlp}", "input", 0, part, turn),
            "mlp_out": Place(f"{path}.{mlp}", "output", 0, part, turn),
            "attn_out": Place(f"{path}.{attention}", "output", attended, part),
        }
    return {f"{path}:{site}{'@text' if text else ''}": place for site, place in sites.items()}


_WORDS: Any = {"text": True, "given": "encoder_hidden_states", "attended": 1}


def joint(path: str, mlp: str = "ff", text_mlp: str = "ff_context") -> Places:
    """A block that returns (text, picture), and whose attention returns (picture, text)."""
    words = stream(path, text_mlp, "attn", **_WORDS)
    return {**stream(path, mlp, "attn", output=1), **words}


def sequence(path: str, mlp: str, attention: str, of: Part, words: Part, **given: Any) -> Places:
    """A block over picture and text in one."""
    texts = stream(path, mlp, attention, text=True, part=words, **given)
    return {**stream(path, mlp, attention, part=of, **given), **texts}


JOINT, SINGLE, LAST = "transformer_blocks.1", "single_transformer_blocks.0", "transformer_blocks.2"
UNET = "mid_block.attentions.0"
_UNET = {**stream(UNET, ""), **stream(f"{UNET}.transformer_blocks.0")}
_SD3 = {
    **joint(JOINT),
    **stream(LAST, "ff", "attn", output=1),
    f"{LAST}:before@text": Place(LAST, "input", "encoder_hidden_states"),
}
_FLUX_SINGLE = {
    **stream(SINGLE, "", output=1),
    **stream(SINGLE, "", text=True, given="encoder_hidden_states"),
}
_FLUX = {**joint(JOINT), **_FLUX_SINGLE}
_FLUX_SEQUENCE = {**joint(JOINT), **sequence(SINGLE, "", "", after, first)}
_DOUBLE, _MIXED = "double_stream_blocks.1", "single_stream_blocks.0"
_HIDREAM = {
    **stream(_DOUBLE, "block.ff_i", "block.attn1", part=picture),
    **stream(_DOUBLE, "block.ff_t", "block.attn1", output=1, **_WORDS),
    **sequence(_MIXED, "block.ff_i", "block.attn1", picture, behind(16)),
}  # a picture that is no square is padded to 16 positions
_LUMINA2 = ("feed_forward", "attn")
_Z_IMAGE = ("feed_forward", "attention")

PLACES: dict[str, Places] = {
    "sd": _UNET,
    "sdxl": _UNET,
    "sd3": _SD3,
    "sd35": _SD3,
    "sd35_without_t5": _SD3,
    "flux": _FLUX,
    "flux_kontext": _FLUX,
    "flux_fill": _FLUX,
    "flux_control": _FLUX,
    "flux2_dev": _FLUX_SEQUENCE,
    "flux2_klein": _FLUX_SEQUENCE,
    "flux2_klein_distilled": _FLUX_SEQUENCE,
    "chroma": _FLUX_SEQUENCE,
    "qwen_image": joint(JOINT, "img_mlp", "txt_mlp"),
    "aura_flow": {**joint(f"joint_{JOINT}"), **sequence(SINGLE, "ff", "attn", after, first)},
    "cogview4": {**stream(JOINT, turn=(0, 2)), **stream(JOINT, output=1, turn=(1, 2), **_WORDS)},
    "hidream": _HIDREAM,
    "lumina2": {
        **stream("noise_refiner.0", *_LUMINA2),
        **stream("context_refiner.0", *_LUMINA2, text=True, part=first),
        **sequence("layers.1", *_LUMINA2, after, first),
    },
    "z_image": {
        **stream("noise_refiner.0", *_Z_IMAGE, given="x", part=picture),
        **stream("context_refiner.0", *_Z_IMAGE, text=True, given="x", part=first),
        **sequence("layers.1", *_Z_IMAGE, picture, behind(32), given="x"),
    },  # the picture is padded to 32 tokens
    "pixart": stream(JOINT),
    "pixart_sigma": stream(JOINT),
    "sana": stream(JOINT),
    "sana_sprint": stream(JOINT),
    "wan": stream("blocks.1", "ffn"),
    "ltx": stream(JOINT),
    # A block of the second half also reads the output of one of the first
    "hunyuan_dit": {**stream("blocks.1"), **stream("blocks.5")},
}
"""{family: {hookpoint: where a plain hook sees it}}: of one block or two of every list"""

IN_SEQUENCES = {"aura_flow": 8 + 24, "chroma": 24, "hidream": 3 * 24}
IN_SEQUENCES |= dict.fromkeys(("flux2_dev", "flux2_klein", "flux2_klein_distilled"), 48)
"""{family: tokens of every text, where picture and text are one sequence}"""
EDITED = ("sd", "sd3", "flux", "aura_flow", "sana", "cogview4", "hidream", "z_image")
"""Families whose sites are edited, one for every way in which a block can hold its streams."""

case_of = cache(Case)


def texts_of(case: Case) -> dict[str, list[int]]:
    """{branch: tokens of every text}, as the pipeline encodes them."""
    if case.name in IN_SEQUENCES or case.name not in ("lumina2", "z_image"):
        return dict.fromkeys(("cond", "uncond"), [IN_SEQUENCES.get(case.name, 0)] * len(PROMPTS))
    encoded = case.pipe.encode_prompt(list(PROMPTS), max_sequence_length=64, device="cpu")
    if case.name == "lumina2":
        return {"cond": encoded[1].sum(1).tolist(), "uncond": encoded[3].sum(1).tolist()}
    return {"cond": list(map(len, encoded[0])), "uncond": list(map(len, encoded[1]))}


def shift(tensor: Tensor, side: int = -1) -> Tensor:
    """A vector of d_in entries that a layer normalisation does not take away."""
    return torch.linspace(-1, 1, tensor.shape[side]) ** 2


@contextmanager
def plain_hooks(denoiser: Any, places: Places) -> Iterator[dict[str, list[Tensor]]]:
    """{hookpoint: the tensor at every call of its submodule}, by hooks of torch alone."""
    seen: dict[str, list[Tensor]] = {name: [] for name in places}
    with ExitStack() as stack:
        for name, at in places.items():

            def hook(module, args, kwargs, output, name=name, at=at) -> None:
                value = output
                if at.side == "input":
                    given = named_arguments(module, args, kwargs)
                    name_of = at.name if isinstance(at.name, str) else next(iter(given))
                    value = given[name_of]
                tensor = value if isinstance(value, Tensor) else value[at.name]
                seen[name].append(to_positions(tensor) if tensor.ndim == 4 else tensor)

            module = denoiser.get_submodule(at.path)
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield seen


def expected(
    case: Case, at: Place, calls: list[Tensor], step: int, branch: str
) -> tuple[Tensor, list[int]]:
    """What the plain hook saw of a branch's tokens in a step, and how many they are row by row."""
    turn, turns = at.turn
    for number, tensor in enumerate(calls[turn::turns]):
        when, rows = case.rows(number)
        if when == step and branch in rows:
            texts = texts_of(case)[branch]
            parts = [row[at.part(n)] for row, n in zip(tensor[rows[branch]], texts, strict=True)]
            return pad_sequence(parts, batch_first=True), [len(part) for part in parts]
    raise AssertionError(f"no call of {branch} in step {step}")


@pytest.mark.parametrize("name", FAMILIES)
def test_each_site_holds_what_a_plain_hook_on_its_submodule_sees(name: str) -> None:
    case, places = case_of(name), PLACES[name]
    updates = {hookpoint.replace(":after", "") for hookpoint in places if ":after" in hookpoint}
    names: Any = {hookpoint: hookpoint for hookpoint in [*places, *updates]}
    times = case.timesteps(STEPS)
    branches = ("cond", "uncond") if case.family.has_uncond else ("cond",)
    with plain_hooks(case.denoiser, places) as seen:
        made = case.make(steps=STEPS, hookpoints=names, timesteps=times, conditionings=branches)
    assert torch.equal(made.latents, case.make(steps=STEPS).latents)
    for hookpoint, at in places.items():
        of_text = hookpoint.endswith("@text")
        for step, timestep in enumerate(times):
            seen_last = []
            for branch in branches:
                key = hookpoint, timestep, branch
                tokens, lengths = expected(case, at, seen[hookpoint], step, branch)
                beyond = made.updates[key].shape[1] - tokens.shape[1]  # of another branch's texts
                assert torch.equal(made.updates[key], pad(tokens, (0, 0, 0, beyond))), key
                assert made.lengths.get(key) == (lengths if of_text else None), key
                seen_last.append(tokens[:, -1])
            if case.family.has_uncond and not hookpoint.startswith("noise_refiner"):
                assert not torch.equal(*seen_last), hookpoint
    _check_updates(made, updates, times[-1], branches)


def _check_updates(
    made: Generation, hookpoints: set[str], time: float, branches: Collection[str]
) -> None:
    """They are what comes after without what was before."""
    for hookpoint in hookpoints:
        path, at, text = hookpoint.partition("@")
        for branch in branches:
            update, before, after = (
                made.updates[f"{path}{site}{at}{text}", time, branch]
                for site in ("", ":before", ":after")
            )
            assert torch.equal(update, after - before) and update.any(), hookpoint


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_blocks_of_a_list_do_not_have_is_refused_with_its_reason(name: str) -> None:
    known, places = list_hookpoints(case_of(name).denoiser), PLACES[name]
    blocks = {hookpoint.partition(":")[0] for hookpoint in places}
    if not any(info.layers for info in known.values()):  # all lists of a transformer
        lists = {path.rpartition(".")[0] for path in known}
        assert lists == {path.rpartition(".")[0] for path in blocks}
    for path in blocks:
        for site in SITES:
            for of in STREAMS:
                hookpoint = f"{path}:{site}" + ("@text" if of == "text" else "")
                if hookpoint.replace(":update", ":after") in places:
                    assert find(known, hookpoint).path == path
                    continue
                reason = (
                    "in parallel|transformer blocks|holds no text tokens|no tokens of the picture"
                    "|is the last block"
                )
                with pytest.raises(UserError, match=reason):
                    find(known, hookpoint)


@pytest.mark.parametrize("name", EDITED)
def test_an_edit_at_a_site_is_what_a_plain_hook_does_to_the_same_tensor(name: str) -> None:
    """A vector added in the conditional rows, by an edit and by a hook of torch."""
    case, places = case_of(name), PLACES[name]
    without, texts = case.make(steps=STEPS).latents, texts_of(case)["cond"]
    for hookpoint, at in places.items():
        numbers = iter(range(999))

        def shifted(tensor: Tensor, at: Place = at, numbers: Iterator[int] = numbers) -> Tensor:
            call, turn = divmod(next(numbers), at.turn[1])
            rows = case.rows(call)[1].get("cond") if turn == at.turn[0] else None
            edited = tensor.clone()
            if rows is not None and tensor.ndim == 4:
                edited[rows] += shift(tensor, 1)[:, None, None]
            elif rows is not None:
                for row, text in zip(edited[rows], texts, strict=True):
                    row[at.part(text)] += shift(tensor)
            return edited

        def given(module, args, kwargs, at=at, shifted=shifted) -> Any:
            if isinstance(at.name, int):
                return (shifted(args[0]), *args[1:]), kwargs
            named = named_arguments(module, args, kwargs)
            return (), named | {at.name: shifted(named[at.name])}

        def returned(_module, _args, output, at=at, shifted=shifted) -> Any:
            if isinstance(output, Tensor):
                return shifted(output)
            if not isinstance(output, tuple):
                return type(output)(sample=shifted(output.sample))
            return tuple(shifted(v) if n == at.name else v for n, v in enumerate(output))

        module = case.denoiser.get_submodule(at.path)
        if at.side == "input":
            handle = module.register_forward_pre_hook(given, with_kwargs=True)
        else:
            handle = module.register_forward_hook(returned)
        wanted = case.make(steps=STEPS).latents
        handle.remove()
        with steer(case.pipe, [Edit(hookpoint, lambda vectors, _grid: shift(vectors))]) as effect:
            edited = case.make(steps=STEPS).latents
        torch.testing.assert_close(edited, wanted, rtol=1e-4, atol=1e-5)
        assert (edited - without).abs().max() > 1e-5, hookpoint
        assert effect.steps[0] == STEPS and effect.largest_change[0] > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_hooks_at_sites_are_gone_afterwards(name: str) -> None:
    case = case_of(name)
    with hook_blocks(case.pipe, {place: place for place in PLACES[name]}, lambda *_: None):
        pass
    modules = list(case.denoiser.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_a_chunked_mlp_is_refused() -> None:
    pipe = tiny_family("sd3")
    pipe.transformer.enable_forward_chunking(chunk_size=1, dim=1)
    with (
        pytest.raises(UserError, match=r"in pieces.*disable_forward_chunking"),
        hook_blocks(pipe, {"x": "transformer_blocks.0:mlp_out"}, lambda *_: None),
    ):
        pass


def test_a_u_nets_layers_are_counted_from_its_configuration_as_from_the_model() -> None:
    pipe = tiny_family("sdxl")
    known = list_hookpoints(pipe.unet)
    assert {info.layers for info in known.values()} == {1, 2}
    outline = adapter_of(pipe).outline(pipe.unet.config)
    assert outline is not None and outline.hookpoints == known
