"""The training pass of every sparsity against public libraries: codes, loss, every gradient."""

# The other libraries are installed in an environment of their own; here their types are unknown.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# pyright: reportOptionalOperand=false, reportOptionalMemberAccess=false
# pyright: reportOperatorIssue=false

from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sparsify import SparseCoder, SparseCoderConfig

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.exchange import import_sae
from diffusae.sae.losses import Dead, auxk
from diffusae.sae.sparsity import BatchTopK, JumpReLU, MatryoshkaTopK, ReLU, Sparsity, TopK

pytestmark = [pytest.mark.compare, pytest.mark.filterwarnings("ignore")]
D_IN, D_SAE, BATCH = 12, 40, 64


def ours(sparsity: Sparsity, **options) -> SparseAutoencoder:
    """An autoencoder whose weights and biases are all different, and none is zero."""
    sae = SparseAutoencoder(
        D_IN, D_SAE, sparsity, encoder_bias=True, input_scaling="none", seed=2, **options
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        sae.W_enc += 0.1 * torch.randn(D_SAE, D_IN, generator=generator)
        sae.b += 0.2 * torch.randn(D_IN, generator=generator)
        sae.b_enc += 0.1 * torch.randn(D_SAE, generator=generator)
    return sae


def vectors() -> torch.Tensor:
    return torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(4))


def sae_lens(kind, config, sae: SparseAutoencoder, **values):
    """Their autoencoder with our weights; `b_dec` is subtracted from the input, as ours is."""
    theirs = kind(config(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=True, **values))
    with torch.no_grad():
        theirs.W_enc.copy_(sae.W_enc.T)
        theirs.W_dec.copy_(sae.W_dec)
        theirs.b_dec.copy_(sae.b)
        theirs.b_enc.copy_(sae.b_enc)
    return theirs


def stepped(theirs, x: torch.Tensor, **coefficients: float):
    """Their training pass with gradients."""
    step = {"dead_neuron_mask": None, "n_training_steps": 0, "is_logging_step": False}
    output = theirs.training_forward_pass(
        TrainStepInput(sae_in=x, coefficients=coefficients, **step)
    )
    output.loss.backward()
    return output


def squared_error(error: torch.Tensor) -> torch.Tensor:
    return error.square().sum(dim=1).mean()


def assert_same_gradients(sae: SparseAutoencoder, theirs, scale: float = 1.0) -> None:
    pairs = {
        "W_enc": (sae.W_enc.grad, theirs.W_enc.grad.T),
        "W_dec": (sae.W_dec.grad, theirs.W_dec.grad),
        "b": (sae.b.grad, theirs.b_dec.grad),
        "b_enc": (sae.b_enc.grad, theirs.b_enc.grad),
    }
    for name, (own, expected) in pairs.items():
        torch.testing.assert_close(own * scale, expected, rtol=1e-4, atol=1e-5 * scale, msg=name)


def dense(codes) -> torch.Tensor:
    return torch.zeros(len(codes.values), D_SAE).scatter_(1, codes.indices, codes.values)


def test_topk_is_that_of_eai_sparsify():
    sae, x = ours(TopK(5)), vectors()
    theirs = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=5))
    with torch.no_grad():
        theirs.encoder.weight.copy_(sae.W_enc)
        theirs.encoder.bias.copy_(sae.b_enc)
        theirs.W_dec.copy_(sae.W_dec)
        theirs.b_dec.copy_(sae.b)
    own, expected = sae.scaled_pass(x), theirs(x)
    torch.testing.assert_close(x + own.error, expected.sae_out)
    variance = (x - x.mean(dim=0)).square().sum()
    (own.error.square().sum() / variance).backward()
    expected.fvu.backward()
    for name, mine, other in (
        ("W_enc", sae.W_enc, theirs.encoder.weight),
        ("b_enc", sae.b_enc, theirs.encoder.bias),
        ("W_dec", sae.W_dec, theirs.W_dec),
        ("b", sae.b, theirs.b_dec),
    ):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_topk_is_that_of_sae_lens():
    sae, x = ours(TopK(5)), vectors()
    theirs = sae_lens(
        TopKTrainingSAE, TopKTrainingSAEConfig, sae, k=5, rescale_acts_by_decoder_norm=False,
        use_sparse_activations=False,
    )  # fmt: skip
    output = stepped(theirs, x)
    own = sae.scaled_pass(x)
    torch.testing.assert_close(dense(own.codes), output.feature_acts)
    squared_error(own.error).backward()
    assert_same_gradients(sae, theirs)


def test_auxk_is_that_of_eai_sparsify():
    sae, x = ours(TopK(5)), vectors()
    theirs = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=5))
    with torch.no_grad():
        theirs.encoder.weight.copy_(sae.W_enc)
        theirs.encoder.bias.copy_(sae.b_enc)
        theirs.W_dec.copy_(sae.W_dec)
        theirs.b_dec.copy_(sae.b)
    dead = torch.arange(0, D_SAE, 9)  # 5, below their k_aux of d_in / 2
    mask = torch.zeros(D_SAE, dtype=torch.bool)
    mask[dead] = True
    # They scale the loss by the share of dead latents.
    expected = theirs(x, dead_mask=mask).auxk_loss * (D_IN // 2) / len(dead)
    scaled = sae.scaled_pass(x)
    variance = (x - x.mean(dim=0)).square().sum(dim=1).mean()
    aux = auxk(sae, scaled.centred, scaled.error, Dead(dead), variance)
    torch.testing.assert_close(aux.loss, expected)
    expected.backward()
    mine = torch.zeros_like(sae.W_dec).index_add(0, dead, aux.of_W_dec)
    torch.testing.assert_close(mine, theirs.W_dec.grad, rtol=1e-4, atol=1e-6)
    assert not theirs.encoder.weight.grad.any()  # they drop the encoder's gradient


def test_auxk_has_the_gradients_of_sae_lens():
    sae, x = ours(TopK(5)), vectors()
    theirs = sae_lens(
        TopKTrainingSAE, TopKTrainingSAEConfig, sae, k=5, rescale_acts_by_decoder_norm=False,
        use_sparse_activations=False,
    )  # fmt: skip
    dead = torch.arange(3, D_SAE, 9)
    mask = torch.zeros(D_SAE, dtype=torch.bool)
    mask[dead] = True
    pre = theirs.encode_with_hidden_pre(x)[1]
    expected = theirs.calculate_topk_aux_loss(
        sae_in=x, sae_out=theirs(x), hidden_pre=pre.relu(), dead_neuron_mask=mask
    )
    scaled = sae.scaled_pass(x)
    aux = auxk(sae, scaled.centred, scaled.error, Dead(dead), torch.tensor(1.0))
    scale = (D_IN // 2) / len(dead)  # they scale the loss by the share of dead latents
    torch.testing.assert_close(aux.loss, expected * scale)
    (expected * scale).backward()
    for name, mine, other in (
        ("W_enc", aux.of_W_enc, theirs.W_enc.grad.T),
        ("b_enc", aux.of_b_enc, theirs.b_enc.grad),
        ("W_dec", aux.of_W_dec, theirs.W_dec.grad),
    ):
        assert other.abs().max() > 0
        mine = torch.zeros_like(other).index_add(0, dead, mine)
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6, msg=name)


def test_relu_with_l1_is_the_standard_one_of_sae_lens():
    sae, x = ours(ReLU(l1=0.3)), vectors()
    theirs = sae_lens(StandardTrainingSAE, StandardTrainingSAEConfig, sae)
    # Ours is in shares of a vector's norm, without the decoder's norms, which are 1.
    output = stepped(theirs, x, l1=0.3 / D_IN**0.5)
    own = sae.scaled_pass(x)
    assert own.penalty is not None
    loss = squared_error(own.error) + own.penalty
    torch.testing.assert_close(loss, output.loss)
    loss.backward()
    torch.testing.assert_close(sae.W_enc.grad, theirs.W_enc.grad.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.b_enc.grad, theirs.b_enc.grad, rtol=1e-4, atol=1e-5)
    # Along its rows the decoder's gradient has that norm's part, which training removes.
    for model in (sae, theirs):
        with torch.no_grad():
            along = (model.W_dec.grad * model.W_dec).sum(dim=1, keepdim=True)
            model.W_dec.grad -= along * model.W_dec
    torch.testing.assert_close(sae.W_dec.grad, theirs.W_dec.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_a_free_decoder_is_that_of_sae_lens(kind: str):
    sae, x = ours(ReLU(l1=0.3) if kind == "relu" else TopK(5), decoder_norm="free"), vectors()
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, D_SAE)[:, None]
    if kind == "relu":
        theirs = sae_lens(StandardTrainingSAE, StandardTrainingSAEConfig, sae)
    else:
        theirs = sae_lens(
            TopKTrainingSAE, TopKTrainingSAEConfig, sae, k=5, rescale_acts_by_decoder_norm=False,
            use_sparse_activations=False,
        )  # fmt: skip
    output = stepped(theirs, x, **({"l1": 0.3 / D_IN**0.5} if kind == "relu" else {}))
    own = sae.scaled_pass(x)
    loss = squared_error(own.error) + (0 if own.penalty is None else own.penalty)
    torch.testing.assert_close(loss, output.loss)
    loss.backward()
    sae.project_decoder_gradient()
    assert_same_gradients(sae, theirs)


def test_jumprelu_is_that_of_sae_lens():
    sparsity = JumpReLU(D_SAE, l0=0.07, bandwidth=0.4, first_threshold=0.3)
    sae, x = ours(sparsity), vectors()
    theirs = sae_lens(
        JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, sae, jumprelu_bandwidth=0.4,
        jumprelu_init_threshold=0.3,
    )  # fmt: skip
    output = stepped(theirs, x, l0=0.07)
    own = sae.scaled_pass(x)
    assert own.penalty is not None
    loss = squared_error(own.error) + own.penalty
    torch.testing.assert_close(loss, output.loss)
    loss.backward()
    assert_same_gradients(sae, theirs)
    torch.testing.assert_close(sparsity.threshold.grad, theirs.threshold.grad, rtol=1e-4, atol=1e-5)
    assert theirs.threshold.grad.abs().max() > 0


def test_batchtopk_is_that_of_sae_lens_and_so_is_its_threshold():
    sae, x = ours(BatchTopK(5, threshold_rate=0.25)), vectors()
    theirs = sae_lens(
        BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, sae, k=5, topk_threshold_lr=1.0,
        rescale_acts_by_decoder_norm=False, use_sparse_activations=False,
    )  # fmt: skip
    output = stepped(theirs, x)  # at a rate of 1 the first batch counts fully, as in ours
    own = sae.scaled_pass(x)
    torch.testing.assert_close(dense(own.codes), output.feature_acts)
    squared_error(own.error).backward()
    assert_same_gradients(sae, theirs)
    theirs.cfg.topk_threshold_lr = 0.25
    for step in range(3):
        later = vectors() * (1 + step)
        stepped(theirs, later)
        sae.scaled_pass(later)
    threshold = float(sae.sparsity.get_buffer("threshold"))
    torch.testing.assert_close(threshold, float(theirs.topk_threshold))


def test_batchtopk_in_use_is_the_jumprelu_that_sae_lens_makes_of_it(tmp_path: Path):
    sae, x = ours(BatchTopK(5, threshold_rate=0.25)), vectors()
    theirs = sae_lens(
        BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, sae, k=5, topk_threshold_lr=1.0,
        rescale_acts_by_decoder_norm=False, use_sparse_activations=False,
    )  # fmt: skip
    stepped(theirs, x)
    sae.scaled_pass(x)
    sae.project()
    theirs.save_inference_model(str(tmp_path))
    used = SAE.load_from_disk(tmp_path)
    new = 2 * vectors().flip(1)
    codes = sae.eval().encode_dense(new)
    assert len(set((codes > 0).sum(dim=1).tolist())) > 1  # rows share a threshold, not a number
    torch.testing.assert_close(codes, used.encode(new))
    torch.testing.assert_close(sae(new), used.decode(used.encode(new)))
    torch.testing.assert_close(import_sae(tmp_path)(new), sae(new))


@pytest.mark.parametrize("prefixes", [[20], [7, 20]])
def test_matryoshka_is_that_of_sae_lens_row_by_row(prefixes: list[int]):
    # Theirs exists for BatchTopK only; with one row in a batch that is TopK.
    sae, x = ours(MatryoshkaTopK(5, prefixes=prefixes)), vectors()
    theirs = sae_lens(
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        sae,
        k=5,
        matryoshka_widths=[*prefixes, D_SAE],
        rescale_acts_by_decoder_norm=False,
        use_sparse_activations=False,
    )
    rows = [stepped(theirs, row[None]) for row in x]
    own = sae.scaled_pass(x)
    torch.testing.assert_close(dense(own.codes), torch.cat([row.feature_acts for row in rows]))
    errors = torch.stack([squared_error(error) for error in own.errors.unbind(dim=1)])
    torch.testing.assert_close(errors.sum(), torch.stack([row.loss for row in rows]).mean())
    errors.sum().backward()
    assert_same_gradients(sae, theirs, scale=float(BATCH))  # theirs are summed over the rows
