"""Muon: updates of matrices with equal singular values, Adam for all else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from diffusae.miniature.muon import Muon, hidden_matrices, orthogonal


def test_the_singular_values_of_a_wide_and_a_tall_matrix_come_near_1_and_its_directions_stay():
    matrix = torch.randn(30, 70, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    exact = left @ right
    for given, wanted in ((matrix, exact), (matrix.T, exact.T)):
        values = torch.linalg.svdvals(orthogonal(given))
        assert values.min() > 0.6 and values.max() < 1.25
        cosine = torch.nn.functional.cosine_similarity(
            orthogonal(given).flatten(), wanted.flatten(), dim=0
        )
        assert cosine > 0.98


def test_the_result_is_that_of_newton_schulz_steps_on_the_matrix_itself():
    matrix = torch.randn(7, 40, generator=torch.Generator().manual_seed(6))
    slow = (matrix / matrix.norm()).double()
    for _ in range(5):
        gram = slow @ slow.T
        slow = 3.4445 * slow + (-4.775 * gram + 2.0315 * gram @ gram) @ slow
    assert torch.allclose(orthogonal(matrix), slow.float(), atol=1e-4)


def test_the_worked_example():
    made = orthogonal(torch.diag(torch.tensor([0.9, 0.5, 0.1])))
    assert torch.allclose(made, torch.diag(torch.tensor([0.85, 0.88, 0.69])), atol=0.005)


def _follow(weight: Tensor, gradients: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight


def test_what_is_no_matrix_moves_as_with_adamw():
    gradients = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(2))
    start = torch.ones(5, 3)
    own, adam = start.clone(), start.clone()
    _follow(own, gradients, Muon([], [own], lr=0.1))
    _follow(adam, gradients, torch.optim.AdamW([adam], 0.1, betas=(0.9, 0.99), weight_decay=0.01))
    assert torch.allclose(own, adam, atol=1e-6)


def test_an_update_follows_the_average_with_a_look_ahead_and_has_adams_size():
    gradients = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(3))
    weight = torch.full((4, 6), 2.0)
    _follow(weight, gradients[:2], Muon([weight], [], lr=0.5, momentum=0.9))
    averages = [0.1 * gradients[0], 0.09 * gradients[0] + 0.1 * gradients[1]]
    expected = torch.full((4, 6), 2.0)
    for gradient, average in zip(gradients[:2], averages, strict=True):
        ahead = 0.1 * gradient + 0.9 * average
        expected = 0.995 * expected - 0.5 * 0.4 * 6**0.5 * orthogonal(ahead)
    assert torch.allclose(weight, expected, atol=1e-5)
    update = 0.4 * 6**0.5 * orthogonal(gradients[2])
    assert update.square().mean().sqrt() == pytest.approx(0.4, rel=0.2)


def test_a_convolution_is_a_matrix_of_outputs_and_keeps_its_shape():
    gradient = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(4))
    weight, flat = torch.zeros(4, 2, 3, 3), torch.zeros(4, 18)
    _follow(weight, gradient, Muon([weight], [], lr=1.0))
    _follow(flat, gradient.flatten(2), Muon([flat], [], lr=1.0))
    assert torch.equal(weight.flatten(1), flat)


def test_a_stopped_training_goes_on_from_the_state_as_if_it_had_never_stopped():
    gradients = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(5))
    matrix, other = torch.ones(3, 5), torch.ones(3, 5)
    optimizer = Muon([matrix], [other], lr=0.1)
    for gradient in gradients[:2]:
        matrix.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    again = [matrix.clone(), other.clone()]
    resumed = Muon(again[:1], again[1:], lr=0.1)
    resumed.load_state_dict(saved)
    for weights, steps in (([matrix, other], optimizer), (again, resumed)):
        for gradient in gradients[2:]:
            for weight in weights:
                weight.grad = gradient.clone()
            steps.step()
    assert torch.equal(matrix, again[0]) and torch.equal(other, again[1])
    assert not torch.equal(matrix, other)


def test_hidden_matrices_are_weights_of_layers_without_embeddings_and_outer_layers():
    module = nn.ModuleDict(
        {
            "conv_in": nn.Conv2d(2, 3, 1),
            "hidden": nn.Conv2d(3, 3, 3),
            "time_embedding": nn.Linear(4, 4),
            "table": nn.Embedding(7, 4),
            "block": nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 5)),
        }
    )
    chosen = hidden_matrices(module, outer=["conv_in"])
    assert [tuple(one.shape) for one in chosen] == [(3, 3, 3, 3), (5, 4)]
