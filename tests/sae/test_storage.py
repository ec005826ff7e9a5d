import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusae.errors import UserError
from diffusae.files import sha256_of
from diffusae.sae import storage
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import INDEX_NAME, load_sae, save_config, save_sae, weight_files

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


@pytest.fixture
def indexed(saved):
    """The same weights in two files and an index."""
    directory, sae = saved
    tensors = load_file(directory / "sae.safetensors")
    (directory / "sae.safetensors").unlink()
    files = {f"sae-0000{n}-of-00002.safetensors": names
             for n, names in ((1, tensors.keys() - {"W_dec"}), (2, {"W_dec"}))}  # fmt: skip
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, directory / file)
    index = {
        "metadata": {
            "total_size": sum(tensor.nbytes for tensor in tensors.values()),
            "sha256": {file: sha256_of(directory / file) for file in files},
        },
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
    (directory / INDEX_NAME).write_text(json.dumps(index))
    save_config(directory, sae, METADATA)
    return directory, sae, index


def test_weights_in_several_files_are_read_by_their_index(indexed):
    directory, sae, index = indexed
    loaded, metadata = load_sae(directory)
    assert metadata == METADATA
    for name, tensor in sae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert weight_files(directory) == [*sorted(index["metadata"]["sha256"]), INDEX_NAME]


@pytest.mark.parametrize("number", [1, 2])
def test_a_flipped_bit_in_one_of_several_files_is_found(indexed, number):
    path = indexed[0] / f"sae-0000{number}-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name} is damaged: SHA-256"):
        load_sae(indexed[0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sha256": {"../sae-00001-of-00002.safetensors": ""}}, "no file of weights beside it"),
        ({"sha256": {}}, "W_dec of sae.safetensors"),
        ({"sha256": 3}, "sha256"),
    ],
)
def test_an_index_of_other_files_is_refused(indexed, change, told):
    directory, sae, index = indexed
    index["metadata"] |= change
    (directory / INDEX_NAME).write_text(json.dumps(index))
    save_config(directory, sae, METADATA)
    with pytest.raises(UserError, match=told):
        load_sae(directory)


def test_saving_again_replaces_an_index(indexed):
    directory, sae, _ = indexed
    save_sae(directory, sae, METADATA)
    assert weight_files(directory) == ["sae.safetensors"]
    assert torch.equal(load_sae(directory)[0].W_dec, sae.W_dec)


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
