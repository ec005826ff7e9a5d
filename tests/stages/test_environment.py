"""What stages find around them: ranks of nobody, devices that are not there, memory that is not
enough, disks that take nothing.
"""

import errno
import os
import re
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from diffusae.cli import logs
from diffusae.errors import UserError
from diffusae.jobs import processes
from diffusae.jobs.faults import REMEDIES, explained, reason
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.memory import is_out_of_memory
from diffusae.study.resolvers import expand_home

RANKS = [
    {"SLURM_PROCID": "3"},
    {"RANK": "1"},
    {"LOCAL_RANK": "2"},
    {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x"},
]


@pytest.mark.parametrize("ranks", RANKS, ids=lambda ranks: "-".join(ranks))
def test_one_process_leads_and_trains_whatever_rank_its_shell_left(monkeypatch, tmp_path, ranks):
    import pytorch_lightning as pl
    from pytorch_lightning.demos.boring_classes import BoringModel
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    from diffusae.runs.lightning_logger import JsonlLogger

    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    assert processes.leads(1)
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    trainer = pl.Trainer(
        plugins=[*processes.environment_of(1)],
        devices=1,
        accelerator="cpu",
        logger=logger,
        max_steps=2,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    assert trainer.is_global_zero and trainer.world_size == 1
    logger.log_metrics({"loss": 1.0}, step=0)
    assert (tmp_path / "metrics.jsonl").read_text()
    trainer.fit(BoringModel())
    assert trainer.global_step == 2


def test_several_processes_that_are_started_here_are_led_by_the_command_whatever_its_rank(
    monkeypatch,
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(processes, "started_outside", lambda: False)
    assert processes.leads(2) and len(processes.environment_of(2)) == 1
    assert "RANK" not in os.environ
    monkeypatch.setattr(processes, "started_outside", lambda: True)
    assert processes.environment_of(2) == []


@pytest.mark.parametrize(
    ("accelerator", "devices", "message"),
    [
        ("foo", 1, "unknown trainer.accelerator 'foo'; known: auto, cpu, cuda, gpu, mps"),
        ("gpu", 1, "torch has no GPU here; use trainer.accelerator=cpu, or auto"),
        ("cuda", 1, "torch has no CUDA device here"),
        ("mps", 1, "torch has no Apple GPU here"),
        (None, 1, "unknown trainer.accelerator 'None'"),
        ("cpu", 9999, "trainer.devices=9999, but there are .* CPU cores here; use at most"),
        ("auto", 1, None),
        ("cpu", 2, None),
    ],
)
def test_a_device_that_is_not_here_is_told_before_lightning_sees_it(
    monkeypatch, accelerator, devices, message
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    fault = processes.device_fault(accelerator, devices)
    assert fault is None if message is None else re.search(message, str(fault)), fault


def test_more_devices_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.device_fault("gpu", 2) is None
    assert "there are 2 GPUs here; use at most 2" in str(processes.device_fault("auto", 3))


OUT = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
        " to allocate 4 bytes"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_out_of_memory_names_the_setting_and_a_value_to_try(error):
    cfg = OmegaConf.create(
        {"activations": {"batch_size": 4096}, "sae": {"d_sae": 1}, "model": {"batch_size": None}}
    )

    @tells_memory(
        "training", "activations.batch_size", "sae.d_sae", "model.batch_size", "absent.one"
    )
    def work(_cfg):
        raise error

    with pytest.raises(UserError) as raised:
        work(cfg)
    assert (
        str(raised.value)
        == "out of memory in training; try activations.batch_size=2048 (it is 4096)"
    )
    cfg.activations.batch_size = 1
    with pytest.raises(UserError, match="use a machine or a GPU with more memory"):
        work(cfg)
    assert "out of memory" in str(explained(error))


def test_other_errors_of_a_part_pass_and_say_what_they_are():
    @tells_memory("training", "a")
    def work(_cfg, error):
        raise error

    for error in (UserError("out of memory with a=2; try a=1"), RuntimeError("shapes do not fit")):
        with pytest.raises(type(error)) as raised:
            work(OmegaConf.create(), error)
        assert raised.value is error
    assert not is_out_of_memory(ValueError("the word memory"))


@pytest.mark.parametrize("number", sorted(REMEDIES))
def test_a_fault_of_files_is_one_line_with_its_path_and_a_remedy_in_every_table(number):
    error = OSError(number, os.strerror(number), "/study/sae/weights")
    message = str(explained(error))
    assert message.startswith("/study/sae/weights: ") and "; " in message
    assert reason(error) == message


def test_a_fault_that_another_language_tells_in_words_is_the_same():
    rust = RuntimeError("I/O error: No space left on device (os error 28)")
    assert "free some space" in str(explained(rust))
    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = OSError(errno.EROFS, "Read-only file system", "/x")
    assert "/x: Read-only file system; choose another directory" in str(explained(wrapped))


def test_no_temporary_directory_names_the_variable():
    error = FileNotFoundError(
        errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']"
    )
    assert "TMPDIR" in str(explained(error))


def test_the_log_of_a_study_where_nothing_can_be_written_lies_elsewhere(monkeypatch):
    cfg = OmegaConf.create({"hydra": {"run": {"dir": "x/logs"}, "sweep": {"dir": "x/logs"}}})
    assert logs.where_logs_go(cfg, multirun=False) == []
    monkeypatch.setattr(logs, "is_writable", lambda _: False)
    (override,) = logs.where_logs_go(cfg, multirun=True)
    name, _, place = override.partition("=")
    assert name == "hydra.sweep.dir" and os.path.isdir(place)


def test_the_home_stands_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = OmegaConf.create(
        {
            "paths": {"outputs": "~/x", "e": "${paths.outputs}/y"},
            "list": ["~", {"p": "~/z"}],
            "text": "a ~/b",
        }
    )
    expand_home(cfg)
    assert OmegaConf.to_container(cfg, resolve=True) == {
        "paths": {"outputs": "/home/me/x", "e": "/home/me/x/y"},
        "list": ["/home/me", {"p": "/home/me/z"}],
        "text": "a ~/b",
    }


def test_a_user_without_a_name_and_a_home_gets_a_home():
    script = (
        "import os, pwd, getpass\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from diffusae.cli.surroundings import settle\n"
        "settle()\n"
        "from pathlib import Path\n"
        "assert Path.home().is_dir() and getpass.getuser().startswith('uid')\n"
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    }
    subprocess.run([sys.executable, "-c", script], check=True, env=kept, timeout=60)


def test_a_reader_that_has_gone_ends_the_command_quietly():
    script = "import sys; sys.argv[1:] = ['--help']; from diffusae.cli import main; main()"
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_terminal_of_ascii_shows_any_text():
    script = "import sys; sys.argv[1:] = ['trän']; from diffusae.cli import main; main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=environment, timeout=60
    )
    assert ended.returncode == 2 and b"unknown stage" in ended.stderr
