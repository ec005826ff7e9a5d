"""What is not imported before it is needed: torch and its like take seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "torch._dynamo",
    "pytorch_lightning",
    "diffusers",
    "transformers",
    "torchmetrics",
    "scipy",
    "pandas",
    "matplotlib",
)
COMMANDS = (
    "--help",
    "train --help",
    "train --cfg job",
    "train trainer.stps=3",
    "train sae=topkk",
    "train saee=topk",
    "train trainer.steps=-3",
    "train sae.k=100000",
    "run sae=jumprelu sae.l0=-1",
    "evaluate sae.lr=0",
    "push",
    "pull timeout_s=0 repo=owner/name",
    "import",
    "export format=onnx",
    "collect collect.shard=2/2",
    "run side_by_side=3",
    "miniature part=gat",
    "train",  # there is no collection yet
    "plan plan.probe=false prompts.counts.train=2",
    "plan plan.probe=false model=flux_dev prompts.counts.train=2 grid.conditionings=[cond]",
    "plan plan.probe=false collection=text model=sd3 block.name=text_1 grid.blocks=[text_1]"
    " timestep.t=1.0 grid.timesteps=[1.0]",
    "hookpoints model=sdxl",
)
_RUNS = f"""
import json, sys
from diffusae.cli import main

imported = {{}}
for words in {COMMANDS!r}:
    sys.argv = ["diffusae", *words.split()]
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    imported[words] = [code, [name for name in {HEAVY!r} if name in sys.modules]]
print()
print(json.dumps(imported))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> dict[str, tuple[int, list[str]]]:
    """{command: its exit code, and what is imported after it}, all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", _RUNS],
        cwd=tmp_path_factory.mktemp("startup"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("words", COMMANDS)
def test_an_answer_that_needs_no_model_imports_none_of_the_heavy_libraries(imported, words):
    code, heavy = imported[words]
    assert heavy == []
    assert code == (
        0 if words.split()[0] in ("plan", "hookpoints", "--help") or "--" in words else 2
    )


UNUSED = {
    "diffusae.stages.train": (*HEAVY, "webdataset", "altair", "wandb"),
    "diffusae.stages.run": (
        *("torch._dynamo", "pytorch_lightning", "torchmetrics", "diffusers", "transformers"),
        *("scipy", "matplotlib", "altair", "vl_convert", "jinja2", "wandb", "fsspec"),
    ),
    "diffusae.training.train": ("diffusers", "pandas", "pyarrow", "altair", "wandb"),
}
"""A module -> what is not imported with it: where all is finished, and where a training begins."""


@pytest.mark.slow  # imports torch; the claim above is made for the other commands
@pytest.mark.parametrize("module", UNUSED)
def test_a_stage_imports_nothing_that_it_may_not_need(module):
    code = (
        f"import sys, {module};"
        "from diffusae.metrics import registry; 'run' in sys.argv[1] and registry.metrics();"
        f"print([name for name in {UNUSED[module]!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, module], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
