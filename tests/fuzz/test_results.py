"""Damaged files between stages: dictionaries, galleries, annotations, results, records, logs."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusae.concepts.annotation_cache import AnnotationCache
from diffusae.concepts.annotations import Annotations, PackedMasks
from diffusae.concepts.annotators import Annotation
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.gallery import Gallery, most_telling_latents
from diffusae.evaluation.result import Estimate, Result, load_results, save_results
from diffusae.runs.checkpoint import Checkpoints
from diffusae.runs.metric_log import read_metrics
from diffusae.runs.record import read_record, run_record, state
from fuzz.mutations import mutated, mutated_json, mutated_safetensors
from fuzz.only_user_errors import only_user_errors, replaced, unsealed

MASK = np.eye(5, 7, dtype=bool)
KEY = "0" * 64


def dictionary() -> ConceptDictionary:
    latents = pd.DataFrame(
        {
            "latent": range(3),
            "firing_frequency": 0.5,
            "pictures_active": 1,
            "mean_activation": 1.0,
            "map_variance": 0.1,
            "position_share": 0.1,
            "top_images": [["a"], ["a", "b"], []],
            "top_values": [[1.0], [2.0, 1.0], []],
            "purity": 1.0,
        }
    )
    table = pd.DataFrame(
        {"latent": [0, 1], "label": ["cat", "dog"], "count": [2, 1], "mean_iou": 0.6, "share": 1.0}
    )
    return ConceptDictionary(
        table=table,
        latents=latents,
        labels=["cat", "dog"],
        label_embeddings=torch.eye(2, 4),
        facts={"d_sae": 3, "grid": [2, 2]},
        embedded_latents=torch.tensor([0, 1]),
        embeddings=torch.eye(2, 4),
    )


def checkpoint(step: int) -> bytes:
    file = io.BytesIO()
    state = {"state_dict": {"w": torch.zeros(3)}, "optimizer_states": [], "loops": {"a": 1}}
    torch.save({"global_step": step, **state}, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    dictionary().save(root)
    Gallery(latents=[1], image_ids=[["a", "b"]], maps=[torch.ones(2, 2, 2)]).save(root)
    masks = PackedMasks(["a", "b"])
    masks.add("a", {"cat": MASK})
    described = pd.DataFrame({"image_id": ["a", "b"], "style": ["oil", None]})
    Annotations(masks, masks, described).save(root)
    estimate, chance = Estimate(0.5, (0.4, 0.6), 10), {"chance": Estimate(0.1, None, 10)}
    row = Result("iou", estimate, True, "IoU", {"block": "mid"}, chance, {"tag": "k10"})
    save_results(root / "results.json", [row, row])
    annotation = Annotation({"cat": MASK}, {"cat": "red"}, {"style": "oil"}, {"style": [0.1, 0.9]})
    AnnotationCache(root).put(KEY, annotation)
    values = {"config": {"a": 1}, "determines": {"a": 1}, "parents": {"collect": "0" * 16}}
    with run_record(root / "run", stage="train", seed=0, **values):
        pass
    (root / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n')
    return root


TENSORS, TABLES = ("embeddings.safetensors", "gallery.safetensors"), (
    "dictionary.parquet", "latents.parquet", "objects.parquet", "pictures.parquet",
)  # fmt: skip
OBJECTS = ("dictionary.json", "gallery.json", "results.json")


def read_all(root: Path, name: str) -> None:
    with only_user_errors():
        if name.startswith("gallery"):
            Gallery.load(root)
        elif name in ("objects.parquet", "pictures.parquet"):
            annotations = Annotations.load(root)
            for masks in (*annotations.masks.values(), *annotations.second.values()):
                assert all(mask.dtype == bool for mask in masks.values())
        elif name == "results.json":
            assert all(row.to_json() for row in load_results(root / name))
        else:
            loaded = ConceptDictionary.load(root)
            assert most_telling_latents(loaded, 2) and loaded.labels_of(0)
            assert loaded.latents_of("cat") is not None


@given(st.sampled_from(OBJECTS), st.data())
def test_damaged_json(root, name, data):
    path = root / name
    with replaced(path, data.draw(mutated_json(json.loads(path.read_bytes())))):
        read_all(root, name)


@given(st.sampled_from(TENSORS), st.data())
def test_damaged_tensors(root, name, data):
    path = root / name
    with replaced(path, data.draw(mutated_safetensors(path.read_bytes()))):
        read_all(root, name)


@given(st.sampled_from(TABLES), st.data())
def test_damaged_tables(root, name, data):
    path = root / name
    with replaced(path, data.draw(mutated(path.read_bytes()))):
        read_all(root, name)


@given(st.binary(max_size=40), st.integers(-2, 2**40), st.integers(-2, 2**40))
def test_damaged_masks(packed, height, width):
    masks = PackedMasks(["a"])
    with only_user_errors():
        masks.restore("a", "cat", height, width, packed)
        assert masks["a"]["cat"].shape == (height, width)


@given(st.data())
def test_a_damaged_entry_of_the_cache_is_ignored_or_whole(root, data):
    cache = AnnotationCache(root)
    path = cache.path(KEY)
    with replaced(path, data.draw(mutated_safetensors(path.read_bytes()))), only_user_errors():
        annotation = cache.get(KEY)
        assert annotation is None or annotation.masks["cat"].shape == MASK.shape


@given(st.data())
def test_damaged_records(root, data):
    path = root / "run" / "run.json"
    whole = path.read_bytes()
    text = data.draw(st.one_of(mutated_json(unsealed(whole)), mutated(whole)))
    with replaced(path, text):
        with only_user_errors():
            read_record(root / "run")
        with only_user_errors():
            state(root / "run", determines={"a": 1}, parents={"collect": "0" * 16})


@given(
    data=st.one_of(mutated(checkpoint(8)), mutated(checkpoint(9))),
    fits=st.booleans(),
    seal=mutated_json({"sha256": "0" * 64}),
)
def test_a_damaged_checkpoint_is_ignored(root, data, fits, seal):
    made = Checkpoints(root / "checkpoints", every=1, logs=())
    made.directory.mkdir(exist_ok=True)
    for step, content in ((4, checkpoint(4)), (8, data)):
        path = made.directory / f"step-{step:09d}.ckpt"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        path.with_suffix(".json").write_text(json.dumps({"sha256": digest}))
    if not fits:
        path.with_suffix(".json").write_bytes(seal)
    with only_user_errors():
        newest = made.newest()
        assert newest is not None and newest.step in (4, 8)


@given(mutated(b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n'))
def test_damaged_metric_logs(root, data):
    with replaced(root / "metrics.jsonl", data), only_user_errors():
        assert all(isinstance(row, dict) for row in read_metrics(root / "metrics.jsonl"))
