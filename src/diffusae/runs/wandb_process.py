"""The process that talks to W&B for a `WandbMirror`: requests come in as lines of JSON, events go
out so.

It is started by its path and imports nothing of diffusae. A process of its own can be killed when
W&B hangs, and lives on for a moment when the run is killed: its input ends, and what was logged is
written down.

First line in: {"init": arguments of wandb.init, "settings": arguments of wandb.Settings}; then
requests, each with an `op`; a picture is {"png": base64 text}. Lines out: {"event": "ready" |
"failed" | "warning" | "finished", "reason": text}.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
from typing import Any, TextIO


def main() -> None:
    """Serve requests until `finish` or the end of the input."""
    # The run decides when this ends: an interrupt meant for it must not cost what was logged.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever W&B prints goes to the log
    try:
        run = _start(json.loads(sys.stdin.readline()))
    except BaseException as error:
        _say(events, "failed", error)
        raise
    _say(events, "ready")
    exit_code = 1  # the input ends without `finish` when the run was killed
    step = run.step  # above 0 where an online run goes on
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "finish":
            exit_code = request["exit_code"]
            break
        try:
            step = _serve(run, request, step)
        except Exception as error:
            _say(events, "warning", error)
    run.finish(exit_code=exit_code)
    _say(events, "finished")


def _start(values: dict[str, Any]) -> Any:
    import wandb

    return wandb.init(**values["init"], settings=wandb.Settings(**values["settings"]))


def _serve(run: Any, request: dict[str, Any], step: int) -> int:
    """Do one request and return the step in force.

    Tables and panels carry that step: without one, W&B would begin a new step for them.
    """
    import wandb

    match request["op"]:
        case "log":
            run.log(request["metrics"], step=request["step"])
            return request["step"]
        case "summary":
            run.summary.update(request["values"])
        case "table":
            rows: Any = [
                [_picture(cell) if isinstance(cell, dict) else cell for cell in row]
                for row in request["rows"]
            ]
            run.log(
                {request["name"]: wandb.Table(columns=request["columns"], data=rows)}, step=step
            )
        case "panel":
            pictures = [_picture(picture, picture["caption"]) for picture in request["pictures"]]
            run.log({request["name"]: pictures}, step=step)
    return step


def _picture(value: dict[str, str], caption: str | None = None) -> Any:
    import wandb
    from PIL import Image

    return wandb.Image(Image.open(io.BytesIO(base64.b64decode(value["png"]))), caption=caption)


def _say(events: TextIO, event: str, reason: object = "") -> None:
    events.write(json.dumps({"event": event, "reason": str(reason) or repr(reason)}) + "\n")


if __name__ == "__main__":
    main()
