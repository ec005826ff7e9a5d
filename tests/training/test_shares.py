"""Which process trains what."""

from __future__ import annotations

from diffusae.training.shares import equal_shares, number_of_shares


def test_the_most_work_is_given_first_to_the_share_that_has_the_least():
    # 9 to the first, 6 and 5 to the second (11), 4 to the first (13), 3 to the second (14).
    work = {"down": 4, "mid": 9, "up": 6, "early": 5, "late": 3}
    assert equal_shares(work, 2) == [["mid", "down"], ["up", "early", "late"]]


def test_equal_streams_are_dealt_in_turn_and_shares_beyond_them_are_empty():
    work = dict.fromkeys("abcde", 7)
    assert equal_shares(work, 2) == [["a", "c", "e"], ["b", "d"]]
    assert equal_shares(work, 7) == [["a"], ["b"], ["c"], ["d"], ["e"], [], []]


def test_the_number_of_shares_is_that_of_the_processes_which_began(tmp_path):
    note = tmp_path / "shares.json"
    assert number_of_shares(note, 3) == number_of_shares(note, 8) == 3
    note.write_text(note.read_text().replace("3", "4"))  # damaged
    assert number_of_shares(note, 8) == 8
