from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from diffusae.capture.hooks import capture_updates, hook_blocks
from diffusae.capture.sequences import to_positions
from diffusae.errors import UserError
from tiny_pipeline import D_IN, GRIDS, HOOKPOINTS

STEPS = 3
ALL = (667, 334, 1)
"""The scheduler's values: 1000 // 3 = 333 a step, plus the offset of 1."""


def _run(pipe, prompts=("a cat", "dogs"), guidance=5.0, steps=STEPS, **options) -> Tensor:
    latents = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    options = {"latents": latents, "output_type": "latent"} | options
    return pipe(list(prompts), num_inference_steps=steps, guidance_scale=guidance, **options).images


def _hooks(pipe) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules())


@contextmanager
def _spied(pipe, path: str) -> Iterator[list[Tensor]]:
    """Output minus input of one block at every step, by replacing its forward, without hooks."""
    module, seen = pipe.unet.get_submodule(path), []
    forward = module.forward

    def spy(hidden_states, *args, **kwargs):
        output = forward(hidden_states, *args, **kwargs)
        seen.append(output[0] - hidden_states)
        return output

    module.forward = spy
    try:
        yield seen
    finally:
        del module.forward


@pytest.mark.parametrize("block", HOOKPOINTS)
def test_the_update_is_output_minus_input_to_the_bit(pipe, block: str) -> None:
    with (
        _spied(pipe, HOOKPOINTS[block]) as seen,
        capture_updates(pipe, HOOKPOINTS, [334, 1]) as captured,
    ):
        _run(pipe)
    height, width = GRIDS[block]
    for timestep, delta in ((334, seen[1]), (1, seen[2])):
        for conditioning, half in (("uncond", delta[:2]), ("cond", delta[2:])):
            update = captured.updates[block, timestep, conditioning]
            assert update.shape == (2, height * width, D_IN[block])
            for row, column in ((0, 0), (1, 2), (3, 1), (height - 1, width - 1)):
                assert torch.equal(update[:, row * width + column], half[:, :, row, column])
            assert torch.equal(update.transpose(1, 2).reshape(half.shape), half)


def test_positions_are_row_major_over_a_grid_that_is_not_square(pipe) -> None:
    with (
        _spied(pipe, HOOKPOINTS["mid"]) as seen,
        capture_updates(pipe, HOOKPOINTS, [667]) as captured,
    ):
        _run(pipe, latents=torch.randn(2, 4, 8, 12), height=16, width=24)
    assert captured.grids == {"down": (8, 12), "mid": (4, 6), "up": (8, 12)}
    assert torch.equal(captured.updates["mid", 667, "cond"][1, 2 * 6 + 5], seen[0][3, :, 2, 5])


def test_everything_wanted_is_recorded_at_once_and_nothing_else(pipe) -> None:
    with capture_updates(pipe, HOOKPOINTS, [667, 1], conditionings=["cond"]) as captured:
        _run(pipe)
    assert set(captured.updates) == {(block, t, "cond") for block in HOOKPOINTS for t in (667, 1)}
    assert captured.grids == GRIDS


def test_cond_and_uncond_are_told_apart_as_two_separate_passes_show(pipe) -> None:
    with capture_updates(pipe, HOOKPOINTS, [667]) as guided:
        _run(pipe, guidance=5.0)
    separate = {}
    for conditioning, prompts in (("cond", ("a cat", "dogs")), ("uncond", ("", ""))):
        with capture_updates(pipe, HOOKPOINTS, [667], conditionings=["cond"]) as alone:
            _run(pipe, prompts=prompts, guidance=1.0)
        separate[conditioning] = alone.updates
    for block in HOOKPOINTS:
        for conditioning, other in (("cond", "uncond"), ("uncond", "cond")):
            update = guided.updates[block, 667, conditioning]
            torch.testing.assert_close(
                update, separate[conditioning][block, 667, "cond"], rtol=1e-4, atol=1e-5
            )
            assert (update - separate[other][block, 667, "cond"]).abs().max() > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_pictures_with_hooks_are_the_pictures_without_to_the_bit(pipe, guidance: float) -> None:
    without = _run(pipe, guidance=guidance)
    with capture_updates(pipe, HOOKPOINTS, ALL, conditionings=["cond"]):
        assert torch.equal(_run(pipe, guidance=guidance), without)


def test_updates_lie_on_the_cpu_contiguous_and_own_their_memory(pipe) -> None:
    with capture_updates(pipe, HOOKPOINTS, [1]) as captured:
        _run(pipe)
    for update in captured.updates.values():
        assert update.device.type == "cpu" and update.is_contiguous() and not update.requires_grad
        assert update.untyped_storage().nbytes() == update.nbytes


def test_a_dtype_narrows_what_is_stored_but_not_the_run(pipe) -> None:
    without = _run(pipe)
    with (
        capture_updates(pipe, HOOKPOINTS, [1]) as full,
        capture_updates(pipe, HOOKPOINTS, [1], dtype=torch.float16) as half,
    ):
        assert torch.equal(_run(pipe), without)
    for key, update in half.updates.items():
        assert update.dtype == torch.float16
        assert torch.equal(update, full.updates[key].half())


def test_hooks_are_gone_afterwards(pipe) -> None:
    with capture_updates(pipe, HOOKPOINTS, [1]):
        assert _hooks(pipe) == len(HOOKPOINTS) + 1
        _run(pipe)
    assert _hooks(pipe) == 0


def test_hooks_are_gone_after_an_exception_which_passes_unchanged(pipe) -> None:
    def fail(*_):
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"), capture_updates(pipe, HOOKPOINTS, [1]):
        _run(pipe, callback_on_step_end=fail)
    assert _hooks(pipe) == 0


def test_hooks_are_gone_after_an_unknown_hookpoint(pipe) -> None:
    with (
        pytest.raises(UserError, match=r"known: .*mid_block"),
        capture_updates(pipe, {"x": "nowhere"}, [1]),
    ):
        pass
    assert _hooks(pipe) == 0


def test_a_second_call_appends_its_pictures_under_the_same_timestep(pipe) -> None:
    with capture_updates(pipe, HOOKPOINTS, [334]) as both:
        _run(pipe, prompts=("a cat",))
        _run(pipe, prompts=("dogs", "a dog"))
    with capture_updates(pipe, HOOKPOINTS, [334]) as second:
        _run(pipe, prompts=("dogs", "a dog"))
    for key, update in second.updates.items():
        assert both.updates[key].shape[0] == 3
        assert torch.equal(both.updates[key][1:], update)


def test_the_timestep_not_the_count_of_calls_is_what_is_recorded(pipe) -> None:
    """A run with another number of steps, without timestep 334, leaves no trace."""
    with capture_updates(pipe, HOOKPOINTS, [334]) as once:
        _run(pipe)
    with capture_updates(pipe, HOOKPOINTS, [334]) as captured:
        _run(pipe, steps=4)  # 751, 501, 251, 1: never at 334
        _run(pipe)
    for key, update in once.updates.items():
        assert torch.equal(captured.updates[key], update)


def test_a_timestep_that_never_came_is_an_error_that_shows_those_that_did(pipe) -> None:
    refused = pytest.raises(
        UserError, match=r"timestep 500, 2 never came; those that came: 667, 334, 1\."
    )
    with refused, capture_updates(pipe, HOOKPOINTS, [667, 500, 2]):
        _run(pipe)
    with (
        pytest.raises(UserError, match="the denoiser was not called"),
        capture_updates(pipe, HOOKPOINTS, [667]),
    ):
        pass


def test_no_timestep_at_all_is_refused(pipe) -> None:
    with pytest.raises(UserError, match="no timestep"), capture_updates(pipe, HOOKPOINTS, []):
        pass


def test_uncond_of_an_unguided_call_explains_itself(pipe) -> None:
    with (
        pytest.raises(UserError, match="no uncond branch"),
        capture_updates(pipe, HOOKPOINTS, [667]),
    ):
        _run(pipe, guidance=1.0)
    assert _hooks(pipe) == 0


def test_a_change_of_picture_size_is_refused(pipe) -> None:
    with capture_updates(pipe, {"down": HOOKPOINTS["down"]}, [667]):
        _run(pipe)
        with pytest.raises(UserError, match=r"changed its grid from \(8, 8\) to \(8, 12\)"):
            _run(pipe, latents=torch.randn(2, 4, 8, 12), height=16, width=24)


def test_unwanted_steps_touch_no_tensor(pipe) -> None:
    visited = []
    with hook_blocks(
        pipe,
        HOOKPOINTS,
        lambda block, moment, *_: visited.append((block, moment.timestep)),
        timesteps=[334],
    ):
        _run(pipe)
    assert visited == [("down", 334), ("mid", 334), ("up", 334)]


def test_without_timesteps_every_step_is_visited(pipe) -> None:
    visited = []
    with hook_blocks(
        pipe, {"mid": HOOKPOINTS["mid"]}, lambda _block, moment, *_: visited.append(moment.timestep)
    ):
        _run(pipe)
    assert visited == list(ALL)


@pytest.mark.parametrize("edit_first", [True, False])
def test_a_change_changes_the_run_and_the_order_of_contexts_decides_what_is_seen(
    pipe, edit_first: bool
) -> None:
    """An edit takes the update away: entered first, the recording sees zeros, up to the rounding of
    a sum; entered second, the original."""
    mid = {"mid": HOOKPOINTS["mid"]}
    edit = hook_blocks(pipe, mid, lambda _block, _t, update: -update, timesteps=[667])
    with capture_updates(pipe, mid, [667]) as plain:
        without = _run(pipe)
    record = capture_updates(pipe, mid, [667])
    if edit_first:
        with edit, record as captured:
            edited = _run(pipe)
    else:
        with record as captured, edit:
            edited = _run(pipe)
    assert not torch.equal(edited, without)
    for key, update in captured.updates.items():
        if edit_first:
            assert update.abs().max() < 1e-6 < 1e-3 < plain.updates[key].abs().max()
        else:
            assert torch.equal(update, plain.updates[key])


@pytest.mark.parametrize("return_dict", [True, False])
def test_both_forms_of_a_blocks_output_are_read_and_replaced_in_kind(
    pipe, return_dict: bool
) -> None:
    block = pipe.unet.mid_block.attentions[0]
    x, words = torch.randn(1, 64, 4, 4), torch.randn(1, 16, 32)
    with (
        torch.no_grad(),
        hook_blocks(pipe, {"mid": HOOKPOINTS["mid"]}, lambda _b, _t, update: 1 - update),
    ):
        pipe.unet(torch.zeros(1, 4, 8, 8), 1, words)  # sets the clock
        output = block(hidden_states=x, encoder_hidden_states=words, return_dict=return_dict)
    assert isinstance(output, Transformer2DModelOutput if return_dict else tuple)
    torch.testing.assert_close(output[0], x + 1)


def test_a_nonfinite_update_is_recorded_as_such(pipe) -> None:
    def poison(_block, _moment, update):
        change = torch.zeros_like(update)
        change[-1, 0, 0] = float("nan")
        return change

    mid = {"mid": HOOKPOINTS["mid"]}
    with hook_blocks(pipe, mid, poison, timesteps=[1]), capture_updates(pipe, mid, [1]) as captured:
        _run(pipe)
    assert captured.updates["mid", 1, "cond"][1, 0, 0].isnan()
    assert captured.updates["mid", 1, "cond"].isnan().sum() == 1
    assert captured.updates["mid", 1, "uncond"].isfinite().all()


def test_to_positions_by_hand() -> None:
    images = torch.tensor([[[[1, 2, 3], [4, 5, 6]], [[10, 20, 30], [40, 50, 60]]]])
    assert to_positions(images).tolist() == [[[1, 10], [2, 20], [3, 30], [4, 40], [5, 50], [6, 60]]]
