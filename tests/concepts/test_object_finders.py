import numpy as np
import pytest
import torch
from transformers import CLIPSegProcessor

from diffusae.concepts.object_finders import ClipSeg
from diffusae.concepts.taggers import CaptionTagger
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError
from diffusae.evaluation.intervention_success import centre_of_mass, in_region
from diffusae.interventions.regions import Region

WORDS = Vocabulary(["fish", "tree", "house"])


def test_heat_is_the_librarys_own_resized_to_the_picture(tiny, noise):
    finder = ClipSeg(CaptionTagger(), tiny["clipseg"])
    model, tokenizer, image_processor = finder._parts
    heat = finder.heat(noise, ["fish", "tree", "fish"])
    assert heat.shape == (3, 48, 64) and heat.min() >= 0 and heat.max() <= 1
    inputs = CLIPSegProcessor(image_processor, tokenizer)(
        text=[f"a photo of a {noun}" for noun in ("fish", "tree", "fish")],
        images=list(noise),
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    large = torch.nn.functional.interpolate(logits[:, None], size=(48, 64), mode="bilinear")
    torch.testing.assert_close(heat, large[:, 0].sigmoid())
    torch.testing.assert_close(finder.heat(noise[:1], ["fish"]), heat[:1], atol=1e-4, rtol=1e-4)


class Answer:
    """A model of one bright square for its own word; the picture's first pixel says where."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, word):
        self.word, self.batches = word, []

    def __call__(self, *, pixel_values, input_ids, attention_mask):
        self.batches.append(len(pixel_values))
        logits = torch.full((len(pixel_values), 32, 32), -5.0)
        for n, (pixels, ids) in enumerate(zip(pixel_values, input_ids, strict=True)):
            if self.word in ids:
                right, lower = int(pixels[0, 0, 0] > 0), int(pixels[1, 0, 0] > 0)
                logits[n, lower * 16 + 4 : lower * 16 + 12, right * 16 + 4 : right * 16 + 12] = 5.0
        # Of one pair the library leaves the axis out.
        return type("Output", (), {"logits": logits.squeeze(0)})


@pytest.mark.parametrize("at_once", [1, 4, 32])
def test_the_centre_of_mass_of_a_mask_is_where_the_heat_is(tiny, at_once):
    finder = ClipSeg(CaptionTagger(), tiny["clipseg"], pairs_at_once=at_once)
    fish = finder._parts[1].convert_tokens_to_ids("fish")
    answer = Answer(fish)
    finder.__dict__["_parts"] = (answer, *finder._parts[1:])
    places = [(0, 0), (255, 0), (0, 255), (255, 255)]
    pictures = np.zeros((4, 40, 80, 3), np.uint8)
    for picture, (right, lower) in zip(pictures, places, strict=True):
        picture[:, :, 0], picture[:, :, 1] = right, lower
    objects = finder.find(
        pictures, WORDS, ["a fish and a tree", "fish", "fish", "the tree and fish"]
    )
    regions = [
        Region(name).mask((40, 80)).numpy()
        for name in ("top_left", "top_right", "bottom_left", "bottom_right")
    ]
    assert sum(answer.batches) == 6 and max(answer.batches) <= at_once
    for number, instances in enumerate(objects):
        masks = dict(instances)
        assert masks["fish"].shape == (40, 80)
        inside = [in_region(masks["fish"], region) for region in regions]
        assert inside == [n == number for n in range(4)]
        if "tree" in masks:
            assert not masks["tree"].any()
    row, column = centre_of_mass(dict(objects[1])["fish"])
    # Rows 4 to 12 and columns 20 to 28 of 32: the middle is a quarter down, three quarters right.
    assert (row, column) == pytest.approx((40 / 4 - 0.5, 80 * 3 / 4 - 0.5), abs=0.6)


@pytest.mark.parametrize(
    "setting", [{"template": "x"}, {"threshold": 0}, {"threshold": 1.0}, {"pairs_at_once": 0}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=r"objects\."):
        ClipSeg(CaptionTagger(), "unused", **setting)
