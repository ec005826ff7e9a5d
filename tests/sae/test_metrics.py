import pytest
import torch
from sklearn.metrics import r2_score

from diffusae.sae.metrics import (
    L0,
    FiringFrequency,
    FiringHistogram,
    Reconstruction,
    decoder_similarity,
)
from diffusae.sae.sparsity import Codes


def codes(values, indices):
    return Codes(torch.tensor(values), torch.tensor(indices))


def test_reconstruction_by_hand():
    metric = Reconstruction(2)
    x, x_hat = torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    metric.update(x_hat, x)
    # E = 2; the mean is (1, 2), so the variance sums to 10; the energy is 4 + 16 = 20.
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(
        # A zero vector has cosine 0; the other (2, 4) . (2, 3) / (sqrt 20 sqrt 13).
        {"fvu": 0.2, "explained_variance": 0.8, "scaled_mse": 0.1, "cosine": 16 / 260**0.5 / 2}
    )


def test_reconstruction_over_uneven_batches_equals_sklearn_over_all():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator) + 7
    x_hat = x + 0.3 * torch.randn(50, 3, generator=generator)
    metric = Reconstruction(3)
    for part in (slice(0, 1), slice(1, 40), slice(40, 50)):
        metric.update(x_hat[part], x[part])
    expected = r2_score(x, x_hat, multioutput="variance_weighted")
    assert metric.compute()["explained_variance"].item() == pytest.approx(expected, abs=1e-6)


def test_predicting_the_mean_explains_nothing_and_a_copy_everything():
    x = torch.tensor([[1.0, 5.0], [3.0, 1.0]])
    for x_hat, expected in ((x.mean(dim=0).expand(2, 2), 0.0), (x, 1.0)):
        metric = Reconstruction(2)
        metric.update(x_hat, x)
        assert metric.compute()["explained_variance"].item() == expected


def test_constant_vectors_have_no_variance_to_explain():
    metric = Reconstruction(2)
    metric.update(torch.zeros(5, 2), torch.full((5, 2), 0.1))
    assert metric.compute()["fvu"].isnan()
    assert metric.compute()["scaled_mse"] == 1


def test_l0_counts_what_is_above_zero():
    metric = L0()
    metric.update(codes([[1.0, 0.0], [2.0, 3.0]], [[0, 1], [2, 3]]))
    metric.update(codes([[0.0, 0.0]], [[0, 1]]))
    assert metric.compute() == 1.0


def test_firing_frequency_counts_vectors_per_latent():
    metric = FiringFrequency(4)
    metric.update(codes([[1.0, 0.0], [2.0, 3.0]], [[0, 3], [0, 2]]))
    assert metric.compute().tolist() == [1.0, 0.0, 0.5, 0.0]


def test_a_latent_is_alive_when_any_batch_fires_it():
    metric = FiringHistogram(4)
    metric.update(codes([[1.0]], [[0]]))
    metric.update(codes([[1.0]], [[3]]))
    assert metric.compute()["dead_fraction"] == 0.5


def test_the_histogram_puts_every_latent_in_one_bin():
    n, counts = (
        20_000,
        [0, 1, 2, 20, 200, 2000, 2001, 20_000],
    )  # a latent fires so many times out of n
    metric = FiringHistogram(len(counts))
    for latent, count in enumerate(counts):
        values = torch.cat([torch.ones(count, 1), torch.zeros(n - count, 1)])
        metric.update(Codes(values, torch.full((n, 1), latent)))
    metric.n /= len(counts)  # the batches above are the same vectors, latent by latent
    found = {name: round(float(share) * len(counts), 6) for name, share in metric.compute().items()}
    assert found == {
        "dead_fraction": 1,  # 0
        "firing_below_1e-4": 1,  # 1
        "firing_1e-4": 1,  # 2, which is just 1e-4
        "firing_1e-3": 1,  # 20
        "firing_1e-2": 2,  # 200 and 2000, which is not above DENSE
        "dense_fraction": 2,
    }


def test_decoder_similarity_by_hand():
    directions = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    found = decoder_similarity(directions)
    # Nearest neighbours: the first two are each other's (1), the others have 0 at best.
    assert found["decoder_similarity"] == 0.5
    assert found["decoder_duplicates"] == 0.5


def test_many_latents_are_sampled_and_compared_with_all():
    directions = torch.eye(3000)
    directions[2999] = directions[0]  # of this pair only latent 0 is in the sample of every third
    found = decoder_similarity(directions)
    assert found["decoder_duplicates"].item() == pytest.approx(1 / 1000)


def test_a_single_latent_is_like_no_other():
    assert decoder_similarity(torch.ones(1, 3))["decoder_duplicates"] == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metrics_without_data_are_nan():
    values = (
        L0().compute(),
        *FiringHistogram(3).compute().values(),
        *Reconstruction(2).compute().values(),
    )
    assert all(value.isnan() for value in values)
