"""Damaged autoencoders, our own and those of other libraries."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foreign_saes
from diffusae.sae import convert_pickle
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.checkpoint import Stated
from diffusae.sae.exchange import FORMATS, detect, export_sae, import_sae, read_foreign
from diffusae.sae.sparsity import BatchTopK, JumpReLU, MatryoshkaTopK, ReLU, Sparsity, TopK
from diffusae.sae.storage import load_sae, save_sae
from fuzz.mutations import mutated, mutated_json, mutated_safetensors
from fuzz.only_user_errors import only_user_errors, replaced

D_IN, D_SAE = 4, 10
X = torch.ones(2, D_IN)
SPARSITIES: dict[str, Sparsity] = {
    "topk": TopK(3),
    "batchtopk": BatchTopK(3),
    "matryoshka": MatryoshkaTopK(3, prefixes=[5]),
    "relu": ReLU(l1=0.1),
    "jumprelu": JumpReLU(D_SAE, l0=0.1),
}


def autoencoder(name: str) -> SparseAutoencoder:
    sae = SparseAutoencoder(D_IN, D_SAE, SPARSITIES[name], input_scaling="none")
    sae.initialise(torch.randn(20, D_IN))
    return sae


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ours")
    for name in SPARSITIES:
        save_sae(folder / name, autoencoder(name), {"cell": {"block": "mid"}})
    return {name: folder / name for name in SPARSITIES}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("theirs")
    kinds = [("sae_lens", name) for name in ("topk", "relu", "jumprelu")]
    kinds.append(("eai_sparsify", "topk"))
    for format, name in kinds:
        export_sae(folder / format / name, autoencoder(name), format=format, metadata={})
    return {kind: folder.joinpath(*kind) for kind in kinds}


def damaged(path: Path) -> st.SearchStrategy[bytes]:
    whole = path.read_bytes()
    return st.one_of(mutated_json(json.loads(whole)), mutated(whole))


@given(st.sampled_from(sorted(SPARSITIES)), st.data())
def test_damaged_configurations_of_ours(ours, name, data):
    path = ours[name] / "cfg.json"
    text = data.draw(damaged(path))
    with replaced(path, text), only_user_errors():
        sae, metadata = load_sae(path.parent)
        assert sae(X).shape == X.shape and isinstance(metadata, dict)


@given(st.sampled_from(sorted(SPARSITIES)), st.data())
def test_damaged_weights_of_ours_with_a_matching_hash(ours, name, data):
    path, config = ours[name] / "sae.safetensors", ours[name] / "cfg.json"
    weights = data.draw(mutated_safetensors(path.read_bytes()))
    described = {**json.loads(config.read_bytes()), "sha256": hashlib.sha256(weights).hexdigest()}
    text = json.dumps(described).encode()
    with replaced(path, weights), replaced(config, text), only_user_errors():
        sae, _ = load_sae(path.parent)
        assert torch.isfinite(sae.W_dec).all()
        sae(X)


@given(st.data())
def test_damaged_configurations_of_others(theirs, data):
    path = theirs[data.draw(st.sampled_from(sorted(theirs)))] / "cfg.json"
    text = data.draw(damaged(path))
    with replaced(path, text), only_user_errors():
        assert import_sae(path.parent)(X).shape == X.shape


@given(st.data())
def test_damaged_weights_of_others(theirs, data):
    kind = data.draw(st.sampled_from(sorted(theirs)))
    path = theirs[kind] / FORMATS[kind[0]].weights
    with replaced(path, data.draw(mutated_safetensors(path.read_bytes()))), only_user_errors():
        detect(path.parent)
        import_sae(path.parent)(X)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of tensors, as safetensors, of every paper's format."""
    folder, files = tmp_path_factory.mktemp("papers"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_pickle, "_limit_memory", lambda _: None)
        for format, write in foreign_saes.WRITERS.items():
            source = write(folder / format, foreign_saes.Weights.drawn(D_IN, D_SAE)).source
            path = source if source.is_file() else source / "state_dict.pth"
            if format == "saeuron":
                files[format] = source / "sae.safetensors"
            else:
                files[format] = path.with_suffix(".safetensors")
                convert_pickle.main(path, files[format], 0)
    return files


@given(st.data())
def test_damaged_weights_of_papers(papers, data):
    path = papers[data.draw(st.sampled_from(sorted(papers)))]
    with replaced(path, data.draw(mutated_safetensors(path.read_bytes()))), only_user_errors():
        read_foreign(path, stated=Stated(k=3, timestep=501.0)).sae(X)


@given(st.data())
def test_damaged_configurations_of_papers(papers, data):
    weights = papers[data.draw(st.sampled_from(["sdxl_unbox", "steerers", "saeuron"]))]
    path = next(weights.parent.glob("*.json"))
    with replaced(path, data.draw(damaged(path))), only_user_errors():
        assert read_foreign(weights).sae(X).shape == X.shape
