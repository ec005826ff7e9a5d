import pytest
import torch

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.losses import (
    Dead,
    auxk,
    longest_inactive,
    longest_inactive_of_k,
    normalised,
    total_variance,
)
from diffusae.sae.sparsity import TopK


def test_total_variance_by_hand():
    # The mean is (1, 2): squared distances 1 + 4 and 1 + 4.
    assert total_variance(torch.tensor([[0.0, 0.0], [2.0, 4.0]])) == 5


def test_the_normalised_error_by_hand():
    x, x_hat = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    # Squared errors 4 and 9, mean 6.5, over a variance of 2.
    squared = (x_hat - x).square().sum()
    torch.testing.assert_close(normalised(squared, 2, torch.tensor(2.0)), torch.tensor(3.25))


def test_of_no_vectors_the_error_is_0():
    assert normalised(torch.zeros(3), 0, torch.tensor(2.0)).tolist() == [0, 0, 0]


def hand_made_autoencoder():
    sae = SparseAutoencoder(2, 3, TopK(1), input_scaling="none")
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -1.0]]))
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    return sae


X, ERROR = torch.tensor([[5.0, 1.0]]), torch.tensor([[-0.5, -3.0]])


@pytest.mark.parametrize(
    "dead",
    [
        Dead(torch.tensor([1, 2])),
        # Latent 0 is active on X, but lives.
        Dead(torch.tensor([2, 0, 1]), torch.tensor([True, False, True])),
    ],
    ids=["dead_ones", "with_a_mask"],
)
def test_auxk_by_hand(dead):
    aux = auxk(hand_made_autoencoder(), X, ERROR, dead, torch.tensor(4.0))
    # Latent 1 gives 2 * 1 along (0, 1); latent 2 is cut by ReLU: e - e_hat = (0.5, 1), squared
    # 1.25, over 4.
    torch.testing.assert_close(aux.loss, torch.tensor(1.25 / 4))
    # G = 2 (e_hat - e) / 4 = (-0.25, -0.5). Latent 1: dW_dec = 2 G, E = G . (0, 1) = -0.5, dW_enc =
    # E x.
    expected = {1: ([-2.5, -0.5], -0.5, [-0.5, -1.0])}
    rows = zip(aux.of_W_enc, aux.of_b_enc, aux.of_W_dec, strict=True)
    for latent, (of_encoder, of_bias, of_decoder) in zip(aux.latents.tolist(), rows, strict=True):
        for mine, other in zip(
            (of_encoder, of_bias, of_decoder),
            expected.get(latent, ([0.0, 0.0], 0.0, [0.0, 0.0])),
            strict=True,
        ):
            torch.testing.assert_close(mine, torch.tensor(other))


def test_auxk_without_a_dead_latent_among_the_oldest_is_nothing():
    dead = Dead(torch.tensor([0, 1]), torch.tensor([False, False]))
    aux = auxk(hand_made_autoencoder(), X, ERROR, dead, torch.tensor(4.0))
    assert aux.loss == 0
    assert not any(part.any() for part in (aux.of_W_enc, aux.of_b_enc, aux.of_W_dec))


def test_auxk_moves_only_the_dead_latents_and_not_the_error():
    sae = hand_made_autoencoder()
    scaled = sae.scaled_pass(torch.tensor([[5.0, 1.0]]))
    weights = [sae.W_enc, sae.W_dec]
    for weight in weights:
        weight.grad = torch.full_like(weight, 7.0)
    aux = auxk(sae, scaled.centred, scaled.error, Dead(torch.tensor([1])), torch.tensor(1.0))
    aux.add_gradients(sae, 0.5)
    assert sae.b.grad is None
    for weight, rows in zip(weights, (aux.of_W_enc, aux.of_W_dec), strict=True):
        assert rows.abs().sum() > 0
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad[1], 7 + 0.5 * rows[0])
        assert (weight.grad[[0, 2]] == 7).all()


def test_only_latents_inactive_for_long_enough_are_dead():
    since = torch.tensor([0, 99, 100, 5, 250])
    assert longest_inactive(since, dead_after=100, k_aux=9).latents.tolist() == [2, 4]
    latents, are_dead = longest_inactive_of_k(since, dead_after=100, k_aux=9)
    assert latents[are_dead].tolist() == [4, 2]
    assert len(latents) == 5


def test_of_too_many_dead_latents_those_inactive_the_longest_are_taken():
    since = torch.tensor([300, 100, 200, 400, 300])
    assert longest_inactive(since, dead_after=100, k_aux=2).latents.tolist() == [3, 0]
    latents, are_dead = longest_inactive_of_k(since, dead_after=100, k_aux=2)
    assert latents.tolist() == [3, 0]
    assert are_dead is not None and are_dead.all()
