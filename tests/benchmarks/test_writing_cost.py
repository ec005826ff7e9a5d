"""The cost of writing a collection: seconds in the writer beside those of making the pictures."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composing import compose
from diffusae.activations.schema import CollectedSample
from diffusae.activations.writer import ActivationWriter
from diffusae.stages.collect import collect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COUNTS = [
    f"prompts.counts.{split}=32" for split in ("train", "validation", "dictionary", "tune", "test")
]


def test_the_share_of_a_collection_that_is_spent_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's collection of 32 pictures a split, with hashes, flushes, renames and journals."""
    write_group = ActivationWriter.write_group
    making, writing = [], []

    def timed(writer: ActivationWriter, index: int, records: Iterator[CollectedSample], **options):
        spent = 0.0

        def made() -> Iterator[CollectedSample]:
            nonlocal spent
            while True:
                start = time.perf_counter()  # flushing waits, and takes no processor time
                record = next(records, None)
                spent += time.perf_counter() - start
                if record is None:
                    return
                yield record

        records, start = iter(records), time.perf_counter()
        group = write_group(writer, index, made(), **options)
        making.append(spent)
        writing.append(time.perf_counter() - start - spent)
        return group

    monkeypatch.setattr(ActivationWriter, "write_group", timed)
    overrides = ["experiment=miniature", f"paths.outputs={tmp_path}", *COUNTS]
    collect(compose("collect", overrides=overrides))
    print()
    for split, made, written in zip(COUNTS, making, writing, strict=True):
        print(f"{split}: writing takes {100 * written / made:.2f} % of making the pictures")
    share = sum(writing) / sum(making)
    print(f"all: {100 * share:.2f} %")
    assert 0 < share < 1
