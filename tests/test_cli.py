"""What the command says of faults of files: one line, with the path and what to do."""

from pathlib import Path

import pytest

from diffusae.cli import _explained
from diffusae.files import atomic_path


def test_a_full_disk_names_the_file_that_was_written_and_what_to_do(tmp_path: Path):
    def write() -> None:
        with atomic_path(tmp_path / "weights") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"1")

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert (
        _explained(caught.value, "train")
        == f"{tmp_path / 'weights'}: No space left on device; what is finished is kept: free some"
        " space and run the same command again"
    )
    assert not list(tmp_path.iterdir())


def test_a_directory_where_a_finished_file_is_to_go_is_named_and_not_the_temporary_file(
    tmp_path: Path,
):
    (tmp_path / "weights").mkdir()
    with pytest.raises(IsADirectoryError) as caught, atomic_path(tmp_path / "weights") as temporary:
        temporary.write_bytes(b"1")
    assert str(_explained(caught.value, "train")).startswith(
        f"{tmp_path / 'weights'}: Is a directory; "
    )


def test_a_directory_in_a_files_place_is_named_and_other_faults_of_the_system_are_ours(
    tmp_path: Path,
):
    with pytest.raises(IsADirectoryError) as caught:
        tmp_path.read_bytes()
    assert (
        _explained(caught.value, "train")
        == f"{tmp_path}: Is a directory; a file belongs there: move the directory away"
    )
    with pytest.raises(FileNotFoundError) as absent:
        (tmp_path / "absent").read_bytes()
    assert _explained(absent.value, "train") is None
