"""A shuffle buffer on the device: the batches of the host's, for any epoch, rank and resume.

The device is a pretend one: tensors on it do not mix with those of the host.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from activations.test_datamodule import epoch_of, same
from activations.test_ragged import collected as ragged_collection
from activations.test_ragged import data as ragged_data
from diffusae.activations import batches as batches_module
from diffusae.activations import device_buffer
from diffusae.activations.batches import SequentialBatches, ShuffledBatches
from diffusae.activations.datamodule import ActivationDataModule
from diffusae.activations.device_buffer import lies_on_device
from diffusae.activations.together import TogetherBatches
from diffusae.activations.vector_files import OpenFile, Run, VectorFiles, in_pieces
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from sae.pretend_device import ELSEWHERE, Elsewhere, pretend_device
from small_collections import data_of

ROW_BYTES = 8  # 4 numbers of float16


@pytest.fixture(autouse=True)
def _pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The pretend device has room; a piece holds two vectors, so chunks come in several rounds."""
    monkeypatch.setattr(batches_module, "lies_on_device", lambda wanted, *_: wanted != "host")
    monkeypatch.setattr(device_buffer, "PIECE_BYTES", 2 * ROW_BYTES)
    monkeypatch.setattr(device_buffer, "READERS", 2)
    with pretend_device():
        yield


def on_device(data: ActivationDataModule) -> ShuffledBatches:
    data.place_buffers(ELSEWHERE)
    loader = data.train_dataloader()
    assert isinstance(loader, ShuffledBatches)
    return loader


def here(batches: list[Tensor]) -> list[Tensor]:
    assert all(isinstance(batch, Elsewhere) for batch in batches)
    return [batch.here for batch in batches if isinstance(batch, Elsewhere)]


def test_the_batches_are_those_of_the_host_for_several_epochs(collection) -> None:
    """36 vectors in batches of 5: chunks of 2 batches, and a last batch of a single vector."""
    host, device = data_of(collection[0]).train_dataloader(), on_device(data_of(collection[0]))
    for epoch in (0, 1, 2, 7, 7, 3):
        batches = here(epoch_of(device, epoch))
        assert same(batches, epoch_of(host, epoch))
        assert [len(batch) for batch in batches] == [5] * 7 + [1]
        assert all(batch.dtype == torch.float32 for batch in batches)


def test_a_buffer_of_the_whole_split_gives_the_same(collection) -> None:
    host = data_of(collection[0], buffer_vectors=1000).train_dataloader()
    device = on_device(data_of(collection[0], buffer_vectors=1000))
    for epoch in (0, 1):
        assert same(here(epoch_of(device, epoch)), epoch_of(host, epoch))


def test_every_rank_gets_its_part_of_every_batch(collection) -> None:
    """36 vectors in batches of 8: the last one has 4, which fall to the ranks unevenly."""
    for rank in range(2):
        loaders = [
            data_of(collection[0], batch_size=8, buffer_vectors=16).train_dataloader()
            for _ in range(2)
        ]
        for loader in loaders:
            loader.share(rank, 2)
        host, device = loaders
        device.place_buffer(ELSEWHERE)
        for epoch in (0, 1):
            assert same(here(epoch_of(device, epoch)), epoch_of(host, epoch))


@pytest.mark.parametrize("given", [0, 1, 2, 5, 7])
def test_a_resumed_pass_goes_on_with_the_next_batch(collection, given: int) -> None:
    whole = epoch_of(data_of(collection[0]).train_dataloader(), 3)
    stopped = on_device(data_of(collection[0]))
    stopped.set_epoch(3)
    batches = iter(stopped)
    for _ in range(given):
        next(batches)
    resumed = on_device(data_of(collection[0]))
    resumed.load_state_dict(stopped.state_dict())
    assert same(here(list(resumed)), whole[given:])


def test_ragged_collections_and_every_stored_type_give_the_same(
    tmp_path: Path, streams, record
) -> None:
    ragged_collection(tmp_path / "ragged")
    host = ragged_data(tmp_path / "ragged").train_dataloader()
    device = on_device(ragged_data(tmp_path / "ragged"))
    for epoch in (0, 1):
        assert same(here(epoch_of(device, epoch)), epoch_of(host, epoch))
    for dtype in ("bfloat16", "float32"):
        writer = ActivationWriter(tmp_path / dtype, streams=streams, header={}, dtype=dtype)
        for index, split in enumerate(["train", "train", "validation"]):
            writer.write_group(index, [record(3 * index + n, split) for n in range(3)])
        writer.finish()
        plain, other = data_of(tmp_path / dtype), data_of(tmp_path / dtype)
        assert same(here(list(on_device(other))), list(plain.train_dataloader()))


def test_validation_batches_are_made_there_too_in_the_order_of_the_shards(
    collection, monkeypatch
) -> None:
    monkeypatch.setattr(batches_module, "_AT_ONCE", 10)  # 18 vectors in batches of 5: 10 and 8
    plain, data = data_of(collection[0]), data_of(collection[0])
    on_device(data)
    loader = data.val_dataloader()
    assert isinstance(loader, SequentialBatches) and len(loader) == 4
    for _ in range(2):
        assert same(here(list(loader)), list(plain.val_dataloader()))


def test_streams_side_by_side_keep_their_own_order(collection) -> None:
    def streams() -> dict[str, ActivationDataModule]:
        other = {"block": "up", "t": 1.0, "conditioning": "uncond"}
        return {"mid": data_of(collection[0]), "up": data_of(collection[0], **other)}

    host = TogetherBatches({n: d.train_dataloader() for n, d in streams().items()}, steps=12)
    device = TogetherBatches({n: on_device(d) for n, d in streams().items()}, steps=12)
    for ours, theirs in zip(device, host, strict=True):
        assert ours.keys() == theirs.keys()
        assert same(here(list(ours.values())), list(theirs.values()))


def test_the_first_chunk_of_the_next_epoch_is_read_ahead(collection, monkeypatch) -> None:
    asked: list[tuple[int, int]] = []
    own = ShuffledBatches._chunk

    def noted(self: ShuffledBatches, order, chunk: int):
        asked.append((order.epoch, chunk))
        return own(self, order, chunk)

    monkeypatch.setattr(ShuffledBatches, "_chunk", noted)
    device = on_device(data_of(collection[0]))
    epoch_of(device, 0)
    epoch_of(device, 1)
    device.set_epoch(2)
    next(iter(device))
    assert asked[:9] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]


def test_a_shard_that_is_cut_is_named(collection) -> None:
    root = collection[0]
    device = on_device(data_of(root))
    path = root / "mid/t0.50/cond/shard-000000.tar"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"shard-000000.tar is cut"):
        list(device)


def test_a_file_that_ends_before_its_bytes_is_named(collection) -> None:
    root, manifest = collection
    shard = manifest.entries[0]
    with pytest.raises(UserError, match=f"{shard.path} is cut: it ends at byte {shard.bytes}"):
        OpenFile(root, shard).read(shard.bytes - 4, memoryview(bytearray(8)))


def test_runs_are_cut_into_pieces_of_equal_length() -> None:
    file: OpenFile = object()  # type: ignore[assignment]
    runs = [Run(file, 1000, 5), Run(file, 2000, 2), Run(file, 3000, 3)]
    assert list(in_pieces(runs, 4, 10)) == [
        [(file, 1000, 4)],
        [(file, 1040, 1), (file, 2000, 2), (file, 3000, 1)],
        [(file, 3010, 2)],
    ]


def test_ranges_of_vectors_become_stretches_of_their_files(collection) -> None:
    """Shards of 18 vectors, 6 a picture: 16 to 19 are the last two of one and two of the next."""
    root, manifest = collection
    stream = manifest.stream("mid", 0.5, "cond")
    shards = manifest.shards(stream.folder, "train")
    files = VectorFiles(root, manifest, stream, "train")
    runs = list(files.runs(shards, [range(16, 20), range(7)]))
    assert [(run.file.path[-10:], run.vectors) for run in runs] == [
        ("000000.tar", 2), ("000001.tar", 2), ("000000.tar", 6), ("000000.tar", 1),
    ]  # fmt: skip
    last, _, first, second = runs
    assert last.offset - first.offset == 2 * (second.offset - first.offset) + 4 * ROW_BYTES


def free(gigabytes: float) -> Callable:
    return lambda _device: (int(gigabytes * 1e9), 141 * 10**9)


def test_auto_takes_at_most_half_of_the_free_memory(monkeypatch) -> None:
    gpu, gigabyte = torch.device("cuda", 1), 10**9
    monkeypatch.setattr(torch.cuda, "mem_get_info", free(4))
    assert lies_on_device("auto", gpu, 2 * gigabyte)
    assert not lies_on_device("auto", gpu, 2 * gigabyte + 1)
    assert lies_on_device("device", gpu, 4 * gigabyte)
    assert not lies_on_device("host", gpu, 1)
    assert not lies_on_device("auto", torch.device("cpu"), 1)


def test_a_buffer_that_does_not_fit_is_refused_with_both_sizes_and_the_remedy(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", free(4))
    with pytest.raises(UserError, match=r"5 GB on cuda:1, where 4 GB .* activations.buffer_vector"):
        lies_on_device("device", torch.device("cuda", 1), 5 * 10**9)
    with pytest.raises(UserError, match="needs a CUDA device, the training is on cpu"):
        lies_on_device("device", torch.device("cpu"), 1)


def test_a_buffer_on_the_device_needs_the_mapped_reader(collection) -> None:
    with pytest.raises(UserError, match=r"buffer_on=device needs activations.reader=mapped"):
        data_of(collection[0], reader="webdataset", buffer_on="device")
    with pytest.raises(UserError, match="unknown buffer_on 'gpu'; known: auto, device, host"):
        data_of(collection[0], buffer_on="gpu")
