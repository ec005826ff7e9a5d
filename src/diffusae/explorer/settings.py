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
    against: str | list[str] | None
    """The directories of other studies, to be compared with it."""
    export: str | None
    """A directory: the pages are written there, and nothing is served."""
    export_latents: Annotated[int, Within(0, 10**7)]
    """The most pages of latents in an export."""
    export_pictures: Annotated[int, Within(0, 10**6)]
    """The most collected pictures in an export whose latents can be looked at."""

    @property
    def others(self) -> list[str]:
        """`against` as a list."""
        return [self.against] if isinstance(self.against, str) else list(self.against or [])
