"""The server as a process of its own: its address, its end, and a study that it may not change."""

import re
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from command import Started
from composing import compose
from diffusae.cli.arguments import CommandLine
from diffusae.cli.stage_list import POSITIONAL
from diffusae.errors import UserError
from diffusae.explorer.security import Security
from diffusae.explorer.serving import address, listening
from diffusae.explorer.settings import ExploreSettings
from diffusae.files import write_sealed
from diffusae.parsing import read_json
from diffusae.stages.explore import NOWHERE, _opened, explore


def opened(started: Started, seconds: float = 60) -> str:
    """The address that the command prints."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := re.search(r"open (http://\S+)", started._texts()[0]):
            return found[1]
        assert started.poll() is None, started._texts()
        time.sleep(0.05)
    raise TimeoutError(started._texts())


def fetched(address: str) -> tuple[int, str]:
    request = urllib.request.Request(address, headers={"accept": "text/html"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def everything_in(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in directory.rglob("*")
    }


def test_the_command_serves_a_directory_writes_nothing_and_ends_well_at_ctrl_c(
    directory, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(directory, tmp_path / "copy of a study")
    before = everything_in(tmp_path)
    started = Started("explore", str(copy), "port=0")
    try:
        status, page = fetched(opened(started))
        assert status == 200 and "copy of a study" in page and "t = 1.00" in page
        started.kill(signal.SIGINT)
        done = started.ended(30)
    finally:
        if started.poll() is None:
            started.kill()
    assert (done.returncode, done.stderr) == (0, "")
    assert everything_in(tmp_path) == before


def test_a_study_whose_record_names_a_strange_model_is_shown_without_it(
    directory, tmp_path, caplog
):
    copy = shutil.copytree(directory, tmp_path / "copy")
    for path in copy.glob("sae/*/run.json"):
        record = read_json(path, remedy="")
        record["config"]["model"]["source"] = "me/evil"
        record.pop("checksum")
        write_sealed(path, record)
    settings = ExploreSettings.of(compose("explore", [f"study='{copy}'"]))
    study = _opened(str(copy), settings)
    assert len(study.cells) == 3 and study.settings.cfg.model.source == NOWHERE
    assert "names the model source me/evil" in caplog.text
    assert "add model_source=me/evil" in caplog.text


@pytest.mark.slow  # a process of its own; the parts have tests of their own
def test_another_address_is_opened_with_its_token_alone(directory):
    started = Started("explore", str(directory), "port=0", "host=0.0.0.0")
    try:
        shown = opened(started).replace("0.0.0.0", "127.0.0.1")
        assert re.search(r"/\?token=[\w-]{43}$", shown)
        assert fetched(shown.partition("?")[0])[0] == 403
        assert fetched(shown.replace("token=", "token=x"))[0] == 403
        started.kill(signal.SIGINT)
        done = started.ended(30)
    finally:
        if started.poll() is None:
            started.kill()
    assert "not encrypted" in done.stdout + done.stderr


def test_a_directory_without_a_study_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no study in"):
        explore(compose("explore", [f"study='{tmp_path / 'none'}'"]))


def test_the_bare_word_of_the_command_is_the_directory():
    line = CommandLine.parse(["my studies/one", "port=0"], bare=POSITIONAL["explore"])
    assert line.checked("explore").study == "my studies/one"


def test_a_port_in_use_is_said_with_the_remedy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port={port} .*in use.*port=0"):
            listening("127.0.0.1", port)


def test_a_host_that_is_none_of_this_machine_is_said():
    with pytest.raises(UserError, match=r"host=192\.0\.2\.1 .*host=127\.0\.0\.1"):
        listening("192.0.2.1", 0)


def test_an_address_of_ipv6_stands_in_brackets():
    with listening("::1", 0) as connection:
        assert re.fullmatch(r"http://\[::1\]:\d+/", address(connection, Security("::1")))
