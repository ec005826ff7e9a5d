import json

import pytest
import torch

from diffusae.errors import UserError
from diffusae.sae import storage
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import load_sae, save_sae

METADATA = {"cell": {"block": "mid", "t": 0.5}}


@pytest.fixture
def saved(tmp_path):
    sae = SparseAutoencoder(6, 20, TopK(3), input_scaling="standardise", seed=4)
    sae.initialise(torch.randn(50, 6))
    save_sae(tmp_path, sae, METADATA)
    return tmp_path, sae


def test_a_loaded_autoencoder_is_bit_equal(saved):
    directory, sae = saved
    loaded, metadata = load_sae(directory)
    assert metadata == METADATA
    assert (loaded.d_in, loaded.d_sae, loaded.sparsity.k, loaded.input_scaling) == (
        6,
        20,
        3,
        "standardise",
    )
    for name, tensor in sae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    x = torch.randn(5, 6)
    assert torch.equal(loaded(x), sae(x))


def test_saving_leaves_two_files_and_no_temporary_ones(saved):
    assert sorted(path.name for path in saved[0].iterdir()) == ["cfg.json", "sae.safetensors"]


@pytest.mark.parametrize("name", ["sae.safetensors", "cfg.json"])
def test_a_missing_file_is_named(saved, name):
    (saved[0] / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        load_sae(saved[0])


def test_one_flipped_bit_in_the_weights_is_found(saved):
    path = saved[0] / "sae.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"sae\.safetensors is damaged"):
        load_sae(saved[0])


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"format_version": 1}', '{"format_version": 99}']
)
def test_a_configuration_that_is_no_configuration_is_refused(saved, text):
    (saved[0] / "cfg.json").write_text(text)
    with pytest.raises(UserError, match="train this cell again"):
        load_sae(saved[0])


def test_nothing_of_the_size_that_a_configuration_claims_is_made_before_the_weights_are_seen(
    saved, monkeypatch
):
    path = saved[0] / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"d_sae": 40_000_000}))
    monkeypatch.setattr(storage, "SparseAutoencoder", None)  # not to be called
    with pytest.raises(
        UserError, match=r"d_sae=40000000, .* do not fit W_dec .* which is \[20, 6\] of F32"
    ):
        load_sae(saved[0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"d_in": "6"}, 'd_in of a config must be a whole number, is "6"'),
        ({"dtype": "int8"}, "dtype of a config must be"),
        ({"dtype": "float16"}, "do not fit W_dec"),
        ({"sparsity": {"name": "topk", "k": 2.5}}, "k of the sparsity topk must be a whole number"),
        ({"sparsity": {"name": "topk"}}, "the sparsity topk: missing a required argument: 'k'"),
        ({"sparsity": {"name": "jumprelu", "d_sae": 40_000_000, "l0": 0.1}}, "do not fit W_dec"),
        ({"sparsity": {"name": ["topk"]}}, "name of the sparsity must be text"),
        ({"metadata": []}, "metadata of a config must be a JSON object"),
    ],
)
def test_a_configuration_with_values_of_another_kind_is_named(saved, change, told):
    path = saved[0] / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"cfg.json is damaged: .*{told}.*; remove"):
        load_sae(saved[0])


def test_weights_that_are_not_finite_are_named(saved):
    directory, sae = saved
    sae.W_enc.data[0, 0] = float("nan")
    save_sae(directory, sae, METADATA)
    with pytest.raises(UserError, match=r"sae.safetensors: W_enc has values that are not finite"):
        load_sae(directory)


def test_a_configuration_of_other_shapes_is_refused(saved):
    path = saved[0] / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"d_sae": 21}))
    with pytest.raises(
        UserError,
        match=(
            r"cfg.json is damaged: d_sae=21, .* do not fit W_dec of sae.safetensors, which is \[20,"
            r" 6\] of F32"
        ),
    ):
        load_sae(saved[0])
