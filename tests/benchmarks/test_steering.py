"""The cost of an edit: generation with an edit at every step, with one that never acts, without."""

import statistics
import time
from contextlib import nullcontext

import pytest
import torch

from benchmarks.paired import Work, in_turns
from capture.test_true_size import random_unet
from diffusae.backbone.load import load_pipeline
from diffusae.capture.generate import generate
from diffusae.interventions.edits import Edit, GlobalPush, SpatialMove
from diffusae.interventions.regions import Region
from diffusae.interventions.steer import steer
from diffusae.miniature.shipped import SHIPPED
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from tiny_families import sd
from tiny_pipeline import text_encoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HOOKPOINT, D_IN = "down_blocks.0.attentions.0", 64


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Timed:
    """A change that counts the seconds spent in it."""

    def __init__(self, change):
        self.change, self.seconds = change, 0.0

    def __call__(self, updates, grid):
        start = time.process_time()
        try:
            return self.change(updates, grid)
        finally:
            self.seconds += time.process_time() - start


def share_inside(edited, change):
    """Seconds inside a change over those of the rest of the same run, in per cent."""
    timed = Timed(change)
    run = edited(timed)
    run()
    timed.seconds = 0.0
    start = time.process_time()
    run()
    whole = time.process_time() - start
    return 100 * timed.seconds / (whole - timed.seconds)


def shares(times, *, skipped):
    """{work: (median, low, high)}: its extra time in per cent of the time without an edit.

    low and high leave out `skipped` rounds at each end.
    """
    plain = times["no edit"]
    extra = {}
    for name, taken in times.items():
        ratios = sorted(100 * (a / b - 1) for a, b in zip(taken, plain, strict=True))
        extra[name] = statistics.median(ratios), ratios[skipped], ratios[-1 - skipped]
    return {name: extra[name] for name in extra if name != "no edit"}


def test_the_cost_of_an_edit(capsys):
    pipe = load_pipeline(SHIPPED, dtype=torch.float32, device="cpu")
    sae = SparseAutoencoder(D_IN, 512, TopK(k=10), seed=0)
    direction = torch.nn.functional.normalize(torch.ones(D_IN), dim=0)
    move = SpatialMove(sae, direction, Region("top_left"), strength=1.0)
    push, captions = GlobalPush(sae, direction, strength=1.0), ["a red fish"] * 8
    options = {"steps": 10, "guidance": 4.0, "decode": False}

    def work(*edits):
        def run():
            with steer(pipe, edits) if edits else nullcontext():
                return generate(pipe, captions, list(range(8)), **options).latents

        return run

    works: dict[str, Work] = {
        "no edit": work(),
        "spatial, every step": work(Edit(HOOKPOINT, move)),
        "global, every step": work(Edit(HOOKPOINT, push)),
        "spatial, in the early window": work(Edit(HOOKPOINT, move, window=(1.0, 0.6))),
        # In a branch that acts, but DDIM's 10 steps have no t in this window.
        "never acts": work(Edit(HOOKPOINT, move, window=(0.99, 0.9))),
    }
    times = in_turns(works, rounds=15, clock=time.process_time)
    with capsys.disabled():
        print(
            "\nan edit's share of the time of generation (miniature, 8 pictures, one thread;"
            " medians of 15 rounds)"
        )
        for name, (median, low, high) in shares(times, skipped=3).items():
            print(f"{name:30s} {median:+.2f} %   (rounds: {low:+.2f} to {high:+.2f} %)")
        for name, change in (("spatial", move), ("global", push)):
            share = share_inside(lambda timed: work(Edit(HOOKPOINT, timed)), change)
            print(f"inside the {name} change, every step: {share:.2f} % of the rest of the run")
    assert not torch.equal(work(Edit(HOOKPOINT, move))(), work()())
    assert torch.equal(work(Edit(HOOKPOINT, move, window=(0.99, 0.9)))(), work()())


def test_the_cost_of_an_edit_at_the_true_size_of_stable_diffusion(capsys):
    """Random weights, on which an edit's arithmetic does not depend; one picture, two steps."""
    pipe = sd()
    pipe.unet = random_unet()
    pipe.text_encoder = text_encoder(hidden_size=768, num_attention_heads=12)
    pipe.set_progress_bar_config(disable=True)
    sae = SparseAutoencoder(1280, 5120, TopK(k=10), seed=0)
    direction = torch.nn.functional.normalize(torch.ones(1280), dim=0)
    move = SpatialMove(sae, direction, Region("top_left"), strength=1.0)
    hookpoint = "up_blocks.1.attentions.0"
    edit = Edit(hookpoint, move)
    options = {"steps": 2, "guidance": 7.5, "decode": False, "height": 512, "width": 512}

    def work(*edits):
        def run():
            with steer(pipe, edits) if edits else nullcontext():
                return generate(pipe, ["a cat"], [0], **options).latents

        return run

    works: dict[str, Work] = {"no edit": work(), "spatial, every step": work(edit)}
    times = in_turns(works, rounds=4, clock=time.process_time)
    with capsys.disabled():
        print(
            "\nthe same for Stable Diffusion 1.4's U-Net, 16 x 16 x 1280 and 5,120 latents (4"
            " rounds)"
        )
        for name, (median, low, high) in shares(times, skipped=0).items():
            print(f"{name:30s} {median:+.2f} %   (rounds: {low:+.2f} to {high:+.2f} %)")
        share = share_inside(lambda timed: work(Edit(hookpoint, timed)), move)
        print(f"inside the change, every step: {share:.2f} % of the rest of the run")
    assert not torch.equal(work(edit)(), work()())
