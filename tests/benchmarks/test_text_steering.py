"""The cost of a text edit: the same generation with and without it, in turns."""

import statistics
from contextlib import nullcontext
from typing import cast

import pytest
import torch

from benchmarks.paired import Work, in_turns
from diffusae.backbone.load import load_pipeline
from diffusae.capture.generate import generate
from diffusae.interventions.steer import steer
from diffusae.interventions.text import TextEdit
from diffusae.miniature.shipped import SHIPPED
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STEPS = 50
ROUNDS = 11


@pytest.mark.parametrize("pictures", [1, 8])
def test_the_cost_of_steering_through_the_text_encoder(capsys, pictures):
    """One context for each generation: every one encodes the concept prompt, the worst case."""
    torch.set_num_threads(1)
    pipe = load_pipeline(SHIPPED, dtype=torch.float32, device="cpu")
    sae = SparseAutoencoder(128, 512, TopK(k=32), seed=0)

    captions, seeds = ["a red fish"] * pictures, list(range(pictures))
    options = {"steps": STEPS, "guidance": 4.0, "decode": False}

    def work(*edits: TextEdit) -> Work:
        def run():
            with steer(pipe, edits) if edits else nullcontext():
                return generate(pipe, captions, seeds, **options).latents

        return run

    works: dict[str, Work] = {
        "not steered": work(),
        "steered, cond and uncond": work(TextEdit("text_2", sae, "neon style", 0.5)),
        "steered, cond alone": work(TextEdit("text_2", sae, "neon style", 0.5, ("cond",))),
    }
    steered, plain_picture = (
        cast(torch.Tensor, work(*edits)())
        for edits in ([TextEdit("text_2", sae, "neon style", 0.5)], [])
    )
    assert not torch.equal(steered, plain_picture)
    times = in_turns(works, rounds=ROUNDS)
    plain = times.pop("not steered")
    with capsys.disabled():
        print(
            f"\nsteering's share of the time of generation (miniature, {pictures} pictures of"
            f" {STEPS} steps, one thread; medians of {ROUNDS} rounds; not steered"
            f" {statistics.median(plain):.2f} s)"
        )
        for name, taken in times.items():
            ratios = sorted(a / b - 1 for a, b in zip(taken, plain, strict=True))
            print(
                f"{name:30s} {100 * statistics.median(ratios):+.2f} %   (rounds:"
                f" {100 * ratios[2]:+.2f} to {100 * ratios[-3]:+.2f} %)"
            )
