from typing import get_args

import pytest
import torch

from diffusae.sae.precision import fastest
from diffusae.sae.settings import SelectionPrecision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "float32"), ({}, "float32")],
)
def test_a_cpu_chooses_in_bfloat16_where_it_has_amx(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fastest("cpu") == (expected if torch.backends.mkldnn.is_available() else "float32")


def test_what_is_not_known_chooses_in_float32():
    assert fastest("mps") == "float32"
    assert fastest("cpu") in get_args(SelectionPrecision)
