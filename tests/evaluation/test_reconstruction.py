import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score

from diffusae.errors import UserError
from diffusae.evaluation.reconstruction import (
    CodeSums,
    PictureSums,
    fit_linear,
    fit_pca,
    reconstruction_results,
)
from diffusae.evaluation.result import NO_DATA


def pictures(n, *, noise=0.3, positions=4, d=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, positions, d, generator=generator) + 2
    return x, x + noise * torch.randn(x.shape, generator=generator)


def sums_of(x, **reconstructions):
    sums = PictureSums()
    for row in range(len(x)):
        sums.add(x[row], {name: vectors[row] for name, vectors in reconstructions.items()})
    return sums


def test_the_error_metrics_equal_sklearn_over_all_vectors():
    x, x_hat = pictures(20)
    estimates = sums_of(x, sae=x_hat).estimates("sae")
    expected = r2_score(x.flatten(0, 1), x_hat.flatten(0, 1), multioutput="variance_weighted")
    assert estimates["explained_variance"].value == pytest.approx(expected, abs=1e-6)
    assert estimates["fvu"].value == pytest.approx(1 - expected, abs=1e-6)
    scaled = ((x - x_hat).square().sum() / x.square().sum()).item()
    assert estimates["scaled_mse"].value == pytest.approx(scaled, rel=1e-5)
    assert estimates["fvu"].n == 80


def test_the_interval_equals_a_slow_bootstrap_over_pictures():
    x, x_hat = pictures(12)
    interval = sums_of(x, sae=x_hat).estimates("sae", n_resamples=1000, seed=1)["fvu"].ci95
    generator, slow = np.random.default_rng(5), []
    for _ in range(1000):
        drawn = generator.integers(0, 12, 12)
        some, some_hat = x[drawn].flatten(0, 1), x_hat[drawn].flatten(0, 1)
        variance = (some - some.mean(dim=0)).square().sum()
        slow.append(((some - some_hat).square().sum() / variance).item())
    assert interval == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), rel=0.06)


def test_predicting_the_mean_of_the_split_explains_nothing():
    x, _ = pictures(6)
    mean = x.flatten(0, 1).mean(dim=0).expand_as(x)
    estimate = sums_of(x, mean=mean).estimates("mean")["explained_variance"]
    assert estimate.value == pytest.approx(0, abs=1e-6)


def test_vectors_that_do_not_vary_are_no_data():
    estimates = sums_of(torch.full((3, 2, 2), 0.7), sae=torch.zeros(3, 2, 2)).estimates("sae")
    assert estimates["fvu"] == estimates["explained_variance"] == NO_DATA
    assert estimates["scaled_mse"].value == pytest.approx(1)


def test_reconstructions_must_stay_the_same():
    sums = sums_of(torch.rand(1, 2, 2), sae=torch.rand(1, 2, 2))
    with pytest.raises(UserError, match="expected reconstructions"):
        sums.add(torch.rand(2, 2), {"other": torch.rand(2, 2)})


def test_pca_equals_sklearn():
    spread = torch.tensor([5.0, 3, 2, 1, 0.5])
    vectors = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * spread + 1
    expected = PCA(2).fit(vectors.numpy())
    projected = torch.from_numpy(expected.inverse_transform(expected.transform(vectors.numpy())))
    reconstructed = fit_pca(vectors, 2).reconstruct(vectors)
    torch.testing.assert_close(reconstructed, projected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("k", [0, 6])
def test_pca_refuses_an_impossible_number_of_components(k):
    with pytest.raises(UserError, match=f"k={k} components"):
        fit_pca(torch.rand(9, 5), k)


def test_l0_and_dead_latents_by_hand():
    codes = CodeSums(4)
    codes.add(torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([[0, 1], [0, 3]]))
    codes.add(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1, 2], [2, 3]]))
    # 1.5 and 0.5 active latents a vector; latents 2 and 3 are never active.
    assert codes.l0().value == 1.0
    assert codes.dead_fraction().value == 0.5
    assert codes.dead_fraction().n == 4


def test_the_rows_have_their_baselines():
    x, x_hat = pictures(5)
    codes = CodeSums(2)
    codes.add(torch.ones(4, 1), torch.zeros(4, 1, dtype=torch.long))
    sums = sums_of(x, sae=x_hat, pca=x)
    results = reconstruction_results(sums, {"sae": codes, "random": codes}, cell={"t": 1})
    rows = {row.metric: row for row in results}
    assert list(rows) == ["fvu", "explained_variance", "scaled_mse", "l0", "dead_fraction"]
    assert rows["explained_variance"].baselines["mean"].value == 0
    assert rows["explained_variance"].baselines["pca"].value == 1
    assert rows["scaled_mse"].baselines.keys() == {"pca"}
    assert rows["l0"].baselines["random"].value == 1
    assert rows["explained_variance"].higher_is_better
    assert not rows["fvu"].higher_is_better


def test_a_cell_without_pictures_has_rows_without_data():
    rows = reconstruction_results(PictureSums(), {"sae": CodeSums(3)}, cell={})
    assert all(row.estimate == NO_DATA for row in rows)


def test_a_linear_map_has_the_least_squared_error_also_of_inputs_that_depend_on_each_other():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator)
    x = torch.cat([x, 2 * x[:, :1]], dim=1) + 5  # the last column says nothing new
    y = torch.randn(50, 2, generator=generator)
    fitted = fit_linear(x, y)
    ones = torch.ones(50, 1)
    solution = torch.linalg.lstsq(torch.cat([x[:, :3], ones], dim=1), y).solution
    torch.testing.assert_close(fitted(x), torch.cat([x[:, :3], ones], dim=1) @ solution)
    exact = x @ torch.arange(8.0).reshape(4, 2) - 3
    torch.testing.assert_close(fit_linear(x, exact)(x), exact, rtol=1e-4, atol=1e-4)
