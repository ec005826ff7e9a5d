import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch.testing import assert_close

from diffusae.errors import UserError
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.exchange import FORMATS, detect, export_sae, import_sae
from diffusae.sae.folded import fold, unfold
from diffusae.sae.sparsity import BatchTopK, JumpReLU, MatryoshkaTopK, ReLU, TopK
from diffusae.sae.storage import load_sae, save_sae

D_IN, D_SAE = 6, 24
SPARSITIES = {
    "topk": lambda: TopK(4),
    "matryoshka": lambda: MatryoshkaTopK(4, prefixes=[6, 12]),
    "batchtopk": lambda: BatchTopK(4),
    "jumprelu": lambda: JumpReLU(D_SAE, l0=0.1),
    "relu": lambda: ReLU(l1=0.1),
}
SCALINGS = ("none", "mean_norm", "standardise")
VECTORS = torch.randn(200, D_IN, generator=torch.Generator().manual_seed(1)) * torch.tensor(
    [0.3, 1, 2, 5, 9, 20]
) + torch.arange(D_IN)


def trained_like(
    sparsity: str, scaling: Any, *, seed: int = 3, unit_rows: bool = True
) -> SparseAutoencoder:
    """An autoencoder with every weight and threshold at some value of its own."""
    sae = SparseAutoencoder(
        D_IN, D_SAE, SPARSITIES[sparsity](), encoder_bias=True, input_scaling=scaling, seed=seed
    )
    sae.initialise(VECTORS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (sae.W_enc, sae.b_enc, sae.b, sae.W_dec):
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
        if isinstance(sae.sparsity, BatchTopK):
            sae.sparsity.threshold.fill_(0.3)
        elif isinstance(sae.sparsity, JumpReLU):
            sae.sparsity.threshold.copy_(0.5 * torch.rand(D_SAE, generator=generator))
        if unit_rows:
            sae.project()
    return sae.eval()


def foreign(path, weights_name):
    """What the foreign formula gives, in float64 numpy and one vector and latent at a time: codes
    and x_hat.
    """
    config = json.loads((path / "cfg.json").read_text())
    tensors = {
        name: value.astype(np.float64) for name, value in load_file(path / weights_name).items()
    }
    W_enc = tensors["W_enc"].T if "W_enc" in tensors else tensors["encoder.weight"]
    b_enc = tensors["b_enc"] if "b_enc" in tensors else tensors["encoder.bias"]
    codes = np.zeros((len(VECTORS), D_SAE))
    for row, x in enumerate(VECTORS.double().numpy()):
        for latent in range(D_SAE):
            pre = float(W_enc[latent] @ (x - tensors["b_dec"]) + b_enc[latent])
            threshold = tensors["threshold"][latent] if "threshold" in tensors else 0.0
            codes[row, latent] = pre if pre > max(threshold, 0.0) else 0.0
        if "k" in config:
            codes[row, np.argsort(codes[row])[: -config["k"]]] = 0.0
    return codes, codes @ tensors["W_dec"] + tensors["b_dec"]


CASES = [
    (format, sparsity, scaling)
    for format in FORMATS
    for sparsity in SPARSITIES
    for scaling in SCALINGS
    if format == "sae_lens" or sparsity in ("topk", "matryoshka")
]


@pytest.mark.parametrize(("format", "sparsity", "scaling"), CASES)
def test_the_foreign_formula_gives_our_codes_and_reconstructions(
    format, sparsity, scaling, tmp_path
):
    sae = trained_like(sparsity, scaling)
    units = export_sae(tmp_path, sae, format=format, metadata={})
    codes, x_hat = foreign(tmp_path, FORMATS[format].weights)
    ours = sae.encode_dense(VECTORS) / (sae.gains if units == "scaled" else 1)
    assert_close(torch.from_numpy(codes).float(), ours, rtol=1e-4, atol=1e-4)
    assert_close(torch.from_numpy(x_hat).float(), sae(VECTORS), rtol=1e-4, atol=1e-4)
    assert (units == "scaled") == (scaling == "standardise" and sparsity in ("topk", "matryoshka"))


@pytest.mark.parametrize(("format", "sparsity", "scaling"), CASES)
def test_what_was_exported_comes_back_with_the_same_codes(format, sparsity, scaling, tmp_path):
    sae = trained_like(sparsity, scaling)
    export_sae(tmp_path, sae, format=format, metadata={})
    back = import_sae(tmp_path)
    assert back.input_scaling == "none"
    assert_close(back.encode_dense(VECTORS), sae.encode_dense(VECTORS), rtol=1e-4, atol=1e-4)
    assert_close(back(VECTORS), sae(VECTORS), rtol=1e-4, atol=1e-4)


@given(
    st.sampled_from(sorted(SPARSITIES)),
    st.sampled_from(SCALINGS),
    st.integers(0, 999),
    st.booleans(),
)
def test_folding_changes_nothing_whatever_the_weights(sparsity, scaling, seed, unit_rows):
    sae = trained_like(sparsity, scaling, seed=seed, unit_rows=unit_rows).double()
    again = unfold(fold(sae))
    expected, found = sae.pre_activations(VECTORS.double()), again.pre_activations(VECTORS)
    factors = torch.ones(D_SAE) if fold(sae).code_units == "scaled" else sae.gains.float()
    assert_close(found, expected.float() * factors, rtol=1e-4, atol=1e-4)
    assert_close(again.directions, sae.directions.float(), rtol=1e-5, atol=1e-6)
    # A pre-activation within rounding of the choice may fall on either side.
    same = (again.encode_dense(VECTORS) > 0) == (sae.encode_dense(VECTORS.double()) > 0)
    assert same.all(dim=1).float().mean() > 0.98
    kept = same.all(dim=1)
    assert_close(again(VECTORS)[kept], sae(VECTORS.double())[kept].float(), rtol=1e-4, atol=1e-3)


def test_an_imported_autoencoder_is_stored_like_any_other(tmp_path):
    export_sae(
        tmp_path / "foreign", trained_like("jumprelu", "mean_norm"), format="sae_lens", metadata={}
    )
    sae = import_sae(tmp_path / "foreign")
    save_sae(tmp_path / "own", sae, {})
    assert torch.equal(load_sae(tmp_path / "own")[0](VECTORS), sae(VECTORS))


def test_a_decoder_row_of_zeros_gives_no_nan(tmp_path):
    sae = trained_like("topk", "none")
    with torch.no_grad():
        sae.W_dec[:3] = 0
    for format in FORMATS:
        export_sae(tmp_path / format, sae, format=format, metadata={})
        back = import_sae(tmp_path / format)
        assert torch.isfinite(back(VECTORS)).all()
        assert_close(back(VECTORS), sae(VECTORS), rtol=1e-4, atol=1e-4)


def test_metadata_and_units_stand_in_the_configuration_and_no_temporary_file_is_left(tmp_path):
    for format in FORMATS:
        export_sae(
            tmp_path / format,
            trained_like("topk", "standardise"),
            format=format,
            metadata={"t": 0.5},
        )
        metadata = json.loads((tmp_path / format / "cfg.json").read_text())["metadata"]
        assert (metadata["t"], metadata["code_units"]) == (0.5, "scaled")
        names = sorted(path.name for path in (tmp_path / format).iterdir())
        assert names == sorted(["cfg.json", FORMATS[format].weights])


def saved_with(tmp_path, format="sae_lens", sparsity="topk", **changes):
    export_sae(
        tmp_path, trained_like(sparsity, "none", unit_rows=False), format=format, metadata={}
    )
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path


def test_a_bias_that_is_not_taken_from_the_input_is_folded(tmp_path):
    directory = saved_with(tmp_path, sparsity="relu", apply_b_dec_to_input=False)
    tensors = load_file(directory / "sae_weights.safetensors")
    z = np.maximum(VECTORS.numpy() @ tensors["W_enc"] + tensors["b_enc"], 0)
    assert_close(
        import_sae(directory)(VECTORS),
        torch.from_numpy(z @ tensors["W_dec"] + tensors["b_dec"]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_selection_by_decoder_norm_is_folded(tmp_path):
    directory = saved_with(tmp_path, rescale_acts_by_decoder_norm=True)
    tensors = load_file(directory / "sae_weights.safetensors")
    norms = np.linalg.norm(tensors["W_dec"], axis=1)
    pre = ((VECTORS.numpy() - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]) * norms
    z = np.maximum(np.where(pre >= np.sort(pre, axis=1)[:, [-4]], pre, 0), 0)
    back = import_sae(directory)
    assert_close(back.encode_dense(VECTORS), torch.from_numpy(z), rtol=1e-4, atol=1e-4)
    expected = (z / norms) @ tensors["W_dec"] + tensors["b_dec"]
    assert_close(back(VECTORS), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_a_threshold_below_zero_is_relu(tmp_path):
    directory = saved_with(tmp_path, sparsity="jumprelu")
    path = directory / "sae_weights.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"threshold": tensors["threshold"] - 100}, path)
    sae = import_sae(directory)
    assert_close(sae.encode_dense(VECTORS), sae.pre_activations(VECTORS).relu() * sae.gains)


@pytest.mark.parametrize("sparsity", ["batchtopk", "jumprelu", "relu"])
def test_sparsify_takes_topk_only_and_nothing_is_written(sparsity, tmp_path):
    with pytest.raises(UserError, match=r"knows topk and matryoshka only.*choose format=sae_lens"):
        export_sae(tmp_path, trained_like(sparsity, "none"), format="eai_sparsify", metadata={})
    assert list(tmp_path.iterdir()) == []


def test_sae_lens_refuses_a_sparsity_of_a_plugin_and_nothing_is_written(tmp_path):
    class Root(ReLU):
        name = "root"

    sae = SparseAutoencoder(D_IN, D_SAE, Root(l1=0.1))
    with pytest.raises(UserError, match="knows no sparsity root, only what is topk, relu, jumprel"):
        export_sae(tmp_path, sae, format="sae_lens", metadata={})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_lists_the_known(tmp_path):
    with pytest.raises(
        UserError, match=r"unknown format 'sae_lense'; known: eai_sparsify, sae_lens"
    ):
        export_sae(tmp_path, trained_like("topk", "none"), format="sae_lense", metadata={})


@pytest.mark.parametrize(
    ("format", "changes", "message"),
    [
        (
            "sae_lens",
            {"normalize_activations": "layer_norm"},
            'normalize_activations="layer_norm" must be',
        ),
        ("sae_lens", {"reshape_activations": "hook_z"}, 'reshape_activations="hook_z" must be'),
        (
            "sae_lens",
            {"architecture": "gated"},
            "unknown sae-lens architecture 'gated'; known: jumprelu",
        ),
        (
            "sae_lens",
            {"architecture": "skip_transcoder"},
            "unknown sae-lens architecture 'skip_transcoder'",
        ),
        (
            "sae_lens",
            {"architecture": "transcoder"},
            "apply_b_dec_to_input=true must be false: b_dec is the target's",
        ),
        (
            "sae_lens",
            {"architecture": "batchtopk"},
            r"training checkpoint .* save_inference_model\(\) writes",
        ),
        (
            "sae_lens",
            {"architecture": "standard", "activation_fn": "topk"},
            'activation_fn="topk" must be',
        ),
        ("sae_lens", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor=true must be"),
        ("sae_lens", {"k": 0}, "k=0 must be a whole number from 1"),
        ("sae_lens", {"k": 99}, "k=99 exceeds d_sae=24"),
        ("sae_lens", {"k": 2.5}, "k=2.5 must be a whole number from 1"),
        ("sae_lens", {"d_sae": 40_000_000}, "cfg.json says d_sae=40000000, W_dec has 24"),
        ("sae_lens", {"d_in": [6]}, "cfg.json says d_in=a list of 1, W_dec has 6"),
        (
            "sae_lens",
            {"apply_b_dec_to_input": "no"},
            'apply_b_dec_to_input="no" must be true or false',
        ),
        (
            "eai_sparsify",
            {"num_latents": 40_000_000},
            "cfg.json says num_latents=40000000, W_dec has 24",
        ),
        ("eai_sparsify", {"activation": "groupmax"}, 'activation="groupmax" must be "topk"'),
        ("eai_sparsify", {"transcode": "yes"}, 'transcode="yes" must be true or false'),
        ("eai_sparsify", {"skip_connection": True}, "skip_connection=true must be false"),
        ("eai_sparsify", {"k": None}, "k=null must be a whole number"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(format, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        import_sae(saved_with(tmp_path, format, **changes))


@pytest.mark.parametrize("format", FORMATS)
def test_wrong_tensors_are_refused(format, tmp_path):
    path = saved_with(tmp_path, format) / FORMATS[format].weights
    tensors = load_file(path)
    for changed, message in (
        (tensors | {"b_dec": np.zeros(D_IN + 1, np.float32)}, r"b_dec must be \[6\]"),
        (tensors | {"W_skip": np.zeros(3, np.float32)}, "holds .*W_skip"),
        ({name: value for name, value in tensors.items() if name != "W_dec"}, "must hold .*W_dec"),
        (tensors | {"b_dec": np.full(D_IN, np.nan, np.float32)}, "b_dec must be finite"),
    ):
        save_file(changed, path)
        with pytest.raises(UserError, match=message):
            import_sae(tmp_path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(UserError, match=r"sae.*safetensors is damaged .SafetensorError"):
        import_sae(tmp_path)


def test_directories_that_hold_no_foreign_sae_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="is no directory"):
        detect(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"must hold sae_weights.safetensors \(sae_lens\).*holds nothing"
    ):
        detect(tmp_path)
    (tmp_path / "ae.pt").write_bytes(b"")
    assert detect(tmp_path) is None  # its tensors tell the format
    save_sae(tmp_path / "own", trained_like("topk", "none"), {})
    with pytest.raises(UserError, match="diffusae's own format"):
        detect(tmp_path / "own")
    (tmp_path / "own" / "cfg.json").unlink()
    with pytest.raises(UserError, match=r"cfg.json is missing"):
        detect(tmp_path / "own")
    saved_with(tmp_path / "json")
    (tmp_path / "json" / "cfg.json").write_text("{")
    with pytest.raises(UserError, match=r"cfg.json is damaged: it is not JSON"):
        import_sae(tmp_path / "json")
