"""What a safetensors file holds is compared before it is read."""

import pytest
import torch
from safetensors.torch import save_file

from diffusae.errors import UserError
from diffusae.tensor_files import read_header, read_tensors


@pytest.fixture
def path(tmp_path):
    save_file(
        {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.float16)},
        tmp_path / "x.safetensors",
        metadata={"k": "v"},
    )
    return tmp_path / "x.safetensors"


def test_a_header_tells_shapes_types_and_metadata(path):
    header = read_header(path, remedy="copy it")
    assert header.shapes == {"a": (2, 3), "b": (4,)}
    assert header.dtypes == {"a": "F32", "b": "F16"} and header.metadata == {"k": "v"}


def test_other_names_and_shapes_are_refused_all_in_one_error(path):
    assert read_tensors(path, remedy="copy it", shapes={"a": (2, 3), "b": (4,)})["b"].tolist() == [
        1,
        1,
        1,
        1,
    ]
    with pytest.raises(
        UserError,
        match=(
            r"(?s)2 faults.*a must be \[40000000, 3\], is \[2, 3\].*b must be \[5\], is \[4\];"
            r" copy it"
        ),
    ):
        read_tensors(path, remedy="copy it", shapes={"a": (40_000_000, 3), "b": (5,)})
    with pytest.raises(UserError, match=r"must hold the tensors a; it holds a, b; copy it"):
        read_tensors(path, remedy="copy it", shapes={"a": (2, 3)})


def test_a_cut_file_a_directory_and_a_missing_file_are_told(path):
    with pytest.raises(FileNotFoundError):
        read_header(path.with_name("y"), remedy="copy it")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\); copy it"):
        read_header(path.parent, remedy="copy it")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"x.safetensors is damaged \(SafetensorError"):
        read_tensors(path, remedy="copy it")
