"""Edits in a real pipeline call act at their place and time alone."""

from typing import Any

import pytest
import torch

from diffusae.capture.hooks import capture_updates
from diffusae.errors import UserError
from diffusae.interventions.edits import (
    Edit,
    PerPicture,
    SetLatents,
    SpatialMove,
    concept_direction,
)
from diffusae.interventions.regions import Region
from diffusae.interventions.steer import Steering, steer
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from sae.pretend_device import TO_HOST, Elsewhere, pretend_device
from tiny_pipeline import D_IN, GRIDS, HOOKPOINTS

TIMESTEPS = (667, 334, 1)  # t = 1, 0.5, 0


def run(pipe, steps=3, guidance=5.0):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return pipe(
        ["a cat", "dogs"],
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=latents,
        output_type="latent",
    ).images


def captured(pipe, edits=None, guidance=5.0):
    """The updates as the rest of the model sees them, and the final latents."""
    if edits is None:
        with capture_updates(pipe, HOOKPOINTS, TIMESTEPS) as capture:
            return capture.updates, run(pipe, guidance=guidance)
    with steer(pipe, edits), capture_updates(pipe, HOOKPOINTS, TIMESTEPS) as capture:
        return capture.updates, run(pipe, guidance=guidance)


def move(block: str, **options) -> Edit:
    sae = SparseAutoencoder(D_IN[block], 3 * D_IN[block], TopK(4), seed=5)
    change = SpatialMove(sae, concept_direction(sae, [1, 2]), Region("left"), strength=2.0)
    return Edit(HOOKPOINTS[block], change, **options)


@pytest.mark.parametrize("conditioning", ["cond", "uncond"])
def test_the_edited_update_is_the_update_plus_the_change_and_only_there(pipe, conditioning):
    edit = move("mid", window=(1.0, 0.9), conditionings=(conditioning,))
    plain, _ = captured(pipe)
    edited, latents = captured(pipe, [edit])
    here = ("mid", 667, conditioning)
    torch.testing.assert_close(edited[here], edit(plain[here], GRIDS["mid"]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(edited[here], plain[here], atol=1e-2)
    other = ("mid", 667, "uncond" if conditioning == "cond" else "cond")
    assert torch.equal(edited[other], plain[other])
    # Blocks before it in the same pass are unchanged; blocks after it are not.
    assert torch.equal(edited["down", 667, conditioning], plain["down", 667, conditioning])
    assert not torch.equal(edited["up", 667, conditioning], plain["up", 667, conditioning])
    assert not torch.equal(latents, run(pipe))


def test_steps_before_the_window_are_those_of_the_unedited_run(pipe):
    plain, _ = captured(pipe)
    edited, _ = captured(pipe, [move("mid", window=(0.2, 0.0))])
    for timestep in (667, 334):
        assert torch.equal(edited["mid", timestep, "cond"], plain["mid", timestep, "cond"])
    assert not torch.equal(edited["mid", 1, "cond"], plain["mid", 1, "cond"])


def test_edits_compose_in_their_order(pipe):
    first = move("mid", window=(1.0, 0.9))
    second = move("mid", window=(1.0, 0.9), preserve_norm=True)
    plain, _ = captured(pipe)
    edited, _ = captured(pipe, [first, second])
    update = plain["mid", 667, "cond"]
    expected = second(first(update, GRIDS["mid"]), GRIDS["mid"])
    torch.testing.assert_close(edited["mid", 667, "cond"], expected, rtol=1e-4, atol=1e-5)


def test_two_blocks_are_edited_in_one_pass(pipe):
    with steer(pipe, [move("down"), move("up")]) as steering:
        run(pipe)
    assert steering.steps == {0: 3, 1: 3}
    assert min(steering.largest_change.values()) > 0


def test_nothing_remains_afterwards_also_after_an_error(pipe):
    before = run(pipe)
    with pytest.raises(RuntimeError, match="stop"), steer(pipe, [move("mid")]):
        raise RuntimeError("stop")
    assert torch.equal(run(pipe), before)


def test_an_edit_outside_its_window_leaves_the_picture_exactly_and_warns(pipe, caplog):
    before = run(pipe)
    with steer(pipe, [move("mid", window=(0.45, 0.05))]):
        after = run(pipe)
    assert torch.equal(before, after)
    assert "never acted" in caplog.text


def test_a_picture_without_a_change_is_the_same_to_the_bit_beside_an_edited_one(pipe):
    change = move("mid").change
    before = run(pipe)
    with steer(pipe, [Edit(HOOKPOINTS["mid"], PerPicture([None, change]))]):
        after = run(pipe)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-3)


def test_an_edit_that_changes_nothing_warns(pipe, caplog):
    sae = SparseAutoencoder(D_IN["mid"], 8, TopK(2))
    with torch.no_grad():
        sae.W_enc.zero_()
    with steer(pipe, [Edit(HOOKPOINTS["mid"], SetLatents(sae, [0], factor=0.0))]):
        run(pipe)
    assert "changed nothing" in caplog.text


def test_without_guidance_uncond_cannot_be_edited(pipe):
    refused = pytest.raises(UserError, match="no uncond branch")
    with refused, steer(pipe, [move("mid", conditionings=("uncond",))]):
        run(pipe, guidance=1.0)
    with pytest.raises(UserError, match="at least one"), steer(pipe, []):
        pass


def test_the_size_of_a_change_is_read_only_when_it_is_asked_for_and_leaves_out_nan():
    steering = Steering(2)
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    with pretend_device() as crossed:
        there: Any = Elsewhere(vectors)
        for change in (0.5, 2.0, float("nan"), 1.0):
            steering.note_change(0, there * change, there)
        assert crossed[TO_HOST] == 0
        assert steering.largest_change == {0: 2.0, 1: 0.0}
        assert crossed[TO_HOST] == 1
