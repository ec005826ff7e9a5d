"""Only the user names a package: whatever a downloaded file says, nothing of it is imported."""

import json
import shutil
import sys

import pytest

from diffusae import plugins
from diffusae.activations.local_copy import COPY_FILE
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import require_sound
from diffusae.backbone.describe import describe
from diffusae.errors import UserError
from diffusae.miniature.shipped import SHIPPED
from diffusae.runs.record import read_record, run_record
from diffusae.runs.survey import runs_below
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import load_sae, save_sae
from diffusae.study.building import build

NAMED = {
    "plugins": ["evil"],
    "DIFFUSAE": {"sparsities": {"evil": "evil:Evil"}},
    "entry_points": {"diffusae.sparsities": {"evil": "evil:Evil"}},
    "_target_": "evil.Evil",
}
"""All ways of naming a package that an attacker may try, beside what a file holds."""


@pytest.fixture(autouse=True)
def evil(tmp_path, monkeypatch):
    """A package that Python would find, and that leaves a trace where it is imported."""
    trace = tmp_path / "ran"
    code = tmp_path / "code"
    code.mkdir()
    (code / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(str(code))
    yield
    assert not trace.exists()
    assert "evil" not in sys.modules
    assert not [part for group in plugins.GROUPS for part in plugins.parts(group)]


def changed(path, change):
    """Rewrite a JSON file with a function of its value."""
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value)))


def tried(work):
    """Files may be refused or read; either way nothing is imported."""
    try:
        return work()
    except UserError:
        return None


def test_a_manifest_names_no_package(collection):
    root, _ = collection
    changed(root / "manifest.json", lambda value: value | NAMED)
    changed(root / "manifest.json", lambda value: value | {"header": value["header"] | NAMED})
    tried(lambda: require_sound(root, Manifest.load(root)))


def test_a_mirror_json_names_no_package(collection):
    root, _ = collection
    (root / COPY_FILE).write_text(json.dumps({"url": "file:///x", "manifest": "0", **NAMED}))
    tried(lambda: require_sound(root, Manifest.load(root)))


def test_a_run_json_names_no_package(tmp_path):
    directory = tmp_path / "study" / "sae" / "mid"
    with run_record(directory, stage="train", config={}, determines={}, parents={}, seed=0):
        pass
    changed(directory / "run.json", lambda value: value | NAMED | {"config": NAMED})
    tried(lambda: read_record(directory))
    tried(lambda: runs_below(tmp_path / "study", read=("train",)))


@pytest.mark.parametrize("sparsity", ["evil", "evil:Evil", "evil.Evil", NAMED])
def test_the_cfg_json_of_an_autoencoder_names_no_package(tmp_path, sparsity):
    save_sae(tmp_path / "sae", SparseAutoencoder(4, 8, TopK(2)), {})
    path = tmp_path / "sae" / "cfg.json"
    name = "sparsity"
    assert name in json.loads(path.read_text())
    changed(path, lambda value: value | NAMED | {name: sparsity})
    with pytest.raises(UserError):
        load_sae(tmp_path / "sae")


def test_a_models_folder_names_no_package(tmp_path):
    folder = shutil.copytree(SHIPPED, tmp_path / "model")
    for name in ("model_index.json", "unet/config.json", "vae/config.json"):
        changed(folder / name, lambda value: value | {k: NAMED[k] for k in ("plugins", "DIFFUSAE")})
    tried(lambda: describe(folder))
    changed(folder / "model_index.json", lambda value: value | {"unet": ["evil", "Evil"]})
    with pytest.raises(UserError):
        describe(folder)


def test_a_part_of_a_package_that_nobody_named_is_not_built():
    with pytest.raises(UserError, match="refused"):
        build({"_target_": "evil.Evil"}, "annotator")
    with pytest.raises(UserError, match="refused"):
        build({"_target_": "evil.Evil", "plugins": ["evil"]}, "sparsity")
