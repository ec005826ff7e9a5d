"""Notes: what is kept, what two explorers and a hand do to one file, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diffusae.errors import UserError
from diffusae.explorer import notes as module
from diffusae.explorer.notes import FILE, Changed, Note, Notes

CELL = "down-t1.00-cond-k10"


def content(notes: Notes):
    return json.loads(notes.path.read_text())


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes.of_study(tmp_path)


def test_a_note_is_kept_field_by_field(notes):
    notes.change(CELL, 373, "bookmarked", True, was=False)
    after = notes.change(CELL, 373, "name", "  red \n fish ", was="")
    assert after == Note(bookmarked=True, name="red fish")
    assert Notes(notes.path).all() == {CELL: {373: after}}
    assert content(notes) == {"latents": {CELL: {"373": {"bookmarked": True, "name": "red fish"}}}}


def test_what_two_explorers_change_is_all_kept(notes):
    other = Notes(notes.path)
    notes.change(CELL, 1, "name", "fish", was="")
    other.change(CELL, 1, "note", "from below", was="")
    other.change("mid-t0.50-cond-k10", 2, "name", "cat", was="")
    notes.change(CELL, 1, "bookmarked", True, was=False)
    assert notes.all() == other.all() == {
        CELL: {1: Note(True, "fish", "from below")},
        "mid-t0.50-cond-k10": {2: Note(name="cat")},
    }  # fmt: skip


def test_the_same_field_is_not_replaced_unseen(notes):
    other = Notes(notes.path)
    notes.change(CELL, 1, "name", "fish", was="")
    with pytest.raises(Changed) as refused:
        other.change(CELL, 1, "name", "trout", was="")
    assert refused.value.now == Note(name="fish") == other.of(CELL, 1)
    other.change(CELL, 1, "name", "trout", was="fish")
    notes.change(CELL, 1, "name", "trout", was="fish")  # both meant the same


def test_what_a_hand_writes_is_shown_at_once_and_stays(notes):
    notes.change(CELL, 1, "name", "fish", was="")
    by_hand = content(notes)
    by_hand["mine"] = [1, 2]
    by_hand["latents"][CELL]["1"]["colour"] = "ř"
    by_hand["latents"][CELL]["7"] = {"note": "by hand"}
    notes.path.write_text(json.dumps(by_hand))
    assert notes.of(CELL, 7) == Note(note="by hand")
    notes.change(CELL, 7, "bookmarked", True, was=False)
    by_hand["latents"][CELL]["7"]["bookmarked"] = True
    assert content(notes) == by_hand


def test_a_hand_that_saves_during_a_change_loses_nothing(notes, monkeypatch):
    notes.change(CELL, 1, "name", "fish", was="")
    real, saved = module.atomic_path, []

    def slow(path):
        if not saved:  # the editor saves after the file was read
            saved.append(1)
            edited = content(notes)
            edited["latents"][CELL]["9"] = {"note": "by hand"}
            path.write_text(json.dumps(edited))
        return real(path)

    monkeypatch.setattr(module, "atomic_path", slow)
    notes.change(CELL, 1, "bookmarked", True, was=False)
    assert notes.all() == {CELL: {1: Note(True, "fish"), 9: Note(note="by hand")}}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"latents": {"a": 3}}', '{"latents": {"a": {"1": 2}}}']
)
def test_a_damaged_file_is_named_and_left_as_it_is(notes, text):
    notes.path.write_text(text)
    for act in (notes.all, lambda: notes.change(CELL, 1, "name", "x", was="")):
        with pytest.raises(UserError, match=r"explorer-notes\.json.*correct it by hand"):
            act()
    assert notes.path.read_text() == text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("colour", "red", "unknown field of a note"),
        ("name", 3, "name must be a text"),
        ("bookmarked", 1, "bookmarked must be true or false"),
        ("name", "x" * 121, "name has 121 characters; at most 120"),
        ("note", "x" * 4001, "at most 4000"),
    ],
)
def test_what_cannot_be_a_note_is_refused(notes, field, value, says):
    with pytest.raises(UserError, match=says):
        notes.change(CELL, 1, field, value, was="")
    assert not notes.path.exists()


def test_notes_of_a_study_on_a_read_only_disk_are_kept_in_the_users_own_directory(
    notes, tmp_path, monkeypatch
):
    notes.change(CELL, 1, "name", "fish", was="")
    before = notes.path.read_bytes()
    monkeypatch.setattr(module, "is_writable", lambda directory: False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    own = Notes.of_study(tmp_path)
    assert not own.is_beside and (tmp_path / "home") in own.path.parents
    own.change(CELL, 1, "bookmarked", True, was=False)
    own.change(CELL, 2, "name", "cat", was="")
    assert own.all() == {CELL: {1: Note(True, "fish"), 2: Note(name="cat")}}
    own.change(CELL, 1, "name", "", was="fish")
    assert own.of(CELL, 1) == Note(bookmarked=True)
    assert (tmp_path / FILE).read_bytes() == before


def test_threads_of_one_explorer_lose_nothing(notes):
    threads = [
        threading.Thread(
            target=lambda at=at: [
                notes.change(CELL, at * 10 + i, "name", "x", was="") for i in range(5)
            ]
        )
        for at in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(notes.all()[CELL]) == 20


_WRITER = """
import sys
from diffusae.explorer.notes import Notes
notes, first = Notes(__import__("pathlib").Path(sys.argv[1])), int(sys.argv[2])
for latent in range(first, first + 100000):
    notes.change("cell", latent, "note", "x" * 200, was="")
    print(latent, flush=True)
"""


def test_kill_9_while_two_explorers_save_loses_nothing_that_was_said_to_be_saved(tmp_path):
    path, said = tmp_path / FILE, set()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(first)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 1_000_000)
    ]
    for writer, lines in zip(writers, (7, 12), strict=True):
        assert writer.stdout
        said |= {int(writer.stdout.readline()) for _ in range(lines)}
        time.sleep(0.003)
        os.kill(writer.pid, signal.SIGKILL)
        said |= {int(line) for line in writer.stdout.read().splitlines() if line}
        writer.wait()
    notes = Notes(path)
    assert len(said) >= 19 and said <= notes.all()["cell"].keys()
    notes.change("cell", 5_000_000, "name", "after the kills", was="")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".explorer-notes.lock", FILE]


def test_a_note_is_changed_and_read_over_http(client, explored, notes, monkeypatch):
    monkeypatch.setitem(vars(explored), "notes", notes)
    change = {"cell": "down-t1.00-cond-k4", "latent": 3, "field": "name", "was": ""}
    done = client.put("/notes/", json={**change, "value": "<b>fish</b>"})
    assert done.status_code == 200 and done.json()["note"]["name"] == "<b>fish</b>"
    assert client.get("/notes/").json()["latents"] == {
        "down-t1.00-cond-k4": {"3": {"bookmarked": False, "name": "<b>fish</b>", "note": ""}}
    }
    page = client.get("/", headers={"accept": "text/html"}).text
    assert "&lt;b&gt;fish" in page and "<b>fish" not in page
    refused = client.put("/notes/", json={**change, "value": "trout"})
    assert refused.status_code == 409 and refused.json()["note"]["name"] == "<b>fish</b>"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (
            {"cell": "down-t1.00-cond-k4", "latent": 64, "field": "name", "value": "", "was": ""},
            404,
        ),
        ({"cell": "../../etc", "latent": 3, "field": "name", "value": "", "was": ""}, 404),
        ({"cell": "down-t1.00-cond-k4", "latent": 3, "field": "path", "value": "", "was": ""}, 400),
        ({"cell": "down-t1.00-cond-k4"}, 400),
        ([], 400),
    ],
)
def test_a_wrong_change_over_http_is_answered_and_writes_nothing(
    client, explored, notes, monkeypatch, body, status
):
    monkeypatch.setitem(vars(explored), "notes", notes)
    answer = client.put("/notes/", json=body)
    assert answer.status_code == status and answer.json()["error"]
    assert not notes.path.exists()
