"""What stands between a request and the pages: who may ask, how much, and what a page may load.

On a loopback address the Host header must name this machine, so that no foreign website reaches
the explorer through a name of its own (DNS rebinding). On another address a token is needed: it
comes in the address once, and is then kept as a cookie. A request that could change something must
come from the explorer's own pages.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "diffusae_token"
LARGEST_BODY = 64 * 1024
"""Bytes of a request's body."""
LONGEST_ADDRESS = 4096
"""Bytes of a path and of a query, each."""
DOCUMENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'self'"
)
"""What a page of files can say of itself, where no server says it."""
POLICY = f"{DOCUMENT_POLICY}; frame-ancestors 'none'"
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Security:
    """Who may ask.

    Args:
        host: the address that the server listens at. One that others can reach gets a token.
    """

    def __init__(self, host: str) -> None:
        self.token = None if is_loopback(host) else secrets.token_urlsafe(32)

    def check(self, scope: Scope) -> Response | None:
        """Let a request pass, or answer it.

        Raises:
            HTTPException: the request is refused.
        """
        headers = Headers(scope=scope)
        if max(len(scope["raw_path"]), len(scope["query_string"])) > LONGEST_ADDRESS:
            raise HTTPException(414, f"the address is longer than {LONGEST_ADDRESS} bytes")
        host = headers.get("host", "")
        if self.token is None and not is_loopback(_hostname(host)):
            raise HTTPException(
                421, f"this server is asked as {host!r}; open it as http://127.0.0.1 with its port"
            )
        if scope["method"] not in ("GET", "HEAD"):
            _require_own_page(scope, headers)
        if (length := headers.get("content-length", "0")).isdigit() and int(length) > LARGEST_BODY:
            raise too_large()
        return None if self.token is None else self._check_token(scope, headers, self.token)

    def _check_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        """Let whoever has the cookie pass; give the cookie to whoever has the token."""
        if _same(_cookies(headers).get(COOKIE, ""), token):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not _same(dict(query).get("token", ""), token):
            raise HTTPException(
                403, "the token is missing or wrong; open the address that `diffusae explore` shows"
            )
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        answer = RedirectResponse("?" + rest if rest else "./", 303)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
        return answer


class Guard:
    """The checks of `Security` as a layer around the application. It also bounds bodies, and adds
    the headers.

    A refusal is plain text, or JSON for a program: it says nothing of the study.
    """

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self._app, self._security = app, security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > LARGEST_BODY:
                raise too_large()
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            answer = self._security.check(scope)
        except HTTPException as error:
            answer = refusal(Headers(scope=scope), error)
        await (answer or self._app)(scope, bounded, with_headers)


def refusal(headers: Headers, error: HTTPException) -> Response:
    """The answer to a request that was not let in."""
    if wants_page(headers):
        return PlainTextResponse(error.detail, error.status_code)
    return JSONResponse({"error": error.detail}, error.status_code)


def wants_page(headers: Headers) -> bool:
    """Whether a browser asks for a page, not a program for data."""
    return "text/html" in headers.get("accept", "")


def too_large() -> HTTPException:
    """The refusal of a large body."""
    return HTTPException(413, f"a request may have at most {LARGEST_BODY // 1024} kB")


def _hostname(host: str) -> str:
    """The name in a Host header, without the port; "" where there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # such as a bracket that is not closed
        return ""


def _require_own_page(scope: Scope, headers: Mapping[str, str]) -> None:
    """Refuse a request that another website makes in the user's browser. A program sends no
    Origin; every browser does.
    """
    origin, own = headers.get("origin"), f"{scope['scheme']}://{headers.get('host', '')}"
    foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
    if foreign or origin not in (None, own):
        raise HTTPException(403, f"a page of {origin} may not change anything here")


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _cookies(headers: Mapping[str, str]) -> dict[str, str]:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in cookies.items()}
