"""A job: what the browser asks the model for, and how it goes."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import RLock
from typing import Any, Literal

from diffusae.errors import UserError, together, unknown
from diffusae.explorer.looking import CellCodes
from diffusae.parsing import of_type, shown
from diffusae.steering.edit_list import EditList, edits_of, prompt_faults, seed_faults

MOST_SEEDS = 8
KEPT_PREVIEWS = 4
"""Of one job: a page shows the last, and may still fetch the one before."""
PATIENCE = 60.0
"""Seconds that a job goes on without anybody who listens or asks."""

Kind = Literal["look", "steer"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")


class Cancelled(Exception):
    """The job is not wanted any more."""


@dataclass(frozen=True)
class JobRequest:
    """What is asked for.

    Attributes:
        kind: "look": one picture, with what all cells do; "steer": pictures with edits.
        seeds: one picture each; "look" takes one.
        edits: of "steer".
        preview_every: steps between previews; 0: there are none.
    """

    kind: Kind
    prompt: str
    seeds: tuple[int, ...]
    edits: EditList | None
    preview_every: int

    @classmethod
    def of(cls, value: Any) -> JobRequest:
        """The request in a JSON value.

        Raises:
            UserError: with all that is wrong with it.
        """
        known = ("kind", "prompt", "seeds", "edits", "preview_every")
        if not isinstance(value, dict):
            raise UserError(f"a job is a JSON object with {', '.join(known)}, is {shown(value)}")
        for name in value:
            if name not in known:
                raise unknown("key of a job:", name[:80], known)
        kind: Kind = of_type(value.get("kind"), Kind, "kind")
        prompt = of_type(value.get("prompt"), str, "prompt")
        seeds = of_type(value.get("seeds", [0]), tuple[int, ...], "seeds")
        every = of_type(value.get("preview_every", 3), int, "preview_every")
        edits = value.get("edits") or None
        faults = [*prompt_faults(prompt), *(fault for seed in seeds for fault in seed_faults(seed))]
        most = 1 if kind == "look" else MOST_SEEDS
        if not 1 <= len(seeds) <= most or len(set(seeds)) < len(seeds):
            faults.append(f"seeds must be 1 to {most} different numbers, are {len(seeds)}")
        if not 0 <= every <= 1000:
            faults.append(f"preview_every={every} must be a whole number from 0 to 1000")
        if (kind == "look") != (edits is None):
            faults.append("look takes no edits, and steer needs at least one")
        together(faults)
        listed = None if edits is None else EditList(prompt, seeds[0], edits_of(edits))
        return cls(kind, prompt, seeds, listed, every)


@dataclass
class Job:
    """One request on its way. The worker writes it, and the pages read it.

    Attributes:
        events: (name, data) of all that happened, for listeners; only added to.
        pictures: name -> PNG.
        codes: of "look": cell's name -> its codes.
        listeners: open streams of events.
        touched: when somebody last asked for it, in seconds of `time.monotonic`.
    """

    id: str
    request: JobRequest
    state: State = "queued"
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    pictures: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    codes: dict[str, CellCodes] = field(default_factory=dict)
    listeners: int = 0
    touched: float = field(default_factory=time.monotonic)
    _unwanted: Flag = field(default_factory=Flag)
    _lock: RLock = field(default_factory=RLock)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    def emit(self, name: str, **data: Any) -> None:
        """Tell the listeners."""
        self.events.append((name, data))

    def begin(self) -> bool:
        """Note that it runs now; False: it was cancelled before."""
        with self._lock:
            if not self.ended:
                self.state = "running"
            return not self.ended

    def end(self, state: State, **data: Any) -> None:
        """Tell the listeners that nothing more comes; without effect where it ended already."""
        with self._lock:
            if not self.ended:
                self.emit(state, **data)
                self.state = state  # after the event: whoever sees the end finds it

    def cancel(self) -> None:
        """Ask it to stop. One that waits ends at once, one that runs after its step."""
        self._unwanted.set()
        if self.state == "queued":
            self.end("cancelled")

    def require_wanted(self) -> None:
        """Raise `Cancelled` where it was cancelled, or nobody has asked for long."""
        forgotten = not self.listeners and time.monotonic() - self.touched > PATIENCE
        if self._unwanted.is_set() or forgotten:
            raise Cancelled

    def place(self, name: str, png: bytes) -> str:
        """Keep a picture; its address, from the start page on."""
        self.pictures[name] = png
        previews = [one for one in self.pictures if one.startswith("preview-")]
        for old in previews[:-KEPT_PREVIEWS]:
            del self.pictures[old]
        return f"api/jobs/{self.id}/pictures/{name}.png"
