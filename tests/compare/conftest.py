"""These tests need the environment of `make setup-compare`; elsewhere they are not collected."""

import os
from importlib.util import find_spec

import pytest
import torch

if not torch.cuda.is_available():
    # eai-sparsify decodes by Triton wherever that is installed.
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")

collect_ignore_glob = [] if find_spec("sae_lens") and find_spec("sparsify") else ["test_*.py"]


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    """The other libraries draw their weights with a new seed in every run."""
    torch.manual_seed(0)
