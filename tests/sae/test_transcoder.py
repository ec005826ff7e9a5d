"""Transcoders: autoencoders whose target is another vector than their input."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from diffusae.errors import UserError
from diffusae.interventions.edits import SetLatents, Transcode
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.exchange import export_sae, import_sae
from diffusae.sae.losses import Dead, auxk
from diffusae.sae.module import SAEModule
from diffusae.sae.sparsity import JumpReLU, MatryoshkaTopK, ReLU, Sparsity, TopK
from diffusae.sae.storage import load_sae, save_sae

D_IN, D_TARGET, D_SAE = 6, 4, 20
SPARSITIES = {
    "topk": lambda: TopK(3),
    "matryoshka": lambda: MatryoshkaTopK(3, prefixes=[5, 11]),
    "relu": lambda: ReLU(l1=0.1),
}


def pairs(n: int = 60, d_target: int = D_TARGET) -> torch.Tensor:
    """Inputs, and beside each a map of it that is not linear; entries of unlike size and mean."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, D_IN, generator=generator, dtype=torch.float64)
    mixed = torch.randn(D_IN, d_target, generator=generator, dtype=torch.float64)
    y = 7 + (x @ mixed).relu() * torch.arange(1, d_target + 1)
    return torch.cat([3 + x * torch.tensor([1.0, 2.0, 5.0, 0.1, 1.0, 1.0]), y], dim=1)


def transcoder(
    sparsity: Sparsity | None = None, *, d_target: int = D_TARGET, **options: Any
) -> SparseAutoencoder:
    made = SparseAutoencoder(
        D_IN,
        D_SAE,
        sparsity or TopK(3),
        d_target=d_target,
        seed=2,
        dtype=torch.float64,
        **{"encoder_bias": True, "input_scaling": "standardise", **options},
    )
    made.initialise(pairs(d_target=d_target))
    return made


def by_hand(sae: SparseAutoencoder, x: torch.Tensor) -> torch.Tensor:
    """y_hat in scaled units, by dense autograd."""
    scaled = (x - sae.input_shift) / sae.input_scale
    pre = (scaled - sae.b) @ sae.W_enc.T + sae.b_enc
    z = pre.relu()
    if isinstance(sae.sparsity, TopK):
        z = z * (pre >= pre.topk(sae.sparsity.k, dim=1).values[:, -1:])
    return z @ sae.W_dec + sae.b_target


@pytest.mark.parametrize("kernels", ["torch", "dense"])
@pytest.mark.parametrize("name", ["topk", "relu"])
@pytest.mark.parametrize("scaling", ["none", "mean_norm", "standardise"])
def test_the_pass_has_the_gradients_of_dense_autograd_on_the_error_of_the_target(
    name, kernels, scaling
):
    sae = transcoder(SPARSITIES[name](), kernels=kernels, input_scaling=scaling)
    rows = pairs()[:9]
    sae.scaled_pass(rows).squared_errors.sum().backward()
    found = {weight: parameter.grad for weight, parameter in sae.named_parameters()}
    sae.zero_grad(set_to_none=True)
    x, y = rows[:, :D_IN], rows[:, D_IN:]
    wanted = (y - sae.target_shift) / sae.target_scale
    (by_hand(sae, x) - wanted).square().sum().backward()
    for weight, parameter in sae.named_parameters():
        assert_close(found[weight], parameter.grad, msg=weight)
    assert set(found) == {"W_enc", "W_dec", "b", "b_enc", "b_target"}


def test_the_prefixes_of_a_matryoshka_reconstruct_the_target_too():
    sae, rows = transcoder(SPARSITIES["matryoshka"]()), pairs()[:5]
    errors = sae.scaled_pass(rows).errors
    z = sae.encode_dense(rows[:, :D_IN]) / sae.gains
    wanted = (rows[:, D_IN:] - sae.target_shift) / sae.target_scale
    for place, end in enumerate((5, 11, D_SAE)):
        expected = z[:, :end] @ sae.W_dec[:end] + sae.b_target - wanted
        assert_close(errors[:, place], expected)


def test_auxk_revives_dead_latents_on_the_error_of_the_target():
    sae, rows = transcoder(), pairs()[:9]
    scaled, dead = sae.scaled_pass(rows), torch.tensor([1, 4, 17])
    variance = torch.tensor(2.5, dtype=torch.float64)
    found = auxk(sae, scaled.centred, scaled.error.detach(), Dead(dead), variance)
    x = (rows[:, :D_IN] - sae.input_shift) / sae.input_scale - sae.b
    active = (x @ sae.W_enc[dead].T + sae.b_enc[dead]).relu()
    left = active @ sae.W_dec[dead] + scaled.error.detach()
    loss = left.square().sum(dim=1).mean() / variance
    of_W_enc, of_W_dec = torch.autograd.grad(loss, [sae.W_enc, sae.W_dec])
    assert_close(found.loss, loss)
    assert_close(found.of_W_enc, of_W_enc[dead])
    assert_close(found.of_W_dec, of_W_dec[dead])


def test_in_data_units_it_gives_the_target():
    sae, rows = transcoder(), pairs()
    x = rows[:, :D_IN]
    assert_close(sae(x), by_hand(sae, x) * sae.target_scale + sae.target_shift)
    assert sae.directions.shape == (D_SAE, D_TARGET)
    assert_close(sae.directions.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))


def test_input_and_target_get_scales_and_biases_of_their_own():
    sae, rows = transcoder(initial_bias="mean"), pairs()
    assert_close(sae.target_shift, rows[:, D_IN:].mean(dim=0))
    assert_close(sae.input_shift, rows[:, :D_IN].mean(dim=0))
    assert_close(sae.target_scale, rows[:, D_IN:].std(dim=0, correction=0))
    with pytest.raises(UserError, match=r"expected vectors of shape \[n > 0, 10\], got \[60, 6\]"):
        sae.initialise(rows[:, :D_IN])


def test_the_figures_of_training_are_those_of_the_target():
    sae, rows = transcoder(), pairs()
    module = SAEModule(sae, dead_after_vectors=100)
    module.initialise(rows)
    y = rows[:, D_IN:]
    assert_close(
        module.total_variance.double(),
        ((y - y.mean(dim=0)) / y.std(dim=0, correction=0)).square().sum(dim=1).mean(),
        rtol=1e-6,
        atol=0,
    )
    module.validate(rows)
    y_hat = sae(rows[:, :D_IN])
    fvu = (y - y_hat).square().sum() / (y - y.mean(dim=0)).square().sum()
    assert_close(module.reconstruction.compute()["fvu"], fvu.detach())


def test_training_brings_it_near_its_target():
    rows = pairs(400)
    sae = SparseAutoencoder(D_IN, 64, TopK(6), d_target=D_TARGET, encoder_bias=True, seed=0)
    module = SAEModule(sae, dead_after_vectors=2000, k_aux=8, lr=1e-2)
    module.initialise(rows.float())
    step = module.step_of(module.configure_optimizers())  # type: ignore[arg-type]
    for _ in range(150):
        step({"": rows.float()})
    module.validate(rows.float())
    # Without training, the best constant has 1; the untrained transcoder is far above it.
    assert float(module.reconstruction.compute()["fvu"]) < 0.2
    assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def test_files_hold_it_to_the_bit_and_those_of_an_autoencoder_do_not_name_a_target(tmp_path):
    sae = transcoder()
    save_sae(tmp_path / "one", sae, {})
    again, _ = load_sae(tmp_path / "one")
    assert again.d_target == D_TARGET
    for name, value in sae.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    plain = SparseAutoencoder(D_IN, D_SAE, TopK(3))
    save_sae(tmp_path / "two", plain, {})
    assert "d_target" not in json.loads((tmp_path / "two/cfg.json").read_text())
    assert set(load_file(tmp_path / "two/sae.safetensors")) == {
        *("W_enc", "W_dec", "b", "b_enc", "input_shift", "input_scale")
    }
    assert torch.equal(plain.W_enc, plain.W_dec)


@pytest.mark.parametrize("changes", [{"d_target": 5}, {"d_in": 10**9}, {"d_target": None}])
def test_sizes_that_do_not_fit_the_weights_are_refused(changes, tmp_path):
    save_sae(tmp_path, transcoder(), {})
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match="do not fit W_dec"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("format", "sparsity", "d_target"),
    [
        ("sae_lens", ReLU(l1=0.1), D_TARGET),
        ("sae_lens", JumpReLU(D_SAE, l0=0.1, first_threshold=0.4), D_TARGET),
        ("eai_sparsify", TopK(3), D_IN),
    ],
)
def test_another_library_computes_the_same_target_from_the_exported_files(
    format, sparsity, d_target, tmp_path
):
    """Its formula: z = S(x W_enc + b_enc), y = z W_dec + b_dec; nothing is taken off x."""
    sae = transcoder(sparsity, d_target=d_target)
    export_sae(tmp_path, sae, format=format, metadata={})
    config = json.loads((tmp_path / "cfg.json").read_text())
    (weights,) = tmp_path.glob("*.safetensors")
    tensors = load_file(weights)
    x = pairs(d_target=d_target)[:9, :D_IN]
    if format == "sae_lens":
        assert config["architecture"] in ("transcoder", "jumprelu_transcoder")
        assert (config["apply_b_dec_to_input"], config["d_out"]) == (False, d_target)
        pre = x @ tensors["W_enc"] + tensors["b_enc"]
        z = pre.relu() * (pre > tensors.get("threshold", torch.zeros(())))
    else:
        assert config["transcode"] is True
        pre = (x @ tensors["encoder.weight"].T + tensors["encoder.bias"]).relu()
        z = pre * (pre >= pre.topk(3, dim=1).values[:, -1:])
    y_hat = z @ tensors["W_dec"] + tensors["b_dec"]
    assert_close(y_hat, sae(x), rtol=1e-9, atol=1e-9)
    back = import_sae(tmp_path)
    assert back.d_target == d_target
    assert_close(back(x.float()).double(), sae(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("sae_lens", "sae_lens knows no transcoder topk, only what is relu, jumprelu in use"),
        ("eai_sparsify", "no target of another width than the input, this transcoder has 4 and 6"),
    ],
)
def test_a_format_that_cannot_hold_it_is_refused_by_name(format, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export_sae(tmp_path, transcoder(), format=format, metadata={})
    assert not list(tmp_path.iterdir())


def test_its_latents_cannot_be_edited_in_the_stream_that_it_reads():
    with pytest.raises(UserError, match="cannot be edited"):
        SetLatents(transcoder(), [1], factor=0.0)


def test_it_replaces_its_target_by_what_it_makes_of_the_vectors_that_it_read():
    sae, rows = transcoder(), pairs(8).reshape(2, 4, -1)
    x, y = rows[..., :D_IN], rows[..., D_IN:]
    change, control = Transcode(sae), Transcode(sae, with_error=True)
    assert not change.watch(x, (2, 2)).any()
    assert_close(y + change(y, (2, 2)), sae(x).detach())
    control.watch(x, (2, 2))
    assert_close(y + control(y, (2, 2)), y)
    with pytest.raises(UserError, match="input must run before its target"):
        change(y, (2, 2))
