"""Copies from the device are complete, own their memory and have the requested dtype."""

import pytest
import torch

from diffusae.capture.offload import Offload


def test_a_copy_on_the_cpu_owns_contiguous_memory_in_the_wanted_dtype() -> None:
    offload, source = Offload(), torch.randn(3, 5, 4).transpose(1, 2)
    copy = offload(source, torch.float16)
    offload.wait()
    assert torch.equal(copy, source.half())
    assert copy.is_contiguous() and copy.dtype == torch.float16
    assert copy.untyped_storage().nbytes() == copy.nbytes


def test_changing_the_source_afterwards_does_not_change_the_copy() -> None:
    offload, source = Offload(), torch.zeros(2, 2)
    copy = offload(source, torch.float32)
    source.fill_(1.0)
    offload.wait()
    assert torch.equal(copy, torch.zeros(2, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_from_the_accelerator_is_pinned_and_whole_after_waiting() -> None:
    offload = Offload()
    sources = [torch.randn(512, 1280, device="cuda") for _ in range(20)]
    expected = [source.cpu() for source in sources]
    copies = [offload(source * 1, torch.float32) for source in sources]
    for source in sources:
        source.zero_()
    offload.wait()
    assert all(copy.is_pinned() for copy in copies)
    assert all(torch.equal(copy, whole) for copy, whole in zip(copies, expected, strict=True))
