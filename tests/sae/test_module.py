import logging
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from diffusae.errors import UserError
from diffusae.sae import sparse_ops
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.module import SAEModule
from diffusae.sae.sparsity import (
    SPARSITIES,
    BatchTopK,
    JumpReLU,
    MatryoshkaTopK,
    Penalised,
    ReLU,
    TopK,
)


def planted(n, *, d_in=16, n_features=24, active=2, seed=0):
    """Vectors that are sums of a few directions, and those directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(n_features, d_in, generator=generator), dim=1)
    chosen = torch.stack(
        [torch.randperm(n_features, generator=generator)[:active] for _ in range(n)]
    )
    strength = 0.5 + torch.rand(n, active, generator=generator)
    return (
        F.embedding_bag(chosen, directions, per_sample_weights=strength, mode="sum") + 0.5,
        directions,
    )


def module_of(vectors, *, d_sae=48, **options):
    options = {"lr": 3e-3, "dead_after_vectors": 512, "k_aux": 16} | options
    module = SAEModule(SparseAutoencoder(vectors.shape[1], d_sae, TopK(2), seed=0), **options)
    module.initialise(vectors)
    return module


def trainer_of(*, epochs=1, **options):
    return pl.Trainer(
        max_epochs=epochs,
        **options,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def loader_of(vectors):
    order = torch.Generator().manual_seed(0)
    return DataLoader(vectors, batch_size=128, shuffle=True, generator=order)  # type: ignore[arg-type]


def trained(vectors, *, epochs=1, validation=None, **options):
    module, trainer = module_of(vectors, **options), trainer_of(epochs=epochs)
    trainer.fit(
        module,
        loader_of(vectors),
        None if validation is None else DataLoader(validation, batch_size=128),
    )
    return module, trainer


def test_training_recovers_a_planted_dictionary():
    vectors, directions = planted(3072)
    module, trainer = trained(
        vectors, epochs=15, validation=vectors[:512], decay_steps=100, total_steps=360
    )
    best = (directions @ module.autoencoder.directions.T).amax(dim=1)
    assert (best > 0.95).float().mean() > 0.8
    assert trainer.callback_metrics["val/explained_variance"] > 0.9
    assert trainer.callback_metrics["val/l0"] <= 2


def test_jumprelu_comes_to_the_planted_number_of_active_latents():
    vectors, _ = planted(3072)
    sae = SparseAutoencoder(16, 48, JumpReLU(48, l0=0.02), encoder_bias=True, seed=0)
    module = SAEModule(sae, dead_after_vectors=512, lr=3e-3, decay_steps=100, total_steps=360)
    module.initialise(vectors)
    trainer = trainer_of(epochs=15)
    trainer.fit(module, loader_of(vectors), DataLoader(vectors[:512], batch_size=128))  # type: ignore[arg-type]
    assert 1.5 < trainer.callback_metrics["val/l0"] < 3
    assert trainer.callback_metrics["val/explained_variance"] > 0.9


def test_every_validation_figure_is_logged():
    vectors, _ = planted(256)
    _, trainer = trained(vectors, validation=vectors)
    logged = {name for name in trainer.callback_metrics if name.startswith("val/")}
    names = {
        "loss",
        "fvu",
        "explained_variance",
        "scaled_mse",
        "cosine",
        "l0",
        "dead_fraction",
        "dense_fraction",
    }
    names |= {"decoder_similarity", "decoder_duplicates"}
    names |= {f"firing_{bound}" for bound in ("below_1e-4", "1e-4", "1e-3", "1e-2")}
    assert logged == {f"val/{name}" for name in names}
    assert (
        trainer.callback_metrics["val/fvu"] + trainer.callback_metrics["val/explained_variance"]
        == 1
    )


def test_decoder_rows_have_unit_norm_after_training():
    module, _ = trained(planted(256)[0])
    torch.testing.assert_close(module.autoencoder.W_dec.norm(dim=1), torch.ones(48))
    assert not torch.equal(
        module.autoencoder.W_dec, SparseAutoencoder(16, 48, TopK(2), seed=0).W_dec
    )


def test_two_trainings_with_the_same_seed_are_bit_equal():
    vectors, _ = planted(600)
    first, second = (trained(vectors, epochs=2)[0].state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("selection_precision", "kernels", "revive", "k_aux"),
    [
        ("float32", "torch", None, 5),
        ("bfloat16", "torch", None, 5),
        ("int8", "torch", None, 5),
        ("float32", "torch", True, 8),  # of the eight oldest latents five are dead
        ("float32", "dense", None, 5),
        ("float32", "dense", True, 8),
    ],
)
@pytest.mark.parametrize("name", SPARSITIES)
def test_the_gradients_of_the_whole_loss_are_those_of_dense_autograd(
    name, selection_precision, kernels, revive, k_aux
):
    sparsity = {
        "topk": TopK(3),
        "batchtopk": BatchTopK(3),
        "matryoshka": MatryoshkaTopK(3, prefixes=[4, 10]),
        "jumprelu": JumpReLU(20, l0=0.01),
        "relu": ReLU(l1=0.1),
    }[name]
    generator = torch.Generator().manual_seed(5)
    x = 2 + torch.randn(9, 6, generator=generator).double() * torch.arange(1, 7)
    sae = SparseAutoencoder(
        6, 20, sparsity, encoder_bias=True, input_scaling="standardise", dtype=torch.float64,
        selection_precision=selection_precision, kernels=kernels,
    )  # fmt: skip
    module = SAEModule(sae, dead_after_vectors=100, aux_coefficient=0.3, k_aux=k_aux).double()
    module.initialise(x)
    dead = [1, 4, 5, 11, 19]
    module.vectors_since_fired[dead] = 100
    with torch.no_grad():
        for weight in (sae.W_enc, sae.b_enc, sae.b):
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
        sae.W_enc[dead] *= 0.1  # hardly ever chosen
    chosen = sae.scaled_pass(x).codes
    mask = torch.zeros(9, 20).scatter_add_(1, chosen.indices, (chosen.values > 0).float()) > 0
    weights = [weight for weight in sae.parameters() if weight.requires_grad]
    loss, measured = module.gradients(x, revive=revive)
    ours = [weight.grad for weight in weights]

    scaled = (x - sae.input_shift) / sae.input_scale
    variance = (scaled - scaled.mean(dim=0)).square().sum(dim=1).mean()
    pre = (scaled - sae.b) @ sae.W_enc.T + sae.b_enc
    # Of the jump's own gradients there are other tests: here they are taken from it.
    z = sparsity.activate(pre) if isinstance(sparsity, Penalised) else pre.relu() * mask
    errors = [
        z[:, :end] @ sae.W_dec[:end] + sae.b - scaled
        for end in (*getattr(sparsity, "prefixes", ()), 20)
    ]
    main = sum(error.square().sum(dim=1).mean() / variance for error in errors) / len(errors)
    if isinstance(sparsity, Penalised):
        main = main + sparsity.penalty(pre, z, 6**0.5)
    dead_pre = (scaled - sae.b).detach() @ sae.W_enc[dead].T + sae.b_enc[dead]
    left = -errors[-1].detach() - dead_pre.relu() @ sae.W_dec[dead]
    aux = left.square().sum(dim=1).mean() / variance
    expected = main + 0.3 * aux
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(measured["aux_loss"], aux.detach())
    theirs = torch.autograd.grad(expected, weights)
    for mine, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(mine, other)


def test_the_gradient_is_clipped_after_what_would_lengthen_decoder_rows_is_removed(monkeypatch):
    clip, norms = torch.nn.utils.clip_grad_norm_, []

    def watched(parameters, limit):
        W_dec = module.autoencoder.W_dec
        gradients = [w.grad for w in module.parameters() if w.grad is not None]
        assert W_dec.grad is not None
        along = (W_dec.grad * W_dec).sum(dim=1)
        assert along.norm() < 1e-5 * W_dec.grad.norm()
        assert torch.nn.utils.get_total_norm(gradients) > 0.01
        clip(parameters, limit)
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
    vectors, _ = planted(512)
    module = module_of(vectors)
    trainer_of(gradient_clip_val=0.01).fit(module, loader_of(vectors))
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)


def test_gradients_lie_in_the_memory_of_the_last_ones_and_are_as_in_new_memory(monkeypatch):
    monkeypatch.setattr(sparse_ops, "CACHE", 64 * 4 * 17)  # 16 of 32 columns at a time
    vectors, _ = planted(64, d_in=32)
    module = module_of(vectors)
    weights: Any = [module.autoencoder.W_enc, module.autoencoder.W_dec]
    module.gradients(vectors)
    fresh = [weight.grad.clone() for weight in weights]
    module.gradients(vectors.flip(1))
    places = [weight.grad.data_ptr() for weight in weights]
    module.gradients(vectors)
    assert [weight.grad.data_ptr() for weight in weights] == places
    assert all(map(torch.equal, (weight.grad for weight in weights), fresh))


def test_auxk_revives_latents_that_are_too_weak_to_be_chosen():
    vectors, _ = planted(1024)
    alive = []
    for aux_coefficient in (0.0, 0.5):
        module = module_of(vectors, aux_coefficient=aux_coefficient, lr=1e-2)
        with torch.no_grad():
            module.autoencoder.W_enc[8:] *= 1e-3
        trainer_of(epochs=10).fit(module, loader_of(vectors))
        codes = module.autoencoder.encode(vectors)
        alive.append(len(codes.indices[codes.values > 0].unique()))
    assert alive[1] > 1.5 * alive[0]


def test_mostly_dead_latents_give_a_warning_with_a_remedy(caplog):
    vectors, _ = planted(256, n_features=3)
    with caplog.at_level(logging.WARNING, logger="diffusae"):
        trained(vectors[:8], d_sae=400, validation=vectors[:8], lr=1e-6)
    assert "% of the 400 latents are dead. Try sae.input_scaling" in caplog.text


def test_live_latents_give_no_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="diffusae"):
        trained(planted(512)[0], d_sae=8)
    assert "dead" not in caplog.text


def test_a_nan_loss_ends_training_with_the_step():
    vectors, _ = planted(512)
    poisoned = vectors.clone()
    poisoned[300] = torch.nan
    with pytest.raises(UserError, match="the loss is nan at step 2; lower the learning rate"):
        trainer_of().fit(module_of(vectors), DataLoader(poisoned, batch_size=128))  # type: ignore[arg-type]


def test_weights_that_the_last_step_broke_end_training_with_an_error():
    vectors, _ = planted(128)
    with pytest.raises(UserError, match="the weights are not finite after step 1"):
        trained(vectors, lr=torch.inf)


def test_training_without_initialisation_is_refused():
    module = SAEModule(SparseAutoencoder(16, 48, TopK(2)), dead_after_vectors=512)
    with pytest.raises(UserError, match="call initialise"):
        trainer_of().fit(module, loader_of(planted(64)[0]))


def test_a_constant_first_batch_is_refused():
    module = SAEModule(SparseAutoencoder(4, 8, TopK(2)), dead_after_vectors=512)
    with pytest.raises(UserError, match="constant"):
        module.initialise(torch.ones(10, 4))


def test_inactive_latents_age_by_vectors_and_firing_makes_them_young():
    module, _ = trained(planted(384)[0])
    since = module.vectors_since_fired
    assert since.min() == 0
    assert set(since.tolist()) <= {0, 128, 256, 384}
    before, batch = since.clone(), planted(50, seed=1)[0]
    codes = module.autoencoder.scaled_pass(batch).codes
    fired = set(codes.indices[codes.values > 0].tolist())
    module.gradients(batch)
    expected = [0 if latent in fired else int(before[latent]) + 50 for latent in range(48)]
    assert 0 < len(fired) < 48
    assert since.tolist() == expected


def test_the_learning_rate_warms_up_stays_and_decays():
    module = SAEModule(
        SparseAutoencoder(4, 8, TopK(2)),
        dead_after_vectors=1,
        warmup_steps=4,
        decay_steps=2,
        total_steps=10,
    )
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 0.5, 0]
    assert [module.lr_factor(step) for step in range(11)] == expected


def test_all_faults_of_the_settings_are_told_together():
    sae = SparseAutoencoder(4, 8, TopK(2))
    with pytest.raises(UserError) as error:
        SAEModule(sae, dead_after_vectors=0, lr=-1.0, k_aux=-1, decay_steps=5)
    for fault in ("dead_after_vectors=0", "lr=-1.0", "k_aux=-1", "decay_steps=5 needs total_steps"):
        assert fault in str(error.value)
