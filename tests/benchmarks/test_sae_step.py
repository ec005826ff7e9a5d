"""Our training step beside those of public libraries; the cost of choosing latents in few bits."""

import statistics
import time
from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.figures import show_and_keep
from benchmarks.paired import Work, in_turns
from benchmarks.public_trainers import LONG_AGO, public_trainers
from diffusae.sae import sparsity
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.dense_product import IN_8_BITS, ROUNDS, WAYS
from diffusae.sae.module import ADAM_EPSILON, SAEModule, adam
from diffusae.sae.precision import fastest
from diffusae.sae.settings import KernelsName, SelectionPrecision
from diffusae.sae.sparsity import TopK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

D_IN, EXPANSION, K, BATCH, DEAD = 1280, 4, 20, 4096, 1024
D_SAE = EXPANSION * D_IN
PRECISIONS: tuple[SelectionPrecision, ...] = ("float32", "bfloat16", "int8")
STEPS, LAST = 200, 10
TOLERANCE = 0.005


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Ours:
    """`SAEModule`'s training step without Lightning's loop."""

    def __init__(
        self,
        x: Tensor,
        precision: SelectionPrecision,
        *,
        dead: int = 0,
        k_aux: int = 256,
        lr: float = 1e-4,
        kernels: KernelsName = "torch",
        encoder_norm: float = 1.0,
        d_sae: int | None = None,
        k: int = K,
    ) -> None:
        d_in = x.shape[1]
        sae = SparseAutoencoder(
            d_in, d_sae or EXPANSION * d_in, TopK(k), selection_precision=precision,
            kernels=kernels, encoder_norm=encoder_norm,
        )  # fmt: skip
        module = SAEModule(sae, dead_after_vectors=LONG_AGO // 2, k_aux=k_aux, lr=lr)
        self.module = module.to(x.device)
        self.module.initialise(x)
        self.dead = dead
        self.module.vectors_since_fired[:dead] = LONG_AGO
        self._step = self.module.step_of(adam(sae.parameters(), self.module))

    def step(self, x: Tensor) -> Tensor:
        """The loss, which the next step may overwrite."""
        self.module.vectors_since_fired[: self.dead] = LONG_AGO
        return self._step({"": x}).losses

    def reconstructed(self, x: Tensor) -> Tensor:
        return self.module.autoencoder(x)  # type: ignore[no-any-return]


class Dense:
    """The same step written densely, with autograd and plain Adam: the reference of the losses."""

    def __init__(self, x: Tensor, *, lr: float) -> None:
        d_in = x.shape[1]
        self.sae = SparseAutoencoder(d_in, EXPANSION * d_in, TopK(K))
        module = SAEModule(self.sae, dead_after_vectors=LONG_AGO)
        module.initialise(x)
        self.variance = module.total_variance
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=lr, eps=ADAM_EPSILON)

    def step(self, x: Tensor) -> float:
        sae = self.sae
        x = sae.scale(x)
        dense = F.linear(x - sae.b, sae.W_enc).relu()
        top = torch.topk(dense, K, dim=1)
        z = torch.zeros_like(dense).scatter(1, top.indices, top.values)
        loss = (z @ sae.W_dec + sae.b - x).square().sum() / len(x) / self.variance
        self.optimizer.zero_grad()
        loss.backward()
        sae.project_decoder_gradient()
        self.optimizer.step()
        sae.project()
        return float(loss.detach())

    def reconstructed(self, x: Tensor) -> Tensor:
        return self.sae(x)  # type: ignore[no-any-return]


def batch_of(directions: Tensor, seed: int, *, rows: int = BATCH) -> Tensor:
    """Vectors that are sums of 20 directions and noise that no dictionary can explain."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(directions), (rows, K), generator=generator)
    strength = torch.rand(rows, K, generator=generator)
    noise = torch.randn(rows, directions.shape[1], generator=generator)
    sums = F.embedding_bag(chosen, directions, per_sample_weights=strength, mode="sum")
    return sums + 0.02 * noise


def planted_directions(d_in: int = D_IN, *, seed: int = 0) -> Tensor:
    # With seed 0, the autoencoders' own, they would start from these very directions.
    generator = torch.Generator().manual_seed(2504 + seed)
    drawn = torch.randn(EXPANSION * d_in // 2, d_in, generator=generator)
    return F.normalize(drawn, dim=1)


@pytest.mark.parametrize("dead", [0, DEAD], ids=["without_auxk", "with_auxk"])
def test_our_step_beside_the_public_ones(dead):
    directions = planted_directions()
    # One batch again and again would soon be known by heart.
    batches = cycle([batch_of(directions, seed) for seed in range(1, 9)])
    x = next(batches)
    ours = {f"ours, {precision}": Ours(x, precision, dead=dead) for precision in PRECISIONS}
    if dead:  # the libraries take d_in / 2 dead latents of a row
        for precision in PRECISIONS:
            trainer = Ours(x, precision, dead=dead, k_aux=D_IN // 2)
            ours[f"ours, {precision}, k_aux {D_IN // 2}"] = trainer
    steps: dict[str, Work] = {
        name: lambda trainer=trainer: trainer.step(next(batches))
        for name, trainer in fit(ours, batches).items()
    }
    print(
        f"\nSAE step, d_in {D_IN}, d_sae {D_SAE}, k {K}, batch {BATCH}, {dead} dead latents, one"
        " thread"
    )
    for name, trainer in public_trainers(D_IN, D_SAE, K, dead=dead).items():
        steps[name] = lambda trainer=trainer: trainer.step(next(batches))
    times = in_turns(steps, rounds=9, clock=time.process_time)
    rows = rows_of(times)
    size = f"d_in {D_IN}, d_sae {D_SAE}, k {K}, batch {BATCH}"
    about = {"size": size, "dead_latents": dead, "clock": "processor time"}
    show_and_keep("step-with-auxk" if dead else "step", rows, device="cpu", **about)
    assert min(row["ms"] for row in rows) > 0


def fit(ours: Mapping[str, Ours], batches: Iterator[Tensor]) -> dict[str, Ours]:
    """Ours without those in precisions that this processor multiplies by software, which would take
    the benchmark's time. Search in float32 chooses its way before.
    """
    seconds = {}
    for name, trainer in ours.items():
        for _ in range(1 + ("float32" in name) * len((*WAYS, IN_8_BITS)) * ROUNDS):
            start = time.process_time()
            trainer.step(next(batches))
            seconds[name] = time.process_time() - start
    bound = 3 * seconds["ours, float32"]
    for name in (name for name in ours if seconds[name] > bound):
        print(f"\n{name}: {seconds[name]:.1f} s a step, which is left out")
    return {name: trainer for name, trainer in ours.items() if seconds[name] <= bound}


def rows_of(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for every trainer, with its time over ours in every precision."""
    columns = {f"times_{precision}": f"ours, {precision}" for precision in PRECISIONS}
    columns["times_640"] = f"ours, {fastest('cpu')}, k_aux {D_IN // 2}"
    return [
        {
            "trainer": name,
            "ms": 1e3 * statistics.median(seconds),
            "vectors_per_second": BATCH / statistics.median(seconds),
            **{
                column: statistics.median(a / b for a, b in zip(seconds, times[own], strict=True))
                for column, own in columns.items()
                if own in times
            },
        }
        for name, seconds in times.items()
    ]


def test_losses_after_200_steps_beside_the_dense_step():
    """At the size and the learning rate of the timed steps."""
    losses = losses_at_the_end(D_IN, BATCH, directions=planted_directions(), first_seed=1, lr=1e-4)
    print(
        f"\nloss, mean of the last {LAST} of {STEPS} steps; the dense float32 step:"
        f" {losses['dense']:.5f}"
    )
    for precision in PRECISIONS:
        excess = losses[precision] / losses["dense"] - 1
        print(f"  ours, {precision}: {100 * excess:+.3f} %")
        assert abs(excess) < TOLERANCE


def test_losses_where_they_fall_fast_beside_the_dense_step_with_rows_in_another_order():
    """Fast losses amplify rounding; the dense step on reordered rows shows by how much."""
    d_in, rows, runs = D_IN // 4, BATCH // 4, 10
    excess: dict[str, list[float]] = {}
    for run in range(runs):
        directions = planted_directions(d_in, seed=run)
        options = {"first_seed": 1 + STEPS * run, "lr": 2e-3, "reordered": True}
        losses = losses_at_the_end(d_in, rows, directions=directions, **options)
        for name, loss in losses.items():
            excess.setdefault(name, []).append(100 * (loss / losses["dense"] - 1))
    print(
        f"\nloss after {STEPS} steps beside the dense step's, d_in {d_in}, batch {rows}, {runs}"
        " data sets"
    )
    for name, percent in excess.items():
        mean, error = statistics.mean(percent), statistics.stdev(percent) / runs**0.5
        print(f"  {name}: {mean:+.2f} % (standard error {error:.2f})")
        assert abs(mean) < 100 * TOLERANCE + 2 * error


def losses_at_the_end(
    d_in: int, rows: int, *, directions: Tensor, first_seed: int, lr: float, reordered: bool = False
) -> dict[str, float]:
    """Mean training losses of the last steps, on the same batches; "reordered": permuted rows."""
    first = batch_of(directions, first_seed, rows=rows)
    trainers: dict[str, Dense | Ours] = {"dense": Dense(first, lr=lr)}
    if reordered:
        trainers["reordered"] = Dense(first, lr=lr)
    trainers |= {precision: Ours(first, precision, lr=lr) for precision in PRECISIONS}
    losses: dict[str, list[float]] = {name: [] for name in trainers}
    for step in range(STEPS):
        x = batch_of(directions, first_seed + step, rows=rows)
        for name, trainer in trainers.items():
            losses[name].append(float(trainer.step(x.flip(0) if name == "reordered" else x)))
    return {name: statistics.mean(values[-LAST:]) for name, values in losses.items()}


@pytest.mark.parametrize("lr", [1e-3, 3e-3])
def test_fvu_of_all_trainers_after_200_equal_steps_at_a_quarter_of_the_size(lr):
    """Libraries differ in their initialisation; data, batches and learning rate are the same."""
    d_in, rows = D_IN // 4, BATCH // 4
    directions = planted_directions(d_in)
    first, new = (batch_of(directions, seed, rows=rows) for seed in (1, 10**6))
    trainers: dict[str, Any] = {f"ours, {name}": Ours(first, name, lr=lr) for name in PRECISIONS}
    for norm in (0.58, 0.1):  # the first norms of eai-sparsify's and sae-lens' encoders
        trainers[f"ours, encoder_norm {norm}"] = Ours(first, "float32", lr=lr, encoder_norm=norm)
    trainers["dense float32"] = Dense(first, lr=lr)
    trainers |= public_trainers(d_in, EXPANSION * d_in, K, lr=lr)
    for step in range(STEPS):
        x = batch_of(directions, 1 + step, rows=rows)
        for trainer in trainers.values():
            trainer.step(x)
    print(
        f"\nFVU of new data after {STEPS} steps, d_in {d_in}, d_sae {EXPANSION * d_in}, batch"
        f" {rows}, lr {lr}"
    )
    spread = (new - new.mean(dim=0)).square().sum()
    fvu = {
        name: float((trainer.reconstructed(new) - new).square().sum() / spread)
        for name, trainer in trainers.items()
    }
    for name, value in fvu.items():
        print(f"  {name}: {value:.4f}")
    assert max(fvu.values()) < 1
    if lr == 1e-3:  # at the higher rate rounding has grown too much by then
        for precision in PRECISIONS:
            assert fvu[f"ours, {precision}"] == pytest.approx(fvu["dense float32"], rel=TOLERANCE)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_how_many_latents_a_search_in_few_bits_misses(precision, monkeypatch):
    """Of float32's K of every vector, at five moments, with and without spare candidates."""
    rows, directions = 1024, planted_directions()
    trainer = Ours(batch_of(directions, 1, rows=rows), precision, lr=3e-3)
    sae = trainer.module.autoencoder

    def chosen(x: Tensor, how: SelectionPrecision, spare: int) -> Tensor:
        sae.selection_precision = how
        with monkeypatch.context() as patch:
            patch.setattr(sparsity, "SPARE", spare)
            codes = sae.scaled_pass(x).codes
        sae.selection_precision = precision
        mask = torch.zeros(rows, D_SAE, dtype=torch.bool)
        return mask.scatter_(1, codes.indices, codes.values > 0)

    print(
        f"\nlatents of {K} a vector that a search in {precision} misses, d_in {D_IN}, d_sae {D_SAE}"
    )
    for step in range(161):
        x = batch_of(directions, 1 + step, rows=rows)
        if step % 40 == 0:
            exact = chosen(x, "float32", 0)
            missed = {
                spare: float((exact & ~chosen(x, precision, spare)).sum()) / rows
                for spare in (0, sparsity.SPARE)
            }
            counts = [
                f"{count:.4f} with {spare} spare candidates" for spare, count in missed.items()
            ]
            print(f"  after {step} steps: {', '.join(counts)}")
            assert missed[sparsity.SPARE] < 0.001 * K
        trainer.step(x)
