"""docs/formats.md, followed to the letter: what diffusae writes, read with the standard library and
numpy.

The reading half of this file (`foreign_...`) imports nothing of diffusae; the tests compare it with
diffusae's own.
"""

import hashlib
import io
import json
import math
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "BOOL": "?", "U8": "u1"}


def foreign_shard(path: Path) -> list[tuple[str, dict[str, Any], bytes]]:
    """The samples of a shard: image id, what is told of it, and the bytes of its .npy or .png."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    samples = []
    for (placed, text), (name, data) in zip(members[::2], members[1::2], strict=True):
        assert placed == name.rpartition(".")[0] + ".json"
        samples.append((name.rpartition(".")[0], json.loads(text), data))
    return samples


def foreign_updates(
    root: Path, manifest: dict, stream: dict, split: str
) -> dict[str, tuple[dict, np.ndarray]]:
    """{image id: (meta, float16 [positions, d_in or columns])} of a stream and split."""
    folder = f"{stream['block']}/t{stream['t']:.2f}/{stream['conditioning']}"
    described = {}
    for shard in manifest["shards"]:
        if (shard["stream"], shard["split"]) == (folder, split):
            for image_id, meta, data in foreign_shard(root / shard["path"]):
                described[image_id] = (meta, np.load(io.BytesIO(data), allow_pickle=False))
    return described


def foreign_positions(manifest: dict, image_id: str, split: str, count: int) -> list[int]:
    """The positions that a sample holds, as the manifest's `subsampling` says."""
    thinned = manifest.get("subsampling")
    if thinned is None or split not in thinned["splits"] or thinned["positions_per_image"] >= count:
        return list(range(count))
    by_hash = sorted(
        range(count),
        key=lambda p: hashlib.sha256(f"{thinned['seed']}/{image_id}/{p}".encode()).digest(),
    )
    return sorted(by_hash[: thinned["positions_per_image"]])


def foreign_tensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file."""
    return foreign_bytes(path.read_bytes())


def foreign_bytes(data: bytes) -> dict[str, np.ndarray]:
    """The tensors in the bytes of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, about in header.items():
        start, stop = (8 + length + offset for offset in about["data_offsets"])
        numbers = np.frombuffer(data[start:stop], DTYPES[about["dtype"]])
        tensors[name] = numbers.reshape(about["shape"])
    return tensors


def foreign_topk(
    weights: dict[str, np.ndarray], k: int, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Codes [n, d_sae] and reconstructions [n, d_in] of vectors [n, d_in], both in the units of the
    data.
    """
    scaled = (x - weights["input_shift"]) / weights["input_scale"]
    a = (scaled - weights["b"]) @ weights["W_enc"].T + weights["b_enc"]
    largest = np.argsort(-a, axis=1)[:, :k]
    z = np.zeros_like(a)
    np.put_along_axis(z, largest, np.maximum(np.take_along_axis(a, largest, axis=1), 0), axis=1)
    rows = weights["W_dec"] * weights["input_scale"]
    gains = np.linalg.norm(rows, axis=1)
    z = z * gains
    return (
        z,
        z @ (rows / gains[:, None])
        + weights["b"] * weights["input_scale"]
        + weights["input_shift"],
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A thinned collection of the miniature and one SAE, written by the stages themselves."""
    from composing import compose
    from diffusae.collecting.collect import collect_alone
    from diffusae.stages.train import train
    from diffusae.study.study import Study

    directory = tmp_path_factory.mktemp("formats")
    cfg = compose(
        "train",
        overrides=[
            "debug=tiny",
            f"paths.outputs={directory}",
            "grid.timesteps=[0.5]",
            "grid.blocks=[mid]",
            "activations.max_vectors=100",
            "trainer.accelerator=cpu",
        ],
    )
    collect_alone(Study(cfg))
    train(cfg)
    return directory / "tiny"


@pytest.fixture(scope="module")
def manifest(study) -> dict[str, Any]:
    return json.loads((study / "activations" / "manifest.json").read_text())


def test_every_shard_has_the_bytes_samples_and_hash_of_the_manifest(study, manifest):
    assert manifest["schema_version"] == 1
    assert manifest["header"].keys() == {
        "model", "source", "scheduler", "steps", "guidance", "truncated_prompts",
    }  # fmt: skip
    assert {shard["stream"] for shard in manifest["shards"]} == {
        "mid/t0.50/cond", "mid/t0.50/uncond", "attention/t0.50/cond", "images",
    }  # fmt: skip
    for shard in manifest["shards"]:
        path = study / "activations" / shard["path"]
        assert path.stat().st_size == shard["bytes"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]
        assert len(foreign_shard(path)) == shard["samples"]
    on_disk = {
        str(p.relative_to(study / "activations")) for p in (study / "activations").rglob("*.tar")
    }
    assert on_disk == {shard["path"] for shard in manifest["shards"]}


def test_the_journals_hold_the_shards_of_the_manifest(study, manifest):
    journals = [
        json.loads(p.read_text()) for p in sorted((study / "activations/groups").glob("0*.json"))
    ]
    written = {
        path: (s["sha256"], s["samples"])
        for journal in journals
        for path, s in journal["shards"].items()
    }
    assert written == {s["path"]: (s["sha256"], s["samples"]) for s in manifest["shards"]}
    for split, counts in manifest["splits"].items():
        assert counts["images"] == sum(j["count"] for j in journals if j["split"] == split)
    collection = json.loads((study / "activations/groups/collection.json").read_text())
    assert collection["subsampling"] == manifest["subsampling"]


def test_vectors_equal_those_that_diffusae_reads_and_stand_where_the_format_says(study, manifest):
    from diffusae.activations.manifest import Manifest
    from diffusae.activations.reader import read_updates

    root = study / "activations"
    own = Manifest.load(root)
    for stream in manifest["streams"]:
        count = math.prod(stream["grid"])
        for split in manifest["splits"]:
            read = foreign_updates(root, manifest, stream, split)
            ours = list(
                read_updates(
                    root,
                    own,
                    own.stream(stream["block"], stream["t"], stream["conditioning"]),
                    split,
                )
            )
            assert list(read) == [sample.image_id for sample in ours]
            for sample in ours:
                meta, updates = read[sample.image_id]
                assert meta == sample.meta
                assert meta.keys() >= {"prompt", "seed", "split", "word_tokens"}
                positions = foreign_positions(manifest, sample.image_id, split, count)
                assert meta.get("positions", list(range(count))) == positions
                assert updates.dtype == np.float16
                columns = meta.get("columns", list(range(stream["d_in"])))
                assert ("columns" in meta) == (stream["block"] == "attention")
                assert updates.shape == (len(positions), len(columns))
                np.testing.assert_array_equal(updates, sample.updates)
    assert manifest["subsampling"]["positions_per_image"] == 100 // 8


def test_attention_is_a_positions_share_for_each_token_of_the_captions_words(study, manifest):
    (stream,) = (s for s in manifest["streams"] if s["block"] == "attention")
    for meta, updates in foreign_updates(study / "activations", manifest, stream, "test").values():
        tokens = {token for places in meta["word_tokens"].values() for token in places}
        assert meta["columns"] == sorted(tokens)
        shares = updates.astype(np.float32).sum(axis=1)
        assert (shares > 0).all() and (shares < 1).all()


def test_pictures_are_rgb_pngs_of_the_manifests_size(study, manifest):
    shards = [shard for shard in manifest["shards"] if shard["stream"] == "images"]
    assert {shard["split"] for shard in shards} == {"dictionary", "tune", "test"}
    for shard in shards:
        for _, meta, data in foreign_shard(study / "activations" / shard["path"]):
            assert meta["split"] == shard["split"]
            assert data[:8] == b"\x89PNG\r\n\x1a\n"
            width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
            assert [height, width] == manifest["image_size"]
            assert (depth, colour) == (8, 2)


def test_the_autoencoder_encodes_and_decodes_in_numpy_as_diffusae_does(study, manifest):
    import torch

    from diffusae.sae.storage import load_sae

    directory = study / "sae" / "mid-t0.50-cond-k4"
    config = json.loads((directory / "cfg.json").read_text())
    weights = foreign_tensors(directory / "sae.safetensors")
    assert config["format_version"] == 2
    assert config["sparsity"] == {"name": "topk", "k": 4}
    assert (
        hashlib.sha256((directory / "sae.safetensors").read_bytes()).hexdigest() == config["sha256"]
    )
    d_in, d_sae = config["d_in"], config["d_sae"]
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        "W_enc": (d_sae, d_in), "W_dec": (d_sae, d_in), "b": (d_in,), "b_enc": (d_sae,),
        "input_shift": (d_in,), "input_scale": (d_in,),
    }  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(weights["W_dec"], axis=1), 1, rtol=1e-5)
    (stream,) = (
        s for s in manifest["streams"] if (s["block"], s["conditioning"]) == ("mid", "cond")
    )
    stored = foreign_updates(study / "activations", manifest, stream, "test")
    x = np.concatenate([updates for _, updates in stored.values()]).astype(np.float32)
    z, x_hat = foreign_topk(weights, config["sparsity"]["k"], x)

    sae, _ = load_sae(directory)
    codes = sae.encode_dense(torch.from_numpy(x)).numpy()
    assert (codes > 0).sum() > len(x)
    np.testing.assert_allclose(z, codes, rtol=1e-3, atol=1e-4 * codes.max())
    np.testing.assert_allclose(
        x_hat, sae(torch.from_numpy(x)).numpy(), rtol=1e-3, atol=1e-4 * abs(x).max()
    )


def test_metrics_and_records_are_plain_json(study):
    directory = study / "sae" / "mid-t0.50-cond-k4"
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert all("step" in row for row in rows)
    assert any("val/fvu" in row for row in rows)
    record = json.loads((directory / "run.json").read_text())
    assert record["status"] == "finished"
    parent = json.loads((study / "activations" / "run.json").read_text())
    assert record["parents"] == {"collect": parent["signature"]}


def test_the_page_names_every_field_that_is_written(study, manifest):
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    written = [
        manifest,
        *manifest["streams"],
        *manifest["shards"],
        manifest["header"],
        manifest["subsampling"],
    ]
    written += [
        json.loads(p.read_text()) for p in sorted((study / "activations/groups").glob("*.json"))
    ]
    written += [json.loads(p.read_text()) for p in study.rglob("run.json")]
    written.append(json.loads((study / "sae/mid-t0.50-cond-k4/cfg.json").read_text()))
    missing = {name for value in written for name in value if f"`{name}`" not in page}
    assert not missing


def test_the_lines_of_the_page_read_codes():
    from diffusae.activations.codes import PictureCodes

    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    lines = page.partition("## codes/")[2].partition("```python\n")[2].partition("```")[0]
    values = np.array([[0.5, 3.0], [0.0, 0.0], [2.0, 0.0]])
    codes = PictureCodes.of(
        values, np.array([[700, 2], [0, 1], [5, 7]]), d_sae=5120, dtype=np.dtype(np.float16)
    )
    tensors = foreign_bytes(codes.to_bytes())
    read: dict[str, Any] = {"np": np, "zlib": zlib, **tensors, "n": int(tensors["counts"].sum())}
    exec(lines, read)
    assert [one.tolist() for one in read["indices"]] == [[2, 700], [], [5]]
    assert read["values"].tolist() == [3.0, 0.5, 2.0]
