"""What an edit costs: the same generation with an edit that acts at every step, with one that never acts, and without."""

import statistics
from contextlib import nullcontext

import pytest
import torch

from benchmarks.paired import Work, in_turns
from diffusae.backbone.load import load_pipeline
from diffusae.capture.generate import generate
from diffusae.interventions.edits import Edit, GlobalPush, SpatialMove
from diffusae.interventions.regions import Region
from diffusae.interventions.steer import steer
from diffusae.miniature.folder import SHIPPED
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HOOKPOINT, D_IN = "down_blocks.0.attentions.0", 64


def test_the_cost_of_an_edit(capsys):
    torch.set_num_threads(1)
    pipe = load_pipeline(SHIPPED, dtype=torch.float32, device="cpu")
    sae = SparseAutoencoder(D_IN, 512, TopK(k=10), seed=0)
    direction = torch.nn.functional.normalize(torch.ones(D_IN), dim=0)
    move, push = (
        SpatialMove(sae, direction, Region("top_left"), strength=1.0),
        GlobalPush(sae, direction, strength=1.0),
    )

    def work(*edits):
        def run():
            with steer(pipe, edits) if edits else nullcontext():
                return generate(
                    pipe, ["a red fish"] * 8, list(range(8)), steps=10, guidance=4.0, decode=False
                ).latents

        return run

    works: dict[str, Work] = {
        "no edit": work(),
        "spatial, every step": work(Edit(HOOKPOINT, move)),
        "global, every step": work(Edit(HOOKPOINT, push)),
        "spatial, in the early window": work(Edit(HOOKPOINT, move, window=(1.0, 0.6))),
        # In a branch that does act, but never in this window: DDIM's 10 steps have no t between .99 and .9.
        "never acts": work(Edit(HOOKPOINT, move, window=(0.99, 0.9))),
    }
    times = in_turns(works, rounds=15)
    plain = times.pop("no edit")
    with capsys.disabled():
        print(
            "\nan edit's share of the time of generation (miniature, 8 pictures, one thread; medians of 15 rounds)"
        )
        for name, taken in times.items():
            ratios = sorted(a / b - 1 for a, b in zip(taken, plain, strict=True))
            print(
                f"{name:30s} {100 * statistics.median(ratios):+.2f} %   (rounds: {100 * ratios[3]:+.2f} to {100 * ratios[-4]:+.2f} %)"
            )
    assert not torch.equal(work(Edit(HOOKPOINT, move))(), work()())
    assert torch.equal(work(Edit(HOOKPOINT, move, window=(0.99, 0.9)))(), work()())
