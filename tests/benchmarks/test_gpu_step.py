"""A training step on a GPU: ours, with torch's and our own kernels, and those of public libraries.

The matrix limit is printed too. `make bench-gpu` prints everything. `make bench` runs the same code
on the CPU at a tiny size, to test it; those times mean nothing.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.paired import Work, in_turns
from benchmarks.public_trainers import public_trainers
from benchmarks.test_sae_step import EXPANSION, K, Ours, batch_of, planted_directions
from diffusae.errors import UserError
from diffusae.sae.kernels import check_device, kernels_by_name
from diffusae.sae.sparse_ops import TORCH, Entries, Kernels


class Scale(NamedTuple):
    """The device and the size of a benchmark."""

    device: str
    d_in: int
    batch: int
    dead: int
    rounds: int


pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.parametrize(
        "scale",
        [
            pytest.param(
                Scale("cuda", 1280, 4096, 1024, 25),
                marks=[
                    pytest.mark.gpu,
                    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
                ],
            ),
            pytest.param(Scale("cpu", 32, 64, 24, 2), marks=pytest.mark.slow),
        ],
        ids=["gpu", "tiny_on_cpu"],
    ),
]


def milliseconds(works: dict[str, Work], scale: Scale) -> dict[str, list[float]]:
    """Milliseconds of all `works`, in turns, with the device's queue finished."""

    def finished(work: Work) -> None:
        work()
        if scale.device == "cuda":
            torch.cuda.synchronize()

    times = in_turns(
        {name: lambda work=work: finished(work) for name, work in works.items()},
        rounds=scale.rounds,
    )
    return {name: [1e3 * second for second in seconds] for name, seconds in times.items()}


def ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def triton_runs(device_type: str) -> bool:
    try:
        kernels_by_name("triton")
        check_device("triton", device_type)
    except UserError as error:
        print(f"  triton: left out, {error}")
        return False
    return True


@pytest.mark.parametrize("with_auxk", [False, True], ids=["without_auxk", "with_auxk"])
def test_our_step_with_torch_compile(scale: Scale, with_auxk: bool) -> None:
    """A graph ends where the step looks at numbers (is the loss finite, which latents are dead),
    so the loss is compiled in parts. The projections are whole graphs.
    """
    if "nnsight" in sys.modules:
        pytest.skip("nnsight, which dictionary-learning brings, replaces parts of torch.compile")
    x = batch_of(planted_directions(scale.d_in), 1, rows=scale.batch).to(scale.device)
    made = {
        name: Ours(x, "bfloat16", dead=scale.dead if with_auxk else 0)
        for name in ("as it is", "projections compiled", "projections and loss compiled")
    }
    for name in ("projections compiled", "projections and loss compiled"):
        sae = made[name].module.autoencoder
        sae.project = torch.compile(sae.project, fullgraph=True)  # type: ignore[method-assign]
        sae.project_decoder_gradient = torch.compile(sae.project_decoder_gradient)  # type: ignore[method-assign]
    module = made["projections and loss compiled"].module
    module.training_loss = torch.compile(module.training_loss)  # type: ignore[method-assign]
    works: dict[str, Work] = {
        name: lambda trainer=trainer: trainer.step(x) for name, trainer in made.items()
    }
    for work in works.values():
        work()  # the first shape of the dead latents is compiled separately
    times = milliseconds(works, scale)
    print(f"\nour step, {'with' if with_auxk else 'without'} AuxK, on {device_name(scale)}")
    for name, measured in times.items():
        print(
            f"  {name}: {statistics.median(measured):.2f} ms,"
            f" {ratio(measured, times['as it is']):.2f} x as it is"
        )
    losses = [trainer.step(x) for trainer in made.values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)


@contextmanager
def float32_products_in(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("precision", ["highest", "high"], ids=["float32", "tf32"])
@pytest.mark.parametrize("with_auxk", [False, True], ids=["without_auxk", "with_auxk"])
def test_our_step_beside_the_public_ones_and_the_matrix_limit(
    scale: Scale, with_auxk: bool, precision: str
) -> None:
    dead = scale.dead if with_auxk else 0
    x = batch_of(planted_directions(scale.d_in), 1, rows=scale.batch).to(scale.device)
    d_sae = EXPANSION * scale.d_in
    print(
        f"\nSAE step on {device_name(scale)}, d_in {scale.d_in}, d_sae {d_sae}, k {K}, batch"
        f" {scale.batch}, {dead} dead latents; float32 products: {precision}"
    )
    with float32_products_in(precision):
        trainers: dict[str, Any] = {"ours, torch": Ours(x, "bfloat16", dead=dead)}
        if triton_runs(scale.device):
            trainers["ours, triton"] = Ours(x, "bfloat16", dead=dead, kernels="triton")
        ours = list(trainers)
        trainers |= public_trainers(scale.d_in, d_sae, K, dead=dead, device=scale.device)
        works: dict[str, Work] = {
            name: lambda trainer=trainer: trainer.step(x) for name, trainer in trainers.items()
        }
        low, weights = x.bfloat16(), torch.randn(d_sae, scale.d_in, device=x.device).bfloat16()
        out = torch.empty(scale.batch, d_sae, dtype=torch.bfloat16, device=x.device)
        limit = "matrix limit: the bfloat16 encoder product"
        works[limit] = lambda: torch.mm(low, weights.T, out=out)
        times = milliseconds(works, scale)
    for name, measured in times.items():
        middle = statistics.median(measured)
        ratios = ", ".join(
            f"{ratio(measured, times[mine]):.2f} x {mine}" for mine in ours if mine != name
        )
        print(f"  {name}: {middle:.2f} ms, {1e3 * scale.batch / middle:,.0f} vectors/s, {ratios}")
        assert middle > 0


def device_name(scale: Scale) -> str:
    return torch.cuda.get_device_name() if scale.device == "cuda" else "the CPU"


def bytes_per_ms(scale: Scale) -> float:
    """The memory's speed: bytes read and written by a copy much larger than a cache."""
    n = 2**28 if scale.device == "cuda" else 2**20
    source = torch.empty(n, dtype=torch.float32, device=scale.device)
    target = torch.empty_like(source)
    times = milliseconds({"copy": lambda: target.copy_(source)}, scale)["copy"]
    return 2 * n * source.element_size() / statistics.median(times)


def chosen(scale: Scale, hot: int) -> Tensor:
    """Latents [batch, k] of random vectors; the first `hot` latents are active in every vector."""
    generator = torch.Generator().manual_seed(0)
    d_sae = EXPANSION * scale.d_in
    rows = [
        hot + torch.randperm(d_sae - hot, generator=generator)[: K - hot]
        for _ in range(scale.batch)
    ]
    always = torch.arange(hot).expand(scale.batch, hot)
    return torch.cat([always, torch.stack(rows)], dim=1).to(scale.device)


class Products(NamedTuple):
    """The products of a training step with its entries, without the encoder product."""

    works: dict[str, Work]
    gathered: dict[str, int]
    """Bytes that are read row by row."""
    least: dict[str, int]
    """Bytes that have to be read and written once."""


def products(scale: Scale, kernels: Kernels, hot: int) -> Products:
    generator = torch.Generator().manual_seed(1)
    d_sae, n = EXPANSION * scale.d_in, K * scale.batch
    entries = Entries.every(chosen(scale, hot), d_sae=d_sae, kernels=kernels)
    weight, gradient, values = (
        torch.randn(*shape, generator=generator).to(scale.device)
        for shape in ((d_sae, scale.d_in), (scale.batch, scale.d_in), (n,))
    )
    order, starts = entries.by_column()
    rows, sorted_values = entries.rows[order], values[order]
    matrices, row = 4 * scale.d_in * (scale.batch + d_sae), 4 * scale.d_in
    return Products(
        {
            "decoding": lambda: entries.times(values, weight),
            "inner products": lambda: entries.inner(gradient, weight),
            "a weight gradient": lambda: kernels.sums_of_rows(
                gradient, rows, starts, sorted_values, uneven=True
            ),
        },
        {"decoding": n * row, "inner products": n * row, "a weight gradient": n * row},
        dict.fromkeys(("decoding", "inner products", "a weight gradient"), matrices),
    )


@pytest.mark.parametrize("hot", [0, 4], ids=["even", "four_latents_active_everywhere"])
def test_our_kernels_beside_torchs_and_the_memory(scale: Scale, hot: int) -> None:
    rate = bytes_per_ms(scale)
    print(
        f"\nparts of a step on {device_name(scale)}, {hot} latents active everywhere;"
        f" {rate / 1e6:.0f} GB/s copied"
    )
    kinds = {"torch": TORCH}
    if triton_runs(scale.device):
        kinds["triton"] = kernels_by_name("triton")
    parts = {name: products(scale, kernels, hot) for name, kernels in kinds.items()}
    for part, work in parts["torch"].works.items():
        expected: Any = work()
        for kind in parts.values():
            torch.testing.assert_close(kind.works[part](), expected, rtol=1e-4, atol=1e-3)
        times = milliseconds({name: kind.works[part] for name, kind in parts.items()}, scale)
        spent = [f"{name} {statistics.median(measured):.3f} ms" for name, measured in times.items()]
        if "triton" in times:
            spent.append(f"triton is {ratio(times['torch'], times['triton']):.2f} times as fast")
        least, gathered = (
            bytes_[part] / rate for bytes_ in (parts["torch"].least, parts["torch"].gathered)
        )
        print(
            f"  {part}: {', '.join(spent)}; every byte once from memory {least:.3f} ms, every row"
            f" picked {gathered:.3f} ms"
        )


def test_other_sizes_of_our_kernels(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of other sizes than those in `triton_kernels`."""
    if not triton_runs(scale.device):
        pytest.skip("no Triton kernels run here")
    from diffusae.sae import triton_kernels

    print(
        "\nms of decoding, inner products and a weight gradient with a hot latent on"
        f" {device_name(scale)}"
    )
    settings = list(product((4, 8, 16), (128, 256), (2, 4, 8)))
    for entries, columns, warps in settings if scale.device == "cuda" else settings[:2]:
        monkeypatch.setattr(triton_kernels, "ENTRIES", entries)
        monkeypatch.setattr(triton_kernels, "COLUMNS", columns)
        monkeypatch.setattr(triton_kernels, "WARPS", warps)
        times = milliseconds(products(scale, triton_kernels.KERNELS, 1).works, scale)
        spent = ", ".join(f"{statistics.median(measured):.3f}" for measured in times.values())
        print(f"  {entries} entries, {columns} columns, {warps} warps: {spent}")
