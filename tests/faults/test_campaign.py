"""A small campaign: two stages, a few kills and one kind of file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_stages_survive_kills_and_a_damaged_file(tmp_path):
    results = tmp_path / "faults.json"
    words = "-m faults --seed 3 --trials 3 --steps collect annotate --no-fuzz --jobs 1"
    files = ["--directory", str(tmp_path), "--json", str(results)]
    command = [sys.executable, *words.split(), *files]
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    options = {"env": os.environ | {"PYTHONPATH": paths}, "capture_output": True, "text": True}
    for only in ("killed", "annotations/objects.parquet"):
        done = subprocess.run([*command, "--only", only], **options)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "seed 3\n" in done.stdout
        (total,) = json.loads(results.read_text())["total"].values()
        assert total["tried"] == total["identical"] + total["remedied"] >= 3
