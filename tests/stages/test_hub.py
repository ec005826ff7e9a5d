"""Push and pull with huggingface_hub's own client against a hub in little."""

import json
import logging
import time
from copy import deepcopy
from functools import cache

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from composing import compose
from diffusae.errors import UserError
from diffusae.files import sha256_of
from diffusae.hub.repository import HubUnreachable
from diffusae.runs.record import parent_signature, read_record
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import INDEX_NAME, load_sae, save_config
from diffusae.stages.export_cell import export_cell
from diffusae.stages.pull import pull
from diffusae.stages.push import push
from diffusae.study.study import Study
from local_hub import TOKEN, local_hub
from stages.evaluated_interventions import record_again
from stages.trained_cell import X, place_trained

CELL = "mid-t0.50-cond-k4"
REPO = "owner/saes"
HUB = {"endpoint": "http://127.0.0.1:9"}  # nothing answers there


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with local_hub() as found:
        monkeypatch.setitem(HUB, "endpoint", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@cache
def composed(stage, *overrides):
    return compose(stage, overrides=["debug=tiny", "paths.outputs=???", *overrides])


def config(stage, outputs, *overrides):
    cfg = deepcopy(composed(stage, *(o for o in overrides if not o.startswith("repo="))))
    cfg.paths.outputs = str(outputs)
    if stage in ("push", "pull"):
        cfg.endpoint = HUB["endpoint"]
        cfg.repo = next((o.removeprefix("repo=") for o in overrides if o.startswith("repo=")), None)
    return cfg


@pytest.fixture
def trained(tmp_path):
    """One cell as `train` leaves it, without a collection."""
    study = Study(config("train", tmp_path))
    place_trained(study)
    (study.sae / "checkpoints").mkdir()
    (study.sae / "checkpoints/last.ckpt").write_bytes(b"a pickle")
    return study


def pushed(outputs, *overrides):
    push(config("push", outputs, f"repo={REPO}", *overrides))


def pulled(outputs, *overrides):
    cfg = config("pull", outputs, f"repo={REPO}", *overrides)
    return pull(cfg), Study(cfg).sae


def test_what_is_pushed_comes_back_byte_for_byte(hub, trained, tmp_path):
    pushed(tmp_path)
    files = hub.repos[REPO]
    assert sorted(files) == [
        ".gitattributes",
        *(f"{CELL}/{n}" for n in ("README.md", "cfg.json", "sae.safetensors")),
    ]
    assert hub.commits == [f"tiny {CELL} (diffusae)"] and hub.private[REPO] is True
    new, directory = pulled(tmp_path / "elsewhere")
    assert new and directory.name == "mid-t0.50-cond-pulled"
    for name in ("sae.safetensors", "cfg.json"):
        assert (directory / name).read_bytes() == (trained.sae / name).read_bytes()
    assert torch.equal(load_sae(directory)[0](X), load_sae(trained.sae)[0](X))
    assert not list(directory.parent.glob("*.partial")) and not list(directory.glob("*.partial"))


def test_weights_in_several_files_are_pushed_and_pulled_with_their_index(hub, trained, tmp_path):
    directory = trained.sae
    weights = load_file(directory / "sae.safetensors")
    (directory / "sae.safetensors").unlink()
    file = "sae-00001-of-00001.safetensors"
    save_file(weights, directory / file)
    metadata = {"total_size": 1, "sha256": {file: sha256_of(directory / file)}}
    index = {"metadata": metadata, "weight_map": dict.fromkeys(weights, file)}
    (directory / INDEX_NAME).write_text(json.dumps(index))
    sae = SparseAutoencoder(8, 32, TopK(4))
    metadata = {"cell": trained.cell.coordinates(), "hookpoint": "mid_block.attentions.0"}
    save_config(directory, sae, metadata | {"validation": {"val/fvu": 0.25}})
    record_again(directory)
    pushed(tmp_path)
    assert {name.rpartition("/")[2] for name in hub.repos[REPO]} == {
        ".gitattributes", "README.md", "cfg.json", file, INDEX_NAME
    }  # fmt: skip
    _, pulled_to = pulled(tmp_path / "elsewhere")
    assert torch.equal(load_sae(pulled_to)[0](X), load_sae(directory)[0](X))
    del hub.repos[REPO][f"{CELL}/{file}"]
    with pytest.raises(UserError, match=f"{file} is missing"):
        pulled(tmp_path / "without")


def test_a_pulled_autoencoder_stands_where_a_trained_one_would(hub, trained, tmp_path):
    pushed(tmp_path)
    _, directory = pulled(tmp_path / "b")
    record = read_record(directory)
    assert record is not None and (record.stage, record.status) == ("pull", "finished")
    assert (
        parent_signature(directory, stage="train") == record.signature
    )  # what `label` and `evaluate` ask for
    export_cell(config("export", tmp_path / "b", "sae.tag=pulled"))
    card = (tmp_path / "b/tiny/export/sae_lens/mid-t0.50-cond-pulled/README.md").read_text()
    assert f"repo: {REPO}" in card and str(tmp_path) not in card
    assert pulled(tmp_path / "b")[0] is False  # here already
    assert read_record(directory) == record


def test_the_card_tells_the_cell_and_how_to_load(hub, trained, tmp_path):
    pushed(tmp_path, "folder=.")
    card = hub.repos[REPO]["README.md"].decode()
    for part in (
        "- t: 0.5",
        "- hookpoint: mid_block.attentions.0",
        "load_sae",
        "diffusae pull repo=",
        "val/fvu: 0.25",
    ):
        assert part in card
    assert str(tmp_path) not in card
    assert pulled(tmp_path / "b")[0] is True  # from the top


def test_other_formats_are_pushed_as_their_libraries_load_them(hub, trained, tmp_path):
    pushed(tmp_path, "format=sae_lens", "folder=lens")
    assert sorted(hub.repos[REPO])[1:] == [
        "lens/README.md",
        "lens/cfg.json",
        "lens/sae_weights.safetensors",
    ]
    with pytest.raises(UserError, match=r"lacks sae.safetensors; .* `diffusae import source=DIR`"):
        pulled(tmp_path / "b")
    with pytest.raises(
        UserError, match=r"unknown format 'onnx'; known: diffusae, eai_sparsify, sae_lens"
    ):
        pushed(tmp_path, "format=onnx")


def test_a_dry_run_shows_every_file_with_its_size_and_asks_nobody(
    trained, tmp_path, monkeypatch, caplog
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setitem(HUB, "endpoint", "http://127.0.0.1:9")
    with caplog.at_level(logging.INFO):
        pushed(tmp_path, "dry_run=true")
    size = (trained.sae / "sae.safetensors").stat().st_size
    sha = json.loads((trained.sae / "cfg.json").read_text())["sha256"]
    assert (
        f"{CELL}/sae.safetensors" in caplog.text
        and f"{size / 1000:.1f} kB  sha256 {sha}" in caplog.text
    )
    assert (
        f"{CELL}/README.md" in caplog.text
        and "together" in caplog.text
        and f"nothing has gone to {REPO}" in caplog.text
    )
    assert "ckpt" not in caplog.text and "run.json" not in caplog.text


def test_pushing_without_a_token_or_with_a_wrong_one_is_told(hub, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"HF_TOKEN"):
        pushed(tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"needs a token.*set HF_TOKEN.*dry_run=true"):
        pushed(tmp_path)
    assert hub.repos == {}


def test_a_missing_or_gated_repository_and_an_unknown_revision_are_told(hub, trained, tmp_path):
    with pytest.raises(UserError, match=r"there is no repository owner/saes on the hub"):
        pulled(tmp_path / "b")
    pushed(tmp_path)
    with pytest.raises(UserError, match=r"has no revision 'v2'"):
        pulled(tmp_path / "b", "revision=v2")
    hub.gated.add(REPO)
    with pytest.raises(UserError, match=r"is gated: ask for access"):
        pulled(tmp_path / "b")
    with pytest.raises(UserError, match=r"repo=a/b/c must be OWNER/NAME"):
        pull(config("pull", tmp_path / "b", "repo=a/b/c"))
    for stage in (push, pull):
        with pytest.raises(UserError, match=r"repo=null must name a repository"):
            stage(config(stage.__name__, tmp_path))


def test_no_network_is_told_at_once_with_the_directory_that_would_serve(
    trained, tmp_path, monkeypatch, hub
):
    monkeypatch.setitem(HUB, "endpoint", "http://127.0.0.1:9")
    with pytest.raises(
        HubUnreachable, match=r"cannot be reached.*sae.safetensors and cfg.json.*repo=DIRECTORY"
    ):
        pulled(tmp_path / "b")
    with pytest.raises(HubUnreachable, match=rf"nothing is lost: .*{CELL} holds the SAE"):
        pushed(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("sae.safetensors", "cfg.json"):
        (copy / name).write_bytes((trained.sae / name).read_bytes())
    cfg = config("pull", tmp_path / "b", f"repo={copy}")
    assert pull(cfg) is True
    assert torch.equal(load_sae(Study(cfg).sae)[0](X), load_sae(trained.sae)[0](X))


def test_a_hub_that_does_not_answer_is_waited_for_so_long_and_no_longer(hub, trained, tmp_path):
    pushed(tmp_path)
    hub.silence_s = 5.0
    begun = time.monotonic()
    with pytest.raises(HubUnreachable):
        pulled(tmp_path / "b", "timeout_s=0.2")
    assert time.monotonic() - begun < 3.0


def test_what_was_pulled_before_serves_without_the_hub(hub, trained, tmp_path, monkeypatch, caplog):
    pushed(tmp_path)
    pulled(tmp_path / "b")
    monkeypatch.setitem(HUB, "endpoint", "http://127.0.0.1:9")
    assert pulled(tmp_path / "b")[0] is False
    assert "which was pulled before, serves" in caplog.text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sae.safetensors", "SHA-256 expected"),
        ("cfg.json", "git's hash expected"),
        ("README.md", "git's hash expected"),
    ],
)
def test_a_file_that_is_another_than_the_hub_lists_is_refused(hub, trained, tmp_path, name, kind):
    pushed(tmp_path)
    data = bytearray(hub.repos[REPO][f"{CELL}/{name}"])
    data[-3] ^= 1
    hub.lies[f"{CELL}/{name}"] = bytes(data)
    with pytest.raises(UserError, match=rf"{name}: {kind}"):
        pulled(tmp_path / "b")
    assert not (tmp_path / "b/tiny/sae/mid-t0.50-cond-pulled").exists()


def test_weights_that_differ_from_their_own_configuration_are_refused(hub, trained, tmp_path):
    pushed(tmp_path)
    data = bytearray(hub.repos[REPO][f"{CELL}/sae.safetensors"])
    data[-3] ^= 1
    hub.repos[REPO][f"{CELL}/sae.safetensors"] = bytes(data)
    with pytest.raises(UserError, match="is damaged: SHA-256"):
        pulled(tmp_path / "b")


@pytest.mark.parametrize("name", ["optimizer.pt", "loader.py", "sae.pkl"])
def test_pickles_and_foreign_files_beside_an_autoencoder_are_refused(hub, trained, tmp_path, name):
    pushed(tmp_path)
    hub.repos[REPO][f"{CELL}/{name}"] = b"code"
    with pytest.raises(
        UserError, match=rf"holds {name} beside an SAE; only .* never pickles or code"
    ):
        pulled(tmp_path / "b")


def test_among_several_autoencoders_the_cells_own_is_found_or_the_folders_are_listed(
    hub, trained, tmp_path
):
    for folder in (CELL, "mid-t1.00-cond-k4", "other"):
        pushed(tmp_path, f"folder={folder}")
    assert pulled(tmp_path / "b")[0] is True
    pushed(tmp_path, "folder=mid-t0.50-cond-k8")
    with pytest.raises(
        UserError, match=r"folders with a cfg.json: mid-t0.50-cond-k4, mid-t0.50-cond-k8; name one"
    ):
        pulled(tmp_path / "c")
    assert pulled(tmp_path / "c", "folder=other")[0] is True
    with pytest.raises(
        UserError, match=r"unknown folder of owner/saes: 'mid'; known: mid-t0.50-cond-k4, "
    ):
        pulled(tmp_path / "d", "folder=mid")


def test_an_autoencoder_of_another_cell_is_refused_unless_asked_for(hub, trained, tmp_path):
    pushed(tmp_path)
    with pytest.raises(
        UserError, match=r"another cell \(there -> here\): t 0.5 -> 1.0; choose its cell"
    ):
        pulled(tmp_path / "b", "timestep=early")
    assert pulled(tmp_path / "b", "timestep=early", "another_cell=true")[0] is True


def test_another_autoencoder_does_not_take_its_place(hub, trained, tmp_path):
    pushed(tmp_path)
    with pytest.raises(UserError, match="holds another run of train"):
        pulled(tmp_path, "sae.tag=k4")
