"""Edits by hand: the SAE's concept vectors are the axes, so that codes are the update's entries."""

from typing import Any

import pytest
import torch

from diffusae.errors import UserError
from diffusae.interventions import edits
from diffusae.interventions.edits import (
    Edit,
    GlobalPush,
    InRegion,
    PerPicture,
    SetLatents,
    SpatialMove,
    concept_direction,
    own_codes,
)
from diffusae.interventions.regions import Region
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from sae.pretend_device import TO_DEVICE, Elsewhere, pretend_device

GRID = (2, 2)
UPDATES = torch.tensor([[[3.0, 4.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 5.0]]])
"""One picture of four positions; |Z| = 5, 2, 0 and 26 ** 0.5."""

THIRD = torch.tensor([0.0, 0.0, 1.0])


@pytest.fixture
def axes() -> SparseAutoencoder:
    sae = SparseAutoencoder(3, 3, TopK(2), input_scaling="none")
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(3))
        sae.W_dec.copy_(torch.eye(3))
    return sae


def test_a_move_adds_inside_and_subtracts_outside_by_the_length_of_the_code(axes):
    both = torch.tensor([1.0, 0.0, 1.0])
    change = SpatialMove(axes, both, Region("top_left"), strength=0.5)(UPDATES, GRID)
    end = -0.5 * 26**0.5
    expected = torch.tensor([[2.5, 0, 2.5], [-1, 0, -1], [0, 0, 0], [end, 0, end]])
    torch.testing.assert_close(change[0], expected)


def test_the_papers_move_adds_by_the_length_inside_and_subtracts_the_sum_once_outside(axes):
    """f_0 + f_2 as it is, with beta = 2, at the top right: |Z| there is 2."""
    total = concept_direction(axes, [0, 2], unit_length=False)
    assert total.tolist() == [1.0, 0.0, 1.0]
    move = SpatialMove(axes, total, Region("top_right"), strength=2.0, outside="subtract_once")
    expected = torch.tensor([[-1.0, 0, -1], [4, 0, 4], [-1, 0, -1], [-1, 0, -1]])
    torch.testing.assert_close(move(UPDATES, GRID)[0], expected)


def test_a_position_on_the_border_gets_its_share_of_both_in_every_form(axes):
    """The middle column of three lies in "left" by half; |Z| is 3, 2 and 5."""
    row = torch.tensor([[[3.0, 0, 0], [0, 2.0, 0], [0, 3.0, 4.0]]])
    expected = {
        "subtract_once": [6.0, 0.5 * 4 - 0.5, -1.0],
        "subtract": [6.0, 0.0, -10.0],
        "keep": [6.0, 2.0, 0.0],
    }
    left = Region("left")
    share = float(left.shares((1, 3))[1])
    assert share == pytest.approx(0.5, abs=0.02)
    left._shares[1, 3] = torch.tensor([1.0, 0.5, 0.0])
    for outside, sizes in expected.items():
        move: Any = SpatialMove(axes, THIRD, left, strength=2.0, outside=outside)  # type: ignore[arg-type]
        assert move(row, (1, 3))[0, :, 2].tolist() == pytest.approx(sizes)


def test_a_move_from_a_source_leaves_all_else_alone(axes):
    """From the bottom to the top left: the top right lies in neither, and stays; |Z| is 5, 2, 0 and
    26 ** 0.5.
    """
    move: Any = SpatialMove(axes, THIRD, Region("top_left"), strength=2.0, source=Region("bottom"))
    end = -2 * 26**0.5
    torch.testing.assert_close(move(UPDATES, GRID)[0, :, 2], torch.tensor([10.0, 0.0, 0.0, end]))
    both = PerPicture([move, SpatialMove(axes, THIRD, Region("top"), strength=1.0)])
    together = both(UPDATES.repeat(2, 1, 1), GRID)
    torch.testing.assert_close(together[0, :, 2], torch.tensor([10.0, 0.0, 0.0, end]))
    torch.testing.assert_close(together[1, :, 2], torch.tensor([5.0, 2.0, 0.0, end / 2]))


def test_what_lies_in_the_source_and_the_region_gets_the_concept(axes):
    move = SpatialMove(axes, THIRD, Region("left"), strength=1.0, source=Region("top"))
    assert move(UPDATES, GRID)[0, :, 2].tolist() == [5.0, -2.0, 0.0, 0.0]


def test_a_source_of_which_nothing_is_subtracted_is_refused(axes):
    with pytest.raises(UserError, match="outside=keep subtracts nothing"):
        SpatialMove(axes, THIRD, Region("left"), strength=1.0, outside="keep", source=Region("top"))


def test_a_change_in_a_region_is_the_change_there_and_nothing_elsewhere(axes):
    ablate = SetLatents(axes, [1], factor=0.0)
    change = InRegion(ablate, Region("right"))(UPDATES, GRID)
    expected = torch.zeros(4, 3)
    expected[1, 1] = -2.0  # the top right; at the bottom right the latent is not active
    torch.testing.assert_close(change[0], expected)


def test_keeping_the_outside_leaves_it_alone(axes):
    first = torch.tensor([1.0, 0.0, 0.0])
    change = SpatialMove(axes, first, Region("top"), strength=1.0, outside="keep")(UPDATES, GRID)
    expected = torch.tensor([[5.0, 0, 0], [2.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(change[0], expected)


def test_the_direction_of_several_concepts_has_unit_length(axes):
    expected = torch.tensor([1.0, 0.0, 1.0]) / 2**0.5
    torch.testing.assert_close(concept_direction(axes, [0, 2]), expected)


def test_every_picture_gets_its_own_change_and_none_is_left_alone(axes):
    push = GlobalPush(axes, THIRD, strength=2.0)
    move = SpatialMove(axes, THIRD, Region("top"), strength=1.0)
    three = UPDATES.expand(3, -1, -1)
    changes = PerPicture([push, None, move])(three, GRID)
    torch.testing.assert_close(changes[:1], push(UPDATES, GRID))
    assert not changes[1].any()
    torch.testing.assert_close(changes[2:], move(UPDATES, GRID))
    with pytest.raises(UserError, match="2 pictures need as many changes, got 3"):
        PerPicture([push, None, move])(three[:2], GRID)


def of_nine_pictures() -> tuple[SparseAutoencoder, list[Any], torch.Tensor]:
    """Changes of several kinds, no two alike, and updates of 4 x 6 positions."""
    sae = SparseAutoencoder(48, 96, TopK(7), seed=3)
    generator = torch.Generator().manual_seed(7)
    f = torch.nn.functional.normalize(torch.randn(5, 48, generator=generator), dim=1)
    changes = [
        SpatialMove(sae, f[0], Region("top"), strength=3.0),
        GlobalPush(sae, f[1], strength=0.3),
        None,
        SpatialMove(sae, f[2], Region("bottom_right"), strength=0.7, outside="keep"),
        SpatialMove(sae, 3 * f[1], Region("left"), strength=0.9, outside="subtract_once"),
        GlobalPush(sae, f[3], strength=1.1),
        GlobalPush(sae, f[4], strength=2.0, relative=False),
        GlobalPush(sae, f[4], strength=9.0, relative=False, over="sum"),
        SetLatents(sae, [4, 90], factor=0.0),
    ]
    lengths = torch.arange(1.0, 10.0)[:, None, None]
    return sae, changes, lengths * torch.randn(9, 24, 48, generator=generator)


def test_changes_that_are_carried_out_together_equal_those_of_single_pictures_to_the_bit():
    _, changes, updates = of_nine_pictures()
    together = PerPicture(changes)(updates, (4, 6))
    for row, change in enumerate(changes):
        alone = updates[row : row + 1]
        expected = torch.zeros_like(alone) if change is None else change(alone, (4, 6))
        assert torch.equal(together[row : row + 1], expected)


def test_on_a_device_pictures_of_one_kind_are_measured_together_and_only_the_first_step_copies(
    monkeypatch,
):
    sae, changes, updates = of_nine_pictures()
    expected = PerPicture(changes)(updates, (4, 6))
    measured, own = [], edits.code_norms
    monkeypatch.setattr(
        edits,
        "code_norms",
        lambda sae, all_, gain: measured.append(len(all_)) or own(sae, all_, gain),
    )
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    for change in changes:  # what it found out about the weights on the host
        if isinstance(change, edits.ByLength):
            change.gain = None
    with pretend_device() as crossed:
        sae._apply(lambda tensor: Elsewhere(tensor.detach()))
        edit = Edit("block", PerPicture(changes))
        there: Any = Elsewhere(updates)
        found: Any = edit(there, (4, 6))
        assert measured == [3, 2, 1, 1]
        assert crossed[TO_DEVICE] > 0
        crossed.clear()
        again: Any = edit(there, (4, 6))
        assert crossed == {}
    torch.testing.assert_close(found.here, updates + expected)
    assert torch.equal(again.here, found.here)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_edits_are_those_of_the_cpu_to_rounding_and_later_steps_wait_for_nothing():
    sae, changes, updates = of_nine_pictures()
    expected = PerPicture(changes)(updates, (4, 6))
    _, fresh, _ = of_nine_pictures()
    for change in fresh:
        if change is not None:
            change.sae = sae.cuda()
    there, batch = updates.cuda(), PerPicture(fresh)
    torch.testing.assert_close(batch(there, (4, 6)).cpu(), expected, rtol=1e-4, atol=1e-4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = batch(there, (4, 6))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(again.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_a_push_adds_the_same_whatever_the_grid(axes):
    direction = torch.tensor([0.0, 0.0, 1.0])
    change = GlobalPush(axes, direction, strength=2.0, relative=False)(UPDATES, GRID)
    lengths = torch.tensor([5.0, 2.0, 0.0, 26**0.5])
    torch.testing.assert_close(change[0, :, 2], 2 * lengths / lengths.mean())
    assert change.mean(dim=1)[0, 2] == pytest.approx(2.0)
    relative = GlobalPush(axes, direction, strength=2.0)(UPDATES, GRID)
    torch.testing.assert_close(relative, change * UPDATES.norm(dim=-1).mean())


def test_the_papers_push_shares_its_strength_out_by_the_lengths_of_the_codes(axes):
    """beta = 6 over |Z| = 5, 2, 0, 26 ** .5, in data units and with the sum as it is."""
    total = concept_direction(axes, [1, 2], unit_length=False)
    change = GlobalPush(axes, total, strength=6.0, relative=False, over="sum")(UPDATES, GRID)
    lengths = torch.tensor([5.0, 2.0, 0.0, 26**0.5])
    expected = 6 * lengths / lengths.sum()
    torch.testing.assert_close(change[0], torch.stack([0 * expected, expected, expected], dim=1))
    # The paper's beta is P u times ours, for P = 4 positions and updates of the mean length u.
    u = float(UPDATES.norm(dim=-1).mean())
    ours = GlobalPush(axes, total, strength=6 / (4 * u))(UPDATES, GRID)
    torch.testing.assert_close(change, ours)


def test_latents_are_ablated_amplified_and_clamped(axes):
    for settings, expected in (
        ({"factor": 0.0}, [-3.0, 0.0, 0.0, -1.0]),
        ({"factor": 3.0}, [6.0, 0.0, 0.0, 2.0]),
        ({"clamp": 2.0}, [-1.0, 0.0, 0.0, 1.0]),
    ):
        change = SetLatents(axes, [0], **settings)(UPDATES, GRID)
        assert change[0, :, 0].tolist() == expected
        assert not change[..., 1:].any()


def test_an_ablated_latent_is_no_longer_active(axes):
    edited = UPDATES + SetLatents(axes, [1], factor=0.0)(UPDATES, GRID)
    assert not own_codes(axes, torch.tensor([1]), edited).any()


def test_preserving_the_norm_turns_a_vector_and_does_not_lengthen_it(axes):
    change = SpatialMove(axes, THIRD, Region("whole"), strength=1.0)
    edit = Edit("block", change, preserve_norm=True)
    edited = edit(UPDATES, GRID)
    torch.testing.assert_close(edited.norm(dim=-1), UPDATES.norm(dim=-1))
    torch.testing.assert_close(edited[0, 0], torch.tensor([3.0, 4.0, 5.0]) / 50**0.5 * 5)


def test_an_edit_keeps_the_dtype_of_the_model(axes):
    edit = Edit("block", SpatialMove(axes, THIRD, Region("whole"), strength=1.0))
    assert edit(UPDATES.half(), GRID).dtype == torch.float16


@pytest.mark.parametrize("window", [(0.2, 0.6), (1.2, 0.0), (0.5, -0.1)])
def test_a_window_runs_forwards(window):
    with pytest.raises(UserError, match="window="):
        Edit("block", lambda updates, grid: updates, window=window)


def test_impossible_edits_are_refused(axes):
    with pytest.raises(UserError, match="needs a latent"):
        concept_direction(axes, [])
    with pytest.raises(UserError, match="latent 3 does not exist"):
        SetLatents(axes, [3], factor=0.0)
    with pytest.raises(UserError, match=r"strength=0.* above 0"):
        SpatialMove(axes, THIRD, Region("top"), strength=0.0)
    with pytest.raises(UserError, match="known: mean, sum"):
        GlobalPush(axes, THIRD, strength=1.0, over="all")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="factor or clamp"):
        SetLatents(axes, [0])
    with pytest.raises(UserError, match="known: keep, subtract, subtract_once"):
        SpatialMove(axes, THIRD, Region("top"), strength=1.0, outside="remove")  # type: ignore[arg-type]
