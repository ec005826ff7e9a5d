"""Settings of `diffusae explore`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from diffusae.settings import Given, Settings, Within


@dataclass(frozen=True, kw_only=True)
class ExploreSettings(Settings, part=""):
    """What stands at the root of `diffusae explore`."""

    study: str | None
    """The directory of a study; None: the study that the configuration names."""
    model_source: str | None
    """The model of `study`; None: the source that diffusae's own configuration names."""
    host: Annotated[str, Given("must be an address of this machine; give host=127.0.0.1")]
    port: Annotated[int, Within(0, 65535)]
    """0: any free one."""
