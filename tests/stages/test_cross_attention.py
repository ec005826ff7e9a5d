"""Which tokens of a caption stand for a label, where the caption names it in other words; and the
baseline that reads the attention to them.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffusae.activations.schema import ATTENTION, CONCEPTS
from diffusae.activations.writer import ActivationWriter
from diffusae.concepts.words import Vocabulary
from diffusae.evaluation.composition import Picture, build_split
from diffusae.metrics import composition
from diffusae.metrics.composition import tokens_naming
from diffusae.study.streams import words_of
from small_collections import sample_of, stream_of

NOUNS = ("fish", "dog", "person")
VOCABULARY = Vocabulary(["dog", "hot dog", "person", "fish"], {"dog": ["puppy"], "person": ["man"]})


def tokens_of(text: str) -> dict[str, list[int]]:
    """As a collection tells them: a token a word here, after the start token; none from the sixth
    word on.
    """
    words = [word.strip(",.") for word in text.replace("-", " ").replace("'", " ").split()]
    return {
        word: [n + 1 for n, other in enumerate(words) if other == word and n < 5]
        for word in words_of(text)
    }


@pytest.mark.parametrize(
    ("text", "label", "tokens"),
    [
        ("a red fish", "fish", [3]),
        ("Two Puppies, sleeping", "dog", [2]),
        ("a hot-dog on bread", "hot dog", [2, 3]),
        ("men and a man", "person", [1, 4]),
        ("the man's fish", "person", [2]),
        ("one two three four five fish", "fish", []),  # cut off
        ("a stone", "fish", []),
    ],
)
def test_the_tokens_of_a_label_are_those_of_the_words_that_name_it(text, label, tokens):
    assert tokens_naming(label, text, tokens_of(text), VOCABULARY) == tokens


def attended(root: Path, columns: bool) -> dict[str, torch.Tensor]:
    """IoU of every test object with the model's own maps: attention, of samples with all tokens or
    a few, at t = .5 and 0 (there the same but for the sign); ConceptAttention of fish and person.
    """
    stream = stream_of((3, 4), 9, block=ATTENTION)
    later = stream_of((3, 4), 9, block=ATTENTION, t=0.0, step_index=4)
    saliency = stream_of((3, 4), 2, block=CONCEPTS)
    header = {"concepts": ["person", "fish"]}
    streams = [stream, later, saliency]
    writer = ActivationWriter(root, streams=streams, header=header, with_images=False)
    generator, objects = np.random.default_rng(3), {}
    for group, split in enumerate(("tune", "test")):
        samples, drawn = [], []
        for number, text in enumerate(("a red fish", "two puppies, sleeping", "a man")):
            shares = generator.random((12, 9)).astype(np.float16)
            words = tokens_of(text)
            kept = sorted({token for tokens in words.values() for token in tokens})
            seen = shares[:, kept] if columns else shares
            own = generator.random((12, 2)).astype(np.float16)
            updates = {stream.folder: seen, later.folder: -3 * seen, saliency.folder: own}
            listed = {"columns": kept} if columns else {}
            meta = {"word_tokens": words}
            name = f"{split}{number}"
            samples.append(sample_of(name, 0, split, updates, prompt=text, meta=meta, **listed))
            masks = {noun: torch.from_numpy(generator.random((6, 8)) > 0.6) for noun in NOUNS}
            values, indices = torch.ones(12, 1), torch.zeros(12, 1, dtype=torch.long)
            drawn.append(Picture(name, values, indices, [NOUNS[number]], masks))
        writer.write_group(group, samples)
        objects[split] = build_split(drawn, grid=(3, 4), known_nouns=NOUNS)
    writer.finish()
    study: Any = SimpleNamespace(activations=root, cell=SimpleNamespace(t=0.5))
    return composition._own_maps(study, VOCABULARY, objects["tune"], objects["test"])


def test_attention_to_the_words_alone_gives_what_all_tokens_give_to_the_bit(tmp_path: Path):
    every, own = (attended(tmp_path / str(kept), kept) for kept in (False, True))
    assert torch.equal(own["cross_attention"], every["cross_attention"])
    assert len(own["cross_attention"].unique()) == 3


def test_daam_is_the_mean_over_all_recorded_moments_and_concepts_are_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: dict[str, torch.Tensor] = {}

    def iou(tuning_maps, test_maps, **_):
        seen[f"map{len(seen)}"] = test_maps
        return torch.ones(len(test_maps))

    monkeypatch.setattr(composition.baselines, "score_map_iou", iou)
    found = attended(tmp_path, True)
    assert list(found) == ["cross_attention", "daam", "concept_attention"]
    now, mean, saliency = seen.values()
    torch.testing.assert_close(mean, (now - 3 * now) / 2, rtol=1e-3, atol=1e-3)
    # The puppies are no concept of the collection: no data, not 0.
    assert found["concept_attention"].isnan().tolist() == [False, True, False]
    assert not saliency[1].any() and saliency[0].any()
