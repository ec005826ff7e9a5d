"""The shuffle mixes images, and its memory does not grow with the data."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusae.activations.batches import ShuffledBatches
from diffusae.activations.order import EpochOrder
from diffusae.activations.shuffle import chunk_of_batches
from diffusae.activations.writer import ActivationWriter
from small_collections import sample_of, stream_of


def same_image_share(*, images: int, positions: int, batch_size: int, buffer_vectors: int) -> float:
    """The share of pairs in a batch that come from one image, over an epoch's whole batches."""
    order = EpochOrder(images=images, positions=positions, batch_size=batch_size,
                       buffer_vectors=buffer_vectors, seed=0, epoch=0)  # fmt: skip
    same = pairs = 0

    def number(image: int) -> np.ndarray:
        return np.full((positions, 1), image, dtype=np.float32)

    for chunk in range(order.chunks):
        for batch in chunk_of_batches(order, chunk, number, d_in=1):
            if len(batch) == batch_size:
                counts = torch.bincount(batch[:, 0].long()).double()
                same += float((counts * (counts - 1)).sum())
                pairs += batch_size * (batch_size - 1)
    return same / pairs


@pytest.mark.parametrize("buffer_vectors", [4096, 16384])
def test_batches_mix_images_as_a_perfect_shuffle_of_the_buffer_does(buffer_vectors):
    positions, images = 64, 1024
    share = same_image_share(
        images=images, positions=positions, batch_size=1024, buffer_vectors=buffer_vectors
    )
    perfect_of_buffer = (positions - 1) / (buffer_vectors - 1)
    assert share == pytest.approx(perfect_of_buffer, rel=0.03)


def test_a_buffer_of_all_vectors_mixes_as_a_perfect_shuffle_of_the_data():
    positions, images = 64, 256
    share = same_image_share(
        images=images, positions=positions, batch_size=1024, buffer_vectors=positions * images
    )
    assert share == pytest.approx((positions - 1) / (positions * images - 1), rel=0.03)


def private_bytes() -> int:
    """Memory of this process without memory-mapped files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = re.search(r"RssAnon:\s+(\d+) kB", status)
    if line is None:
        pytest.skip("this kernel does not tell RssAnon")
    return 1024 * int(line.group(1))


def batches_of(root: Path, *, images: int, **options) -> ShuffledBatches:
    """Shuffled batches of 4096 vectors of 256 entries: an image has 128 KB, a buffer 16 MB."""
    stream = stream_of((8, 16), 256)
    writer = ActivationWriter(root, streams=[stream], header={}, with_images=False)
    updates = np.ones((128, 256), dtype=np.float16)
    for group in range(images // 64):
        stored = {stream.folder: updates}
        pictures = (sample_of(f"{group}-{n}", n, "train", stored) for n in range(64))
        writer.write_group(group, pictures)
    return ShuffledBatches(
        root,
        manifest=writer.finish(),
        stream=stream,
        split="train",
        batch_size=4096,
        buffer_vectors=16384,
        seed=0,
        **options,
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
@pytest.mark.parametrize("reader", ["mapped", "webdataset"])
def test_memory_is_bounded_by_the_buffer_whatever_the_data(tmp_path, reader):
    batches = batches_of(tmp_path, images=2048, reader=reader)
    before = private_bytes()
    growth = max(private_bytes() - before for _ in batches)
    buffer = 16384 * 256 * 4
    # The chunk at hand, the next one, and what the allocator keeps; the data are 16 buffers.
    assert growth < 5 * buffer
