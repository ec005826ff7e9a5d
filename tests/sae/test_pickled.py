"""The process that converts a pickle, as it really runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import foreign_saes
from diffusae.errors import UserError
from diffusae.sae import convert_pickle, pickled
from diffusae.sae.exchange import read_foreign
from diffusae.sae.pickled import as_safetensors
from diffusae.tensor_files import read_header


class Attack:
    """An object that runs a command when it is read."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_becomes_safetensors_in_a_directory_that_is_gone_afterwards(tmp_path):
    weights = foreign_saes.Weights.drawn(6, 11)
    path = foreign_saes.revelio(tmp_path, weights).source
    before = path.read_bytes()
    with as_safetensors(path) as made:
        tensors, values = load_file(made), read_header(made, remedy="").metadata["values"]
    assert torch.equal(tensors["W_enc"], torch.from_numpy(weights.W_enc.T.copy()))
    assert '"k": 3' in values and '"module_name": "mid_block"' in values
    assert not made.parent.exists() and path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == [path]


def test_a_malicious_pickle_gives_one_error_and_runs_nothing(tmp_path):
    path, victim = tmp_path / "sae.pt", tmp_path / "PWNED"
    torch.save({"state_dict": {"W_enc": torch.ones(2, 2), "x": Attack(victim)}}, path)
    with (
        pytest.raises(UserError, match=r"sae.pt is refused: it asks for (posix|nt).system, and"),
        as_safetensors(path),
    ):
        pass
    assert not victim.exists()


def test_a_damaged_pickle_gives_one_error(tmp_path):
    (tmp_path / "sae.pt").write_bytes(b"no pickle")
    with (
        pytest.raises(UserError, match=r"sae.pt is refused: \w+: .*nothing of it was read"),
        as_safetensors(tmp_path / "sae.pt"),
    ):
        pass


def test_a_conversion_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    (tmp_path / "sae.pt").write_bytes(b"no pickle")
    monkeypatch.setattr(pickled, "TIMEOUT_S", 0.01)
    with (
        pytest.raises(UserError, match=r"could not be converted within 0.01 seconds"),
        as_safetensors(tmp_path / "sae.pt"),
    ):
        pass


def test_a_conversion_has_bounded_memory(tmp_path):
    torch.save({"W": torch.zeros(50_000_000, dtype=torch.uint8)}, tmp_path / "sae.pt")
    command = [sys.executable, convert_pickle.__file__, str(tmp_path / "sae.pt")]
    done = subprocess.run(
        [*command, str(tmp_path / "out"), "30000000"], capture_output=True, text=True
    )
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert "memory" in done.stdout.lower()


def test_a_fault_in_a_converted_file_names_the_users_own(tmp_path, monkeypatch):
    foreign_saes.convert_here(monkeypatch, tmp_path)
    torch.save({"encoder.weight": torch.ones(2, 3)}, tmp_path / "sae.pt")
    with pytest.raises(UserError, match=r"/sae.pt must hold .*holds encoder.weight"):
        read_foreign(tmp_path / "sae.pt", format="sdxl_unbox")


def test_a_pickle_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "sae.pt").write_bytes(b"no pickle")
    monkeypatch.setattr(pickled, "MOST_BYTES", 3)
    with (
        pytest.raises(UserError, match=r"has 9 bytes, at most 3 are converted"),
        as_safetensors(tmp_path / "sae.pt"),
    ):
        pass


def test_the_process_that_converts_gets_no_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    environment = pickled._environment()
    assert not {"HF_TOKEN", "WANDB_API_KEY"} & environment.keys()


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        ({"W": torch.ones(1).expand(10**6, 10**6)}, "take 4000000000000 bytes, more than the file"),
        ({"W": torch.eye(3).to_sparse()}, "sparse or without numbers"),
        (torch.ones(3), "it holds a Tensor, not tensors by their names"),
    ],
)
def test_what_is_no_state_dict_is_refused_before_it_is_copied(
    loaded, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(convert_pickle, "_limit_memory", lambda _: None)
    torch.save(loaded, tmp_path / "sae.pt")
    with pytest.raises(ValueError, match=message):
        convert_pickle.main(tmp_path / "sae.pt", tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()
