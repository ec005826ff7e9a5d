import pytest
from hydra import compose, initialize_config_dir

from diffusae.cli import config_directory
from diffusae.errors import UserError
from diffusae.sae import kernels
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.kernels import check_device, kernels_by_name
from diffusae.sae.sparse_ops import TORCH
from diffusae.sae.sparsity import TopK
from diffusae.study.study import Study


@pytest.fixture
def without_triton(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernels, "find_spec", lambda _name: None)


def checked(stage: str, *overrides: str) -> None:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        Study(compose(stage, overrides=["trainer.accelerator=cpu", *overrides])).check()


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
