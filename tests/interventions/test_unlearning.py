"""SAeUron's scoring and ablation, by hand."""

import pytest
import torch

from diffusae.errors import UserError
from diffusae.interventions.edits import own_codes
from diffusae.interventions.unlearning import (
    ConceptLatents,
    Unlearn,
    concept_latents,
    concept_scores,
)
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK

CODES = [
    (torch.tensor([4.0, 0.0, 1.0, 2.0]), True),
    (torch.tensor([2.0, 0.0, 3.0, 2.0]), True),
    (torch.tensor([0.0, 2.0, 1.0, 2.0]), False),
]


def test_a_score_is_the_mean_with_the_concept_minus_the_mean_without():
    having = torch.stack([code for code, shown in CODES if shown])
    lacking = torch.stack([code for code, shown in CODES if not shown])
    assert concept_scores(having, lacking).tolist() == [3.0, -2.0, 1.0, 0.0]


@pytest.mark.parametrize(("percentile", "wanted"), [(0, [0, 2]), (60, [0, 2]), (90, [0])])
def test_latents_above_the_percentile_and_above_0_are_the_concepts(percentile, wanted):
    # The scores' 60th percentile lies at 0.8, the 90th at 2.4.
    concept = concept_latents(CODES, percentile=percentile)
    assert concept.latents.tolist() == wanted
    assert concept.means.tolist() == pytest.approx(
        [{0: 2.0, 2: 5 / 3}[latent] for latent in wanted]
    )


def test_codes_above_their_mean_are_multiplied_and_nothing_else_changes():
    sae = SparseAutoencoder(6, 12, TopK(4), seed=1)
    updates = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2))
    latents = torch.arange(12)
    z = own_codes(sae, latents, updates)
    means = torch.tensor([0.0, z[..., 7].max().item() / 2])
    concept = ConceptLatents(torch.tensor([2, 7]), torch.ones(2), means)
    change = Unlearn(sae, concept, factor=-2.0)(updates, (1, 5))
    wanted = torch.zeros_like(updates)
    for picture in range(3):
        for position in range(5):
            for latent, mean in zip((2, 7), concept.means.tolist(), strict=True):
                code = z[picture, position, latent]
                if code > mean:
                    wanted[picture, position] += -3.0 * code * sae.directions[latent]
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(change, wanted)


def test_impossible_unlearning_is_refused():
    with pytest.raises(UserError, match="0 pictures show the concept and 1 do not"):
        concept_latents(CODES[2:], percentile=50)
    with pytest.raises(UserError, match="percentile=100"):
        concept_latents(CODES, percentile=100)
    with pytest.raises(UserError, match="no latent fires more"):
        concept_latents([(torch.zeros(3), True), (torch.zeros(3), False)], percentile=50)
    with pytest.raises(UserError, match="factor=1"):
        Unlearn(SparseAutoencoder(2, 4, TopK(1)), concept_latents(CODES, percentile=0), factor=1)
