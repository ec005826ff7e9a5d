"""Where a pretrained model's files are, and what a user is told where they are not."""

from pathlib import Path

import pytest

from diffusae.errors import UserError
from diffusae.sources import fingerprint, local_folder, refuse_pickles


def found(source, *, download=lambda name: "unused", revision=None):
    return local_folder(
        source, setting="part.source", holds="config.json", revision=revision, download=download
    )


def test_a_folder_serves_and_nothing_is_downloaded(tmp_path):
    def download(name):
        raise AssertionError("asked the hub")

    assert found(tmp_path, download=download) == tmp_path.resolve()


@pytest.mark.parametrize(
    "source", ["/nowhere/at/all", "./here", "name", "a/b/c", Path("owner/name")]
)
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused_with_its_setting(source):
    with pytest.raises(
        UserError, match=r"is no hub id.*set part\.source to a folder that holds config\.json"
    ):
        found(source)


def test_a_hub_id_is_downloaded_and_an_unreachable_hub_names_the_folder_that_would_serve(
    tmp_path, monkeypatch
):
    assert found("owner/name", download=lambda name: tmp_path / name) == tmp_path / "owner/name"

    def download(name):
        raise OSError("wrapped") from ConnectionError("no route")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        found("owner/name", download=download, revision="abc")
    serving = tmp_path / "models" / "owner--name"
    for part in (
        "ConnectionError: no route",
        f"set part.source={serving} once that folder holds config.json",
        f"hf download owner/name --revision abc --local-dir {serving}",
    ):
        assert part in str(raised.value)


def test_weights_that_exist_as_pickles_only_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pickle only \(pytorch_model\.bin\)"):
        refuse_pickles(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    refuse_pickles(tmp_path)


def test_the_fingerprint_follows_every_weight_and_config_file(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    (tmp_path / "unet" / "config.json").write_text('{"a": 1}')
    assert fingerprint(tmp_path) != first
    assert fingerprint("owner/name") is None
