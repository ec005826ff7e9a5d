"""Edits in a pipeline of every family act at their place, in their window and branch alone."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from diffusae.backbone.families.table import adapter_of
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.interventions.denoising import denoising_errors
from diffusae.interventions.edits import Edit, Reconstruct, SpatialMove, concept_direction
from diffusae.interventions.regions import Region
from diffusae.interventions.steer import steer
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from tiny_families import FAMILIES, PIXELS, tiny_family

STEPS = 3


@pytest.fixture(scope="module")
def pipe(family: str) -> Any:
    return tiny_family(family)


def times_of(pipe: Any) -> list[float]:
    unit = pipe.vae_scale_factor * adapter_of(pipe).patch
    return adapter_of(pipe).schedule(pipe.scheduler, STEPS, (PIXELS // unit) ** 2).tolist()


def run(pipe: Any, family: str, edits: list[Edit] | None = None, **options: Any) -> Any:
    """Updates as the rest of the model sees them, and the final latents."""
    options = FAMILIES[family].asked | options
    with steer(pipe, edits) if edits else nullcontext():
        return generate(
            pipe, ["a cat", "dogs"], [1, 2], steps=STEPS, height=PIXELS, width=PIXELS,
            hookpoints=FAMILIES[family].hookpoints, timesteps=times_of(pipe), **options,
        )  # fmt: skip


def sae_of(family: str, block: str) -> SparseAutoencoder:
    d_in = FAMILIES[family].blocks[block][2]
    return SparseAutoencoder(d_in, 3 * d_in, TopK(4), seed=5)


def move(family: str, block: str, **options: Any) -> Edit:
    sae = sae_of(family, block)
    direction = concept_direction(sae, [1, 2])
    change = SpatialMove(sae, direction, Region("left"), strength=2.0, outside="keep")
    return Edit(FAMILIES[family].blocks[block][0], change, **options)


@pytest.mark.parametrize("conditioning", ["cond", "uncond"])
def test_an_edit_acts_at_its_place_and_time_and_changes_nothing_before(
    pipe: Any, family: str, conditioning: str
) -> None:
    first, second, last = times_of(pipe)
    edit = move(family, "mid", window=(0.6, 0.4), conditionings=(conditioning,))
    plain, edited = run(pipe, family), run(pipe, family, [edit])
    grid, other = FAMILIES[family].blocks["mid"][1], "uncond" if conditioning == "cond" else "cond"
    blocks = FAMILIES[family].blocks
    before, after = (made.updates["mid", second, conditioning] for made in (plain, edited))
    # At its step, in its block and branch: the change itself, on the left half alone.
    torch.testing.assert_close(after, edit(before, grid), rtol=1e-4, atol=1e-5)
    left = Region("left").shares(grid) > 0.5
    assert (after - before)[:, left].norm(dim=-1).min() > 1e-2
    torch.testing.assert_close(after[:, ~left], before[:, ~left], rtol=1e-4, atol=1e-5)

    # Nothing before: not at the earlier step, not in the other branch, not in an earlier block.
    def same(*place: Any) -> bool:
        return torch.equal(edited.updates[place], plain.updates[place])

    for block in blocks:
        assert same(block, first, "cond") and same(block, first, "uncond")
        assert same(block, second, other)
    assert same("down", second, conditioning)
    # All that comes after has changed.
    assert not same("up", second, conditioning)
    assert not same("down", last, "cond")
    assert not torch.equal(edited.latents, plain.latents)
    assert torch.equal(run(pipe, family).latents, plain.latents)


def test_uncond_cannot_be_edited_in_a_run_without_guidance(pipe: Any, family: str) -> None:
    unguided: dict[str, Any] = {"true_guidance": None} if family == "flux" else {"guidance": 1.0}
    edit = move(family, "mid", conditionings=("cond", "uncond"))
    with pytest.raises(UserError, match="no uncond branch"):
        run(pipe, family, [edit], conditionings=["cond"], **unguided)


@pytest.mark.parametrize("conditioning", ["cond", "uncond"])
def test_every_family_has_a_denoising_error(pipe: Any, family: str, conditioning: str) -> None:
    size = {"height": PIXELS, "width": PIXELS}
    given = conditions(pipe, ["a cat", "dogs"], conditioning, **FAMILIES[family].asked, **size)
    generator = torch.Generator().manual_seed(2)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    sae = sae_of(family, "mid")

    def errors(change: Any = None) -> torch.Tensor:
        edit = None if change is None else Edit(FAMILIES[family].blocks["mid"][0], change)
        options: dict[str, Any] = {"timestep": times_of(pipe)[1], "conditions": given}
        return denoising_errors(pipe, edit, latents=latents, noise=noise, **options)

    own = errors()
    assert own.shape == (2,) and own.min() > 0
    torch.testing.assert_close(errors(Reconstruct(sae, with_error=True)), own, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(errors(Reconstruct(sae)), own, rtol=1e-4)


def test_flow_matching_mixes_clean_and_noise_and_aims_at_their_difference(monkeypatch) -> None:
    """sigma = 0.25: the input is 0.75 x_0 + 0.25 noise; a prediction of 0 has the error
    mean (noise - x_0)^2.
    """
    pipe = tiny_family("flux")
    seen = []

    def forward(hidden_states, **_):
        seen.append(hidden_states)
        return (torch.zeros_like(hidden_states),)

    monkeypatch.setattr(pipe.transformer, "forward", forward)
    latents, noise = torch.full((1, 4, 4, 4), 2.0), torch.full((1, 4, 4, 4), -2.0)
    given: dict[str, Any] = {"latents": latents, "noise": noise, "conditions": {}}
    (error,) = denoising_errors(pipe, None, timestep=250.0, **given)
    assert float(error) == 16.0
    assert seen[0].unique().tolist() == [1.0]
