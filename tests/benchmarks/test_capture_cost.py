"""The cost of capture: generation with and without hooks, in turns. `make bench` prints ratios."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from diffusae.backbone.load import load_pipeline
from diffusae.backbone.schedule import timestep_at
from diffusae.capture.attention import capture_cross_attention
from diffusae.capture.generate import generate
from diffusae.capture.hooks import hook_blocks
from diffusae.miniature.shipped import SHIPPED

pytestmark = pytest.mark.slow

HOOKPOINTS = {
    "down": "down_blocks.0.attentions.0",
    "mid": "mid_block.attentions.0",
    "up": "up_blocks.0.attentions.1",
}
STEPS, PICTURES, ROUNDS = 50, 2, 11


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median of paired ratios, and its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).choice(ratios, size=(4000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return statistics.median(ratios), float(low), float(high)


def test_generation_with_capture_against_generation_without() -> None:
    """The default study: three blocks and both branches at three of 50 steps.

    Also with the attention to the text, and with hooks that have nothing to do.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = load_pipeline(SHIPPED, dtype=torch.float32, device=device)
    timesteps = [timestep_at(pipe.scheduler, STEPS, t) for t in (1.0, 0.5, 0.0)]
    captions, seeds = ["a red fish and a blue house , flat"] * PICTURES, list(range(PICTURES))

    def run(**options: object) -> None:
        generate(pipe, captions, seeds, steps=STEPS, guidance=4.0, decode=False, **options)  # type: ignore[arg-type]
        if device == "cuda":
            torch.cuda.synchronize()

    def captured() -> None:
        run(hookpoints=HOOKPOINTS, timesteps=timesteps)

    def with_attention() -> None:
        with capture_cross_attention(pipe, timesteps):
            captured()

    def idle() -> None:
        with hook_blocks(pipe, HOOKPOINTS, lambda *_: None, timesteps=[-1.0]):
            run()

    works: dict[str, Callable[[], object]] = {"without": run, "again": run, "idle hooks": idle}
    works |= {"updates": captured, "updates and attention": with_attention}
    # On a CPU the process's own seconds: other programs would hide a difference of 1 %.
    clock = time.perf_counter if device == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-1, ROUNDS):  # a first round that does not count
        for name, work in works.items():
            start = clock()
            work()
            if number >= 0:
                times[name].append(clock() - start)
    for name in list(works)[1:]:
        ratios = [taken / base for taken, base in zip(times[name], times["without"], strict=True)]
        median, low, high = interval(ratios)
        least = min(times[name]) / min(times["without"])
        print(
            f"\ngeneration, {PICTURES} pictures of {STEPS} steps, {device}, {name}: {median:.4f} x"
            f" without [{low:.4f}, {high:.4f}]; fastest of {ROUNDS}: {least:.4f} x"
        )
    ratio, *_ = interval([a / b for a, b in zip(times["updates"], times["without"], strict=True)])
    assert 0.5 < ratio < 1.5  # otherwise the machine was too noisy


@contextmanager
def timed_hooks() -> Iterator[list[float]]:
    """[CPU seconds spent in all hooks that are registered inside the context]."""
    spent = [0.0]

    def timed(register: Callable[..., object]) -> Callable[..., object]:
        def registering(
            module: nn.Module, hook: Callable[..., object], **options: object
        ) -> object:
            def counting(*args: object, **kwargs: object) -> object:
                start = time.process_time()
                try:
                    return hook(*args, **kwargs)
                finally:
                    spent[0] += time.process_time() - start

            return register(module, counting, **options)

        return registering

    with pytest.MonkeyPatch.context() as patch:
        for name in ("register_forward_hook", "register_forward_pre_hook"):
            patch.setattr(nn.Module, name, timed(getattr(nn.Module, name)))
        yield spent


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="an accelerator works on while its hooks return"
)
@pytest.mark.parametrize("attention", [False, True])
def test_the_share_of_a_generation_that_is_spent_in_hooks(attention: bool) -> None:
    """Hooks and the rest of the same run: steadier than two runs on a busy machine."""
    pipe = load_pipeline(SHIPPED, dtype=torch.float32, device="cpu")
    timesteps = [timestep_at(pipe.scheduler, STEPS, t) for t in (1.0, 0.5, 0.0)]
    captions, seeds = ["a red fish and a blue house , flat"] * PICTURES, list(range(PICTURES))
    options = {"steps": STEPS, "guidance": 4.0, "decode": False, "timesteps": timesteps}
    shares = []
    for _ in range(5):
        start = time.process_time()
        reading = capture_cross_attention(pipe, timesteps) if attention else nullcontext()
        with timed_hooks() as spent, reading:
            generate(pipe, captions, seeds, hookpoints=HOOKPOINTS, **options)
        whole = time.process_time() - start
        shares.append(spent[0] / (whole - spent[0]))
    median, low, high = interval(shares)
    what = "updates and attention" if attention else "updates"
    print(
        f"\nin hooks, {PICTURES} pictures of {STEPS} steps, {what}: {median:.4f} of the rest"
        f" [{low:.4f}, {high:.4f}]"
    )
    assert 0 < median < 0.5
