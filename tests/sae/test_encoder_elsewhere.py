"""Codes that are computed on another device: a pretend one, where mixing raises."""

from collections.abc import Iterator

import pytest
import torch

from diffusae.labelling.codes import encoder_of
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from sae.pretend_device import ELSEWHERE, Elsewhere, pretend_device


@pytest.fixture(autouse=True)
def _new_parameters_on_conversion() -> Iterator[None]:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def test_codes_come_to_the_host_and_the_autoencoder_stays_there() -> None:
    sae = SparseAutoencoder(6, 16, TopK(3))
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    with pretend_device():
        found = encoder_of(sae, ELSEWHERE)(x)
    assert not any(isinstance(part, Elsewhere) for part in found)
    assert not any(isinstance(weight, Elsewhere) for weight in sae.parameters())
    for part, expected in zip(found, sae.encode(x), strict=True):
        assert torch.equal(part, expected)
