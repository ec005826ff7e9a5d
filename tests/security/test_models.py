"""A model's folder runs no code, imports nothing, opens no pickle, reads no file outside itself."""

import json
import shutil
import sys

import pytest
import torch

from diffusae.backbone.describe import build_denoiser
from diffusae.backbone.load import load_pipeline
from diffusae.concepts.pretrained import Pretrained
from diffusae.errors import UserError
from diffusae.miniature.shipped import SHIPPED
from diffusae.runs.checkpoint import InPlace


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped model, which a test may spoil."""
    return shutil.copytree(SHIPPED, tmp_path / "model")


def changed(folder, **changes):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder, match):
    with pytest.raises(UserError, match=match):
        load_pipeline(folder, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": ["evil", "Evil"]},
        {"_class_name": None},
        {"unet": ["evil", "Evil"]},
        {"unet": ["os", "system"]},
        {"unet": ["evil_module_in_the_working_directory", "Evil"]},
        # A pipeline inside: its own index would not be checked.
        {"unet": ["diffusers", "DiffusionPipeline"]},
        {"unet": ["diffusers", "FlashPackDiffusionPipeline"]},
        {"unet": ["diffusers", "utils"]},
        {"unet": ["transformers", "pipeline"]},
        {"unet": ["stable_diffusion", "StableDiffusionPipeline"]},
        {"unet": ["__init__", "x"]},
        {"../unet": ["diffusers", "UNet2DConditionModel"]},
        {"unet": [["a"], {"b": 1}]},
    ],
)
def test_a_component_of_anything_but_the_libraries_is_refused(
    folder, changes, tmp_path, monkeypatch
):
    trace = tmp_path / "ran"
    code = f"open({str(trace)!r}, 'w')\nclass Evil: pass\n"
    for name in ("evil.py", "unet/evil.py", "unet/__init__.py"):
        (folder / name).write_text(code)
    (tmp_path / "evil_module_in_the_working_directory.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    changed(folder, **changes)
    refused(folder, "does not load")
    assert not trace.exists()


def test_auto_classes_with_code_of_the_folder_are_refused_without_asking(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    changed(folder, text_encoder=["transformers", "AutoModel"])
    config = folder / "text_encoder/config.json"
    value = json.loads(config.read_text()) | {"auto_map": {"AutoModel": "evil.Evil"}}
    config.write_text(json.dumps(value))
    refused(folder, "its own code is asked for")


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (folder / "unet/config.json").unlink()
    (folder / "unet/config.json").symlink_to(tmp_path / "secret.json")
    refused(folder, "is a link that leads out of")
    with pytest.raises(UserError, match="is a link that leads out of"):
        _ = Pretrained(str(folder), setting="annotator.source").folder


def test_the_hubs_own_cache_of_links_is_read(tmp_path):
    """models--owner--name/snapshots/<commit>/... are links to models--owner--name/blobs/..."""
    blobs, snapshot = tmp_path / "models--o--n/blobs", tmp_path / "models--o--n/snapshots/abc"
    shutil.copytree(SHIPPED, snapshot)
    blobs.mkdir()
    (snapshot / "unet/config.json").rename(blobs / "1234")
    (snapshot / "unet/config.json").symlink_to("../../../blobs/1234")
    load_pipeline(snapshot, dtype=torch.float32, device="cpu")


def test_weights_that_are_listed_outside_the_folder_are_refused(folder):
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    refused(folder, "no safetensors file beside it")


def test_pickled_weights_are_refused(folder, tmp_path):
    trace = tmp_path / "ran"
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    refused(folder, "pickle only .*never read")
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["DiffusionPipeline", "utils", "export_to_video", "../x", "", None, ["UNet2DModel"]]
)
def test_a_denoiser_is_a_model_of_diffusers_or_is_refused(name):
    with pytest.raises(UserError, match="no model of the installed diffusers"):
        build_denoiser({"_class_name": name})


def test_a_checkpoint_that_is_a_pickle_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"state_dict": Evil()}, tmp_path / "step-1.ckpt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        InPlace().load_checkpoint(tmp_path / "step-1.ckpt", weights_only=False)
    assert not (tmp_path / "ran").exists()
