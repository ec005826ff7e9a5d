"""A small HTTP server over a directory, with what real ones do wrong: no ranges, cuts, faults."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Served:
    """What the server does and has done.

    `ranges`: whether it honours ranges. `cuts`: path -> bytes after which the next answer of this
    file ends. `faults`: so many next answers are 503. `asked`: (path, first byte) of every GET that
    was answered with contents.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ranges = True
        self.cuts: dict[str, int] = {}
        self.faults = 0
        self.asked: list[tuple[str, int]] = []
        self.url = ""
        self.stopped = False


@contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server that answers by `handler` in threads; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def served(root: Path) -> Iterator[Served]:
    state = Served(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            if state.stopped:  # on a connection that was kept open
                self.close_connection = True
                return
            path = self.path.lstrip("/")
            if body and state.faults:
                state.faults -= 1
                self._head(503, 0)
                return
            if not (root / path).is_file():
                self._head(404, 0)
                return
            data = (root / path).read_bytes()
            start, end = 0, len(data)
            asked = self.headers.get("Range")
            if asked and state.ranges:
                first, last = asked.removeprefix("bytes=").split("-")
                start, end = int(first), min(int(last) + 1, end) if last else end
                self._head(
                    206, end - start, **{"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
                )
            else:
                self._head(200, end)
            if body:
                state.asked.append((path, start))
                cut = state.cuts.pop(path, None)
                self.wfile.write(data[start : end if cut is None else start + cut])
                if cut is not None:
                    self.wfile.flush()
                    self.close_connection = True

        def _head(self, status: int, length: int, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    with running(Handler) as state.url:
        try:
            yield state
        finally:
            state.stopped = True
