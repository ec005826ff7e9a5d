import numpy as np
import pytest
import torch

from diffusae.concepts.image_text import ImageText
from diffusae.concepts.picture_annotator import PictureAnnotator
from diffusae.concepts.style_scores import StyleScorer
from diffusae.errors import UserError
from tiny_annotators import Space, greys


def test_a_score_is_the_cosine_with_the_mean_of_a_values_words():
    space = Space({"a": 0, "b": 90, "c": 60})
    factors = {"style": {"first": ["a", "b"], "second": ["c"]}, "tone": ["a", "b"]}
    scorer = StyleScorer(space, factors)  # type: ignore[arg-type]
    assert scorer.factors == {"style": ("first", "second"), "tone": ("a", "b")}
    low, high = scorer.score(greys(0, 90))
    # The mean of the directions 0 and 90 is the direction 45.
    assert low["style"] == pytest.approx([np.cos(np.pi / 4), 0.5], abs=1e-6)
    assert high["style"] == pytest.approx([np.cos(np.pi / 4), np.cos(np.pi / 6)], abs=1e-6)
    assert low["tone"] == pytest.approx([1, 0], abs=1e-6)


def test_words_stand_in_every_template():
    space = Space({"a x": 0, "a y": 20, "the x": 40, "the y": 60})
    scorer = StyleScorer(space, {"style": ["x", "y"]}, templates=["a {}", "the {}"])  # type: ignore[arg-type]
    (scores,) = scorer.score(greys(20))
    assert scores["style"] == pytest.approx([1, np.cos(np.radians(20))], abs=1e-6)


def test_a_true_clip_model_scores_pictures_alone_and_in_batches_alike(tiny, noise):
    scorer = StyleScorer(ImageText(tiny["clip"]), {"style": ["fish", "tree", "house"]})
    together = scorer.score(noise)
    for row, scores in enumerate(score["style"] for score in together):
        alone = scorer.score(noise[row : row + 1])[0]["style"]
        assert alone == pytest.approx(scores, abs=1e-5)
        assert all(-1 <= score <= 1 for score in scores)
    assert len({tuple(score["style"]) for score in together}) == 3


def test_an_annotators_features_are_the_scorers_vectors_in_batches_of_any_size(tiny, noise):
    scorer = StyleScorer(model := ImageText(tiny["clip"]), {"style": ["fish", "tree"]})
    annotator = PictureAnnotator(None, styles=scorer, vocabulary=["fish"], batch_size=2)  # type: ignore[arg-type]
    assert annotator.features is not None
    vectors = model.embed_images(noise)
    torch.testing.assert_close(annotator.features(noise), vectors, atol=1e-5, rtol=1e-4)
    assert PictureAnnotator(None, vocabulary=["fish"]).features is None  # type: ignore[arg-type]


def test_factors_that_compare_nothing_are_refused_together():
    factors = {"style": ["one"], "tone": {"a": [], "b": ["b"]}}
    with pytest.raises(UserError) as raised:
        StyleScorer(ImageText("unused"), factors, templates=["{}", "word"])
    for part in ("3 faults", "style has 1 values", "tone.a has no words", "'word' must hold {}"):
        assert part in str(raised.value)
    with pytest.raises(UserError, match=r"styles\.factors is empty"):
        StyleScorer(ImageText("unused"), {})
