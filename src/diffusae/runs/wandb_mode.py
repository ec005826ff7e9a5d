"""Where W&B's runs go: online, into offline files, or nowhere."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["auto", "online", "offline", "disabled"]
MODES = ("auto", "online", "offline", "disabled")


def mode_of(mode: Mode, environment: Mapping[str, str]) -> str:
    """The mode itself, or what `auto` means here."""
    return chosen_mode(environment) if mode == "auto" else mode


def chosen_mode(environment: Mapping[str, str]) -> str:
    """What `auto` means: WANDB_MODE where it is set, else online where an API key is at hand, else offline."""
    asked = environment.get("WANDB_MODE")
    if asked in MODES[1:]:
        return asked
    return "online" if _has_api_key(environment) else "offline"


def _has_api_key(environment: Mapping[str, str]) -> bool:
    if environment.get("WANDB_API_KEY"):
        return True
    path = environment.get("NETRC") or Path(environment.get("HOME", "~")).expanduser() / ".netrc"
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
