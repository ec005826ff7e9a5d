import numpy as np
import pytest
import torch

from diffusae.concepts import statistics
from diffusae.concepts.statistics import LatentStatistics


def dense_pictures(n, d_sae=5, grid=(2, 3), k=2, seed=0):
    """Codes of n pictures, and the same as dense maps [n, d_sae, P]."""
    generator = torch.Generator().manual_seed(seed)
    positions = grid[0] * grid[1]
    codes, dense = [], torch.zeros(n, d_sae, positions)
    for picture in range(n):
        indices = torch.stack(
            [torch.randperm(d_sae, generator=generator)[:k] for _ in range(positions)]
        )
        values = torch.randn(positions, k, generator=generator).relu()
        dense[picture].T.scatter_(1, indices, values)
        codes.append((values, indices))
    return codes, dense.double().numpy()


@pytest.mark.parametrize("merge_every", [2, 1000])
def test_the_table_equals_numpy_over_dense_maps(monkeypatch, merge_every):
    monkeypatch.setattr(statistics, "_PICTURES_BETWEEN_MERGES", merge_every)
    codes, dense = dense_pictures(9)
    added = LatentStatistics(5, (2, 3), n_top=4)
    for first in (0, 4, 5):  # 4, 1 and 4 pictures at once
        part = codes[first : {0: 4, 4: 5, 5: 9}[first]]
        names = [f"image-{first + n}" for n in range(len(part))]
        added.add(names, *(torch.stack(both) for both in zip(*part, strict=True)))
    table = added.table()
    np.testing.assert_allclose(table["firing_frequency"], (dense > 0).mean(axis=(0, 2)))
    np.testing.assert_allclose(table["pictures_active"], (dense > 0).any(axis=2).sum(axis=0))
    np.testing.assert_allclose(table["mean_activation"], dense.mean(axis=(0, 2)), rtol=1e-6)
    np.testing.assert_allclose(table["map_variance"], dense.var(axis=0).mean(axis=1), rtol=1e-6)
    between_positions = dense.mean(axis=0).var(axis=1)
    share = between_positions / dense.var(axis=(0, 2))
    np.testing.assert_allclose(table["position_share"], share, rtol=1e-5)
    spatial_means = dense.mean(axis=2)
    for latent in range(5):
        order = np.argsort(-spatial_means[:, latent], kind="stable")[:4]
        top = [(f"image-{i}", v) for i in order if (v := spatial_means[i, latent]) > 0]
        assert table["top_images"].tolist()[latent] == [name for name, _ in top]
        values = [value for _, value in top]
        np.testing.assert_allclose(table["top_values"].tolist()[latent], values, rtol=1e-6)


def test_a_latent_that_fires_at_fixed_positions_is_context_free():
    added = LatentStatistics(2, (1, 2))
    for number in range(4):
        # Latent 0 always fires at position 0; latent 1 alternates.
        moving = number % 2
        values = torch.tensor([[1.0, 1.0 - moving], [0.0, float(moving)]])
        added.add([str(number)], values[None], torch.tensor([[[0, 1], [0, 1]]]))
    table = added.table()
    assert table["position_share"].tolist() == [1, 0]
    assert table["map_variance"].tolist() == [0, 0.25]


def test_a_silent_latent_has_no_top_images_and_no_position_share():
    added = LatentStatistics(2, (1, 1))
    added.add(["a"], torch.tensor([[[1.0]]]), torch.tensor([[[0]]]))
    row = added.table().iloc[1]
    assert row["top_images"] == []
    assert row["firing_frequency"] == 0
    assert np.isnan(row["position_share"])
