"""Saving a chart, a workspace and a report by W&B's client, to a local stand-in for its server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from diffusae.runs import wandb_save
from local_server import running

USER: dict[str, Any] = {**dict.fromkeys(("name", "username", "email", "entity"), "me"), "id": "1"}
USER |= {"flags": "{}", "admin": False, "deletedAt": None}
USER |= {"apiKeys": {"edges": []}, "teams": {"edges": []}}
PROJECT = {"id": "1", "name": "p", "entityName": "me", "createdAt": "x", "isBenchmark": False}
PROJECT |= {"user": USER}
PAGE = {"endCursor": "a", "hasNextPage": False}


def answer(query: str, given: dict[str, Any]) -> dict[str, Any]:
    """W&B's answers, as far as its client reads them."""
    if "createCustomChart" in query:
        return {"createCustomChart": {"chart": {"id": "me/heat"}}}
    if "upsertView" in query:
        view = {"id": "Vmlldzox", "name": "nw-abc-v", "displayName": given["displayName"]}
        view |= {"description": "", "type": "runs", "spec": given["spec"], "user": USER}
        view |= {"project": {"name": "p", "entityName": "me"}}
        times = dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00Z")
        return {"upsertView": {"view": view | times, "inserted": True}}
    if "models" in query:
        return {"models": {"edges": [{"node": PROJECT, "cursor": "a"}], "pageInfo": PAGE}}
    return {"viewer": USER}


@dataclass
class Server:
    """What it was asked, and the query that it refuses."""

    url: str = ""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refuses: str = "no such query"


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    """What answers in its name."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reply: dict[str, Any] = {}
            if self.path == "/graphql":
                request = json.loads(body)
                query, given = request["query"], request.get("variables") or {}
                server.asked.append((query, given))
                if server.refuses in query:
                    reply = {"errors": [{"message": "over quota"}], "data": None}
                else:
                    reply = {"data": answer(query, given)}
            content = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with running(handler(server)) as server.url:
        yield server


SAVE = """
import json, logging
import wandb_workspaces.reports.v2 as wr, wandb_workspaces.workspaces as ws
from diffusae.runs.wandb_save import save_online
logging.basicConfig()
urls = save_online(
    lambda entity: {
        "workspace": ws.Workspace(entity=entity, project="p", name="mine"),
        "report": wr.Report(entity=entity, project="p", title="mine", blocks=[wr.P(text="said")]),
    },
    entity=None, chart={"name": "heat", "spec": {"mark": "rect"}}, timeout_s=60,
)
print("RESULT", json.dumps(urls))
"""


def saved(server: Server, home: Path) -> tuple[Any, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    given = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40, "HOME": str(home)}
    given["PYTHONPATH"] = str(Path(wandb_save.__file__).parents[2])
    command = [sys.executable, "-c", SAVE]
    done = subprocess.run(
        command, env=kept | given, cwd=home, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT ")), done.stderr


def test_chart_workspace_and_report_are_saved_for_the_entity_of_the_key(server, tmp_path):
    urls, _ = saved(server, tmp_path)
    base = f"{server.url}/me/p"
    assert urls == {"workspace": f"{base}?nw=abc", "report": f"{base}/reports/mine--Vmlldzox"}
    (chart,) = [given for query, given in server.asked if "createCustomChart" in query]
    assert (chart["entity"], chart["chartName"], chart["access"]) == ("me", "heat", "PRIVATE")
    assert json.loads(chart["spec"]) == {"mark": "rect"}
    workspace, report = [given for query, given in server.asked if "upsertView" in query]
    of_workspace = [workspace[name] for name in ("type", "entityName", "projectName")]
    assert of_workspace == ["project-view", "me", "p"]
    assert (report["type"], report["entityName"], report["displayName"]) == ("runs", "me", "mine")
    assert "said" in report["spec"]


def test_a_chart_that_is_there_already_is_no_obstacle(server, tmp_path):
    server.refuses = "createCustomChart"
    urls, _ = saved(server, tmp_path)
    assert set(urls) == {"workspace", "report"}


def test_what_is_refused_is_said_and_nothing_raised(server, tmp_path):
    server.refuses = "upsertView"
    urls, logged = saved(server, tmp_path)
    assert urls is None
    assert "W&B did not save the dashboard" in logged
    assert "over quota" in logged
