from typing import Any

import pytest

from composing import compose
from diffusae.errors import UserError
from diffusae.sae import kernels
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.kernels import check_device, fitting, kernels_by_name
from diffusae.sae.sparse_ops import TORCH
from diffusae.sae.sparsity import BatchTopK, JumpReLU, MatryoshkaTopK, ReLU, TopK
from diffusae.study.study import Study


@pytest.fixture
def without_triton(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernels, "find_spec", lambda _name: None)


def checked(stage: str, *overrides: str) -> None:
    Study(compose(stage, ["trainer.accelerator=cpu", *overrides])).check()


def test_torchs_kernels_are_the_default():
    assert SparseAutoencoder(4, 8, TopK(2)).kernels is kernels_by_name("torch") is TORCH


def test_triton_kernels_without_triton_are_refused_with_the_remedy(without_triton):
    with pytest.raises(UserError, match=r"not installed.*diffusae\[triton\].*trainer.kernels=auto"):
        SparseAutoencoder(4, 8, TopK(2), kernels="triton")


def test_triton_kernels_are_for_cuda_devices(without_triton):
    with pytest.raises(UserError, match=r"CUDA.*'cpu'.*trainer.kernels=auto"):
        check_device("triton", "cpu")
    check_device("triton", "cuda")
    check_device("torch", "cpu")


def test_kernels_that_do_not_run_here_are_told_with_all_other_faults_where_a_stage_trains(
    without_triton,
):
    for stage in ("train", "train_grid", "run"):
        with pytest.raises(UserError, match="2 faults") as error:
            checked(stage, "trainer.kernels=triton", "sae.k=900")
        assert "kernels=triton need the package triton" in str(error.value)
    checked("evaluate", "trainer.kernels=triton")  # of an autoencoder that was trained elsewhere


def test_an_unknown_name_lists_the_kernels_that_there_are(without_triton):
    with pytest.raises(
        UserError, match=r"unknown trainer\.kernels 'trition'; known: auto, dense, torch, triton"
    ):
        checked("evaluate", "trainer.kernels=trition")


@pytest.mark.parametrize(
    ("device", "precision", "sparsity", "d_sae", "expected"),
    [
        ("cpu", "bfloat16", TopK(20), 5120, "torch"),
        ("mps", "bfloat16", TopK(20), 5120, "torch"),
        ("cuda", "float32", TopK(20), 5120, "torch"),
        ("cuda", "bfloat16", TopK(20), 5120, "dense"),
        ("cuda", "bfloat16", TopK(20), 512 * 20, "dense"),
        ("cuda", "bfloat16", TopK(20), 512 * 20 + 1, "triton"),
        ("cuda", "int8", MatryoshkaTopK(32, prefixes=[9]), 49152, "triton"),
        ("cuda", "bfloat16", BatchTopK(32), 49152, "dense"),
        ("cuda", "bfloat16", JumpReLU(49152, l0=0.1), 49152, "dense"),
        ("cuda", "bfloat16", ReLU(l1=0.1), 49152, "dense"),
    ],
)
def test_auto_takes_what_fits_the_device_and_the_size(
    monkeypatch, device, precision, sparsity, d_sae, expected
):
    def chosen(name: Any = "auto") -> str:
        options: Any = {"device_type": device, "precision": precision, "sparsity": sparsity}
        return fitting(name, **options, d_sae=d_sae)[0]

    monkeypatch.setattr(kernels, "find_spec", lambda _name: "there")
    assert chosen() == expected
    assert chosen("dense") == "dense"
    monkeypatch.setattr(kernels, "find_spec", lambda _name: None)
    assert chosen() == ("torch" if expected == "triton" else expected)
