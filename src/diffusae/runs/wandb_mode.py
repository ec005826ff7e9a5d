"""The mode of W&B (online, offline or disabled), and valid ids of its runs."""

from __future__ import annotations

import hashlib
import netrc
import os
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["auto", "online", "offline", "disabled"]
MODES = ("auto", "online", "offline", "disabled")

LONGEST_ID = 128
"""W&B's limit of a run id's characters."""


def mode_of(mode: Mode, environment: Mapping[str, str]) -> str:
    """The mode itself, or the mode that `auto` means in this environment."""
    return chosen_mode(environment) if mode == "auto" else mode


def chosen_mode(environment: Mapping[str, str]) -> str:
    """The mode of `auto`: WANDB_MODE if it is set, else online with an API key, else offline.

    WANDB_MODE is online only for exactly "online". Other values, except "disabled", are offline.
    """
    if environment.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes", "on"):
        return "disabled"
    asked = environment.get("WANDB_MODE", "").strip()
    if asked:
        if asked != "online":
            return "disabled" if asked.lower() == "disabled" else "offline"
        return "online"
    return "online" if _has_api_key(environment) else "offline"


def run_id(experiment: str, run: str) -> str:
    """The id of a run of an experiment (letters, digits, '-', '_'), unique for its name.

    A name of plain characters is kept, without the dot of a time t. Other names get the first
    digits of a hash. Example: "demo" and "mid-t0.50-cond" give "demo-mid-t050-cond".
    """
    text = f"{experiment}-{run}"
    undotted = re.sub(r"-t(\d)\.(\d\d)-", r"-t\1\2-", text, count=1)
    if "." in undotted:
        return _hashed(undotted.replace(".", ""), text)
    return valid_run_id(undotted)


def valid_run_id(text: str) -> str:
    """The id itself if W&B takes it (letters, digits, '-', '_', '.'), else one with its hash."""
    if re.fullmatch(r"[A-Za-z0-9_.-]+", text) and len(text) <= LONGEST_ID:
        return text
    return _hashed(re.sub(r"[^A-Za-z0-9_.-]", "_", text), text)


def _hashed(plain: str, text: str) -> str:
    """A valid id: the beginning of `plain` and the hash of `text`."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", plain)
    return f"{plain[: LONGEST_ID - 13]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _has_api_key(environment: Mapping[str, str]) -> bool:
    if environment.get("WANDB_API_KEY", "").strip():
        return True
    home = environment.get("HOME") or os.path.expanduser("~")
    path = environment.get("NETRC") or os.path.join(home, ".netrc")
    try:
        host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, ValueError, netrc.NetrcParseError):  # missing or not readable
        return False
