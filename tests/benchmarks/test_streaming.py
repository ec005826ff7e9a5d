"""Readers and writer compared with plain webdataset and with the memory limit."""

import io
import json
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import webdataset as wds
from webdataset.writer import TarWriter

from benchmarks.paired import Work, in_turns
from benchmarks.test_sae_step import Ours, batch_of, planted_directions
from diffusae.activations.batches import ShuffledBatches
from diffusae.activations.manifest import Manifest
from diffusae.activations.npy import npy_bytes
from diffusae.activations.schema import CollectedSample, Stream
from diffusae.activations.settings import Reader
from diffusae.activations.writer import ActivationWriter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

IMAGES, GROUPS, BATCH, BUFFER = 384, 6, 4096, 32768
STREAM = Stream(block="mid", t=0.5, conditioning="cond", hookpoint="mid", step_index=0, timestep=1,
                grid=(16, 16), d_in=1280)  # fmt: skip
SHAPE = (STREAM.positions, STREAM.d_in)
VECTORS = IMAGES * STREAM.positions


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def records(group: int) -> Iterator[CollectedSample]:
    size = IMAGES // GROUPS
    for n in range(group * size, (group + 1) * size):
        drawn = np.random.default_rng(n).standard_normal(SHAPE, dtype=np.float32)
        updates = {STREAM.folder: drawn.astype(np.float16)}
        yield CollectedSample(image_id=f"i{n}", prompt="", seed=n, split="train", updates=updates)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    root = tmp_path_factory.mktemp("collection")
    writer = ActivationWriter(root, streams=[STREAM], header={}, with_images=False)
    for group in range(GROUPS):
        writer.write_group(group, records(group))
    return root, writer.finish()


def shuffled(collection: tuple[Path, Manifest], reader: Reader) -> ShuffledBatches:
    root, manifest = collection
    return ShuffledBatches(root, manifest=manifest, stream=STREAM, split="train", batch_size=BATCH,
                           buffer_vectors=BUFFER, seed=0, reader=reader)  # fmt: skip


def vector_by_vector(shards: Iterable[str]) -> int:
    """webdataset's own shuffle of single vectors; the number of vectors."""

    def vectors(samples: Iterable[dict[str, Any]]) -> Iterator[np.ndarray]:
        for sample in samples:
            yield from np.lib.format.read_array(io.BytesIO(sample["npy"]), allow_pickle=False)

    single = wds.compat.WebDataset(list(shards), shardshuffle=False)
    mixed = wds.filters.shuffle(BUFFER // 4, initial=BUFFER // 4)(vectors(single))
    waiting: list[np.ndarray] = []
    count = 0
    for vector in mixed:
        waiting.append(vector)
        if len(waiting) == BATCH:
            count += len(torch.from_numpy(np.stack(waiting)).float())
            waiting = []
    return count


def test_readers_beside_webdataset_and_the_limit(collection, tmp_path):
    root, manifest = collection
    raw = tmp_path / "raw.bin"
    with open(raw, "wb") as file:
        for group in range(GROUPS):
            for record in records(group):
                file.write(record.updates[STREAM.folder].tobytes())
    mapped = np.memmap(raw, dtype=np.float16, mode="c", shape=(VECTORS, STREAM.d_in))
    # Written once, as by a reader of whole batches: the least cost of float16 -> float32.
    out = torch.empty(BATCH, STREAM.d_in)

    def conversion() -> None:
        for first in range(0, VECTORS, BATCH):
            out.copy_(torch.from_numpy(mapped[first : first + BATCH]))

    mapped_batches = shuffled(collection, "mapped")
    streamed_batches = shuffled(collection, "webdataset")
    one = manifest.shards(STREAM.folder, "train")[0]
    works: dict[str, Work] = {
        "raw memory map, unshuffled": conversion,
        # `map` releases a batch before it asks for the next, as a training step does.
        "ours, mapped": lambda: sum(map(len, mapped_batches)),
        "ours, webdataset": lambda: sum(map(len, streamed_batches)),
        "webdataset, vector by vector": lambda: vector_by_vector([str(root / one.path)]),
    }
    counts = dict.fromkeys(works, VECTORS)
    counts["webdataset, vector by vector"] = one.samples * STREAM.positions // BATCH * BATCH
    times = in_turns(works, rounds=5, clock=time.process_time)
    speeds = {name: counts[name] / statistics.median(measured) for name, measured in times.items()}
    print(
        f"\nstreaming, {VECTORS} vectors of {STREAM.d_in}, batch {BATCH}, buffer {BUFFER}, one"
        " thread"
    )
    for name, speed in speeds.items():
        print(f"  {name}: {speed / 1e3:.0f}k vectors/s")
    limit, plain = speeds["raw memory map, unshuffled"], speeds["webdataset, vector by vector"]
    for name in ("ours, mapped", "ours, webdataset"):
        print(
            f"  {name}: {speeds[name] / limit:.2f} x the raw memory map, {speeds[name] / plain:.1f}"
            " x webdataset"
        )
        assert speeds[name] > 0


def test_waiting_for_data_beside_a_training_step(collection):
    x = batch_of(planted_directions(), 1)
    trainer = Ours(x, "int8")
    readers: tuple[Reader, ...] = ("mapped", "webdataset")
    streams = {reader: shuffled(collection, reader) for reader in readers}
    works: dict[str, Work] = {
        reader: lambda batches=batches: sum(map(len, batches))
        for reader, batches in streams.items()
    }
    times = in_turns({**works, "step": lambda: trainer.step(x)}, rounds=5, clock=time.process_time)
    batches = VECTORS / BATCH
    print()
    for reader in readers:
        share = statistics.median(
            read / batches / (read / batches + step)
            for read, step in zip(times[reader], times["step"], strict=True)
        )
        print(f"waiting for data without workers, {reader}: {100 * share:.1f} % of step and wait")
        assert 0 < share < 1


def test_writer_beside_plain_webdataset(tmp_path):
    images = list(records(0))
    size = sum(record.updates[STREAM.folder].nbytes for record in images)
    numbers = iter(range(10**6))

    def ours() -> None:
        root = tmp_path / f"ours{next(numbers)}"
        writer = ActivationWriter(root, streams=[STREAM], header={}, with_images=False)
        writer.write_group(0, images)

    def plain() -> None:
        with open(tmp_path / f"plain{next(numbers)}.tar", "wb") as file:
            tar = TarWriter(file, encoder=False)
            for record in images:
                array = npy_bytes(cast(np.ndarray, record.updates[STREAM.folder]))
                text = json.dumps({"seed": record.seed}).encode()
                tar.write({"__key__": record.image_id, "npy": array, "json": text})
            tar.close()

    times = in_turns({"ours": ours, "plain": plain}, rounds=7)
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["plain"], strict=True))
    speed = {name: size / statistics.median(taken) / 1e6 for name, taken in times.items()}
    print(f"\nwriting with checks, SHA-256 and rename: {speed['ours']:.0f} MB/s, {ratio:.2f} x the")
    print(f"time of plain webdataset: {speed['plain']:.0f} MB/s")
    assert ratio > 0
