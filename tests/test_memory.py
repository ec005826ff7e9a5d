"""Memory that is freed and needed again, and imports that are not searched for garbage."""

import gc
import platform
import subprocess
import sys

import pytest

from diffusae.memory import importing

PROGRAM = """
import resource, sys
import torch
from diffusae.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        a, b, c = (torch.full((16_000_000,), 1.0) for _ in range(3))
        del a, b, c
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(8)  # until the blocks have found their places
print(faults(5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_pages_that_were_freed_are_not_asked_of_the_kernel_again():
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, how], capture_output=True, check=True
            ).stdout
        )
        for how in ("given back", "kept")
    }
    assert faults["kept"] * 10 < faults["given back"]


@pytest.fixture
def searches():
    """The generations in which Python looked for garbage."""
    seen: list[int] = []

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            seen.append(about["generation"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.unfreeze()


def test_no_garbage_is_looked_for_while_modules_are_imported_nor_among_them_later(
    searches, tmp_path, monkeypatch
):
    (tmp_path / "large_module_of_a_test.py").write_text("kept = [[i] for i in range(20_000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    gc.unfreeze()
    with importing():
        searches.clear()
        import large_module_of_a_test  # type: ignore[import-not-found]

        during = list(searches)
    assert during == []
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(large_module_of_a_test.kept)
    monkeypatch.delitem(sys.modules, "large_module_of_a_test")


def test_where_nothing_was_left_to_import_nothing_is_kept_for_good():
    gc.unfreeze()
    with importing():
        import diffusae.memory  # noqa: F401
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


def test_the_search_for_garbage_stays_off_where_it_was_off_and_comes_back_after_an_error():
    with pytest.raises(ImportError), importing():
        import nowhere_to_be_seen  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
