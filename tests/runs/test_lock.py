import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from diffusae.errors import UserError
from diffusae.runs import lock
from diffusae.runs.lock import directory_lock

HOLDER = """
import sys
from diffusae.runs.lock import directory_lock
with directory_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_with_pid_host_and_start_until_the_first_is_killed(
    tmp_path: Path,
):
    source = str(Path(lock.__file__).parents[2])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout:
        try:
            assert holder.stdout.readline() == "held\n"
            words = rf"in use by process {holder.pid} on {socket.gethostname()}, started 20\d\d-"
            with pytest.raises(UserError, match=words), directory_lock(tmp_path / "run"):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
    assert (tmp_path / "run" / lock.OWNER).exists()  # it could not tidy up, and that is no obstacle
    with directory_lock(tmp_path / "run"):
        pass


def test_the_same_process_is_refused_too_and_its_own_info_survives_that(tmp_path: Path):
    with directory_lock(tmp_path):
        for _ in range(2):
            with (
                pytest.raises(UserError, match=f"process {os.getpid()} "),
                directory_lock(tmp_path),
            ):
                pass


def test_an_exception_releases_the_directory(tmp_path: Path):
    with pytest.raises(RuntimeError), directory_lock(tmp_path):
        raise RuntimeError
    assert not (tmp_path / lock.OWNER).exists()
    with directory_lock(tmp_path):
        pass


def test_an_owner_that_has_not_said_its_name_is_still_an_owner(tmp_path: Path):
    with directory_lock(tmp_path):
        (tmp_path / lock.OWNER).write_text("{")
        with pytest.raises(UserError, match="in use by another process"), directory_lock(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch, number):
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(UserError, match=r"its file system has no file locks .*paths.outputs"),
        directory_lock(tmp_path),
    ):
        pass


def test_a_name_that_is_too_long_is_named(tmp_path: Path):
    with (
        pytest.raises(UserError, match=r"the name 'kkkk.*too long for the file system.*sae.tag"),
        directory_lock(tmp_path / ("k" * 300)),
    ):
        pass


def test_a_directory_that_cannot_be_written_needs_no_lock(tmp_path: Path, monkeypatch):
    def refuse(*_args, **_options) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    # Another reason: it could be written
    with pytest.raises(OSError, match="Read-only"), directory_lock(tmp_path):
        pass
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
    with directory_lock(tmp_path):
        assert not (tmp_path / lock.OWNER).exists()
