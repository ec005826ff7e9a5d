"""The server: where it listens, the line that says so, and its end."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import suppress

import uvicorn
from starlette.applications import Starlette

from diffusae.errors import UserError
from diffusae.explorer.assets import vega_library
from diffusae.explorer.security import Security
from diffusae.stopping import StopSignal

MOST_CONNECTIONS = 256
"""Open at the same time; a further one is answered with status 503."""

log = logging.getLogger(__name__)


def serve(app: Starlette, security: Security, *, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        host: the address to listen at.
        port: 0: any free one.

    Raises:
        UserError: the address is not one of this machine, or the port is in use.
    """
    with listening(host, port) as connection:
        print(f"open {address(connection, security)}  (Ctrl-C ends it)", flush=True)
        if security.token is not None:
            log.warning(
                "whoever reaches %s and has this address can see the study, change its notes and"
                " use its model. The connection is not encrypted.",
                host,
            )
        # It takes some seconds and no turn of Python's: pages are answered meanwhile.
        threading.Thread(target=vega_library, daemon=True).start()
        config = uvicorn.Config(
            app, log_level="warning", log_config=None, access_log=False, server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        with suppress(StopSignal, KeyboardInterrupt):  # Ctrl-C is how it ends
            uvicorn.Server(config).run(sockets=[connection])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there, so that the port is known before the first request."""
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        connection = socket.create_server(place[:2], family=family, backlog=256)
        # What is accepted inherits it; else the second half of an answer waits 40 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    except OSError as error:
        raise UserError(
            f"host={host} port={port} cannot be listened at: {error.strerror or error}; choose"
            " another port (port=0: any free one), or host=127.0.0.1"
        ) from None


def address(connection: socket.socket, security: Security) -> str:
    """What the user opens."""
    host, port = connection.getsockname()[:2]
    named = f"[{host}]" if ":" in host else host
    token = "" if security.token is None else f"?token={security.token}"
    return f"http://{named}:{port}/{token}"
