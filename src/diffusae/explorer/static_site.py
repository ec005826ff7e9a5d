"""A study as a site of files, for GitHub Pages or any other server: `diffusae explore export=DIR`.

The explorer itself is asked for every page, as a browser asks it, and its answers are written to
files. So there is no second set of pages. Links are followed from the start page; a page that is
left out is replaced by one that says so.

The site is written beside its place and renamed when it is whole.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from anyio.from_thread import BlockingPortal, start_blocking_portal  # comes with starlette
from starlette.types import ASGIApp, Message

from diffusae.errors import UserError
from diffusae.explorer.assets import asset_names
from diffusae.explorer.static_links import LEFT_OUT, file_of, links_in, redirected
from diffusae.files import atomic_write_json
from diffusae.jobs.progress import progress_bar
from diffusae.masking import masked
from diffusae.parsing import read_json
from diffusae.runs.disk import free_bytes, require_writable

log = logging.getLogger(__name__)

MARKER = "diffusae-export.json"
"""The file that shows that a directory is an earlier export, which may be replaced."""
SAMPLE = 12
"""Pages of latents from which the size of all is estimated."""
START = ("/", LEFT_OUT)
"""Where the links begin that are followed."""
_EMPTY = "give an empty directory"


@dataclass(frozen=True)
class Exported:
    """What an export made: files, bytes, and how many pages of latents it has and lacks."""

    files: int
    size: int
    latents: int
    left_out: int
    failed: int


def export_site(
    app: ASGIApp,
    directory: Path,
    *,
    wanted: Callable[[str], bool],
    latents: Iterable[str],
    total_latents: int,
    further: Iterable[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> Exported:
    """Write the site.

    Args:
        app: the explorer.
        directory: where; it is empty, absent, or an earlier export.
        wanted: whether an address that a page links to belongs to the site.
        latents: the addresses of the pages of latents that belong to it.
        total_latents: how many the study has.
        further: addresses that no page links to, such as the data that its scripts load.
        renamed: texts that no file may have, such as paths of this machine, and what stands there.

    Raises:
        UserError: the directory holds something else, cannot be written, or its disk is too small.
    """
    _require_replaceable(directory)
    require_writable(directory.parent, instead="export")
    chosen = list(dict.fromkeys(latents))
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as beside:
        site = _Site(app, Path(beside) / "site", wanted, set(chosen), renamed or {})
        with start_blocking_portal() as portal:
            static = [f"/static/{name}" for name in asset_names()]
            portal.call(site.follow, [*START, *static, *further])
            _tell_size(site, portal, chosen)
            with progress_bar("pages of latents", total=len(chosen)) as (advance, _):
                for address in chosen:
                    portal.call(site.follow, [address])
                    advance()
        made = Exported(
            len(site.done), site.size, len(chosen), total_latents - len(chosen), site.failed
        )
        site.finish(made)
        _put_in_place(site.root, directory)
    return made


class _Site:
    """The files of a site while it is written."""

    def __init__(
        self,
        app: ASGIApp,
        root: Path,
        wanted: Callable[[str], bool],
        latents: set[str],
        renamed: Mapping[str, str],
    ) -> None:
        self.root, self.size, self.failed = root, 0, 0
        self.done: set[str] = set()
        self._app, self._wanted, self._latents, self._renamed = app, wanted, latents, renamed

    def has(self, address: str) -> bool:
        """Whether an address belongs to the site."""
        if file_of(address) is None:
            return False
        return address in self._latents or self._wanted(address) or address in self.done

    async def follow(self, addresses: Iterable[str]) -> None:
        """Write these addresses and all that they lead to, but no other latent's page."""
        queue = deque(addresses)
        while queue:
            address = queue.popleft()
            if address in self.done or file_of(address) is None:
                continue
            self.done.add(address)
            queue.extend(
                linked
                for linked in await self._write(address)
                if linked not in self.done and linked not in self._latents and self.has(linked)
            )

    async def _write(self, address: str) -> list[str]:
        """Write one answer; the addresses that it leads to."""
        status, kind, body = await asked(self._app, address)
        if status != 200:
            log.warning("%s could not be made (status %d); its file says why", address, status)
            self.failed += 1
        linked: list[str] = []
        if kind.startswith(("text/html", "application/json")):
            text = masked(body.decode())
            for name, instead in self._renamed.items():
                text = text.replace(name, instead)
            if kind.startswith("text/html"):
                linked = list(links_in(address, text))
                text = redirected(address, text, self.has)
            body = text.encode()
        target = self._file(address)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
        self.size += len(body)
        return linked

    def _file(self, address: str) -> Path:
        place = file_of(address)
        assert place is not None, address
        return self.root / place

    def finish(self, made: Exported) -> None:
        """The files that only a static site has."""
        shutil.copyfile(self._file(LEFT_OUT), self.root / "404.html")
        (self.root / ".nojekyll").touch()
        names = sorted(entry.name for entry in self.root.iterdir())
        atomic_write_json(self.root / MARKER, {"format": 1, **vars(made), "names": names})


async def asked(app: ASGIApp, address: str) -> tuple[int, str, bytes]:
    """Status, media type and body of the explorer's answer to a browser of this machine."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": unquote(address), "raw_path": address.encode(),
        "query_string": b"", "root_path": "", "client": None, "server": ("127.0.0.1", 80),
        "headers": [(b"host", b"127.0.0.1"), (b"accept", b"text/html,*/*")],
    }  # fmt: skip
    await app(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    headers = dict(start["headers"])
    body = b"".join(one.get("body", b"") for one in sent if one["type"] == "http.response.body")
    return start["status"], headers.get(b"content-type", b"").decode(), body


def _tell_size(site: _Site, portal: BlockingPortal, chosen: list[str]) -> None:
    """Write a sample of the pages of latents, and say how large all will be.

    Raises:
        UserError: they do not fit the disk.
    """
    before, sample = site.size, chosen[:: max(1, len(chosen) // SAMPLE)]
    portal.call(site.follow, sample)
    if not sample:
        return
    rest = (site.size - before) * (len(chosen) - len(sample)) // len(sample)
    whole, free = (site.size + rest) / 1e6, free_bytes(site.root)
    log.info("the site: %d pages of latents, at most about %.0f MB", len(chosen), whole)
    if rest > free:
        raise UserError(
            f"a site of about {whole:.0f} MB does not fit the disk, {free / 1e6:.0f} MB are free;"
            " lower export_latents, or give another directory"
        )


def _require_replaceable(directory: Path) -> None:
    """Refuse a directory that holds anything but an earlier export."""
    if not directory.is_dir():
        if directory.exists():
            raise UserError(f"export={directory} is a file; give a directory")
        return
    made = read_json(marker, remedy=_EMPTY) if (marker := directory / MARKER).is_file() else {}
    names = made.get("names", []) if isinstance(made, dict) else []
    if others := sorted({entry.name for entry in directory.iterdir()} - {*names, MARKER}):
        raise UserError(
            f"export={directory} holds {', '.join(others[:5])}, which no earlier export made;"
            f" {_EMPTY}"
        )


def _put_in_place(made: Path, directory: Path) -> None:
    """The new site in the place of the old one, which goes away last."""
    old = made.with_name("old")
    if directory.exists():
        os.replace(directory, old)
    os.replace(made, directory)
