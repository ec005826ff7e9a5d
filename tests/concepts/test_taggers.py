import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffusae.concepts.florence import FlorenceTagger
from diffusae.concepts.image_text import ImageText
from diffusae.concepts.ram import RamTagger
from diffusae.concepts.taggers import CaptionTagger, SimilarityTagger
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError
from tiny_annotators import Space, greys

WORDS = Vocabulary(["fish", "tree", "dog", "house"], {"dog": ["puppy"]})


def test_the_captions_nouns_are_tagged_or_the_whole_vocabulary_without_a_caption(noise):
    tagger = CaptionTagger()
    tags = tagger.tag(noise, WORDS, ["two puppies", "a tree and fish", "nothing"])
    assert tags == [["dog"], ["fish", "tree"], []]
    assert tagger.tag(noise[:1], WORDS, None) == [list(WORDS)]


def test_the_nearest_labels_are_named_in_the_vocabularys_order():
    space = Space({"my fish": 80, "my tree": 50, "my dog": 0, "my house": 20})
    tagger = SimilarityTagger(space, template="my {}", most=2)  # type: ignore[arg-type]
    assert tagger.tag(greys(0, 90), WORDS, None) == [["dog", "house"], ["fish", "tree"]]
    few = SimilarityTagger(space, template="my {}", most=9, least=np.cos(np.radians(31)))  # type: ignore[arg-type]
    assert few.tag(greys(0, 90, 180), WORDS, None) == [["dog", "house"], ["fish"], []]
    assert set(space.read) == {f"my {label}" for label in WORDS}


@pytest.mark.parametrize("setting", [{"template": "a photo"}, {"template": "{} {}"}, {"most": 0}])
def test_settings_of_the_similarity_tagger_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match="tagger\\."):
        SimilarityTagger(ImageText("unused"), **setting)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_vectors_are_the_librarys_own_and_scores_fit_its_logits(tiny, noise, name):
    space = ImageText(tiny[name])
    model, tokenizer, image_processor = space._parts
    texts = ["a photo of fish", "tree"]
    padding = {"padding": "max_length", "max_length": 16} if name == "siglip" else {"padding": True}
    tokens = tokenizer(texts, return_tensors="pt", **padding)
    mask = {} if name == "siglip" else {"attention_mask": tokens["attention_mask"]}
    with torch.no_grad():
        out = model(
            input_ids=tokens["input_ids"],
            pixel_values=image_processor(images=list(noise), return_tensors="pt")["pixel_values"],
            **mask,
        )
    pictures, words = space.embed_images(noise), space.embed_texts(texts)
    torch.testing.assert_close(pictures.norm(dim=1), torch.ones(3))
    logits = out.logits_per_image
    scores = space.scores(pictures, words)
    assert space.by_probability == (name == "siglip")
    expected = logits.sigmoid() if name == "siglip" else logits / model.logit_scale.exp().item()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    again = space.embed_texts(texts[::-1])
    torch.testing.assert_close(again, words.flip(0), msg="kept, and in the order asked for")


def test_a_model_without_vectors_of_texts_is_refused(tiny):
    with pytest.raises(UserError, match=r"set tagger\.model\.source to a"):
        ImageText(tiny["sam"], setting="tagger.model.source").embed_texts(["fish"])


def test_a_tagger_of_a_true_clip_model_names_labels(tiny, noise):
    tags = SimilarityTagger(ImageText(tiny["clip"]), most=2).tag(noise, WORDS, None)
    assert [len(labels) for labels in tags] == [2, 2, 2]
    assert {label for labels in tags for label in labels} <= set(WORDS)


def test_florence_generates_and_its_answers_are_read(tiny, noise):
    tagger = FlorenceTagger(tiny["florence2"], max_new_tokens=6)
    tags = tagger.tag(noise, WORDS, None)
    assert len(tags) == 3 and {label for labels in tags for label in labels} <= set(WORDS)
    spoken = (
        "</s><s>puppies<loc_1><loc_2><loc_30><loc_40>toy"
        " tree<loc_5><loc_5><loc_9><loc_9>fish<loc_1><loc_1><loc_3><loc_3></s><pad>"
    )
    assert tagger._labels(spoken, (48, 64), WORDS) == ["fish", "dog"], "a toy tree is no tree"
    assert tagger._labels("</s><s></s>", (48, 64), WORDS) == []
    texts = {
        "caption": "</s><s>A puppy under a tree.</s><pad>",
        "regions": (
            "</s><s>puppy under a<loc_1><loc_2><loc_30><loc_40>tall"
            " tree<loc_5><loc_5><loc_9><loc_9></s>"
        ),
    }
    for task, text in texts.items():
        other = FlorenceTagger(tiny["florence2"], task=task)
        assert other._labels(text, (48, 64), WORDS) == ["tree", "dog"]


def test_settings_of_florence_are_checked():
    known = r"unknown task of Florence-2 'ocr'; known: caption, detailed_caption"
    with pytest.raises(UserError, match=known):
        FlorenceTagger("unused", task="ocr")
    with pytest.raises(UserError, match=r"tagger\.beams=0 must be at least 1"):
        FlorenceTagger("unused", beams=0)


class Ram(nn.Module):
    """The part of RAM's interface that the adapter uses."""

    def __init__(self, *, image_size, vit):
        super().__init__()
        assert (image_size, vit) == (8, "swin_l")
        self.visual_encoder = nn.Linear(1, 1)
        self.label_embed = nn.Parameter(torch.zeros(1))

    def generate_tag(self, pixels):
        assert pixels.shape == (3, 3, 8, 8)
        return ["puppies | green grass | Fish", "", "tree"], ["zh"] * 3


@pytest.fixture
def ram(monkeypatch):
    package = ModuleType("ram")
    package.get_transform = lambda image_size: lambda image: torch.zeros(3, image_size, image_size)  # type: ignore[attr-defined]
    package.models = SimpleNamespace(ram_plus=Ram)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ram", package)


def test_rams_tags_are_read_through_its_interface(ram, tmp_path, noise):
    weights = tmp_path / "ram.safetensors"
    save_file(
        {"visual_encoder.weight": torch.ones(1, 1), "visual_encoder.bias": torch.ones(1)}, weights
    )
    tagger = RamTagger(weights, image_size=8)
    assert tagger.tag(noise, WORDS, None) == [["fish", "dog"], [], ["tree"]]
    save_file({"visual_encoder.weight": torch.ones(1, 1)}, tmp_path / "cut.safetensors")
    cut = RamTagger(tmp_path / "cut.safetensors", image_size=8)
    lacking = r"lacks 1 weights of ram_plus \(such as visual_encoder\.bias\)"
    with pytest.raises(UserError, match=lacking):
        cut.tag(noise, WORDS, None)


def test_without_ram_the_message_says_what_to_install_or_choose(monkeypatch, tmp_path, noise):
    monkeypatch.setitem(sys.modules, "ram", None)  # an import of it fails
    save_file({"a": torch.ones(1)}, tmp_path / "ram.safetensors")
    remedy = r"RAM is not installed.*pip install git\+https.*tagger=florence2"
    with pytest.raises(UserError, match=remedy):
        RamTagger(tmp_path / "ram.safetensors").tag(noise, WORDS, None)
    (tmp_path / "ram.pth").write_bytes(b"")
    for path in ("ram.pth", "none.safetensors"):
        with pytest.raises(UserError, match=r"is no safetensors file; docs/annotators\.md"):
            RamTagger(tmp_path / path).tag(noise, WORDS, None)
    with pytest.raises(UserError, match="unknown model of RAM"):
        RamTagger("x", model="ram++")
