"""Memory that is freed and needed again."""

import platform
import subprocess
import sys

import pytest

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
