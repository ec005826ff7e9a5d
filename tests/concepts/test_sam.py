import numpy as np
import pytest
import torch

from diffusae.concepts.sam import Sam
from diffusae.errors import UserError


def test_every_box_gets_a_mask_of_the_pictures_size(tiny, noise):
    masks = Sam(tiny["sam"]).segment(
        noise, [[(1.0, 2.0, 30.0, 40.0)], [], [(0, 0, 10, 10), (5, 5, 60, 40)]]
    )
    assert [len(of_picture) for of_picture in masks] == [1, 0, 2]
    for of_picture in masks:
        for mask in of_picture:
            assert mask.shape == (48, 64) and mask.dtype == np.bool_


def test_pictures_without_boxes_are_not_even_encoded(tiny, noise):
    sam = Sam(tiny["sam"])
    seen = []
    sam._parts[0].register_forward_pre_hook(lambda *_: seen.append(1))
    assert sam.segment(noise, [[], [], []]) == [[], [], []] and not seen
    sam.segment(noise, [[], [(0, 0, 9, 9)], []])
    assert len(seen) == 1


def test_masks_are_those_of_the_librarys_own_call(tiny, noise):
    sam = Sam(tiny["sam"])
    model, processor = sam._parts
    boxes = [[1.0, 2.0, 30.0, 40.0], [20.0, 3.0, 63.0, 47.0]]
    inputs = processor(images=noise[1], input_boxes=[boxes], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    with torch.no_grad():
        logits = model(
            pixel_values=inputs["pixel_values"],
            input_boxes=inputs["input_boxes"],
            multimask_output=False,
        ).pred_masks
    theirs = processor.image_processor.post_process_masks(
        logits, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )[0][:, 0]
    pairs = [[], [(*box,) for box in boxes], []]
    assert 0 < theirs.float().mean() < 1
    for at_once in (1, 64):
        ours = Sam(tiny["sam"], boxes_at_once=at_once).segment(noise, pairs)[1]  # type: ignore[arg-type]
        same = (np.stack(ours) == theirs.numpy()).mean()
        assert same > 0.999, "rounding may turn a pixel at the threshold"


def test_the_best_of_three_is_the_one_that_the_model_rates_highest(tiny, noise):
    sam = Sam(tiny["sam"], best_of_three=True)
    model, _ = sam._parts
    with torch.no_grad():
        embedding = model.get_image_embeddings(torch.zeros(1, 3, 64, 64))
        boxes = torch.tensor([[[0.0, 0, 30, 30], [9.0, 9, 60, 60]]])
        made = model(image_embeddings=embedding, input_boxes=boxes, multimask_output=True)
        best = made.iou_scores[0].argmax(dim=1)
        chosen = sam._decode(embedding, boxes)
    assert made.pred_masks.shape[2] == 3
    for n in range(2):
        torch.testing.assert_close(chosen[n, 0], made.pred_masks[0, n, best[n]])


def test_no_boxes_at_once_is_refused():
    with pytest.raises(UserError, match="boxes_at_once=0 must be at least 1"):
        Sam("unused", boxes_at_once=0)
