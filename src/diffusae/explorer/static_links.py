"""Links of a page that is written to a file: what they lead to, and where that lies.

Example: on the page /cells/mid-t0.50-cond-k10/ the link "../../latents/mid-t0.50-cond-k10/7/" leads
to the address /latents/mid-t0.50-cond-k10/7/, whose file is
latents/mid-t0.50-cond-k10/7/index.html.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

LEFT_OUT = "/left-out/"
"""The page that links lead to whose pages are not in the site."""
_LINK = re.compile(r'(?<=\s)(href|src|action|data-src)="([^"]*)"')


def address_of(page: str, link: str) -> str | None:
    """The address, without query and fragment, that a link on a page leads to; None where it is
    not of this site, or leads to a place on the same page.
    """
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path:
        return None
    return urlsplit(urljoin(page, parts.path)).path


def links_in(page: str, text: str) -> Iterator[str]:
    """The addresses that a page's HTML leads to, and those of what it loads."""
    for _, link in _LINK.findall(text):
        if (address := address_of(page, html.unescape(link))) is not None:
            yield address


def redirected(page: str, text: str, there: Callable[[str], bool]) -> str:
    """The page with every link to an address that is not there leading to the page that says so."""

    def link(match: re.Match[str]) -> str:
        address = address_of(page, html.unescape(match[2]))
        if address is None or there(address):
            return match[0]
        return f'{match[1]}="{"../" * (page.count("/") - 1)}{LEFT_OUT[1:]}"'

    return _LINK.sub(link, text)


def file_of(address: str) -> PurePosixPath | None:
    """Where the answer of an address lies in the site; None for an address that leads out of it.

    Names of a study may be anything, so a part with a slash or dots is no part of a path.
    """
    parts = [unquote(part) for part in address.split("/")[1:]]
    if address.endswith("/"):
        parts[-1] = "index.html"
    if any(part in ("", ".", "..") or set(part) & set("/\\\0") for part in parts):
        return None
    return PurePosixPath(*parts)
