"""The model behind the explorer: one generation at a time, with progress, previews and cancel."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusae.errors import UserError
from diffusae.explorer import generation as generation_module
from diffusae.explorer import jobs as jobs_module
from diffusae.explorer.explored import Explored
from diffusae.explorer.generation import MOST_WAITING, Full, Generation
from diffusae.explorer.jobs import Job, JobRequest
from diffusae.exploring.opened import OpenStudy
from diffusae.stages import steer_list
from diffusae.stages.steer import steer
from exploring.test_edit_lists import AMPLIFIED, MOVED, PROMPT
from exploring.tiny_study import composed

STEPS = 3
LOOK: dict[str, Any] = {"kind": "look", "prompt": PROMPT}
STEER: dict[str, Any] = {"kind": "steer", "prompt": PROMPT, "edits": [MOVED, AMPLIFIED]}


@pytest.fixture(scope="module")
def study(explored: Explored) -> OpenStudy:
    _ = explored.study.pipe  # it is loaded once for all tests
    return explored.study


@pytest.fixture
def generation(explored: Explored, study: OpenStudy) -> Generation:
    """With nothing kept of earlier pictures."""
    return Generation(study, explored.cells)


def request(value: dict[str, Any], **changed: Any) -> JobRequest:
    return JobRequest.of(value | changed)


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.002)


def made(generation: Generation, value: dict[str, Any], **changed: Any) -> Job:
    """The job of a request, once it is done."""
    job, _ = generation.submit(request(value, **changed))
    wait_for(lambda: job.ended)
    assert job.state == "done", job.events[-1]
    return job


def picture_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def named(job: Job, event: str) -> list[dict[str, Any]]:
    return [data for name, data in job.events if name == event]


def test_a_look_gives_the_picture_and_the_codes_of_every_position_of_every_cell(generation, study):
    job = made(generation, LOOK)
    cells = {cell["cell"]: cell for cell in job.result["cells"]}
    assert list(cells) == list(generation.cells)
    assert job.result["grids"] == {"down": (16, 16), "mid": (8, 8)}
    run = study.generate(PROMPT, seed=0, capture=list(generation.cells.values()))
    assert job.result["picture"] == f"api/jobs/{job.id}/pictures/before-0.png"
    assert (picture_of(job.pictures["before-0"]) == run.picture).all()
    for name, cell in generation.cells.items():
        values, indices = run.codes(cell)
        codes = job.codes[name].to_json()
        place = int(values.max(dim=1).values.argmax())
        order = values[place].argsort(descending=True)
        kept = [int(n) for n in order if values[place][n] > 0]
        assert codes["indices"][place] == indices[place][kept].tolist()
        assert codes["values"][place] == pytest.approx(values[place][kept].tolist(), rel=1e-3)
        latent, value, label = cells[name]["strongest"][0]
        assert (latent, value) == (codes["indices"][place][0], codes["values"][place][0])
        assert label == cell.labels_of(latent)


def test_a_steered_picture_is_to_the_bit_what_the_command_makes_of_the_exported_list(
    generation, study, directory: Path, tmp_path, monkeypatch
):
    monkeypatch.setattr(steer_list, "load_model", lambda _: study.pipe)
    job = made(generation, STEER, seeds=[3], preview_every=1)
    path = tmp_path / "edits.yaml"
    path.write_text(job.result["yaml"])
    assert steer(composed(directory.parent, "steer", f"edits={path}"))
    (kept,) = (directory / "steer").glob("edits-*-3")
    (row,) = job.result["pictures"]
    for name in ("before", "after"):
        assert row[name] == f"api/jobs/{job.id}/pictures/{name}-3.png"
        wanted = np.asarray(Image.open(kept / f"{name}.png"))
        assert (picture_of(job.pictures[f"{name}-3"]) == wanted).all()
    pictures = [picture_of(job.pictures[f"{name}-3"]) for name in ("before", "after", "random")]
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_previews_change_no_bit_and_show_what_the_picture_will_be(explored, study):
    plain, shown = (
        made(Generation(study, explored.cells), STEER, preview_every=every) for every in (0, 1)
    )
    assert not named(plain, "preview")
    for name in ("before-0", "after-0", "random-0"):
        assert plain.pictures[name] == shown.pictures[name]
    previews = named(shown, "preview")
    assert [one["step"] for one in previews] == [1, 2, 4, 5]  # after the last comes the picture
    last = picture_of(shown.pictures["preview-0-5"]).astype(float)
    after = picture_of(shown.pictures["after-0"])
    first = picture_of(shown.pictures["preview-0-4"])
    assert last.shape == after.shape == (64, 64, 3)
    assert np.abs(last - after).mean() < np.abs(first.astype(float) - after).mean()


def test_every_step_is_told_with_the_time_that_is_left(generation):
    job = made(generation, STEER, seeds=[0, 1])
    steps = named(job, "step")
    assert [one["step"] for one in steps] == list(range(1, 6 * STEPS + 1))
    assert {one["steps"] for one in steps} == {6 * STEPS}
    assert steps[-1]["seconds_left"] == 0 <= steps[0]["seconds_left"]
    assert [name for name, _ in job.events][:1] == ["queued"]
    assert [(one["picture"], one["seed"]) for one in named(job, "picture")] == [
        ("before", 0),
        ("after", 0),
        ("before", 1),
        ("after", 1),
        ("random", 0),
        ("random", 1),
    ]
    again = made(generation, STEER, seeds=[1])
    assert named(again, "step")[-1]["steps"] == 2 * STEPS  # before is known


def test_one_generation_runs_at_a_time_and_the_others_wait_in_their_order(generation):
    jobs = [generation.submit(request(LOOK, seeds=[seed])) for seed in (0, 1, 2)]
    assert [place for _, place in jobs] == [0, 1, 2]
    running: list[int] = []
    while not all(job.ended for job, _ in jobs):
        running.append(sum(job.state == "running" for job, _ in jobs))
        time.sleep(0.001)
    assert max(running) == 1
    assert [job.state for job, _ in jobs] == ["done"] * 3
    places = [one["place"] for one in named(jobs[2][0], "queued")]
    assert places == sorted(places, reverse=True) and (places[0], places[-1]) == (2, 1)


def test_a_job_is_cancelled_between_two_steps_and_one_that_waits_at_once(generation):
    job, _ = generation.submit(request(STEER, seeds=[0, 1, 2, 3]))
    waiting, _ = generation.submit(request(LOOK))
    waiting.cancel()
    assert waiting.state == "cancelled"
    wait_for(lambda: named(job, "step"))
    job.cancel()
    wait_for(lambda: job.ended)
    assert job.state == "cancelled" and len(named(job, "step")) < 6
    assert job.events[-1] == ("cancelled", {})
    assert made(generation, LOOK).state == "done"  # no hook is left behind
    assert not named(waiting, "step")


def test_a_job_that_nobody_asks_for_ends(generation, monkeypatch):
    monkeypatch.setattr(jobs_module, "PATIENCE", 0.0)
    job, _ = generation.submit(request(LOOK))
    wait_for(lambda: job.ended)
    assert job.state == "cancelled"
    listened, _ = generation.submit(request(LOOK))
    listened.listeners += 1
    wait_for(lambda: listened.ended)


def test_the_queue_and_the_kept_results_are_bounded(generation, monkeypatch):
    monkeypatch.setattr(generation, "_begin", lambda: None)  # nothing is carried out
    jobs = [generation.submit(request(LOOK, seeds=[n]))[0] for n in range(MOST_WAITING)]
    with pytest.raises(Full, match="16 generations wait already"):
        generation.submit(request(LOOK))
    for job in jobs:
        job.cancel()
    for n in range(30):
        job, place = generation.submit(request(LOOK, seeds=[n]))
        assert place == 0
        job.cancel()
    assert len(generation._jobs) <= generation_module.KEPT_JOBS + 1
    assert generation.job("j1") is None and generation.job(job.id) is job


def test_what_the_study_does_not_have_is_refused_before_the_queue(generation):
    with pytest.raises(UserError, match="edit 1: unknown cell"):
        generation.submit(request(STEER, edits=[MOVED | {"cell": "none"}]))
    assert generation.state == "not loaded"


def test_a_model_that_cannot_be_loaded_fails_the_job_and_says_why(explored, monkeypatch):
    made = Generation(explored.study, explored.cells)

    def missing() -> Any:
        raise UserError("no weights here")

    made.maker._load = missing
    job, _ = made.submit(request(LOOK))
    wait_for(lambda: job.ended)
    name, data = job.events[-1]
    assert name == "failed" and "no weights here; mend that" in data["message"]
    assert (made.state, made.reason) == ("failed", "the model could not be loaded: no weights here")
    with pytest.raises(UserError, match="no weights here"):
        made.submit(request(LOOK))


def test_a_folder_of_weights_that_is_not_there_is_known_from_the_start(explored):
    settings = explored.study.settings.at(explored.study.cells[0].place)
    settings.cfg.model.source = "/nowhere/at all"
    made = Generation(OpenStudy(settings), explored.cells)
    assert "the model is not at /nowhere/at all" in made.reason


def test_a_fault_of_our_own_ends_one_job_and_not_the_worker(generation, monkeypatch):
    def broken(*_: Any) -> Any:
        raise RuntimeError("oops")

    with monkeypatch.context() as patch:
        patch.setitem(generation_module._MAKES, "look", broken)
        job, _ = generation.submit(request(LOOK))
        wait_for(lambda: job.ended)
    assert job.state == "failed" and "oops" not in job.events[-1][1]["message"]
    made(generation, LOOK)


def test_the_model_is_loaded_ahead_where_it_is_asked_for(generation):
    generation.warm()
    wait_for(lambda: generation.state == "ready")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "paint"}, "kind must be"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": None}, "prompt must be text"),
        ({"prompt": "a" * 2001}, "2001 characters"),
        ({"seeds": []}, "seeds must be 1 to 8"),
        ({"seeds": list(range(9))}, "seeds must be 1 to 8"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"seeds": [-1]}, "picture_seed=-1"),
        ({"seeds": [True]}, "seeds must be"),
        ({"preview_every": -1}, "preview_every=-1"),
        ({"edits": []}, "look takes no edits, and steer needs at least one"),
        ({"edits": [MOVED] * 17}, "1 to 16 edits"),
        ({"path": "/etc/passwd"}, "key of a job: 'path'"),
    ],
)
def test_a_request_that_cannot_be_is_refused(changed, message):
    with pytest.raises(UserError, match=message):
        JobRequest.of(STEER | changed)


def test_a_look_is_of_one_picture():
    with pytest.raises(UserError, match="seeds must be 1 to 1"):
        JobRequest.of(LOOK | {"seeds": [0, 1]})
    with pytest.raises(UserError, match="look takes no edits"):
        JobRequest.of(LOOK | {"edits": [MOVED]})
