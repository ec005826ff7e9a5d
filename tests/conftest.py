"""One thread a test process: `make test` runs a process a core, and threads that wait for each other waste both."""

import os
import random

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# A busy machine must not fail a test, nor chance: the same examples every time.
settings.register_profile(
    "untimed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
# Other examples every time, and many (`make test-faults`); the seed that the header shows gives them again.
settings.register_profile(
    "faults",
    deadline=None,
    max_examples=5000,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hypothesis-profile") == "faults" and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(random.randrange(2**32))


def pytest_report_header(config: pytest.Config) -> str:
    return (
        f"hypothesis seed: {config.getoption('--hypothesis-seed') or 'none (the same examples every time)'}"
    )
