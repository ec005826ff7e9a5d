"""Edits act at their place, in their window and branch, and nowhere else."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusae.errors import UserError
from diffusae.interventions.denoising import denoising_errors
from diffusae.interventions.edits import Edit, Reconstruct
from diffusae.interventions.steer import steer
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from families.running import Case, over_grid

BRANCHES = ("cond", "uncond")


def direction(case: Case, block: str) -> Tensor:
    d_in = case.family.blocks[block][2]
    return 2 * torch.randn(d_in, generator=torch.Generator().manual_seed(5))


def edit_of(case: Case, conditionings: Sequence[str]) -> Edit:
    """Adds a direction to the left half of the middle block's update, at the second of three
    steps."""

    def change(updates: Tensor, grid: tuple[int, ...]) -> Tensor:
        added = torch.zeros_like(updates)
        over_grid(added, grid)[..., : grid[-1] // 2, :] = direction(case, "mid")
        return added

    return Edit(case.paths["mid"], change, window=(0.6, 0.4), conditionings=tuple(conditionings))


@pytest.mark.parametrize("branch", BRANCHES)
def test_an_edit_makes_the_picture_of_a_block_that_is_changed_by_hand(
    case: Case, branch: str
) -> None:
    case.require(branch)
    grid = case.grid("mid")

    def by_hand(number: int, _before: Tensor, after: Tensor) -> None:
        step, rows = case.rows(number)
        if step == 1 and branch in rows:
            left = over_grid(after, grid)[rows[branch]][..., : grid[-1] // 2, :]
            left += direction(case, "mid")

    with case.replaced("mid", by_hand):
        expected = case.make().latents
    with steer(case.pipe, [edit_of(case, [branch])]) as steering:
        edited = case.make().latents
    assert steering.steps == {0: 1}
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-5)
    assert (edited - case.plain.latents).abs().flatten(1).amax(dim=1).min() > 1e-4


@pytest.mark.parametrize("branch", BRANCHES)
def test_an_edit_changes_nothing_before_its_place_and_time(case: Case, branch: str) -> None:
    case.require(branch)
    first, second, last = case.timesteps()
    edit, plain = edit_of(case, [branch]), case.plain
    with steer(case.pipe, [edit]):
        edited = case.record()
    before, after = (made.updates["mid", second, branch] for made in (plain, edited))
    torch.testing.assert_close(after, edit(before, case.grid("mid")), rtol=1e-4, atol=1e-5)

    def same(*place: Any) -> bool:
        return torch.equal(edited.updates[place], plain.updates[place])

    branches = {run for branches in case.family.passes for run in branches}
    for block in case.family.blocks:
        assert all(same(block, first, run) for run in branches)
        assert all(same(block, second, other) for other in branches - {branch})
    assert same("down", second, branch)
    # All that comes after has changed.
    assert not same("up", second, branch)
    assert not same("down", last, "cond")
    assert torch.equal(case.make().latents, plain.latents)


def test_uncond_cannot_be_edited_in_a_run_without_guidance(case: Case) -> None:
    with (
        pytest.raises(UserError, match="no uncond branch"),
        steer(case.pipe, [edit_of(case, BRANCHES)]),
    ):
        case.make(**case.family.unguided)


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_reconstruction_with_its_error_keeps_the_denoising_error(case: Case, branch: str) -> None:
    given = case.conditions(branch)
    noise = torch.randn(case.latents().shape, generator=torch.Generator().manual_seed(2))
    d_in = case.family.blocks["mid"][2]
    sae = SparseAutoencoder(d_in, 3 * d_in, TopK(4), seed=5)

    def errors(change: Any = None) -> Tensor:
        edit = None if change is None else Edit(case.paths["mid"], change)
        options: dict[str, Any] = {"timestep": case.timesteps()[1], "conditions": given}
        return denoising_errors(case.pipe, edit, latents=case.latents(), noise=noise, **options)

    own = errors()
    assert own.shape == (2,) and own.min() > 0
    torch.testing.assert_close(errors(Reconstruct(sae, with_error=True)), own, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(errors(Reconstruct(sae)), own, rtol=1e-4)
