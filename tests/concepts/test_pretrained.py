import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, SamModel

from diffusae.concepts.pretrained import Pretrained, in_batches
from diffusae.errors import UserError


def test_pictures_are_prepared_without_torchvision_by_every_model(tiny):
    for name in ("grounding_dino", "sam", "clip", "siglip", "clipseg"):
        assert type(Pretrained(tiny[name], "x").image_processor()).__name__.endswith("Pil"), name
    florence = Pretrained(tiny["florence2"], "x").processor().image_processor
    assert type(florence).__name__.endswith("Pil")


def test_no_module_of_the_annotators_imports_torchvision():
    modules = "picture_annotator, taggers, florence, ram, object_finders, style_scores"
    check = "assert 'torchvision' not in sys.modules"
    code = f"import sys; from diffusae.concepts import {modules}; {check}"
    paths = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, env=paths)


def test_the_hub_is_asked_for_one_revision_and_never_for_a_pickle(monkeypatch, tmp_path):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    part = Pretrained("owner/name", "annotator.objects.source", revision="abc")
    with pytest.raises(UserError) as raised:
        part.model(AutoModel)
    assert asked["name"] == "owner/name" and asked["revision"] == "abc"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["allow_patterns"])
    folder = tmp_path / "models" / "owner--name"
    assert f"set annotator.objects.source={folder}" in str(raised.value)
    assert "hf download owner/name --revision abc" in str(raised.value)


def test_a_hub_id_without_a_revision_gives_a_warning(monkeypatch, tiny, caplog):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: tiny["clip"])
    assert Pretrained("owner/name", "part.source").folder
    assert "part.source=owner/name has no revision" in caplog.text


def test_a_folder_with_pickles_only_is_refused(tiny, tmp_path):
    shutil.copytree(tiny["clip"], tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").rename(tmp_path / "clip" / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle only"):
        Pretrained(str(tmp_path / "clip"), "x").model(AutoModel)


def test_a_model_of_another_kind_is_refused_instead_of_run_with_random_weights(tiny):
    with pytest.raises(UserError, match=r"set part\.source to a"):
        Pretrained(tiny["clip"], "part.source").model(SamModel)


def test_a_cut_weights_file_is_named(tiny, tmp_path):
    shutil.copytree(tiny["clip"], tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="does not load"):
        Pretrained(str(tmp_path / "clip"), "x").model(AutoModel)


def test_the_identity_follows_the_files_or_the_revision(tiny, tmp_path):
    shutil.copytree(tiny["clip"], tmp_path / "clip")
    here = Pretrained(str(tmp_path / "clip"), "x")
    first = here.identity()
    assert first == Pretrained(tiny["clip"], "other").identity()
    (tmp_path / "clip" / "config.json").write_text("{}")
    assert here.identity() != first
    assert Pretrained("owner/name", "x", "abc").identity() == "owner/name@abc"


def test_the_dtype_asked_for_is_the_models(tiny):
    model = Pretrained(tiny["clip"], "x", dtype="bfloat16").model(AutoModel)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and not model.training
    known = "unknown dtype 'float8'; known: bfloat16, float16, float32"
    with pytest.raises(UserError, match=known):
        Pretrained("x", "x", dtype="float8")


def test_out_of_memory_names_the_batch_size_to_try():
    def work(items):
        if len(items) > 1:
            raise torch.OutOfMemoryError
        return items

    assert in_batches(work, [1, 2, 3], size=1, setting="batch_size") == [1, 2, 3]
    with pytest.raises(UserError, match="out of memory with batch_size=5; try batch_size=2"):
        in_batches(work, [1, 2, 3], size=5, setting="batch_size")

    def never(items):
        raise MemoryError

    with pytest.raises(UserError, match="smaller model or dtype"):
        in_batches(never, [1], size=1, setting="batch_size")
    with pytest.raises(UserError, match="batch_size=0 must be at least 1"):
        in_batches(never, [1], size=0, setting="batch_size")
