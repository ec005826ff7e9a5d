"""Secrets never leave the process: what is written, logged, printed or sent is masked here, and
nowhere else.

Secret are the credentials in a URL, the command of a `pipe:` source, authorisation headers, and the
values of environment variables whose names say so (`HF_TOKEN`, `WANDB_API_KEY`,
`AWS_SECRET_ACCESS_KEY`, `..._PASSWORD`, ...).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
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
# Where a command ends cannot be seen: all up to the end of the line goes, in a page up to the next
# closing tag.
_COMMAND = re.compile(rf"(?:(?<=['\"]){PIPE}|\b{PIPE}(?=\S))(?!\*\*\*)(?:(?!</)[^\n])*")
_SUSPECT = re.compile(rf"://|{PIPE}|[?&;#][^\s=]*=|authorization", re.IGNORECASE)
_SECRET_WORDS = frozenset(
    [
        "TOKEN",
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "PASS",
        "PASSWORT",
        "APIKEY",
        "KEY",
        "CREDENTIAL",
        "CREDENTIALS",
        "SIGNATURE",
        "SAS",
        "AUTH",
        "COOKIE",
    ]
)
_PLACES = ("_FILE", "_PATH", "_DIR", "_SOCK", "_URL", "_URI", "_HOME", "_ID")
"""Endings of variables that say where a secret lies, which is none."""
_SHORTEST = 8
"""Characters of the shortest value of a variable that is looked for: shorter ones occur by
chance."""


def masked(text: str) -> str:
    """The text with `***` in the place of every secret. What holds none comes back as it is."""
    for secret in _of_environment():
        text = text.replace(secret, HIDDEN)
    if not _SUSPECT.search(text):
        return text
    text = _COMMAND.sub(PIPE + HIDDEN, text)
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    return _HEADER.sub(rf"\1{HIDDEN}", _PARAMETER.sub(rf"\1{HIDDEN}", text))


def masked_value(value: Any) -> Any:
    """The same of every string in plain JSON, names of entries included; a string that is a `pipe:`
    source goes whole."""
    if isinstance(value, str):
        return PIPE + HIDDEN if value.lstrip().startswith(PIPE) else masked(value)
    if isinstance(value, Mapping):
        return {masked_value(name): masked_value(each) for name, each in value.items()}
    return [masked_value(each) for each in value] if isinstance(value, list | tuple) else value


def masked_json(text: str, **how: Any) -> str:
    """JSON text with masked strings; `how` is `json.dumps`'s, needed only where something is
    masked."""
    suspect = _SUSPECT.search(text) or any(
        json.dumps(secret)[1:-1] in text for secret in _of_environment()
    )
    return json.dumps(masked_value(json.loads(text)), **how) if suspect else text


def has_userinfo(url: str) -> bool:
    """Whether a URL carries a user's name or token before the host, a chained one
    (`simplecache::https://...`) included."""
    return _USERINFO.search(url) is not None


def mask_output() -> None:
    """From now on this process logs no secret, by no handler, and shows none in a traceback. Once
    is enough."""
    make = logging.getLogRecordFactory()
    if getattr(make, "masks", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            made.msg, made.args = masked(made.getMessage()), None
        except Exception:  # a message that does not fit its arguments: logging itself tells that
            return made
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = masked("".join(traceback.format_exception(*made.exc_info))).rstrip("\n")
        return made

    record.masks = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)
    sys.excepthook = lambda *error: sys.stderr.write(
        masked("".join(traceback.format_exception(*error)))
    )
    threading.excepthook = lambda told: sys.stderr.write(
        masked(
            "".join(traceback.format_exception(told.exc_type, told.exc_value, told.exc_traceback))
        )
    )


def _of_environment() -> list[str]:
    """Values of variables whose names say that they are secret, the longest first: one may hold
    another."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST
        and not name.upper().endswith(_PLACES)
        and not _SECRET_WORDS.isdisjoint(name.upper().split("_"))
    }
    return sorted(found, key=len, reverse=True)
