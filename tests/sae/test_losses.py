import torch

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.losses import auxk_loss, longest_inactive, normalised_error, total_variance
from diffusae.sae.sparsity import TopK


def test_total_variance_by_hand():
    # The mean is (1, 2): squared distances 1 + 4 and 1 + 4.
    assert total_variance(torch.tensor([[0.0, 0.0], [2.0, 4.0]])) == 5


def test_the_normalised_error_by_hand():
    x, x_hat = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    # Squared errors 4 and 9, mean 6.5, over a variance of 2.
    torch.testing.assert_close(normalised_error(x_hat - x, torch.tensor(2.0)), torch.tensor(3.25))


def test_the_normalised_error_has_the_gradient_of_autograd_for_every_prefix():
    errors = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: normalised_error(e, torch.tensor(2.0)), errors)
    plain = errors.square().sum(dim=2).mean(dim=0) / 2
    torch.testing.assert_close(normalised_error(errors, torch.tensor(2.0)), plain)


def hand_made_autoencoder():
    sae = SparseAutoencoder(2, 3, TopK(1), input_scaling="none")
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -1.0]]))
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    return sae


def test_auxk_by_hand():
    x, error = torch.tensor([[5.0, 1.0]]), torch.tensor([[-0.5, -3.0]])
    # Latent 1 gives 2 * 1 along (0, 1); latent 2 is cut by ReLU: e - e_hat = (0.5, 1), squared
    # 1.25, over 4.
    loss = auxk_loss(hand_made_autoencoder(), x, error, torch.tensor([1, 2]), torch.tensor(4.0))
    torch.testing.assert_close(loss, torch.tensor(1.25 / 4))


def test_auxk_moves_only_the_dead_latents_and_not_the_error():
    sae = hand_made_autoencoder()
    scaled = sae.scaled_pass(torch.tensor([[5.0, 1.0]]))
    auxk_loss(sae, scaled.centred, scaled.error, torch.tensor([1]), torch.tensor(1.0)).backward()
    assert sae.b.grad is None
    for parameter in (sae.W_enc, sae.W_dec):
        assert parameter.grad is not None
        gradient = parameter.grad.to_dense()
        assert gradient[1].abs().sum() > 0
        assert gradient[[0, 2]].abs().sum() == 0


def test_only_latents_inactive_for_long_enough_are_dead():
    assert longest_inactive(
        torch.tensor([0, 99, 100, 5, 250]), dead_after=100, k_aux=9
    ).tolist() == [2, 4]


def test_of_too_many_dead_latents_those_inactive_the_longest_are_taken():
    since = torch.tensor([300, 100, 200, 400])
    assert sorted(longest_inactive(since, dead_after=100, k_aux=2).tolist()) == [0, 3]
