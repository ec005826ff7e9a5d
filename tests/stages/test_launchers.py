"""The options of hydra/launcher: they fit their plugins, and a Slurm array that never comes back is
told job by job.
"""

import os
import stat
import sys
from pathlib import Path

import pytest
import submitit
from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
from omegaconf import OmegaConf

from composing import compose
from diffusae import cli
from diffusae.cli import _explained, config_directory

SCHEMAS = {
    "joblib": JobLibLauncherConf,
    "submitit_local": LocalQueueConf,
    "submitit_slurm": SlurmQueueConf,
}


def test_every_launcher_has_a_schema_here():
    assert {
        path.stem for path in (config_directory() / "hydra" / "launcher").glob("*.yaml")
    } == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.filterwarnings("ignore:\\s*'hydra/launcher")
def test_an_option_has_the_names_and_types_of_its_plugin(name):
    cfg = compose("train", overrides=[f"hydra/launcher={name}"], return_hydra_config=True)
    ours = OmegaConf.load(config_directory() / "hydra" / "launcher" / f"{name}.yaml")
    assert OmegaConf.is_dict(OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), ours))
    assert set(cfg.hydra.launcher) == set(OmegaConf.structured(SCHEMAS[name]))


def test_a_launcher_that_is_not_installed_is_told_with_what_to_install():
    error = RuntimeError(
        "Unknown plugin class : 'hydra_plugins.hydra_submitit_launcher.SlurmLauncher'"
    )
    assert "pip install 'diffusae[cluster]'" in str(_explained(error, "train"))
    assert _explained(RuntimeError("something else"), "train") is None


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_slurm_array_is_handed_in_with_its_options_and_its_lost_jobs_fail(
    tmp_path, monkeypatch, capfd
):
    """Slurm's own programs are stand-ins: they keep the batch file, and say of every job that its
    node was lost.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "sbatch", f'cp "$1" {tmp_path}/batch.sh; echo Submitted batch job 42')
    program(programs, "srun", "exit 0")
    states = "\\n".join(["JobID|State|NodeList", *(f"42_{n}|NODE_FAIL|" for n in range(2))])
    program(programs, "sacct", f"printf '{states}\\n'")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(submitit.SlurmJob, "_results_timeout_s", 0)
    asked = lambda job, force_check=False: job.watcher.is_done(job.job_id, mode="force")  # noqa: E731
    monkeypatch.setattr(submitit.SlurmJob, "done", asked)  # not once a minute only
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "diffusae",
            "train",
            "-m",
            "hydra/launcher=submitit_slurm",
            "hydra.launcher.partition=gpu",
            "block=mid,up",
            "debug=tiny",
            f"paths.outputs={tmp_path}",
        ],
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    batch = (tmp_path / "batch.sh").read_text()
    for option in (
        "--array=0-1%2",
        "--partition=gpu",
        "--time=240",
        "--gpus-per-node=1",
        "--signal=USR2@120",
    ):
        assert f"#SBATCH {option}" in batch
    printed = capfd.readouterr().err
    assert "2 of 2 jobs failed" in printed
    for job in ("block=mid", "block=up"):
        row = next(line for line in printed.splitlines() if line.startswith("│") and job in line)
        assert "its process ended before it could say why" in row
