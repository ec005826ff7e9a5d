import pytest
import torch

from diffusae.errors import UserError
from diffusae.evaluation.composition import Picture, build_split
from diffusae.evaluation.linear_probe import RidgeProbe, linear_probes, noun_shares

GRID = (4, 4)


def scene(
    name: str, cells: dict[str, list[int]], weights: dict[str, int], *, d: int = 5, seed: int = 0
):
    """A picture whose update has one unit of a noun's channel at the noun's cells."""
    generator = torch.Generator().manual_seed(seed)
    updates = 0.05 * torch.randn(16, d, generator=generator)
    masks = {}
    for noun, where in cells.items():
        updates[where, weights[noun]] += 1
        mask = torch.zeros(16, dtype=torch.bool)
        mask[where] = True
        masks[noun] = mask.reshape(GRID)
    codes = torch.zeros(16, 1)
    return updates, Picture(name, codes, codes.long(), list(cells), masks)


def scenes(first: int, n: int, weights: dict[str, int]):
    drawn = []
    for index in range(first, first + n):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(index)).tolist()
        drawn.append(scene(f"{index}", {"cat": order[:3], "dog": order[3:6]}, weights, seed=index))
    split = build_split([picture for _, picture in drawn], grid=GRID, known_nouns=["cat", "dog"])
    return torch.stack([updates for updates, _ in drawn]), split


def test_the_ridge_probe_is_ridge_regression():
    generator = torch.Generator().manual_seed(1)
    scales = torch.tensor([1.0, 5.0, 0.1, 2.0])
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64) * scales
    y = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    ridge = 0.3
    standard = (x - x.mean(0)) / x.std(0, correction=0)
    gram = standard.T @ standard + 50 * ridge * torch.eye(4)
    weight = torch.linalg.solve(gram, standard.T @ (y - y.mean(0)))
    expected = standard @ weight + y.mean(0)
    assert torch.allclose(RidgeProbe(x, y).predict(x, ridge=ridge).double(), expected, atol=1e-5)


def test_a_constant_entry_does_no_harm():
    x = torch.cat([torch.randn(30, 2), torch.full((30, 1), 7.0)], dim=1)
    assert RidgeProbe(x, x[:, :1]).predict(x, ridge=0.0001).sub(x[:, :1]).abs().max() < 0.01


def test_no_positions_to_fit_on_are_refused():
    with pytest.raises(UserError, match="positions"):
        RidgeProbe(torch.zeros(0, 3), torch.zeros(0, 1))


def test_shares_are_the_part_of_a_position_that_the_mask_covers():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0, :2] = True  # half of the first position
    codes = torch.zeros(16, 1)
    pictures = [Picture("a", codes, codes.long(), ["cat"], {"cat": mask})]
    split = build_split(pictures, grid=GRID, known_nouns=["cat"])
    shares = noun_shares(split, ["cat", "dog"])
    assert shares[0, 0].tolist() == [0.5, 0.0]
    assert shares.sum() == 0.5


def test_linear_information_is_found_and_where_without_what_is_worth_less():
    weights = {"cat": 0, "dog": 1}
    iou = linear_probes(scenes(0, 12, weights), scenes(12, 4, weights), scenes(16, 6, weights))
    assert float(iou["noun_probe"].mean()) == pytest.approx(1)
    # The other noun's three cells are as likely: 3 of 6.
    assert float(iou["any_object_probe"].mean()) == pytest.approx(0.5, abs=0.05)
    assert len(iou["noun_probe"]) == 12


def test_nouns_of_one_channel_cannot_be_distinguished():
    weights = {"cat": 0, "dog": 0}
    iou = linear_probes(scenes(0, 12, weights), scenes(12, 4, weights), scenes(16, 6, weights))
    assert float(iou["noun_probe"].mean()) == pytest.approx(0.5, abs=0.05)


def test_a_noun_that_the_fitting_pictures_lack_counts_as_any_object():
    weights = {"cat": 0, "dog": 0}
    updates, picture = scene("f", {"cat": [1, 2]}, weights)
    fitting = updates[None], build_split([picture], grid=GRID, known_nouns=["cat", "dog"])
    updates, picture = scene("g", {"dog": [5, 6]}, weights, seed=1)
    other = updates[None], build_split([picture], grid=GRID, known_nouns=["cat", "dog"])
    assert linear_probes(fitting, other, other)["noun_probe"].tolist() == [1]
