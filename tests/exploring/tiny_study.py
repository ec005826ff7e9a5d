"""A finished study of the shipped miniature in a second: autoencoders and dictionaries by hand.

Two cells of the block `down` have an autoencoder of random directions and a dictionary in which
some latents are fishes, and others the background; `mid` is trained and not labelled.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from composing import compose
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.runs.record import parent_signature, run_record
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import save_sae
from diffusae.study.study import Study

D_SAE = 64
WIDTHS = {"down": 64, "mid": 128}
OPTIONS = ("debug=tiny", "model.steps=3", "conditioning=cond")
LABELLED = {"down": (1.0, 0.5), "mid": ()}
TRAINED = {"down": (1.0, 0.5), "mid": (0.5,)}
FISHES = {1.0: (3, 7), 0.5: (5,)}
"""t -> the latents whose entry holds `fish`; latent 9 is `background` at both."""


def composed(outputs: Path, stage: str = "look", *overrides: str):
    """The configuration of a command on this study."""
    return compose(stage, [*OPTIONS, f"paths.outputs={outputs}", *overrides])


def place_study(outputs: Path) -> Path:
    """The study `tiny` in a directory of outputs."""
    for block, times in TRAINED.items():
        for t in times:
            study = Study(composed(outputs, "train", f"block.name={block}", f"timestep.t={t}"))
            _place_sae(study)
            if t in LABELLED[block]:
                _place_dictionary(study, FISHES[t])
    return outputs / "tiny"


def _place_sae(study: Study) -> None:
    sae = SparseAutoencoder(WIDTHS[study.cell.block], D_SAE, TopK(4), input_scaling="none", seed=0)
    with run_record(
        study.sae,
        stage="train",
        config=study.config(),
        determines={"cell": study.cell.coordinates()},
        parents={},
        seed=0,
    ):
        save_sae(study.sae, sae, {"cell": study.cell.coordinates()})


def _place_dictionary(study: Study, fishes: tuple[int, ...]) -> None:
    rows = [(latent, "fish", 6, 0.75, 1.0) for latent in fishes] + [(9, "background", 8, 0.9, 1.0)]
    table = pd.DataFrame(rows, columns=["latent", "label", "count", "mean_iou", "share"])
    latents = pd.DataFrame(
        {
            "latent": range(D_SAE),
            "firing_frequency": 0.5,
            "pictures_active": 8,
            "mean_activation": 1.0,
            "purity": 1.0,
            "top_images": [["a"]] * D_SAE,
            "top_values": [[1.0]] * D_SAE,
        }
    )
    vectors = torch.eye(2)
    owners = torch.tensor([*fishes, 9])
    with run_record(
        study.concepts,
        stage="label",
        config=study.config(),
        determines={"cell": study.cell.coordinates()},
        parents={"train": parent_signature(study.sae, stage="train")},
        seed=0,
    ):
        ConceptDictionary(
            table=table,
            latents=latents,
            labels=["background", "fish"],
            label_embeddings=vectors,
            embedded_latents=owners,
            embeddings=torch.stack([vectors[1]] * len(fishes) + [vectors[0]]),
            facts={"d_sae": D_SAE, "grid": [16, 16], "embedding": "by hand"},
        ).save(study.concepts)


class ByHand:
    """A word embedding in which a trout is almost a fish."""

    name = "by hand"
    vectors = {"trout": (0.28, 0.96), "wall": (1.0, 0.0)}  # noqa: RUF012

    def known(self, word: str) -> bool:
        return word in self.vectors

    def embed(self, words: Sequence[str]) -> Tensor:
        return torch.tensor([self.vectors[word] for word in words])
