"""Where W&B's runs go: online, into offline files, or nowhere; and what a run may be called
there."""

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
"""Characters that W&B takes of a run's id."""


def mode_of(mode: Mode, environment: Mapping[str, str]) -> str:
    """The mode itself, or what `auto` means here."""
    return chosen_mode(environment) if mode == "auto" else mode


def chosen_mode(environment: Mapping[str, str]) -> str:
    """What `auto` means: WANDB_MODE where it is set, else online where an API key is at hand, else
    offline.

    Only the very word "online" goes online; what WANDB_MODE says otherwise, and is not "disabled",
    is offline.
    """
    if environment.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes", "on"):
        return "disabled"
    asked = environment.get("WANDB_MODE", "").strip()
    if asked:
        return (
            "online"
            if asked == "online"
            else "disabled"
            if asked.lower() == "disabled"
            else "offline"
        )
    return "online" if _has_api_key(environment) else "offline"


def run_id(experiment: str, run: str) -> str:
    """The id of a run of an experiment: letters, digits, '-' and '_', different for different
    names.

    A name in which only plain characters stand is kept, with the dot of a time t left out; to any
    other one the first digits of a hash are added.
    """
    text = f"{experiment}-{run}"
    undotted = re.sub(r"-t(\d)\.(\d\d)-", r"-t\1\2-", text, count=1)
    if "." in undotted:
        return _hashed(undotted.replace(".", ""), text)
    return valid_run_id(undotted)


def valid_run_id(text: str) -> str:
    """The id itself where W&B takes it (letters, digits, '-', '_', '.'), else one made of it and of
    its hash."""
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
    except (OSError, ValueError, netrc.NetrcParseError):  # there is none, or none that can be read
        return False
