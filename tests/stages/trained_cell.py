"""One cell as `train` leaves it, without a collection."""

import torch

from diffusae.runs.record import run_record
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import save_sae
from diffusae.study.study import Study

X = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
"""What it was trained on."""


def place_trained(study: Study) -> SparseAutoencoder:
    sae = SparseAutoencoder(8, 32, TopK(4))
    sae.initialise(X)
    determines = {"sae": study.part("sae"), "steps": 10, "batch_size": 64, "seed": 0}
    with run_record(study.sae, stage="train", config={}, determines=determines, parents={}, seed=0):
        metadata = {"cell": study.cell.coordinates(), "hookpoint": "mid_block.attentions.0"}
        save_sae(study.sae, sae.eval(), metadata | {"validation": {"val/fvu": 0.25}})
    return sae
