"""Group offloading of diffusers, from the CPU to the CPU: its hooks on every layer are real, and
ours work beside them."""

import importlib.util
from typing import Any

import pytest
import torch
from diffusers.hooks import group_offloading

from diffusae.interventions.steer import steer
from families.running import Case
from families.test_edit import edit_of


@pytest.fixture(autouse=True)
def _sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without accelerate, diffusers lacks the function that sends tensors to a device; from the CPU
    to the CPU it gives what it got."""
    if importlib.util.find_spec("accelerate") is None:

        def sent(tensors: Any, _device: Any, **_: Any) -> Any:
            return tensors

        monkeypatch.setattr(group_offloading, "send_to_device", sent, raising=False)


@pytest.mark.parametrize(
    "kind", ["leaf_level", pytest.param("block_level", marks=pytest.mark.slow)]
)
def test_an_offloaded_denoiser_is_captured_and_edited_as_ever(case: Case, kind: str) -> None:
    other = Case(case.name)
    size: dict[str, Any] = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    group_offloading.apply_group_offloading(
        other.denoiser, torch.device("cpu"), offload_type=kind, **size
    )
    made = other.record()
    assert made.updates.keys() == case.plain.updates.keys()
    for key, update in made.updates.items():
        assert torch.equal(update, case.plain.updates[key])
    with steer(case.pipe, [edit_of(case, ["cond"])]):
        expected = case.make()
    with steer(other.pipe, [edit_of(other, ["cond"])]):
        assert torch.equal(other.make().latents, expected.latents)
