"""Which pictures and positions directions come from: hand-made collections in which every split
would give another answer.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from composing import compose
from diffusae.activations.codes import PictureCodes
from diffusae.steering import global_directions, spatial_directions

D = 6
LATENT_OF_SPLIT = {"dictionary": 1, "tune": 2, "test": 3}
"""The latent that fires where the object or the value is, by split; 0 fires everywhere else."""


class Sae:
    """Latent i writes the i-th unit vector."""

    d_in = d_sae = D

    def to(self, _device: Any) -> Sae:
        return self

    def require_one_stream(self) -> None:
        """It is no transcoder."""

    def directions_of(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.eye(D)[latents]


class Coded:
    """One picture, whose codes are its updates."""

    def __init__(self, image_id: str, codes: torch.Tensor) -> None:
        self.image_id, self._codes = image_id, codes
        best = codes.max(dim=1, keepdim=True)
        self.codes = PictureCodes.of(
            best.values.numpy(), best.indices.numpy(), d_sae=D, dtype=np.dtype(np.float32)
        )

    def tensors(self, _d_sae: int, _device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._codes.clone(), self._codes.clone()


def unit(index: int) -> torch.Tensor:
    return torch.eye(D)[index]


def source_of(shows: Any) -> Any:
    """Two pictures a split, of 1 x 4 positions: p0 has the property, where `shows` says, and p1
    does not.
    """

    def read(split: str) -> list[Coded]:
        codes = torch.zeros(2, 4, D)
        codes[..., 0] = 1.0
        codes[0][shows] = 2 * unit(LATENT_OF_SPLIT[split])
        return [Coded("p0", codes[0]), Coded("p1", codes[1])]

    read.grid = (1, 4)  # type: ignore[attr-defined]
    return read


def test_an_object_is_set_against_empty_ground_in_the_pictures_of_the_dictionary(monkeypatch):
    mask = np.zeros((8, 32), bool)
    mask[:, 8:16] = True  # the second position alone
    masks = {"p0": {"fish": mask}, "p1": {}}
    dictionary = SimpleNamespace(
        latents=_table({"latent": [0, 1, 4], "pictures_active": [2, 1, 1]}),
        table=_table({"latent": [0, 1]}),
        latents_of=lambda noun: [1, 5] if noun == "fish" else [],
    )
    monkeypatch.setattr(spatial_directions, "code_source", lambda *_: source_of([1]))
    monkeypatch.setattr(spatial_directions, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(
        spatial_directions,
        "Annotations",
        SimpleNamespace(load=lambda _: SimpleNamespace(masks=masks)),
    )
    monkeypatch.setattr(
        spatial_directions, "ConceptDictionary", SimpleNamespace(load=lambda _: dictionary)
    )
    study: Any = SimpleNamespace(annotations=None, concepts=None, seed=0)
    sae: Any = Sae()
    made = spatial_directions.directions_of(study, sae, ["fish", "cat"], n_latents=1, draws=3)
    of_fish = {method: [one.tolist() for one in of["fish"]] for method, of in made.items()}
    assert of_fish["chosen_latents"] == [unit(1).tolist()]
    means = 2 * unit(1) - unit(0)
    assert of_fish["difference_of_means"][0] == pytest.approx((means / means.norm()).tolist())
    assert of_fish["neuron"] == [unit(1).tolist()]
    # The sum of the concept vectors as it is.
    both = [(unit(1) + unit(5)).tolist()]
    assert of_fish["concepts"] == of_fish["dictionary_concepts"] == both
    # The only latent that fires and that no entry holds, in every draw.
    assert of_fish["random_latent"] == [unit(4).tolist()] * 3
    assert [method for method, of in made.items() if "cat" in of] == ["random_latent"]


@pytest.mark.parametrize("under_objects", [(), ("tone",)])
def test_a_value_is_set_against_the_other_values_in_the_pictures_of_the_dictionary(
    monkeypatch, under_objects
):
    shown = {"p0": {"tone": "night"}, "p1": {"tone": "fog"}}
    mask = np.zeros((8, 32), bool)
    mask[:, 16:] = True  # the last two positions
    masks = {"p0": {"fish": mask}, "p1": {"fish": mask}}
    monkeypatch.setattr(global_directions, "code_source", lambda *_: source_of([2, 3]))
    monkeypatch.setattr(global_directions, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(global_directions, "load_sae", lambda _: (Sae(), None))
    monkeypatch.setattr(
        global_directions,
        "Annotations",
        SimpleNamespace(load=lambda _: SimpleNamespace(masks=masks)),
    )
    study: Any = SimpleNamespace(annotations=None, sae=None, seed=0, cfg=compose("evaluate"))
    names = {"tone": ["night", "fog"]}
    made = global_directions.block_directions(
        study, shown, names, n_latents=1, under_objects=under_objects
    ).directions
    assert made["chosen_latents", "tone", "night"][0].tolist() == unit(1).tolist()
    assert made["chosen_latents", "tone", "fog"][0].tolist() == unit(0).tolist()
    # By the dictionary's rule. Maps are interpolated: two positions of four are 19 pixels of 32,
    # enough for the whole picture (.59) and for the 16 pixels of the objects (.84).
    gained = {key[2]: made[key][0].tolist() for key in made if key[0] == "concepts"}
    if under_objects:
        assert gained == {"night": unit(1).tolist()}  # latent 0 covers fog's objects by just .5
    else:
        assert gained == {"night": (unit(0) + unit(1)).tolist(), "fog": unit(0).tolist()}
    # Under objects alone: 2 e1 - e0. Over the whole picture half of it, which is as long.
    means = 2 * unit(1) - unit(0)
    assert made["difference_of_means", "tone", "night"][0].tolist() == pytest.approx(
        (means / means.norm()).tolist()
    )


def test_factors_are_told_of_the_pictures_of_the_dictionary(monkeypatch):
    read = []

    def images(_root: Any, _manifest: Any, split: str) -> list[Any]:
        read.append(split)
        return [(f"{split}0", np.zeros((2, 2, 3), np.uint8), {"prompt": f"of {split}"})]

    monkeypatch.setattr(global_directions, "read_images", images)
    monkeypatch.setattr(global_directions, "Manifest", SimpleNamespace(load=lambda _: None))
    annotator = SimpleNamespace(
        annotate=lambda pictures, prompts: [
            SimpleNamespace(factors={"tone": prompts[0]}) for _ in pictures
        ]
    )
    study: Any = SimpleNamespace(held_out=SimpleNamespace(activations=None))
    shown = global_directions.factors_shown(study, annotator)
    assert shown == {"dictionary0": {"tone": "of dictionary"}}
    assert read == ["dictionary"]


def _table(columns: dict[str, list[int]]) -> Any:
    import pandas as pd

    return pd.DataFrame(columns)
