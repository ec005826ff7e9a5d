"""The command in this process: what it prints and its exit code."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from diffusae import cli


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: object
    out: str
    err: str


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """A function that runs `diffusae` with the words it is given."""

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["diffusae", *words])
        code: object = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return run
