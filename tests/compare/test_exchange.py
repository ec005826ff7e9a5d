"""Our exports loaded by the libraries they are for, and those libraries' files loaded by us.

The versions are sae-lens 6.54.12 and eai-sparsify 1.3.3; tolerances are float32 rounding at values
of some tens.
"""

# pyright: reportMissingImports=false
# The other libraries are installed in an environment of their own.

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.exchange import export_sae, import_sae
from diffusae.sae.settings import InputScaling
from diffusae.sae.sparsity import BatchTopK, JumpReLU, MatryoshkaTopK, ReLU, Sparsity, TopK

pytestmark = pytest.mark.compare

D_IN, D_SAE = 16, 64
SCALES = torch.linspace(0.5, 8, D_IN)
VECTORS = torch.randn(300, D_IN, generator=torch.Generator().manual_seed(0)) * SCALES
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-4}
SCALINGS: tuple[InputScaling, ...] = ("none", "mean_norm", "standardise")


def made(name: str, scaling: InputScaling) -> SparseAutoencoder:
    kinds: dict[str, Sparsity] = {
        "topk": TopK(5),
        "matryoshka": MatryoshkaTopK(5, prefixes=[16, 32]),
        "batchtopk": BatchTopK(5),
        "jumprelu": JumpReLU(D_SAE, l0=0.1),
        "relu": ReLU(l1=0.1),
    }
    sae = SparseAutoencoder(D_IN, D_SAE, kinds[name], encoder_bias=True, input_scaling=scaling)
    sae.initialise(VECTORS)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in (sae.W_enc, sae.b_enc, sae.b, sae.W_dec):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        if isinstance(sae.sparsity, BatchTopK):
            sae.sparsity.threshold.fill_(0.4)
    sae.project()
    return sae.eval()


def codes_in(units: str, sae: SparseAutoencoder) -> torch.Tensor:
    return sae.encode_dense(VECTORS) / (sae.gains if units == "scaled" else 1)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", ["topk", "matryoshka", "batchtopk", "jumprelu", "relu"])
def test_sae_lens_computes_what_we_compute(name: str, scaling: InputScaling, tmp_path: Path):
    from sae_lens import SAE

    ours = made(name, scaling)
    units = export_sae(tmp_path, ours, format="sae_lens", metadata={"block": "mid"})
    theirs = SAE.load_from_disk(tmp_path)
    z = theirs.encode(VECTORS)
    assert theirs.cfg.metadata.block == "mid"
    assert_close(z, codes_in(units, ours), **CLOSE)
    assert_close(theirs.decode(z), ours(VECTORS), **CLOSE)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", ["topk", "matryoshka"])
def test_sparsify_computes_what_we_compute(name: str, scaling: InputScaling, tmp_path: Path):
    from sparsify import Sae

    ours = made(name, scaling)
    units = export_sae(tmp_path, ours, format="eai_sparsify", metadata={"block": "mid"})
    theirs = Sae.load_from_disk(tmp_path)
    codes = theirs.encode(VECTORS)
    z = torch.zeros(len(VECTORS), D_SAE).scatter_(1, codes.top_indices, codes.top_acts)
    assert_close(z, codes_in(units, ours), **CLOSE)
    assert_close(_dense_decode(theirs, z), ours(VECTORS), **CLOSE)


def _dense_decode(theirs: Any, z: torch.Tensor) -> torch.Tensor:
    """Sparsify's decoder as a plain product: its own kernels may need a GPU."""
    return z @ theirs.W_dec + theirs.b_dec


def _disturbed(theirs: Any) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize("bias_of_input", [True, False])
@pytest.mark.parametrize("name", ["topk", "topk-rescaled", "standard", "jumprelu"])
def test_files_of_sae_lens_are_imported(name: str, bias_of_input: bool, tmp_path: Path):
    from sae_lens import SAE

    options: dict[str, Any] = {"architecture": name, "d_in": D_IN, "d_sae": D_SAE}
    if name.startswith("topk"):
        options |= {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": name != "topk"}
    theirs = SAE.from_dict(options | {"apply_b_dec_to_input": bias_of_input})
    _disturbed(theirs)
    theirs.save_model(tmp_path)
    ours, z = import_sae(tmp_path), theirs.encode(VECTORS)
    norms = 1 if name == "topk-rescaled" else theirs.W_dec.norm(dim=1)
    assert_close(ours.encode_dense(VECTORS), z * norms, **CLOSE)
    assert_close(ours(VECTORS), theirs.decode(z), **CLOSE)


def test_files_of_sparsify_are_imported(tmp_path: Path):
    from sparsify import Sae, SaeConfig

    theirs = Sae(D_IN, SaeConfig(num_latents=D_SAE, k=5))
    _disturbed(theirs)
    theirs.save_to_disk(tmp_path)
    ours, codes = import_sae(tmp_path), theirs.encode(VECTORS)
    z = torch.zeros(len(VECTORS), D_SAE).scatter_(1, codes.top_indices, codes.top_acts)
    assert theirs.W_dec is not None
    assert_close(ours.encode_dense(VECTORS), z * theirs.W_dec.norm(dim=1), **CLOSE)
    assert_close(ours(VECTORS), _dense_decode(theirs, z), **CLOSE)
