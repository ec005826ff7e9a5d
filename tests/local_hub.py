"""A model hub in little: the endpoints that huggingface_hub's own client asks when it pushes and
pulls.
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from local_server import running

TOKEN = "hf_of_the_tests"
_MODEL = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/([^/]+))?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Hub:
    """Its repositories: name -> path -> contents. `private`: name -> whether it was made so.

    `gated`: repositories that nobody may read. `lies`: path -> what a download gives instead of the
    contents. `silence_s`: waits so long before every answer.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.gated: set[str] = set()
        self.lies: dict[str, bytes] = {}
        self.silence_s = 0.0
        self.commits: list[str] = []
        self.url = ""

    def sha(self, repo: str) -> str:
        names = sorted(
            (path, hashlib.sha1(data).hexdigest()) for path, data in self.repos[repo].items()
        )
        return hashlib.sha1(json.dumps(names).encode()).hexdigest()


@contextmanager
def local_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args) -> None:
            pass

        def do_HEAD(self) -> None:
            self._get()

        def do_GET(self) -> None:
            self._get()

        def _get(self) -> None:
            time.sleep(hub.silence_s)
            path = unquote(urlsplit(self.path).path)
            if match := _MODEL.fullmatch(path):
                repo, kind, revision = match.groups()
                if self._known(repo, revision):
                    self._json(
                        self._tree(repo) if kind == "tree" else {"id": repo, "sha": hub.sha(repo)}
                    )
            elif match := _RESOLVE.fullmatch(path):
                repo, revision, name = match.groups()
                if self._known(repo, revision):
                    data = hub.lies.get(name, hub.repos[repo][name])
                    headers = {
                        "ETag": f'"{hashlib.sha1(name.encode()).hexdigest()}"',
                        "X-Repo-Commit": hub.sha(repo),
                    }
                    self._answer(200, data, headers)
            else:
                self._answer(404)

        def do_POST(self) -> None:
            time.sleep(hub.silence_s)
            body = self._body()
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer(401)
                return
            path = unquote(urlsplit(self.path).path)
            if path == "/api/repos/create":
                value = json.loads(body)
                name = "/".join(filter(None, (value.get("organization"), value["name"])))
                hub.repos.setdefault(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
                hub.private[name] = value.get("private", value.get("visibility") == "private")
                self._json({"url": f"{hub.url}/{name}"})
            elif path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif (match := _MODEL.fullmatch(path)) and self._known(match[1], match[3]):
                if match[2] == "preupload":
                    names = [file["path"] for file in json.loads(body)["files"]]
                    self._json(
                        {
                            "files": [
                                {"path": n, "uploadMode": "regular", "shouldIgnore": False}
                                for n in names
                            ]
                        }
                    )
                else:
                    self._commit(match[1], body)

        def _commit(self, repo: str, body: bytes) -> None:
            for line in body.splitlines():
                value = json.loads(line)
                if value["key"] == "header":
                    hub.commits.append(value["value"]["summary"])
                else:
                    assert (value["key"], value["value"]["encoding"]) == ("file", "base64")
                    hub.repos[repo][value["value"]["path"]] = base64.b64decode(
                        value["value"]["content"]
                    )
            sha = hub.sha(repo)
            self._json(
                {"success": True, "commitUrl": f"{hub.url}/{repo}/commit/{sha}", "commitOid": sha}
            )

        def _known(self, repo: str, revision: str | None) -> bool:
            if repo not in hub.repos:
                self._answer(404, headers={"X-Error-Code": "RepoNotFound"})
            elif repo in hub.gated:
                self._answer(403, headers={"X-Error-Code": "GatedRepo"})
            elif revision not in (None, "main", hub.sha(repo)):
                self._answer(404, headers={"X-Error-Code": "RevisionNotFound"})
            else:
                return True
            return False

        def _tree(self, repo: str) -> list[dict]:
            """Large files are of git-lfs, as on the real one: with SHA-256; small ones have git's
            hash.
            """
            entries: list[dict] = []
            for path, data in hub.repos[repo].items():
                oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                entry = {"type": "file", "path": path, "size": len(data), "oid": oid}
                if path.endswith(".safetensors"):
                    lfs = {
                        "oid": hashlib.sha256(data).hexdigest(),
                        "size": len(data),
                        "pointerSize": 132,
                    }
                    entry |= {"lfs": lfs, "oid": "0" * 40}
                entries.append(entry)
            folders = {path.rpartition("/")[0] for path in hub.repos[repo]} - {""}
            return entries + [
                {"type": "directory", "path": f, "oid": "1" * 40, "size": 0}
                for f in sorted(folders)
            ]

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _json(self, value: object) -> None:
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _answer(
            self, status: int, data: bytes = b"", headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    with running(Handler) as hub.url:
        yield hub
