"""W&B as a mirror of a run. If W&B fails or hangs, the run continues."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from diffusae.errors import UserError, unknown
from diffusae.masking import masked_json
from diffusae.runs.metric_log import plain_value
from diffusae.runs.wandb_mode import MODES, Mode, mode_of, valid_run_id

logger = logging.getLogger(__name__)

# Switches off features of W&B that take longer than its start itself.
LEAN = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
_AFTER_STOP_S = 10.0  # a stopped run does not wait for a slow network
_WAITING = 10_000  # requests that may wait


class WandbMirror:
    """One W&B run in its own process. Nothing here raises errors or waits without a limit.

    The process starts in parallel to the run. If it is not ready after `timeout_s`, it is killed
    with a warning, and the next mode is tried: offline after online, then none. `finish` waits for
    a start that is still running, and at most `timeout_s` for the upload.

    Args:
        directory: the directory of all of W&B's files.
        project, group, name, run_id, entity: as in W&B. A sweep is a group, a cell is a run. None
            for `entity`: the key's own.
        config: the resolved configuration, with the cell's coordinates.
        mode: `auto` is WANDB_MODE of the environment if set, else online with an API key
            (WANDB_API_KEY or netrc), else offline.
        timeout_s: seconds that a start and the finish may take.

    Raises:
        UserError: the mode is unknown, or the timeout is not above 0.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        project: str,
        group: str | None,
        name: str,
        run_id: str,
        config: Mapping[str, Any],
        entity: str | None = None,
        mode: Mode = "auto",
        timeout_s: float = 60.0,
    ) -> None:
        if mode not in MODES:
            raise unknown("W&B mode", mode, MODES)
        if not timeout_s > 0:
            raise UserError(f"timeout_s={timeout_s} must be above 0 seconds; raise it")
        self.directory = Path(directory).absolute()
        self.timeout_s = timeout_s
        base = {"project": project, "group": group, "name": name, "config": dict(config)}
        self._run = {**base, "id": valid_run_id(run_id)}
        self._run |= {} if entity is None else {"entity": entity}
        modes = {"online": ["online", "offline"], "offline": ["offline"], "disabled": []}
        self._modes = modes[mode_of(mode, os.environ)]
        self._requests: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=_WAITING)
        self._process: _Process | None = None
        self._thread: threading.Thread | None = None
        self._last_step = 0
        self.mode: str | None = None if self._modes else "disabled"

    def __enter__(self) -> Self:
        if self._modes:
            self._thread = threading.Thread(target=self._serve, name="wandb-mirror", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _tb: object) -> None:
        patience = _AFTER_STOP_S if isinstance(error, SystemExit) else None
        self.finish(exit_code=0 if kind is None else 1, patience_s=patience)

    def log(self, metrics: Mapping[str, Any], *, step: int) -> None:
        """Send metrics at a step. A step below an earlier one is left out with a warning."""
        if step < self._last_step:
            last = self._last_step
            logger.warning("W&B takes no step %d after %d; it is left out there", step, last)
            return
        self._last_step = step
        self._put(lambda: {"op": "log", "metrics": _plain(metrics), "step": step})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Send final values of the run."""
        self._put(lambda: {"op": "summary", "values": _plain(values)})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Send a table of plain values and uint8 pictures [height, width, 3]."""

        def build() -> dict[str, Any]:
            cells = [[_table_value(value) for value in row] for row in rows]
            return {"op": "table", "name": name, "columns": list(columns), "rows": cells}

        self._put(build)

    def panel(
        self, name: str, pictures: Sequence[tuple[str, UInt8[np.ndarray, "height width 3"]]]
    ) -> None:
        """Send pictures (uint8 [height, width, 3]) with captions, such as before and after an
        edit."""

        def build() -> dict[str, Any]:
            made = [{"caption": caption, "png": _png(array)} for caption, array in pictures]
            return {"op": "panel", "name": name, "pictures": made}

        self._put(build)

    def finish(self, *, exit_code: int = 0, patience_s: float | None = None) -> None:
        """Close the run and wait for its process, up to a limit. Further calls do nothing.

        After `patience_s` seconds the process is left to end by itself. None: it gets the time of a
        running start and the upload, and is then killed.
        """
        if self._thread is None:
            return
        patience = self.timeout_s * (len(self._modes) + 1) if patience_s is None else patience_s
        try:
            self._requests.put({"op": "finish", "exit_code": exit_code}, timeout=patience)
        except queue.Full:
            patience = 0.0
        self._thread.join(patience)
        if self._thread.is_alive() and patience_s is None:
            logger.warning("W&B does not answer and is given up; the local metrics are complete")
            if self._process is not None:
                self._process.kill()
            self._thread.join(1.0)
        self._thread = None

    def _put(self, build: Callable[[], dict[str, Any]]) -> None:
        """Queue a request. If it cannot be built or queued, it is left out with a warning."""
        if self._thread is None or not self._thread.is_alive():
            return
        try:
            self._requests.put_nowait(build())
        except queue.Full:
            logger.warning("%d requests wait for W&B; one more is left out there", _WAITING)
        except Exception as error:
            logger.warning("W&B cannot take a value, it is left out there: %r", error)

    def _serve(self) -> None:
        """The work of the mirror's thread."""
        try:
            process = self._start()
            if process is not None:
                self._pass_on(process)
        except OSError as error:
            self.mode = "disabled"
            logger.warning("W&B is given up: %s; the local metrics are complete", error)

    def _start(self) -> _Process | None:
        """The process of the first mode that is ready in time; None if none is."""
        how: Any = {"run": self._run, "timeout_s": self.timeout_s}
        for mode in self._modes:
            self._process = _Process(self.directory, mode=mode, **how)
            event, reason = self._process.wait_for("ready", timeout_s=self.timeout_s)
            if event == "ready":
                self.mode = mode
                return self._process
            self._process.kill()
            logger.warning("W&B does not start %s: %s", mode, reason)
        self.mode = "disabled"
        return None

    def _pass_on(self, process: _Process) -> None:
        """Pass on requests until `finish`, then wait for the end."""
        request = {"op": ""}
        while request["op"] != "finish":
            request = self._requests.get()
            process.send(request)
        event, reason = process.wait_for("finished", timeout_s=self.timeout_s)
        if event == "finished":
            process.wait_for_end(timeout_s=5.0)
        process.kill()
        if event != "finished":
            what = f"`wandb sync` can send {self.directory} later"
            logger.warning("W&B did not finish: %s; %s", reason, what)


class _Process:
    """The child process, its requests and its events."""

    def __init__(
        self, directory: Path, *, mode: str, run: Mapping[str, Any], timeout_s: float
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        kinds = ("", "DATA_", "CACHE_", "CONFIG_", "ARTIFACT_")
        environment = {
            **os.environ,
            **{f"WANDB_{kind}DIR": str(directory) for kind in kinds},
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_MODE": mode,  # W&B may refuse the user's own value
        }
        environment.pop("WANDB_SERVICE", None)  # another run's service must not be killed
        with open(directory / "wandb-process.log", "ab") as log:
            self._child = subprocess.Popen(
                # -P keeps this folder off the path, since our modules would hide others by name
                [sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # to kill it together with the service that it starts
            )
        self._events: queue.Queue[dict[str, str]] = queue.Queue()
        threading.Thread(target=self._listen, name="wandb-events", daemon=True).start()
        # Shorter than our own limit, so that W&B's message comes before the kill
        limits = ("init_timeout", "login_timeout", "finish_timeout")
        patience = dict.fromkeys(limits, 0.6 * timeout_s)
        init = {**run, "mode": mode, "dir": str(directory)}
        if mode == "online":
            init["resume"] = "allow"
        self.send({"init": init, "settings": {**LEAN, **patience}})

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            event = json.loads(line)
            if event["event"] == "warning":
                logger.warning("W&B: %s", event["reason"])
            else:
                self._events.put(event)
        self._events.put({"event": "ended", "reason": "its process ended"})

    def send(self, request: Mapping[str, Any]) -> None:
        """Pass one request on. Raises `OSError` if the process has ended."""
        assert self._child.stdin is not None
        self._child.stdin.write(masked_json(json.dumps(request, default=str)).encode() + b"\n")
        self._child.stdin.flush()

    def wait_for(self, wanted: str, *, timeout_s: float) -> tuple[str, str]:
        """The next event and its reason; `timeout` if none comes in time."""
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return "timeout", f"not {wanted} after {timeout_s:g} s"
        return event["event"], event["reason"]

    def wait_for_end(self, *, timeout_s: float) -> None:
        """Wait for the process to end by itself, since W&B's service writes its last records
        then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=timeout_s)

    def kill(self) -> None:
        """End the process and its service at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended by itself
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain_value(value) for name, value in values.items()}


def _table_value(value: Any) -> Any:
    is_picture = isinstance(value, np.ndarray) and value.ndim == 3
    return {"png": _png(value)} if is_picture else plain_value(value)


def _png(array: np.ndarray) -> str:
    """A picture as the base64 text of its PNG, packed lightly: that takes a third of the time."""
    png = io.BytesIO()
    Image.fromarray(array).save(png, format="PNG", compress_level=1)
    return base64.b64encode(png.getvalue()).decode()
