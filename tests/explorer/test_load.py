"""50 readers at once, on loopback, while the explorer makes a picture."""

import pytest

from command import Started
from explorer.load import pages_of, while_generating
from explorer.test_serving import opened

READERS = 50


@pytest.mark.slow  # loads the model and reads for some ten seconds; load.py measures the times
def test_fifty_readers_are_all_answered_while_a_picture_is_made(directory):
    started = Started("explore", str(directory), "port=0")
    try:
        address = opened(started)
        paths = pages_of(address)
        load, ended = while_generating(READERS, address, paths, seeds=1)
    finally:
        started.kill()
    assert ended == "done" and load.faults == []
    assert len(load.pages) == READERS and min(load.pages) >= 1 and len(paths) > 4
