"""The files that pages load: styles, scripts and the charts' library. The server and a static site
take them from here, by name.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock

from diffusae import report
from diffusae.errors import unknown
from diffusae.explorer.explored import Missing
from diffusae.report import vega

STATIC = Path(__file__).parent / "static"
REPORT = Path(report.__file__).parent
FROM_REPORT = {"report.css": REPORT / "page.css", "report.js": REPORT / "page.js"}
VEGA = "vega.js"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def asset_names() -> list[str]:
    """The name of every file, as it stands after `static/` in an address."""
    own = [path.name for path in STATIC.iterdir() if path.suffix in TYPES]
    return sorted([*own, *FROM_REPORT, VEGA])


_VEGA = Lock()


def vega_library() -> bytes:
    """The charts' library. Whoever comes while it is made, which takes some seconds, waits."""
    with _VEGA:
        return vega.library().encode()


@cache
def asset(name: str) -> bytes:
    """The content of a file.

    Raises:
        Missing: there is no such file.
    """
    if name == VEGA:
        return vega_library()
    if name not in asset_names():
        raise Missing(str(unknown("static file", name, asset_names())))
    return FROM_REPORT.get(name, STATIC / name).read_bytes()


def media_type(name: str) -> str:
    """Such as "text/css"."""
    return TYPES[Path(name).suffix]
