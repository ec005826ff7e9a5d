"""A training step on a GPU: ours, in every way it can be computed, and those of public libraries.

`make bench-gpu` prints one table: times in turns on the same data, the share of what the measured
product and copy rates allow, memory, and losses after equal steps. It needs no network. `make
bench` runs the same code on the CPU at tiny sizes, to test it; those times mean nothing.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.figures import machine, show_and_keep
from benchmarks.paired import in_turns
from benchmarks.public_trainers import PUBLIC
from benchmarks.test_sae_step import Ours
from diffusae.errors import UserError
from diffusae.sae.kernels import check_device, fitting, kernels_by_name
from diffusae.sae.largest import largest
from diffusae.sae.replay import WARM_UP
from diffusae.sae.settings import KernelsName
from diffusae.sae.sparse_ops import TORCH, Entries, Kernels
from diffusae.sae.sparsity import TopK

ADAM_BYTES = 28
"""Of one weight in a step: it, its gradient and two moments read, it and the moments written."""
LAST = 10
"""Losses are means over so many last steps."""
FLOAT32 = "float32 throughout"
"""The step that losses are compared with."""


class Size(NamedTuple):
    d_in: int
    d_sae: int
    k: int
    batch: int
    dead: int = 0
    losses: bool = False
    """Whether losses after equal steps are compared too."""

    @property
    def shown(self) -> str:
        aux = f", AuxK ({self.dead} dead)" if self.dead else ""
        return f"{self.d_in} x {self.d_sae}, k {self.k}, batch {self.batch:,}{aux}"


class Bench(NamedTuple):
    """The device, the sizes, and how long to measure."""

    device: str
    sizes: tuple[Size, ...]
    rounds: int
    steps: int
    """Steps of a trainer's turn."""
    equal_steps: int
    large: int
    """Rows and columns of the matrices whose product and copy give the limits."""


GPU = Bench(
    "cuda",
    (
        Size(1280, 5120, 20, 4096, losses=True),
        Size(1280, 5120, 20, 4096, dead=1024),
        Size(1280, 5120, 20, 16384),
        Size(1280, 20480, 20, 8192),
        Size(3072, 49152, 32, 8192, losses=True),
    ),
    rounds=7,
    steps=8,
    equal_steps=300,
    large=16384,
)
TINY = Bench(
    "cpu",
    (Size(32, 128, 4, 64, losses=True), Size(32, 128, 4, 64, dead=24)),
    rounds=2,
    steps=2,
    equal_steps=30,
    large=256,
)

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.parametrize(
        "bench",
        [
            pytest.param(
                GPU,
                marks=[
                    pytest.mark.gpu,
                    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
                ],
            ),
            pytest.param(TINY, marks=pytest.mark.slow),
        ],
        ids=["gpu", "tiny_on_cpu"],
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _time_of_all() -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"\nthe whole benchmark took {time.perf_counter() - start:.0f} s")


def milliseconds(works: dict[str, Callable[[], object]], bench: Bench) -> dict[str, list[float]]:
    """Milliseconds of all `works`, in turns, with the device's queue finished."""

    def finished(work: Callable[[], object]) -> None:
        work()
        if bench.device == "cuda":
            torch.cuda.synchronize()

    times = in_turns(
        {name: lambda work=work: finished(work) for name, work in works.items()},
        rounds=bench.rounds,
    )
    return {name: [1e3 * second for second in seconds] for name, seconds in times.items()}


class Rates(NamedTuple):
    """What the device does in a millisecond."""

    operations: float
    """Of a large bfloat16 product."""
    bytes: float
    """Read and written by a large copy."""

    @classmethod
    def of(cls, bench: Bench) -> Rates:
        n = bench.large
        left, right, out = (
            torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(3)
        )
        times = milliseconds(
            {"product": lambda: torch.mm(left, right, out=out), "copy": lambda: out.copy_(left)},
            bench,
        )
        product, copy = (statistics.median(times[name]) for name in ("product", "copy"))
        return cls(2 * n**3 / product, 4 * n**2 / copy)


def least_ms(size: Size, rates: Rates) -> float:
    """The step by its operations and bytes alone: the encoder product; the other four products, as
    dense ones or as rows picked one by one, whatever is less; and Adam.
    """
    product = 2 * size.batch * size.d_in * size.d_sae / rates.operations
    picked = size.batch * size.k * size.d_in * 4 / rates.bytes
    adam = 2 * size.d_in * size.d_sae * ADAM_BYTES / rates.bytes
    return product + 4 * min(product, picked) + adam


def batches(size: Size, count: int, bench: Bench) -> list[Tensor]:
    """Vectors that are sums of k directions and noise that no dictionary can explain."""
    generator = torch.Generator(bench.device).manual_seed(2504)
    options: Any = {"generator": generator, "device": bench.device}
    directions = F.normalize(torch.randn(size.d_sae // 2, size.d_in, **options), dim=1)

    def made() -> Tensor:
        chosen = torch.randint(len(directions), (size.batch, size.k), **options)
        strength = torch.rand(size.batch, size.k, **options)
        sums = F.embedding_bag(chosen, directions, per_sample_weights=strength, mode="sum")
        return sums + 0.02 * torch.randn(size.batch, size.d_in, **options)

    return [made() for _ in range(count)]


@cache
def ways(bench: Bench) -> tuple[KernelsName, ...]:
    """The kernels that run on the device."""
    names: list[KernelsName] = ["dense", "torch"]
    try:
        kernels_by_name("triton")
        check_device("triton", bench.device)
    except UserError as error:
        print(f"  kernels=triton: left out, {error}")
    else:
        names.append("triton")
    return tuple(names)


def auto(size: Size, bench: Bench) -> KernelsName:
    name, _ = fitting(
        "auto",
        device_type=bench.device,
        precision="bfloat16",
        sparsity=TopK(size.k),
        d_sae=size.d_sae,
    )
    return name


def ours(x: Tensor, size: Size, kernels: KernelsName, *, precision: Any = "bfloat16") -> Ours:
    return Ours(x, precision, dead=size.dead, kernels=kernels, d_sae=size.d_sae, k=size.k)


def trainers_of(size: Size, x: Tensor, bench: Bench) -> tuple[dict[str, Any], dict[str, float]]:
    """The trainers that run here, and the gigabytes that a trainer takes at its peak."""
    makers: dict[str, Callable[[], Any]] = {
        f"ours, {name}": lambda name=name: ours(x, size, name) for name in ways(bench)
    }
    makers[f"ours, {FLOAT32}"] = lambda: ours(x, size, "torch", precision="float32")
    makers |= {
        name: lambda kind=kind: kind(size.d_in, size.d_sae, size.k, size.dead, 1e-4, bench.device)
        for name, kind in PUBLIC.items()
    }
    trainers, memory = {}, {}
    for name, make in makers.items():
        if bench.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        try:
            trainers[name] = make()
            for _ in range(WARM_UP + 1):
                trainers[name].step(x)
        except (ImportError, torch.OutOfMemoryError) as error:
            print(f"  {name}: left out, {error}; `make setup-compare` installs libraries")
            trainers.pop(name, None)
            continue
        if bench.device == "cuda":
            memory[name] = (torch.cuda.max_memory_allocated() - before) / 1e9
    return trainers, memory


def test_the_table(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Times of ours and of public libraries, and the losses of ours after equal steps."""
    if bench is TINY:  # its times mean nothing
        monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    rates = Rates.of(bench)
    rows = [row for size in bench.sizes for row in timed(size, bench, rates)]
    limit = {
        "operations_per_second": 1e3 * rates.operations,
        "bytes_per_second": 1e3 * rates.bytes,
        "formula": " ".join((least_ms.__doc__ or "").split()),
    }
    print(
        f"\nSAE steps on {machine(bench.device)}, torch {torch.__version__}: products"
        f" {rates.operations / 1e9:.0f} TFLOP/s in bfloat16, {rates.bytes / 1e6:.0f} GB/s copied."
        f'\n"Of the limit": {limit["formula"]}\nLosses: after {bench.equal_steps} steps with the'
        f" same weights and batches, mean of the last {LAST}."
    )
    show_and_keep("step", rows, device=bench.device, limit=limit, equal_steps=bench.equal_steps)
    assert bench is GPU or len(list(tmp_path.glob("step-*.json"))) == 1
    for row in rows:
        assert row["ms"] > 0
        if row["loss_excess"] is not None:
            assert abs(row["loss_excess"]) < (0.005 if bench is GPU else 0.05)


def timed(size: Size, bench: Bench, rates: Rates) -> list[dict[str, Any]]:
    """A row for every trainer."""
    taken = auto(size, bench)
    (x,) = batches(size, 1, bench)
    trainers, memory = trainers_of(size, x, bench)

    def turn(trainer: Any) -> None:
        for _ in range(bench.steps):
            trainer.step(x)

    times = milliseconds(
        {name: lambda trainer=trainer: turn(trainer) for name, trainer in trainers.items()}, bench
    )
    del trainers
    free(bench)
    losses = losses_after_equal_steps(size, bench) if size.losses else {}
    reference = losses.get(f"ours, {FLOAT32}")
    rows = []
    for name, measured in times.items():
        ms = statistics.median(measured) / bench.steps
        ratios = [a / b for a, b in zip(measured, times[f"ours, {taken}"], strict=True)]
        loss = losses.get(name)
        rows.append(
            {
                "size": size.shown,
                "trainer": name + " (auto)" * (name == f"ours, {taken}"),
                "ms": ms,
                "vectors_per_second": 1e3 * size.batch / ms,
                "times_ours": statistics.median(ratios),
                "of_limit": least_ms(size, rates) / ms,
                "gigabytes": memory.get(name),
                "loss": loss,
                "loss_excess": None if loss is None or not reference else loss / reference - 1,
            }
        )
    return rows


def free(bench: Bench) -> None:
    gc.collect()
    if bench.device == "cuda":
        torch.cuda.empty_cache()


def losses_after_equal_steps(size: Size, bench: Bench) -> dict[str, float]:
    """Of every way of ours, with the same weights, batches and scaling."""
    given = batches(size, 16, bench)
    ends = {}
    for name in (FLOAT32, *ways(bench)):
        kernels, precision = ("torch", "float32") if name == FLOAT32 else (name, "bfloat16")
        trainer = ours(given[0], size, kernels, precision=precision)  # type: ignore[arg-type]
        losses = [
            trainer.step(given[number % len(given)]).clone() for number in range(bench.equal_steps)
        ]
        ends[f"ours, {name}"] = float(torch.stack(losses[-LAST:]).mean())
        del trainer, losses
        free(bench)
    return ends


class Clock(pl.Callback):
    """The time between two steps of a fit."""

    def __init__(self, first: int, last: int, device: str) -> None:
        self.at, self.device = {first: 0.0, last: 0.0}, device

    def on_train_batch_end(self, trainer: pl.Trainer, *_args: Any, **_kwargs: Any) -> None:
        if trainer.global_step in self.at:
            if self.device == "cuda":
                torch.cuda.synchronize()
            self.at[trainer.global_step] = time.perf_counter()

    @property
    def ms_of_a_step(self) -> float:
        (first, start), (last, end) = self.at.items()
        return 1e3 * (end - start) / (last - first)


def test_what_lightnings_loop_costs(bench: Bench) -> None:
    """The step in `Trainer.fit` beside the bare step; batches lie on the device."""
    size, first, last = bench.sizes[0], 20, 20 + bench.equal_steps
    (x,) = batches(size, 1, bench)
    bare = ours(x, size, auto(size, bench))
    for _ in range(first):
        bare.step(x)
    times = milliseconds({"bare": lambda: [bare.step(x) for _ in range(last - first)]}, bench)
    clock = Clock(first, last, bench.device)
    trainer = pl.Trainer(
        max_steps=last,
        max_epochs=-1,
        accelerator="gpu" if bench.device == "cuda" else "cpu",
        devices=1,
        logger=False,
        callbacks=[clock],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = ours(x, size, auto(size, bench)).module
    trainer.fit(module, DataLoader([x] * last, batch_size=None))  # type: ignore[arg-type]
    ms = statistics.median(times["bare"]) / (last - first)
    print(
        f"\na step at batch {size.batch}: bare {ms:.3f} ms, in Lightning's loop"
        f" {clock.ms_of_a_step:.3f} ms ({100 * (clock.ms_of_a_step / ms - 1):+.1f} %)"
    )
    assert clock.ms_of_a_step > 0


def chosen(size: Size, bench: Bench, hot: int) -> Tensor:
    """Latents [batch, k] of random vectors; the first `hot` latents are active in every vector."""
    scores = torch.rand(size.batch, size.d_sae, device=bench.device)
    scores[:, :hot] = 2
    return torch.topk(scores, size.k, dim=1).indices


class Products(NamedTuple):
    """The products of a training step with its entries, without the encoder product."""

    works: dict[str, Callable[[], Tensor]]

    @classmethod
    def of(cls, size: Size, bench: Bench, kernels: Kernels, latents: Tensor) -> Products:
        entries = Entries.every(latents, d_sae=size.d_sae, kernels=kernels)
        generator = torch.Generator(bench.device).manual_seed(1)
        weight, gradient, values = (
            torch.randn(*shape, generator=generator, device=bench.device)
            for shape in ((size.d_sae, size.d_in), (size.batch, size.d_in), (latents.numel(),))
        )
        order, starts = entries.by_column()
        rows, sorted_values = entries.rows[order], values[order]
        return cls(
            {
                "decoding": lambda: entries.times(values, weight),
                "inner products": lambda: entries.inner(gradient, weight),
                "a weight gradient": lambda: kernels.sums_of_rows(
                    gradient, rows, starts, sorted_values, uneven=True
                ),
            }
        )


@pytest.mark.parametrize("hot", [0, 4], ids=["even", "four_latents_active_everywhere"])
def test_parts_of_the_step_that_pick_rows(bench: Bench, hot: int) -> None:
    size, rates = bench.sizes[0], Rates.of(bench)
    print(f"\nparts on {machine(bench.device)}, ms; {hot} latents active everywhere")
    latents = chosen(size, bench, hot)
    kinds = {name: kernels_by_name(name) for name in ways(bench) if name != "dense"}
    assert kinds["torch"] is TORCH
    parts = {name: Products.of(size, bench, kernels, latents) for name, kernels in kinds.items()}
    matrices = 4 * size.d_in * (size.batch + size.d_sae)
    gathered = 4 * size.d_in * size.batch * size.k
    for part, work in parts["torch"].works.items():
        expected = work()
        for kind in parts.values():
            torch.testing.assert_close(kind.works[part](), expected, rtol=1e-4, atol=1e-3)
        times = milliseconds({name: kind.works[part] for name, kind in parts.items()}, bench)
        spent = [f"{name} {statistics.median(measured):.3f}" for name, measured in times.items()]
        print(
            f"  {part}: {', '.join(spent)}; every byte once {matrices / rates.bytes:.3f}, every"
            f" row picked {gathered / rates.bytes:.3f}"
        )


def test_the_search_for_the_largest(bench: Bench) -> None:
    """By groups, as training does it, and by `torch.topk` alone."""
    for size in bench.sizes:
        rows = torch.randn(size.batch, size.d_sae, device=bench.device).bfloat16()
        times = milliseconds(
            {
                "by groups": lambda rows=rows, k=size.k: largest(rows, k),
                "torch.topk": lambda rows=rows, k=size.k: torch.topk(rows, k, sorted=False),
            },
            bench,
        )
        spent = ", ".join(f"{name} {statistics.median(taken):.3f}" for name, taken in times.items())
        print(f"\n{size.k} largest of {size.batch} x {size.d_sae} in bfloat16, ms: {spent}")
        assert len(times) == 2
