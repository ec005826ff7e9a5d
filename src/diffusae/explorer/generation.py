"""The model behind the explorer: one worker, one generation at a time, and a queue."""

from __future__ import annotations

import io
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from threading import Condition, Thread
from typing import Any, Literal

import numpy as np
from PIL import Image

from diffusae.backbone.settings import ModelSettings
from diffusae.capture.previews import Clean, Watch, decoded
from diffusae.errors import UserError
from diffusae.explorer.jobs import Cancelled, Job, JobRequest
from diffusae.explorer.looking import CellCodes, Looking
from diffusae.explorer.steering_scores import Scores
from diffusae.exploring.cells import OpenCell
from diffusae.exploring.listed_edits import EditPreparer
from diffusae.exploring.making import PictureMaker
from diffusae.exploring.opened import OpenStudy
from diffusae.parsing import first_words
from diffusae.sources import is_hub_id

log = logging.getLogger(__name__)

MOST_WAITING = 16
"""Jobs in the queue."""
KEPT_JOBS = 20
"""Jobs whose results are kept."""

ModelState = Literal["not loaded", "loading", "ready", "failed"]


class Full(UserError):
    """The queue is full; over HTTP the status is 429."""


class Generation:
    """Makes pictures for the pages, one after the other, in a thread of its own.

    The model is loaded when the first job begins, or by `warm`.

    Args:
        study: the open study.
        cells: its trained cells by name.
    """

    def __init__(self, study: OpenStudy, cells: Mapping[str, OpenCell]) -> None:
        self.study, self.cells = study, cells
        self.state: ModelState = "not loaded"
        self.reason = _missing_model(ModelSettings.of(study.settings.cfg))
        """Why no picture can be made; "": nothing is known against it."""
        self.maker = PictureMaker(lambda: study.pipe, study.settings)
        self.preparer = EditPreparer(study.settings, cells, lambda: self.maker.pipe.device)
        self.looking = Looking(study.settings, self.preparer.cell)
        self._queue: deque[Job] = deque()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = Condition()
        self._count = 0
        self._warming = False
        self._worker: Thread | None = None

    @cached_property
    def scores(self) -> Scores:
        """What is measured of an edited picture."""
        return Scores(self.study, self.preparer, self.looking)

    def submit(self, request: JobRequest) -> tuple[Job, int]:
        """Put a job into the queue: it, and how many are before it.

        Raises:
            UserError: the study cannot carry it out, or the model cannot be loaded.
            Full: too many wait.
        """
        if self.reason:
            raise UserError(self.reason)
        if request.edits is not None:
            self.preparer.check(request.edits)
        with self._changed:
            self._drop_ended()
            if len(self._queue) >= MOST_WAITING:
                raise Full(f"{MOST_WAITING} generations wait already; try again later")
            self._count += 1
            job = Job(f"j{self._count}", request)
            place = sum(not other.ended for other in self._jobs.values())
            self._jobs[job.id] = job
            self._queue.append(job)
            job.emit("queued", place=place)
            self._begin()
        return job, place

    def job(self, name: str) -> Job | None:
        """A job by its id; None: there was none, or it is not kept any more."""
        if (job := self._jobs.get(name)) is not None:
            job.touched = time.monotonic()
        return job

    def warm(self) -> None:
        """Load the model now, so that the first picture need not wait for it."""
        with self._changed:
            if self.state == "not loaded" and not self.reason:
                self._warming = True
                self._begin()

    def _begin(self) -> None:
        if self._worker is None:
            self._worker = Thread(target=self._work, name="generation", daemon=True)
            self._worker.start()
        self._changed.notify()

    def _drop_ended(self) -> None:
        """Forget the oldest results, and what was cancelled while it waited."""
        for job in [job for job in self._queue if job.ended]:
            self._queue.remove(job)
        ended = [name for name, job in self._jobs.items() if job.ended]
        for name in ended[: max(0, len(self._jobs) - KEPT_JOBS)]:
            del self._jobs[name]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._warming)
                self._warming = False
                job = self._queue.popleft() if self._queue else None
                for place, other in enumerate(one for one in self._queue if not one.ended):
                    other.emit("queued", place=place + 1)
            if job is None:
                self._load_quietly()
            elif not job.ended:
                self._run(job)

    def _run(self, job: Job) -> None:
        try:
            job.require_wanted()
            if not job.begin():
                return
            self._load()
            job.result = _MAKES[job.request.kind](self, job)
            job.end("done")
        except Cancelled:
            job.end("cancelled")
        except UserError as error:
            job.end("failed", message=str(error))
        except Exception:
            log.exception("the job %s failed", job.id)
            text = "the explorer made a mistake; the terminal where it runs shows where"
            job.end("failed", message=text)

    def _load(self) -> None:
        """Have the model in memory.

        Raises:
            UserError: it cannot be loaded; `reason` says why.
        """
        if self.state == "ready":
            return
        self.state = "loading"
        try:
            _ = self.maker.pipe
        except Exception as error:
            told = str(error) if isinstance(error, UserError) else first_words(error)
            self.state, self.reason = "failed", f"the model could not be loaded: {told}"
            raise UserError(f"{self.reason}; mend that, and start the explorer again") from error
        self.state = "ready"

    def _load_quietly(self) -> None:
        try:
            self._load()
        except UserError as error:
            log.warning("%s", error)

    def _look(self, job: Job) -> dict[str, Any]:
        """One picture, and the codes of every cell at all positions."""
        request, (seed,) = job.request, job.request.seeds
        cells = [cell for cell in self.cells.values() if cell.in_picture]
        progress = _Progress(self, job, pictures=1)
        places = list(dict.fromkeys(cell.place for cell in cells))
        run = self.maker.recorded(request.prompt, seed, places, progress.watch(seed))
        listed = []
        for cell in cells:
            job.require_wanted()
            own = self.preparer.cell(cell.name)
            codes = CellCodes.of(run.codes(own), run.grids[cell.block])
            job.codes[cell.name] = codes
            listed.append(
                {"cell": cell.name, "block": cell.block, "t": cell.t}
                | {"conditioning": cell.conditioning, "strongest": codes.strongest(own)}
            )
        picture = job.place(f"before-{seed}", png_of(run.picture))
        return {"picture": picture, "grids": run.grids, "cells": listed}

    def _steer(self, job: Job) -> dict[str, Any]:
        """Every seed as it is and with the edits, then with random latents in their place."""
        request, edits = job.request, job.request.edits
        assert edits is not None
        prompt, seeds, maker = request.prompt, request.seeds, self.maker
        own, twin = self.preparer.prepare(edits), self.preparer.random_twin(edits)
        fresh = sum(not maker.has(prompt, seed) for seed in seeds)
        progress = _Progress(self, job, pictures=fresh + len(seeds) * (1 if twin is None else 2))
        scores = self.scores.of(own, twin)
        rows: list[dict[str, Any]] = []
        pictures: dict[tuple[str, int], np.ndarray] = {}

        def keep(name: str, seed: int, picture: np.ndarray) -> str:
            pictures[name, seed] = picture
            url = job.place(f"{name}-{seed}", png_of(picture))
            job.emit("picture", seed=seed, picture=name, url=url)
            return url

        for seed in seeds:
            before = keep("before", seed, maker.unedited(prompt, seed, progress.watch(seed)))
            with scores.measured("after", seed) as prepared:
                made = maker.edited(prompt, seed, prepared, progress.watch(seed))
            after = keep("after", seed, made)
            rows.append({"seed": seed, "before": before, "after": after, "random": None})
        for row in rows if twin is not None else []:
            seed = row["seed"]
            with scores.measured("random", seed) as prepared:
                made = maker.edited(prompt, seed, prepared, progress.watch(seed, previews=False))
            row["random"] = keep("random", seed, made)
        for row in rows:
            job.require_wanted()
            row |= scores.rows(prompt, row["seed"], pictures)
        return {"pictures": rows, "yaml": edits.to_yaml()}


_MAKES: dict[str, Callable[[Generation, Job], dict[str, Any]]] = {
    "look": Generation._look,
    "steer": Generation._steer,
}


class _Progress:
    """Tells after every step how far a job is, and shows previews; ends a job that is cancelled."""

    def __init__(self, generation: Generation, job: Job, *, pictures: int) -> None:
        self._generation, self._job = generation, job
        self._of_picture = generation.maker.model.steps
        self._steps, self._done = pictures * self._of_picture, 0
        self._began = time.monotonic()

    def watch(self, seed: int, *, previews: bool = True) -> Watch:
        """What follows one picture's steps."""
        every = self._job.request.preview_every if previews else 0

        def after_step(index: int, clean: Clean) -> None:
            self._job.require_wanted()
            self._done += 1
            each = (time.monotonic() - self._began) / self._done
            left = round(each * max(0, self._steps - self._done), 1)
            self._job.emit("step", step=self._done, steps=self._steps, seconds_left=left)
            if every and (index + 1) % every == 0 and index + 1 < self._of_picture:
                self._preview(seed, clean)

        return after_step

    def _preview(self, seed: int, clean: Clean) -> None:
        model = self._generation.maker.model
        pipe = self._generation.maker.pipe
        (picture,) = decoded(pipe, clean(), height=model.height, width=model.width)
        url = self._job.place(f"preview-{seed}-{self._done}", png_of(picture))
        self._job.emit("preview", step=self._done, pictures=[{"seed": seed, "url": url}])


def png_of(picture: np.ndarray) -> bytes:
    """A picture, uint8 [height, width, 3], as the bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _missing_model(model: ModelSettings) -> str:
    """Why the model cannot be loaded, as far as that is known without loading it."""
    if is_hub_id(model.source) or Path(model.source).expanduser().is_dir():
        return ""
    return (
        f"the model is not at {model.source}, so no pictures can be made; put it there, or open the"
        " study with model_source=DIRECTORY"
    )
