import errno
import shutil
from types import SimpleNamespace

import pytest

from diffusae.errors import UserError
from diffusae.runs.disk import require_free, where_writable


def test_what_fits_passes_and_what_does_not_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000_000))
    require_free(tmp_path, 3_000_000_000)
    with pytest.raises(UserError) as caught:
        require_free(tmp_path, 5_500_000_000)
    message = str(caught.value)
    assert "5.50 GB (5500000000 bytes) are needed" in message
    assert "3.00 GB (3000000000 bytes) are free" in message
    assert "free 2.50 GB" in message


def test_a_directory_that_is_not_made_yet_counts_as_its_parents_disk(tmp_path):
    require_free(tmp_path / "not" / "yet", 1)
    with pytest.raises(UserError):
        require_free(tmp_path / "not" / "yet", 10**18)
    assert not (tmp_path / "not").exists()


def test_what_nothing_needs_later_is_left_unwritten_on_a_disk_that_cannot_be_written_alone(
    tmp_path, caplog
):
    with where_writable(tmp_path / "plan.json", otherwise="the plan is shown and not kept"):
        raise OSError(errno.EROFS, "Read-only file system")
    assert (
        "plan.json cannot be written (Read-only file system): the plan is shown and not kept"
        in caplog.text
    )
    with (
        pytest.raises(OSError, match="No space"),
        where_writable(tmp_path / "plan.json", otherwise=""),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
