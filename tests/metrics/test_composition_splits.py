"""What composition is tuned on, and what its figures are of: a study whose splits are marked."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffusae.evaluation.composition import Settings, Tuned
from diffusae.evaluation.masks import Threshold
from diffusae.metrics import composition


class Seen(Exception):
    """Ends the metric with what it was given."""


@pytest.fixture
def marked(monkeypatch) -> Any:
    """The module, with every split told by its name."""
    dictionary = SimpleNamespace(
        facts={"d_sae": 2}, embedded_latents=torch.tensor([0]), embeddings=torch.ones(1, 2)
    )
    named: list[tuple[str, object]] = []

    def split(_study: Any, _source: Any, _notes: Any, _known: Any, name: str, nouns: Any) -> Any:
        named.append((name, nouns))
        return None, SimpleNamespace(name=name, groups=[], nouns=[])

    loaded = SimpleNamespace(load=lambda _: SimpleNamespace(second={}))
    monkeypatch.setattr(composition, "build", lambda *_: SimpleNamespace(labels=("fish",)))
    monkeypatch.setattr(composition, "embed_labels", lambda *_: (["fish"], torch.ones(1, 2)))
    monkeypatch.setattr(composition, "code_source", lambda *_: None)
    monkeypatch.setattr(composition, "load_sae", lambda _: (None, None))
    monkeypatch.setattr(composition, "Annotations", loaded)
    monkeypatch.setattr(
        composition, "ConceptDictionary", SimpleNamespace(load=lambda _: dictionary)
    )
    monkeypatch.setattr(composition, "_split", split)
    return SimpleNamespace(module=composition, named=named)


def rows(marked: Any) -> Any:
    study: Any = SimpleNamespace(
        cfg=SimpleNamespace(annotator=None),
        sae=None,
        concepts=None,
        annotations=None,
        seed=0,
        held_out=None,
        cell=SimpleNamespace(coordinates=dict),
    )
    tried = SimpleNamespace(
        top_n=(1,), weighting=("uniform",), centred=(True,), scale=("relative",)
    )
    settings: Any = SimpleNamespace(settings=tried, n_resamples=10)
    return marked.module.composition_rows(study, settings, lambda: None)


def test_settings_are_chosen_on_the_tuning_split(marked, monkeypatch):
    def tune(split: Any, *_: Any) -> Any:
        raise Seen(split.name)

    monkeypatch.setattr(composition, "tune", tune)
    with pytest.raises(Seen, match=r"^tune$"):
        rows(marked)
    # Nouns of the dictionary's pictures are what the annotator found, in the others what is named.
    assert marked.named == [("dictionary", None), ("tune", ("fish",)), ("test", ("fish",))]


def test_figures_and_baselines_are_of_the_test_split(marked, monkeypatch):
    chosen = Tuned(Settings(), Threshold(0.5, 0.5, [0.5], [0.5]), [])
    asked: list[list[str]] = []

    def named(*splits: Any, **_: Any) -> None:
        asked.append([split.name for split in splits if hasattr(split, "name")])

    def evaluate(split: Any, *_: Any, **__: Any) -> Any:
        raise Seen(split.name)

    monkeypatch.setattr(composition, "tune", lambda *_: chosen)
    monkeypatch.setattr(composition, "predict_scores", named)
    monkeypatch.setattr(composition, "evaluate", evaluate)
    monkeypatch.setattr(composition, "_own_maps", lambda *_: {})
    monkeypatch.setattr(composition, "_probes", lambda *_: {})
    names = (
        "chance_iou", "centre_prior_iou", "other_picture_iou", "centre_disc", "annotator_ceiling",
        "mean_of_known",
    )  # fmt: skip
    monkeypatch.setattr(composition, "baselines", SimpleNamespace(**dict.fromkeys(names, named)))
    with pytest.raises(Seen, match=r"^test$"):
        rows(marked)
    # The scores; chance, the prior and another picture; means (of no split), the disc, the ceiling.
    assert asked[:4] == [["test"], ["test"], ["tune", "test"], ["test"]]
    assert [splits for splits in asked[4:] if splits] == [["tune", "test"], ["test"]]
