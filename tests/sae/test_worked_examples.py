"""The worked examples in the docstrings of the code that is hard to read."""

import doctest
from types import ModuleType

import pytest

from diffusae.activations import order
from diffusae.sae import largest, sparse_ops


@pytest.mark.parametrize("module", [largest, sparse_ops, order], ids=lambda m: m.__name__)
def test_the_worked_example_of_a_module_gives_what_it_says(module: ModuleType):
    failed, attempted = doctest.testmod(module)
    assert attempted >= 3 and failed == 0
