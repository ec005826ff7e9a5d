import pytest
import torch

from diffusae.sae.largest import GROUP, largest, largest_values


@pytest.mark.parametrize("columns", [64 * GROUP, 64 * GROUP + 1, 8])
@pytest.mark.parametrize("k", [1, 5, 8])
def test_the_k_largest_are_those_of_topk(columns, k):
    values = torch.randn(3, 7, columns, generator=torch.Generator().manual_seed(0))
    found, indices = largest(values, k)
    expected = torch.topk(values, k, dim=-1).values
    assert torch.equal(found.sort(dim=-1, descending=True).values, expected)
    assert torch.equal(values.gather(-1, indices), found)


def test_neighbours_of_one_group_are_all_found():
    values = torch.zeros(1, 64 * GROUP)
    largest_columns = torch.arange(3, 64 * GROUP, 64)[:8]  # one group holds them all
    values[0, largest_columns] = torch.arange(1.0, 9.0)
    assert set(largest(values, 8)[1][0].tolist()) == set(largest_columns.tolist())


def test_equal_entries_give_k_different_columns():
    _, indices = largest(torch.ones(2, 64 * GROUP), 5)
    assert all(len(set(row)) == 5 for row in indices.tolist())


@pytest.fixture(params=[1, 4], ids=["one_thread", "four_threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("columns", [20, 64 * GROUP, 64 * GROUP + 1, 2**15, 2**16])
@pytest.mark.parametrize("k", [1, 8, 20])
def test_in_bfloat16_the_largest_above_zero_are_those_of_topk(columns, k, threads):
    values = torch.randn(2, 3, columns, generator=torch.Generator().manual_seed(0)).bfloat16()
    values[0, 0, 3:] = -values[0, 0, 3:].abs()  # a row with three entries above 0
    values[0, 0, :3] = torch.tensor([1.0, 2.0, 3.0])
    found, indices = largest(values, k)
    expected = torch.topk(values, k, dim=-1).values.relu()
    assert torch.equal(found.relu().sort(dim=-1, descending=True).values, expected)
    assert torch.equal(values.gather(-1, indices), found)
    assert all(len(set(row)) == k for row in indices.flatten(0, 1).tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("columns", "k"), [(7, 7), (40, 3), (512, 10), (1024, 1), (2048, 5)])
def test_the_values_alone_are_those_of_the_k_largest(columns, k, dtype):
    values = torch.rand(3, 5, columns, generator=torch.Generator().manual_seed(columns)).to(dtype)
    found = largest_values(values, k)
    assert found.shape == (3, 5, k)
    assert torch.equal(found.sort(dim=-1).values, torch.topk(values, k).values.sort(dim=-1).values)
