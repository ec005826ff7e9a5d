"""The process that talks to W&B for a `WandbMirror`, by lines of JSON: requests in, events out.

It is started by its path and imports nothing of diffusae. It can be killed if W&B hangs. If the run
is killed, the process sees the end of its input and still writes what was logged.

First line in: {"init": arguments of wandb.init, "settings": arguments of wandb.Settings}. Further
lines: requests with an `op`; a picture is {"png": base64 text}. Lines out: {"event": "ready" |
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
    # The run decides when this process ends: an interrupt must not lose logged values.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # W&B's prints go to the log
    try:
        run = _start(json.loads(sys.stdin.readline()))
    except BaseException as error:
        _say(events, "failed", error)
        raise
    _say(events, "ready")
    exit_code = 1  # for a killed run, whose input ends without `finish`
    step = run.step  # above 0 if an online run continues
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
    """Carry out one request and return the current step.

    Tables and panels use that step. Otherwise W&B would begin a new step for them.
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
            table = wandb.Table(columns=request["columns"], data=rows)
            run.log({request["name"]: table}, step=step)
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
