from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GroundingDinoImageProcessorPil, GroundingDinoProcessor

from diffusae.concepts.grounding_dino import Box, GroundingDino, Prompt, box_iou
from diffusae.errors import UserError
from tiny_annotators import bert_tokenizer

ALL: dict[str, Any] = {"box_threshold": 1e-6, "text_threshold": 1e-6, "nms_iou": 1.0}


def read(detector, labels, chances, boxes, *, size=(100, 200)):
    """The detector's boxes for chances {token: one a query} and boxes."""
    prompt = Prompt.of(labels)
    tokens = bert_tokenizer()(prompt.text, return_offsets_mapping=True)
    table = torch.zeros(len(boxes), 32)
    for place, values in chances.items():
        table[:, place] = torch.tensor(values)
    return detector._boxes_of(
        prompt, table, torch.tensor(boxes), torch.tensor(tokens["offset_mapping"]), size
    )


def test_labels_of_a_text_are_separated_by_dots_and_known_by_their_characters():
    prompt = Prompt.of(["Dog", "traffic light"])
    assert prompt.text == "dog. traffic light."
    assert [prompt.text[a:b] for a, b in prompt.spans] == ["dog", "traffic light"]


def test_boxes_become_corners_in_pixels_within_the_picture_and_take_the_best_labels_name():
    # [CLS] fish . traffic light . light . [SEP]: tokens 1; 3, 4; 6
    labels = ["fish", "traffic light", "light"]
    boxes = read(
        GroundingDino("unused", box_threshold=0.3, text_threshold=0.25),
        labels,
        {
            1: [0.9, 0.1, 0.1, 0.2, 0.0],
            3: [0.1, 0.8, 0.0, 0.2, 0.5],
            4: [0.1, 0.7, 0.5, 0.2, 0.0],
            6: [0.0, 0.7, 0.6, 0.2, 0.2],
        },
        [
            [0.5, 0.5, 0.5, 0.2],
            [0.1, 0.1, 0.4, 0.4],
            [0.5, 0.5, 1.0, 1.0],
            [0.5, 0.5, 0.1, 0.1],
            [0.5, 0.5, 0.1, 0.1],
        ],
    )
    assert [box.label for box in boxes] == labels
    assert [round(box.score, 3) for box in boxes] == [0.9, 0.8, 0.6]
    assert boxes[0].corners == pytest.approx((50, 40, 150, 60))
    assert boxes[1].corners == pytest.approx((0, 0, 60, 30)), "clipped at the picture's edge"
    assert boxes[2].corners == pytest.approx((0, 0, 200, 100))


def test_a_label_needs_both_thresholds_and_a_box_some_area():
    detector = GroundingDino("unused", box_threshold=0.4, text_threshold=0.35)
    # Two tokens with mean 0.3: the best token passes, the phrase does not.
    assert read(detector, ["traffic light"], {1: [0.5], 2: [0.1]}, [[0.5, 0.5, 0.2, 0.2]]) == []
    assert len(read(detector, ["traffic light"], {1: [0.5], 2: [0.3]}, [[0.5, 0.5, 0.2, 0.2]])) == 1
    assert read(detector, ["fish"], {1: [0.9]}, [[0.5, 0.5, 0.0, 0.2]]) == []
    assert read(detector, ["fish"], {1: [0.39]}, [[0.5, 0.5, 0.2, 0.2]]) == []


def test_a_label_of_several_words_is_as_likely_as_its_words_on_average():
    (box,) = read(
        GroundingDino("unused"),
        ["traffic light", "fish"],
        {1: [0.8], 2: [0.3], 4: [0.6]},
        [[0.5, 0.5, 0.2, 0.2]],
    )
    assert box.label == "fish", "0.6 is above the mean of 0.8 and 0.3"
    assert box.score == pytest.approx(0.8), "the box's own score is its best token's"


def test_chances_of_dots_and_special_tokens_name_nothing():
    chances = {0: [0.9], 2: [0.9], 3: [0.9]}
    assert read(GroundingDino("unused"), ["fish"], chances, [[0.5, 0.5, 0.2, 0.2]]) == []


def test_boxes_and_scores_are_those_of_the_librarys_own_reading():
    tokenizer = bert_tokenizer()
    prompt = Prompt.of(["fish", "traffic light", "star"])
    tokens = tokenizer([prompt.text], return_offsets_mapping=True, return_tensors="pt")
    draw = torch.Generator().manual_seed(0)
    words = [n for n, (a, b) in enumerate(tokens["offset_mapping"][0].tolist()) if b - a > 1]
    logits = torch.full((1, 40, 32), -torch.inf)
    logits[:, :, words] = torch.randn(1, 40, len(words), generator=draw) * 2
    centres = 0.3 + 0.4 * torch.rand(1, 40, 2, generator=draw)
    boxes = torch.cat([centres, 0.05 + 0.5 * torch.rand(1, 40, 2, generator=draw)], dim=2)
    processor = GroundingDinoProcessor(GroundingDinoImageProcessorPil(), tokenizer)
    theirs = processor.post_process_grounded_object_detection(
        SimpleNamespace(logits=logits, pred_boxes=boxes),  # type: ignore[arg-type]
        input_ids=tokens["input_ids"],
        threshold=0.6,
        target_sizes=[(100, 200)],
    )[0]
    ours = GroundingDino("unused", box_threshold=0.6, text_threshold=1e-6)._boxes_of(
        prompt, logits[0].sigmoid(), boxes[0], tokens["offset_mapping"][0], (100, 200)
    )
    assert 5 < len(ours) < 40
    assert [box.score for box in ours] == pytest.approx(theirs["scores"].tolist())
    expected = theirs["boxes"].clamp(min=0).minimum(torch.tensor([200.0, 100, 200, 100]))
    torch.testing.assert_close(torch.tensor([box.corners for box in ours]), expected)
    for box, text in zip(ours, theirs["text_labels"], strict=True):
        if text in prompt.labels:  # one whole phrase above the text threshold: no ambiguity
            assert box.label == text


def test_of_boxes_that_overlap_much_the_best_stays_whatever_their_labels():
    detector = GroundingDino("unused", nms_iou=0.5)
    boxes = [
        Box("cat", 0.5, (0, 0, 10, 10)),
        Box("dog", 0.9, (0, 0, 10, 9)),
        Box("dog", 0.4, (5, 0, 15, 10)),
    ]
    assert detector._without_doubles(boxes) == [boxes[1], boxes[2]]
    everything = GroundingDino("unused", nms_iou=1.0)._without_doubles(boxes)
    assert everything == [boxes[1], boxes[0], boxes[2]]


CORNERS = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@given(first=CORNERS, second=CORNERS)
def test_iou_of_boxes_counts_pixels(first, second):
    pixels = [
        {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}
        for box in (first, second)
    ]
    union = len(pixels[0] | pixels[1])
    expected = len(pixels[0] & pixels[1]) / union if union else 0
    assert box_iou(first, second) == pytest.approx(expected)


def test_the_model_is_asked_for_each_pictures_own_labels_and_not_at_all_without(tiny, noise):
    detector = GroundingDino(tiny["grounding_dino"], **ALL)
    boxes = detector.detect(noise, [["fish", "hot dog"], [], ["tree"]])
    assert len(boxes[0]) > 5 and boxes[1] == [] and len(boxes[2]) > 5, "all queries pass 1e-6"
    assert {box.label for box in boxes[0]} <= {"fish", "hot dog"}
    assert {box.label for box in boxes[2]} == {"tree"}
    for box in boxes[0] + boxes[2]:
        left, top, right, bottom = box.corners
        assert 0 <= left < right <= 64 and 0 <= top < bottom <= 48


def test_a_batch_finds_what_single_pictures_find(tiny, noise):
    detector = GroundingDino(tiny["grounding_dino"], **ALL)
    labels = [["fish", "house", "traffic light"], ["tree"], ["star", "fish"]]
    together = detector.detect(noise, labels)
    for row, own_labels in enumerate(labels):
        alone = detector.detect(noise[row : row + 1], [own_labels])[0]
        key = lambda box: box.corners  # noqa: E731
        ours, theirs = sorted(together[row], key=key), sorted(alone, key=key)
        assert [b.label for b in ours] == [b.label for b in theirs]
        corners = [torch.tensor([box.corners for box in boxes]) for boxes in (ours, theirs)]
        torch.testing.assert_close(*corners, atol=0.01, rtol=0)


def test_labels_that_do_not_fit_into_one_text_take_several(tiny):
    detector = GroundingDino(tiny["grounding_dino"])
    many = ["fish", "traffic light", "house", "tree", "hot dog", "boat"] * 4
    texts = detector._prompts(many)
    assert [label for text in texts for label in text.labels] == many
    lengths = [len(bert_tokenizer()(text.text)["input_ids"]) for text in texts]
    assert len(texts) > 1 and max(lengths) <= 32 < lengths[0] + 4
    one_each = GroundingDino(tiny["grounding_dino"], labels_at_once=1)._prompts(many[:3])
    assert [text.labels for text in one_each] == [("fish",), ("traffic light",), ("house",)]
    with pytest.raises(UserError, match="has 31 tokens; the detector reads 30: shorten it"):
        detector._prompts([" ".join(["fish"] * 30)])


def test_settings_out_of_range_are_refused_together():
    with pytest.raises(UserError) as raised:
        GroundingDino("unused", box_threshold=0, text_threshold=2, nms_iou=-1, labels_at_once=0)
    settings = ("box_threshold=0", "text_threshold=2", "nms_iou=-1", "labels_at_once=0")
    for part in ("4 faults", *settings):
        assert part in str(raised.value)
