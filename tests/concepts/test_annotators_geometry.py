"""Geometry of the annotators, from pixels to masks, on rendered pictures with known truth.

No pretrained weights exist here. Functions of the input tensors replace the two networks and answer
as perfect ones would: they recognise a picture by its pixels, find labels by their token ids, and
give logits, boxes and low-resolution mask logits in the networks' own frames. The tests cover all
that lies between: order in batches, the coordinates (picture -> shares -> pixels -> SAM's padded
frame -> picture), thresholds, labels. They do not cover how well real weights find objects.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import GroundingDinoImageProcessorPil, SamImageProcessorPil, SamProcessor

from diffusae.concepts.grounding_dino import GroundingDino, box_iou
from diffusae.concepts.object_finders import GroundedSam
from diffusae.concepts.picture_annotator import PictureAnnotator
from diffusae.concepts.sam import Sam
from diffusae.concepts.taggers import CaptionTagger
from diffusae.concepts.words import Vocabulary
from diffusae.miniature.world import NOUNS, render, sample_scene
from tiny_annotators import bert_tokenizer

# Every second noun has a name of two words, whose parts it shares with others.
NAMES = {noun: f"toy {noun}" if n % 2 else noun for n, noun in enumerate(NOUNS)}
TOKENIZER = bert_tokenizer([*NOUNS, "toy"])


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


class Worlds:
    """Rendered pictures of one size with their masks; recognises a picture by prepared pixels."""

    def __init__(self, seed, n, crop):
        rng = np.random.default_rng(seed)
        drawn = [render(sample_scene(rng)) for _ in range(n)]
        window = (slice(*crop[0]), slice(*crop[1]))
        self.pictures = np.stack([world.picture[window] for world in drawn])
        self.masks = [
            {
                NAMES[noun]: mask[window]
                for noun, mask in world.masks.items()
                if mask[window].sum() > 30
            }
            for world in drawn
        ]
        self.captions = [" and ".join(f"a red {name}" for name in masks) for masks in self.masks]
        pixels = torch.from_numpy(self.pictures).permute(0, 3, 1, 2).float() / 255
        self._thumbs = self._thumbnails(pixels)

    @staticmethod
    def _thumbnails(pixels):
        return F.interpolate(pixels, (8, 8), mode="area")

    def which(self, pixels, mean, deviation):
        """The numbers of the pictures with these prepared pixels [n, 3, h, w], without padding."""
        scale = [torch.tensor(values)[None, :, None, None] for values in (mean, deviation)]
        seen = self._thumbnails(pixels * scale[1] + scale[0])
        distance = (seen[:, None] - self._thumbs[None]).abs().mean(dim=(2, 3, 4))
        assert distance.amin(dim=1).max() < 0.05, "no picture looks like this"
        return distance.argmin(dim=1).tolist()


class PerfectDino:
    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(max_text_len=16)

    def __init__(self, worlds, processor):
        self.worlds, self.processor, self.asked = worlds, processor, []

    def __call__(self, *, pixel_values, pixel_mask, input_ids, attention_mask, token_type_ids):
        assert pixel_mask.all(), "pictures of one size need no padding"
        height, width = self.worlds.pictures.shape[1:3]
        logits = torch.full((len(pixel_values), 8, 16), -8.0)
        boxes = torch.full((len(pixel_values), 8, 4), 0.5)
        which = self.worlds.which(pixel_values, self.processor.image_mean, self.processor.image_std)
        for n, (picture, ids) in enumerate(zip(which, input_ids.tolist(), strict=True)):
            self.asked.append(picture)
            for query, (name, mask) in enumerate(self.worlds.masks[picture].items()):
                left, top, right, bottom = box_of(mask)
                centre = [(left + right) / 2 / width, (top + bottom) / 2 / height]
                extent = [(right - left) / width, (bottom - top) / height]
                boxes[n, query] = torch.tensor([*centre, *extent])
                name_ids = TOKENIZER(name, add_special_tokens=False)["input_ids"]
                for place in range(len(ids)):
                    # A whole phrase, as in ". toy fish .", is stronger than a part of another.
                    if ids[place : place + len(name_ids)] == name_ids and ids[place - 1] in (2, 5):
                        logits[n, query, place : place + len(name_ids)] = 2.0
                for place, token in enumerate(ids):
                    if token in name_ids:
                        logits[n, query, place] = max(float(logits[n, query, place]), -0.5)
        return SimpleNamespace(logits=logits, pred_boxes=boxes)


class PerfectSam:
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, worlds, processor):
        self.worlds, self.processor = worlds, processor
        height, width = worlds.pictures.shape[1:3]
        self.scale = 1024 / max(height, width)
        self.inside = round(height * self.scale), round(width * self.scale)

    def get_image_embeddings(self, pixels):
        assert pixels.shape[1:] == (3, 1024, 1024)
        rows, columns = self.inside
        assert not pixels[:, :, rows:].any(), "padding lies below"
        assert not pixels[:, :, :, columns:].any(), "padding lies right"
        picture, prepared = pixels[:, :, :rows, :columns], self.processor
        return torch.tensor(self.worlds.which(picture, prepared.image_mean, prepared.image_std))

    def __call__(self, *, image_embeddings, input_boxes, multimask_output):
        masks = self.worlds.masks[int(image_embeddings)]
        logits = torch.full((1, input_boxes.shape[1], 1, 256, 256), -8.0)
        for n, box in enumerate(input_boxes[0].tolist()):
            fits = {
                name: box_iou(tuple(box), tuple(self.scale * c for c in box_of(m)))
                for name, m in masks.items()
            }
            name = max(fits, key=lambda noun: fits[noun])
            assert fits[name] > 0.97, "the box is no object's in SAM's frame"
            frame = torch.zeros(1, 1, 1024, 1024)
            frame[..., : self.inside[0], : self.inside[1]] = F.interpolate(
                torch.from_numpy(masks[name])[None, None].float(), self.inside, mode="nearest"
            )
            logits[0, n, 0] = F.interpolate(frame, (256, 256), mode="area")[0, 0] * 16 - 8
        return SimpleNamespace(pred_masks=logits, iou_scores=torch.ones(1, input_boxes.shape[1], 1))


def annotator_of(worlds, *, vocabulary, batch_size, **thresholds):
    detector, segmenter = GroundingDino("unused", **thresholds), Sam("unused", boxes_at_once=2)
    pictures = GroundingDinoImageProcessorPil(size={"shortest_edge": 160, "longest_edge": 200})
    dino = PerfectDino(worlds, pictures)
    detector.__dict__["_parts"] = (dino, TOKENIZER, pictures)
    processor = SamProcessor(SamImageProcessorPil())
    segmenter.__dict__["_parts"] = (PerfectSam(worlds, processor.image_processor), processor)
    own = SimpleNamespace(identity=str, dtype="float32")
    detector.__dict__["_from"] = segmenter.__dict__["_from"] = own
    finder = GroundedSam(CaptionTagger(), detector, segmenter)
    return PictureAnnotator(finder, vocabulary=vocabulary, batch_size=batch_size), dino


@pytest.mark.parametrize(
    "crop",
    [((0, 64), (0, 64)), ((8, 56), (0, 64)), ((0, 64), (0, 40))],
    ids=["64x64", "48x64", "64x40"],
)
def test_masks_of_every_named_object_lie_where_it_was_drawn(crop):
    worlds = Worlds(seed=3, n=6, crop=crop)
    annotator, _ = annotator_of(worlds, vocabulary=Vocabulary(list(NAMES.values())), batch_size=4)
    annotations = annotator.annotate(worlds.pictures, worlds.captions)
    assert sum(map(len, worlds.masks)) >= 8
    ious = []
    for picture, truth in zip(annotations, worlds.masks, strict=True):
        assert set(picture.masks) == set(truth)
        for name, mask in truth.items():
            both = picture.masks[name]
            ious.append((both & mask).sum() / (both | mask).sum())
    assert min(ious) > 0.93 and np.mean(ious) > 0.97


def test_batches_of_any_size_and_texts_of_any_number_give_the_same():
    worlds = Worlds(seed=4, n=5, crop=((0, 64), (0, 64)))
    vocabulary = Vocabulary(list(NAMES.values()))
    results = []
    # Without captions every label is asked for, which takes several texts of 16 tokens.
    for batch_size, captions in ((1, None), (3, None), (5, worlds.captions)):
        annotator, dino = annotator_of(worlds, vocabulary=vocabulary, batch_size=batch_size)
        results.append(annotator.annotate(worlds.pictures, captions))
        assert captions or len(dino.asked) >= 3 * 5
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert set(first.masks) == set(second.masks)
            assert all((first.masks[name] == second.masks[name]).all() for name in first.masks)


def test_a_threshold_above_a_networks_certainty_leaves_no_masks():
    worlds = Worlds(seed=5, n=3, crop=((0, 64), (0, 64)))
    certain, vocabulary = float(torch.tensor(2.0).sigmoid()), Vocabulary(list(NAMES.values()))
    for threshold, kept in ((certain - 0.01, True), (certain + 0.01, False)):
        annotator, _ = annotator_of(
            worlds, vocabulary=vocabulary, batch_size=2, box_threshold=threshold
        )
        annotations = annotator.annotate(worlds.pictures, worlds.captions)
        assert [bool(annotation.masks) for annotation in annotations] == [kept] * 3


def test_a_caption_that_names_an_absent_object_finds_nothing():
    worlds = Worlds(seed=6, n=2, crop=((0, 64), (0, 64)))
    vocabulary = Vocabulary(list(NAMES.values()))
    annotator, dino = annotator_of(worlds, vocabulary=vocabulary, batch_size=2)
    shown = {name for masks in worlds.masks for name in masks}
    absent = next(name for name in NAMES.values() if name not in shown)
    first, second = annotator.annotate(worlds.pictures, [f"a {absent}", "a mood"])
    assert first.masks == {} and second.masks == {}
    assert dino.asked == [0]


def test_pictures_whose_caption_names_nothing_do_not_shift_the_others():
    worlds = Worlds(seed=8, n=4, crop=((0, 64), (0, 64)))
    vocabulary = Vocabulary(list(NAMES.values()))
    annotator, dino = annotator_of(worlds, vocabulary=vocabulary, batch_size=4)
    captions = ["a mood", worlds.captions[1], "fog", worlds.captions[3]]
    annotations = annotator.annotate(worlds.pictures, captions)
    truth = [set(), set(worlds.masks[1]), set(), set(worlds.masks[3])]
    assert [set(annotation.masks) for annotation in annotations] == truth
    assert dino.asked == [1, 3]


def test_synonyms_and_plurals_of_a_caption_lead_to_the_label():
    worlds = Worlds(seed=7, n=1, crop=((0, 64), (0, 64)))
    name = next(iter(worlds.masks[0]))
    vocabulary = Vocabulary([name], {name: ["thingamajig"]})
    annotator, _ = annotator_of(worlds, vocabulary=vocabulary, batch_size=1)
    (annotation,) = annotator.annotate(worlds.pictures, ["three thingamajigs"])
    assert list(annotation.masks) == [name]
