"""Our Triton kernels against torch's own. Where there is no GPU, Triton's interpreter carries them
out on the CPU, and they are compiled for GPUs all the same.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffusae.errors import UserError
from diffusae.sae import sparse_ops
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.module import SAEModule
from diffusae.sae.sparse_ops import Entries, inner_products, sums_of_rows
from diffusae.sae.sparsity import BatchTopK, MatryoshkaTopK, Sparsity, TopK

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip(
        "TRITON_INTERPRET=1 has to be set before anything is imported", allow_module_level=True
    )
pytest.importorskip("triton")

from diffusae.sae import triton_kernels  # noqa: E402

pytestmark = pytest.mark.gpu if DEVICE == "cuda" else pytest.mark.compare


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    """Long sums that are cut into several chunks, without long interpretation."""
    monkeypatch.setattr(triton_kernels, "CHUNK", 16)


def entries_of(lengths: list[int], d: int, dtype: torch.dtype = torch.float32):
    """(dense [9, d], rows, starts, weights) of as many entries a sum as `lengths` says."""
    generator = torch.Generator().manual_seed(sum(lengths) + d)
    counts = torch.tensor(lengths)
    dense = torch.randn(9, d, generator=generator, dtype=dtype)
    rows = torch.randint(9, (int(counts.sum()),), generator=generator)
    weights = torch.rand(len(rows), generator=generator, dtype=dtype)
    return [tensor.to(DEVICE) for tensor in (dense, rows, counts.cumsum(0) - counts, weights)]


LENGTHS = {
    "fixed_k": [5] * 6,
    "empty_sums": [0, 3, 0, 0, 1, 0],
    "ends_at_chunks": [16, 16, 15, 1, 17, 0, 31],
    "one_hot_latent": [3, 1, 120, 0, 2],
    "nothing": [0, 0],
}


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_sums_of_rows_are_torchs_to_rounding(lengths, uneven):
    for d in (1, 7, 300):  # less than one block of columns, and more than one
        given = entries_of(lengths, d)
        found = triton_kernels.sums_of_rows(*given, uneven=uneven)
        torch.testing.assert_close(found, sums_of_rows(*given), rtol=1e-5, atol=1e-5)


def test_sums_are_the_same_bits_at_every_call():
    given = entries_of(LENGTHS["one_hot_latent"], 40)
    first = triton_kernels.sums_of_rows(*given, uneven=True)
    assert torch.equal(triton_kernels.sums_of_rows(*given, uneven=True), first)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_inner_products_are_torchs_to_rounding(lengths):
    for d in (7, 300):
        right, columns, starts, _ = entries_of(lengths, d)
        entries = Entries(columns, starts, d_sae=9)
        left = torch.randn(len(lengths), d, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        given = (left, right, entries.rows, columns, starts)
        expected = inner_products(*given) if len(columns) else left.new_empty(0)
        torch.testing.assert_close(
            triton_kernels.inner_products(*given), expected, rtol=1e-5, atol=1e-5
        )


def test_low_precision_inputs_are_summed_in_float32():
    dense, rows, starts, weights = entries_of(LENGTHS["one_hot_latent"], 40)
    low = dense.bfloat16()
    found = triton_kernels.sums_of_rows(low, rows, starts, weights, uneven=True)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, sums_of_rows(low.float(), rows, starts, weights).bfloat16())


def test_double_precision_is_kept():
    given = entries_of(LENGTHS["one_hot_latent"], 40, torch.float64)
    found = triton_kernels.sums_of_rows(*given, uneven=True)
    torch.testing.assert_close(found, sums_of_rows(*given), rtol=1e-13, atol=1e-13)


SPARSITIES: dict[str, Sparsity] = {
    "topk": TopK(4),
    "batchtopk": BatchTopK(4),
    "matryoshka": MatryoshkaTopK(4, prefixes=[5, 11]),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SPARSITIES)
def test_a_training_step_has_the_gradients_of_torchs_kernels(name, precision):
    x = torch.randn(24, 20, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    x[:, 0] += 3  # latent 0 becomes active nearly everywhere
    losses, gradients = [], []
    for kernels in ("torch", "triton"):
        sae = SparseAutoencoder(
            20,
            32,
            SPARSITIES[name],
            encoder_bias=True,
            selection_precision=precision,
            kernels=kernels,
            device=DEVICE,
        )
        with torch.no_grad():
            sae.W_enc[0] = 0
            sae.W_enc[0, 0] = 1
        module = SAEModule(sae, dead_after_vectors=1000, k_aux=8).to(DEVICE)
        module.initialise(x)
        module.vectors_since_fired[8:24] = 2000  # AuxK acts
        loss, measured = module.gradients(x)
        assert measured["aux_loss"] > 0
        losses.append(loss.detach())
        gradients.append(
            {key: value.grad for key, value in sae.named_parameters() if value.grad is not None}
        )
    torch.testing.assert_close(losses[1], losses[0])
    assert gradients[0].keys() == gradients[1].keys() >= {"W_enc", "W_dec", "b", "b_enc"}
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-6)


def test_the_step_calls_these_kernels(monkeypatch):
    def never(*_arguments, **_options):
        raise AssertionError("torch's kernel was called")

    sae = SparseAutoencoder(20, 32, TopK(4), kernels="triton", device=DEVICE)
    x = torch.randn(6, 20, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    monkeypatch.setattr(sparse_ops.F, "embedding_bag", never)
    sae.scaled_pass(x).errors.square().sum().backward()
    assert sae.W_enc.grad is not None and sae.W_enc.grad.abs().sum() > 0


@pytest.mark.skipif(DEVICE == "cuda", reason="needs a device that is none of Triton's")
def test_tensors_on_a_cpu_are_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(UserError, match=r"CUDA.*'cpu'.*trainer.kernels=auto"):
        triton_kernels.sums_of_rows(*entries_of([1], 8))


def test_every_kernel_compiles_for_gpus_without_spilling_registers(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).parents[1] / "compile_triton_kernels.py"
    done = subprocess.run(
        [sys.executable, script, "80", "90"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = json.loads(done.stdout)
    assert len(kernels) == 32
    for name, use in kernels.items():
        assert use["LOCAL"] == use["STACK"] == 0, name
        assert use["REG"] <= 128, name  # a multiprocessor holds four programs at the least
        assert use["barriers_in_loops"] == 0, name
