"""One thread a test process: `make test` runs a process a core, and threads that wait for each
other waste both.
"""

import os
import random

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from kept_configs import keep_configs

torch.set_num_threads(1)

# A busy machine must not fail a test, nor chance: the same examples every time.
settings.register_profile(
    "untimed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
# Other examples every time, and many (`make test-faults`); the seed that the header shows gives
# them again.
settings.register_profile(
    "faults",
    deadline=None,
    max_examples=5000,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _configs_are_kept():
    with pytest.MonkeyPatch.context() as patch:
        keep_configs(patch)
        yield


@pytest.fixture(scope="session")
def pipe():
    """The tiny pipeline, built once; tests leave it unchanged."""
    from tiny_pipeline import tiny_pipeline

    return tiny_pipeline()


@pytest.fixture(scope="module", params=["sd", "sdxl", "sd3", "flux", "pixart"])
def family(request: pytest.FixtureRequest) -> str:
    """A name in `tiny_families.USUAL`, which is not imported here: it brings diffusers."""
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders that take longest begin, so that no process of `make test` waits for the other at
    the end.
    """
    items.sort(key=lambda item: {"pipeline": 0, "stages": 1}.get(item.path.parent.name, 2))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if (
        config.getoption("--hypothesis-profile") == "faults"
        and config.getoption("--hypothesis-seed") is None
    ):
        config.option.hypothesis_seed = str(random.randrange(2**32))


def pytest_report_header(config: pytest.Config) -> str:
    return (
        "hypothesis seed:"
        f" {config.getoption('--hypothesis-seed') or 'none (the same examples every time)'}"
    )


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their count: those of a compressed file hold the time, and every worker
    must name a test alike.
    """
    return f"{argname} of {len(val)} bytes" if isinstance(val, bytes) else None
