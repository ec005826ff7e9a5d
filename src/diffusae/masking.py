"""Masking of secrets in all that is written, logged, printed or sent. No other module masks.

Secrets are: credentials in a URL, the command of a `pipe:` source, authorisation headers, and
values of environment variables with telling names (`HF_TOKEN`, `WANDB_API_KEY`, `..._PASSWORD`,
...).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "***"
PIPE = "pipe:"

_USERINFO = re.compile(r"(://)[^\s/?#'\"<>\\]*@")
_PARAMETER = re.compile(
    r"([?&;#][\w.%-]{0,40}(?:token|sig|secret|passw|pwd|auth|cred|key|jwt|session|code)[\w.%-]{0,40}=)[^\s=&;'\"<>\\][^\s&;'\"<>\\]*",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)[^\s'\"<>\\]+",
    re.IGNORECASE,
)
# The end of a command cannot be seen. So all is masked up to the end of the line, or in HTML up to
# the next closing tag.
_COMMAND = re.compile(rf"(?:(?<=['\"]){PIPE}|\b{PIPE}(?=\S))(?!\*\*\*)(?:(?!</)[^\n])*")
_SUSPECT = re.compile(rf"://|{PIPE}|[?&;#][^\s=]*=|authorization", re.IGNORECASE)
_SECRET_WORDS = (
    "TOKEN SECRET PASSWORD PASSWD PASSPHRASE PASS PASSWORT APIKEY KEY CREDENTIAL CREDENTIALS "
    "SIGNATURE SAS AUTH COOKIE"
)
_PLACES = ("_FILE", "_PATH", "_DIR", "_SOCK", "_URL", "_URI", "_HOME", "_ID")
"""Endings of variables that hold the place of a secret, not the secret."""
_SHORTEST = 8
"""Shorter values of variables (in characters) are not masked: they occur in text by chance."""


def masked(text: str) -> str:
    """The text with `***` in place of every secret."""
    return _masked(text, _of_environment())


def _masked(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    if not _SUSPECT.search(text):
        return text
    text = _COMMAND.sub(PIPE + HIDDEN, text)
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    return _HEADER.sub(rf"\1{HIDDEN}", _PARAMETER.sub(rf"\1{HIDDEN}", text))


def masked_value(value: Any) -> Any:
    """Plain JSON with every string masked, keys included. A `pipe:` source is masked as a whole."""
    secrets = _of_environment()  # once: a run.json has hundreds of strings

    def hidden(value: Any) -> Any:
        if isinstance(value, str):
            whole = value.lstrip().startswith(PIPE)
            return PIPE + HIDDEN if whole else _masked(value, secrets)
        if isinstance(value, Mapping):
            return {hidden(name): hidden(entry) for name, entry in value.items()}
        return [hidden(entry) for entry in value] if isinstance(value, list | tuple) else value

    return hidden(value)


def masked_json(text: str, **how: Any) -> str:
    """JSON text with masked strings. `how` goes to `json.dumps` if something is masked."""
    suspect = _SUSPECT.search(text) or any(
        json.dumps(secret)[1:-1] in text for secret in _of_environment()
    )
    return json.dumps(masked_value(json.loads(text)), **how) if suspect else text


def has_userinfo(url: str) -> bool:
    """Whether a URL has a user name or token before its host. Chained URLs
    (`simplecache::https://...`) count too."""
    return _USERINFO.search(url) is not None


def mask_output() -> None:
    """Mask secrets in all further log records and tracebacks of this process."""
    make = logging.getLogRecordFactory()
    if getattr(make, "masks", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            made.msg, made.args = masked(made.getMessage()), None
        except Exception:  # the message does not fit its arguments: logging reports that
            return made
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = masked("".join(traceback.format_exception(*made.exc_info))).rstrip("\n")
        return made

    record.masks = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)
    sys.excepthook = lambda *error: sys.stderr.write(
        masked("".join(traceback.format_exception(*error)))
    )
    threading.excepthook = lambda caught: sys.stderr.write(
        masked(
            "".join(
                traceback.format_exception(caught.exc_type, caught.exc_value, caught.exc_traceback)
            )
        )
    )


def _of_environment() -> list[str]:
    """Values of variables with secret names. The longest come first: one may contain another."""
    secrets = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST
        and not name.upper().endswith(_PLACES)
        and not set(_SECRET_WORDS.split()).isdisjoint(name.upper().split("_"))
    }
    return sorted(secrets, key=len, reverse=True)
