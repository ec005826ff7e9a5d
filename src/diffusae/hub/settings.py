"""Settings of `diffusae push`, `diffusae pull` and `diffusae catalogue`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffusae.settings import Given, Settings, Within


@dataclass(frozen=True, kw_only=True)
class HubSettings(Settings, part=""):
    """A repository of a hub, and a folder in it."""

    repo: str
    folder: str | None
    """None: the cell's name, or the only folder; '.': the top."""
    revision: str | None
    """None: the main branch."""
    timeout_s: Annotated[float, Within(1e-3, 10**6)]
    """The longest wait for the hub's first answer."""
    endpoint: str | None
    """The address of another hub; None: HF_ENDPOINT, or huggingface.co."""


@dataclass(frozen=True, kw_only=True)
class PushSettings(HubSettings, part=""):
    """`conf/push.yaml`."""

    repo: Annotated[str, Given("must name a repository; give repo=OWNER/NAME")]
    format: Literal["diffusae", "sae_lens", "eai_sparsify"]
    private: bool
    """Whether a repository that this push makes is private."""
    dry_run: bool
    """Whether the files are shown and not sent."""


@dataclass(frozen=True, kw_only=True)
class PullSettings(HubSettings, part=""):
    """`conf/pull.yaml`."""

    repo: Annotated[str, Given("must name a repository or a directory; give repo=OWNER/NAME")]
    another_cell: bool
    """Whether an autoencoder that was trained on another cell is taken."""


@dataclass(frozen=True, kw_only=True)
class CatalogueSettings(Settings, part="catalogue"):
    """`conf/catalogue.yaml`."""

    repos: list[str] | None
    """Repositories of the hub, or directories; None: those of `known`."""
    known: list[str]
    model: str | None
    block: str | None
    t: Annotated[float, Within(0, 1)] | None
    format: Literal["table", "json"]
    timeout_s: Annotated[float, Within(1e-3, 10**6)]
    """The longest wait for the hub's first answer."""
    endpoint: str | None
    """The address of another hub; None: HF_ENDPOINT, or huggingface.co."""
