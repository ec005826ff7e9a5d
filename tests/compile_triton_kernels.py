"""Compile our Triton kernels for a GPU that need not be here: `python
tests/compile_triton_kernels.py 80 90`.

Prints as JSON what each takes of a multiprocessor: registers a thread (REG), bytes of spilled ones
a thread (LOCAL, STACK) and static shared memory in bytes a program (SHARED).
"""

# pyright: reportMissingImports=false

import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from diffusae.sae import triton_kernels as ours

FLOATS = ("dense", "left", "right")
TYPES = dict.fromkeys(("rows", "starts", "owners"), "*i64") | dict.fromkeys(
    ("n_sums", "n", "d"), "i32"
)
TYPES |= dict.fromkeys(("weights", "out", "partial"), "*fp32")
KERNELS = {
    "sums": (ours.sum_kernel, None, ours.COLUMNS),
    "sums to the first chunk's end": (ours.sum_kernel, ours.CHUNK, ours.COLUMNS),
    "sums to the first chunk's end, of numbers": (ours.sum_kernel, ours.CHUNK, 1),
    "later chunks": (ours.later_chunks_kernel, ours.CHUNK, ours.COLUMNS),
    "later chunks, of numbers": (ours.later_chunks_kernel, ours.CHUNK, 1),
    "adding later chunks": (ours.add_later_chunks_kernel, ours.CHUNK, ours.COLUMNS),
    "adding later chunks, of numbers": (ours.add_later_chunks_kernel, ours.CHUNK, 1),
    "inner products": (ours.inner_kernel, None, ours.COLUMNS),
}


def compiled(kernel: Any, capability: int, floats: str, chunk: int | None, columns: int) -> Any:
    """The kernel for pointers and numbers that are multiples of 16, as they are in trainings;
    single columns are 1.
    """
    values = {"ACC": tl.float32, "ENTRIES": ours.ENTRIES, "COLUMNS": columns, "CHUNK": chunk}
    values |= {"d": 1} if columns == 1 else {}
    types = (
        TYPES
        | dict.fromkeys(FLOATS, floats)
        | {"columns": "*i64"}
        | dict.fromkeys(values, "constexpr")
    )
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        {name: types[name] for name in names},
        {(i,): values[name] for i, name in enumerate(names) if name in values},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in values},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": ours.WARPS})


def use(code: Any) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        told = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    counts = {
        name: int(count)
        for name, count in re.findall(r"(\w+):(\d+)", told.stdout)
        if name.isupper()
    }
    return counts | {"barriers_in_loops": barriers_in_loops(code.asm["ptx"].splitlines())}


def barriers_in_loops(ptx: list[str]) -> int:
    """Barriers between a label and a later jump back to it."""
    labels = {
        line.strip().split(":")[0]: i for i, line in enumerate(ptx) if line.strip().startswith("$L")
    }
    jumps = (
        (i, match[1])
        for i, line in enumerate(ptx)
        if (match := re.search(r"bra\S*\s+(\$L\w+);", line))
    )
    return sum(
        "bar.sync" in line for i, to in jumps if labels[to] < i for line in ptx[labels[to] : i]
    )


if __name__ == "__main__":
    used = {
        f"sm_{capability}, {name}, {floats[1:]}": use(
            compiled(kernel, int(capability), floats, chunk, columns)
        )
        for capability in sys.argv[1:]
        for name, (kernel, chunk, columns) in KERNELS.items()
        for floats in ("*fp32", "*bf16")
    }
    print(json.dumps(used, indent=1))
