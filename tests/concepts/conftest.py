import numpy as np
import pytest

from tiny_annotators import TinyAnnotators


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Model name -> folder of a small random model of that class."""
    return TinyAnnotators(tmp_path_factory.mktemp("annotators"))


@pytest.fixture(scope="session")
def noise():
    """Three pictures of noise, wider than high."""
    return np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
