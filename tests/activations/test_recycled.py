import gc

import torch

from diffusae.activations.shuffle import Recycled


def taken(recycled, values):
    """A batch with these values."""
    return recycled.batch(*values.shape).copy_(values)


def test_memory_is_used_again_only_when_nobody_holds_the_batch():
    recycled = Recycled()
    batch = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    first = taken(recycled, batch)
    kept = first[1]  # a view holds the whole
    address = first.data_ptr()
    del first
    assert taken(recycled, batch + 1).data_ptr() != address
    assert kept.tolist() == [3, 4, 5]
    del kept
    gc.collect()
    assert taken(recycled, batch).data_ptr() == address


def test_what_autograd_keeps_is_not_written_over():
    recycled = Recycled()
    weight = torch.ones(3, requires_grad=True)
    loss = (taken(recycled, torch.full((2, 3), 2.0).half()) * weight).sum()
    taken(recycled, torch.full((2, 3), 9.0).half())
    loss.backward()
    assert weight.grad is not None and weight.grad.tolist() == [4, 4, 4]


def test_a_shorter_batch_fits_and_a_longer_one_gets_its_own():
    recycled = Recycled()
    for rows in (4, 2, 7, 1):
        batch = torch.randn(rows, 3).half()
        assert torch.equal(taken(recycled, batch), batch.float())
