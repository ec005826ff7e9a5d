import pytest
import torch

from diffusae.sae import screening
from diffusae.sae.dense_product import IN_8_BITS, WAYS, FastestWay
from diffusae.sae.screening import LEVELS, Screen, may_reach, settled
from diffusae.sae.search import Search
from diffusae.sae.sparse_ops import TORCH
from diffusae.sae.sparsity import Codes, TopK

pytestmark = pytest.mark.skipif(
    not screening.available(), reason="this torch multiplies no 8-bit integers by oneDNN"
)


def _searched(way, centred, W_enc, k, b_enc=None) -> Codes:
    search = Search()
    search._ways_by_row = FastestWay([way])
    search._ways = FastestWay(WAYS[:1])
    sparsity = TopK(k).train()
    return search(centred, W_enc, b_enc, sparsity, precision="float32", kernels=TORCH)


def _unequal_rows(rows: int, d: int, *, power: int = 1) -> torch.Tensor:
    return torch.randn(rows, d) ** power * torch.logspace(-6, 6, rows).unsqueeze(1)


def test_the_margin_is_7_deviations_of_independent_uniform_errors():
    W_enc = torch.tensor([[90.0, 0], [0, 180]])  # steps 1 and 2, norms 90 and 180
    centred = torch.tensor([[3.0 * LEVELS, 4 * LEVELS]])  # a step of 4; the norm is 5 * 90
    bounds = Screen(W_enc).upper_bounds(centred, torch.tensor([1000.0, -1000]))
    # The rounded row is (68, 90) steps: 3 * 90 / 4 = 67.5 becomes the even 68.
    of_errors = [((4 * 90) ** 2 + (450 * 1) ** 2) / 12, ((4 * 180) ** 2 + (450 * 2) ** 2) / 12]
    expected = [
        4 * 68 * 90 + 1000 + 7 * of_errors[0] ** 0.5,
        4 * 90 * 180 - 1000 + 7 * of_errors[1] ** 0.5,
    ]
    assert bounds[0].tolist() == pytest.approx(expected, rel=1 / 256)


@pytest.mark.parametrize(("power", "excess_of_size"), [(1, 0.25), (3, 0.9)])
def test_no_pre_activation_exceeds_its_upper_bound(power, excess_of_size):
    centred, W_enc = (_unequal_rows(rows, 96, power=power) for rows in (200, 300))
    b_enc = torch.randn(300)
    bounds = Screen(W_enc).upper_bounds(centred, b_enc).double()
    exact = centred.double() @ W_enc.double().T + b_enc
    excess = bounds * (1 + bounds.sign() / 256) - exact
    size = centred.norm(dim=1, keepdim=True) * W_enc.norm(dim=1)
    assert (excess >= -1e-5 * size).all()
    assert (excess < excess_of_size * size + exact.abs() / 64).all()  # and bounds are not far off


def test_a_row_is_settled_where_the_rest_cannot_reach_the_kth_value():
    kth = torch.tensor([2.01, 1.99, 0.0, 0.03])
    least = torch.tensor([1.9921875, 1.9921875, -4.0, -4.0], dtype=torch.bfloat16)
    # 1.992 * (1 + 1/256) = 2.0000; below 0 the rest counts as 0
    assert settled(kth, least).tolist() == [True, False, True, True]


def test_latents_may_belong_to_a_row_where_their_bounds_reach_its_kth_value():
    kth = torch.tensor([2.01, 2.0, torch.nan])
    bounds = torch.tensor([[1.9921875, 2.0, -4.0]] * 3, dtype=torch.bfloat16)
    # 1.992 * (1 + 1/256) = 2.0000
    expected = [[False, False, False], [False, True, False], [True, True, True]]
    assert may_reach(kth, bounds).tolist() == expected


@pytest.mark.parametrize("with_bias", [False, True])
def test_codes_are_those_of_the_search_in_float32_to_the_bit(with_bias):
    centred, W_enc = _unequal_rows(600, 48), torch.randn(400, 48)
    b_enc = torch.randn(400) if with_bias else None
    in_float32, in_8_bits = (
        _searched(way, centred, W_enc, 7, b_enc) for way in (WAYS[0], IN_8_BITS)
    )
    assert torch.equal(in_8_bits.values, in_float32.values)
    active = in_float32.values > 0
    assert torch.equal(in_8_bits.indices[active], in_float32.indices[active])


def test_latents_that_8_bits_cannot_tell_apart_are_found_by_their_values_in_float32():
    """400 latents in the row's direction, whose lengths differ by less than a rounding error."""
    direction = torch.randn(32)
    order = torch.randperm(400)
    W_enc = direction * (1 + 1e-4 * order.float()).unsqueeze(1)
    codes = _searched(IN_8_BITS, direction.repeat(3, 1), W_enc, 5)
    assert {400 - rank for rank in order[codes.indices[0]].tolist()} == {1, 2, 3, 4, 5}


def test_a_row_that_is_not_finite_has_codes_that_are_not_finite_and_leaves_the_others_alone():
    centred, W_enc = torch.randn(5, 16), torch.randn(64, 16)
    whole = _searched(IN_8_BITS, centred, W_enc, 3)
    centred[2, 4] = torch.nan
    codes = _searched(IN_8_BITS, centred, W_enc, 3)
    assert codes.values[2].isnan().all()
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(codes.values[others], whole.values[others])


def test_a_process_without_rows_has_no_codes():
    codes = _searched(IN_8_BITS, torch.randn(0, 16), torch.randn(64, 16), 3)
    assert codes.values.shape == codes.indices.shape == (0, 3)


def test_most_rows_of_random_data_are_settled_in_8_bits(monkeypatch):
    shares = []

    def counted(*arguments):
        rows = settled(*arguments)
        shares.append(rows.float().mean().item())
        return rows

    monkeypatch.setattr(screening, "settled", counted)
    _searched(IN_8_BITS, torch.randn(256, 320), torch.randn(1280, 320), 20)
    assert shares[0] > 0.9
