"""Edited pictures: what lies before the first edit is made once, and changes nothing."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from composing import compose
from diffusae.interventions.exchange import Exchange
from diffusae.interventions.text import TextEdit
from diffusae.prompts.prompt_set import Prompt
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.steering.edited import EditedPictures, Place, Trial
from diffusae.study.study import Study
from sae.pretend_device import ELSEWHERE, TO_DEVICE, TO_HOST, Elsewhere, pretend_device

PROMPTS = [
    Prompt(f"p{n}", text, n, "test")
    for n, text in enumerate(("a flat red fish", "a blue cat", "a green star"))
]
MIDDLE = Place("down", (0.6, 0.2))


class Push:
    """Adds a constant to every update, and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, updates, grid):
        self.calls += 1
        return torch.full_like(updates, 2.0)


@pytest.fixture(scope="module")
def study():
    return Study(compose("evaluate", overrides=["debug=tiny", "model.steps=6"]))


def pictures_of(study, *places):
    return EditedPictures(study, places or [MIDDLE], conditionings=["cond"])


def denoiser_runs(pictures, trials):
    """How often the denoiser's first layer ran, and the pictures."""
    runs = []
    handle = pictures.pipe.unet.conv_in.register_forward_hook(lambda *_: runs.append(1))
    try:
        made = pictures.make(trials, what="pictures")
    finally:
        handle.remove()
    return len(runs), np.stack([image for image, _ in made])


def test_steps_before_the_first_place_are_replayed_whatever_the_batch(study):
    edited = [Trial(prompt, (Push(),)) for prompt in (PROMPTS[2], PROMPTS[0])]
    fresh_runs, fresh = denoiser_runs(pictures_of(study), edited)
    pictures = pictures_of(study)
    unedited_runs, _ = denoiser_runs(pictures, [Trial(prompt) for prompt in PROMPTS])
    replayed_runs, replayed = denoiser_runs(pictures, edited)
    # t = 1, .8, .6, .4, .2, 0: the first two lie before the window.
    assert (fresh_runs, unedited_runs, replayed_runs) == (6, 6, 4)
    assert np.abs(replayed.astype(int) - fresh.astype(int)).max() <= 1


def test_what_is_replayed_leaves_the_device_once_a_batch_and_comes_back_once_a_batch(study):
    """Two pictures, six steps of one pass: only t = 1 and .8 lie before the place."""
    pipe = SimpleNamespace(device=ELSEWHERE)
    pictures = EditedPictures(study, [MIDDLE], conditionings=["cond"], pipe=pipe)
    both = ("uncond", "cond")
    whole = torch.arange(6 * 4 * 3.0).reshape(6, 4, 3)  # steps, rows of the pass, numbers
    made, again = [Trial(PROMPTS[0]), Trial(PROMPTS[1])], [Trial(PROMPTS[1]), Trial(PROMPTS[0])]
    with pretend_device() as crossed:
        outputs: Any = {float(6 - n): {both: (Elsewhere(whole[n]),)} for n in range(6)}
        pictures._keep(made, outputs)
        assert crossed == {TO_HOST: 1}
        replayed = pictures._replayed(again)
        assert crossed == {TO_HOST: 1, TO_DEVICE: 1}
    assert list(replayed) == [6.0, 5.0]
    for n, passes in enumerate(replayed.values()):
        (sample,) = passes[both]
        assert torch.equal(sample.here, whole[n][[1, 0, 3, 2]])


def test_an_unedited_picture_and_an_edited_one_share_no_batch(study):
    push = Push()
    trials = [Trial(PROMPTS[0]), Trial(PROMPTS[0], (push,)), Trial(PROMPTS[0], (None,))]
    _, (plain, edited, untouched) = denoiser_runs(pictures_of(study), trials)
    assert push.calls == 3  # t = .6, .4, .2
    assert np.abs(untouched.astype(int) - plain.astype(int)).max() <= 1
    assert np.abs(edited.astype(int) - plain.astype(int)).max() > 1


def test_an_edit_from_the_first_step_on_shares_a_batch_with_the_picture_without_it(study):
    early = Place("down", (1.0, 0.6))
    trials = [Trial(PROMPTS[0]), Trial(PROMPTS[0], (Push(),)), Trial(PROMPTS[1])]
    alone = [denoiser_runs(pictures_of(study, early), [trial])[1] for trial in trials]
    runs, made = denoiser_runs(pictures_of(study, early), trials)
    assert runs == 6  # of one batch
    assert np.abs(made.astype(int) - np.concatenate(alone).astype(int)).max() <= 1
    plain, edited, _ = made
    assert np.abs(edited.astype(int) - plain.astype(int)).max() > 1


def test_every_place_has_its_own_change_and_window(study):
    early, late = Push(), Push()
    pictures = pictures_of(study, Place("down", (1.0, 0.7)), Place("up_outer", (0.1, 0.0)))
    pictures.make([Trial(PROMPTS[0], (early, late))], what="pictures")
    assert (early.calls, late.calls) == (2, 1)


def test_text_and_updates_are_edited_in_one_picture_and_no_step_of_it_is_replayed(study):
    """Another encoding changes every step, so that what the unedited picture kept does not
    serve.
    """
    text = TextEdit("text_2", SparseAutoencoder(128, 256, TopK(8), seed=0), "neon", 0.5)
    pictures = pictures_of(study)
    runs, (plain,) = denoiser_runs(pictures, [Trial(PROMPTS[0])])
    steered_runs, (steered,) = denoiser_runs(pictures, [Trial(PROMPTS[0], text=(text,))])
    both_runs, (both,) = denoiser_runs(pictures, [Trial(PROMPTS[0], (Push(),), (text,))])
    assert (runs, steered_runs, both_runs) == (6, 6, 6)
    for one, other in ((plain, steered), (steered, both), (plain, both)):
        assert np.abs(one.astype(int) - other.astype(int)).max() > 1


def test_a_captions_steps_before_an_exchange_are_replayed(study):
    def exchanged(first):
        return [
            Trial(prompt, exchange=Exchange(f"{prompt.text} at night", (first, 0.0)))
            for prompt in (PROMPTS[2], PROMPTS[0])
        ]

    def pictures():
        return EditedPictures(study, [], conditionings=["cond"], last_exchange=0.4)

    _, fresh = denoiser_runs(pictures(), exchanged(0.4))
    kept = pictures()
    kept.make([Trial(prompt) for prompt in PROMPTS], what="pictures")
    runs, replayed = denoiser_runs(kept, exchanged(0.4))
    assert runs == 3  # t = 1, .8, .6 lie before
    assert np.abs(replayed.astype(int) - fresh.astype(int)).max() <= 1
    runs, whole = denoiser_runs(kept, exchanged(1.0))
    assert runs == 6
    assert np.abs(whole.astype(int) - replayed.astype(int)).max() > 1


def test_exchanges_that_begin_at_different_moments_share_no_batch():
    early, late = (Trial(PROMPTS[0], exchange=Exchange("a", (t, 0.0))) for t in (0.9, 0.4))
    other = Trial(PROMPTS[1], exchange=Exchange("b", (0.9, 0.5)))
    assert early.goes_with(other)
    assert not early.goes_with(late) and not early.goes_with(Trial(PROMPTS[0]))


def test_the_annotator_looks_for_the_nouns_of_all_captions():
    trial = Trial(PROMPTS[0], exchange=Exchange("a blue owl", (1.0, 0.0)), also=("a bee",))
    assert trial.looked_for == "a flat red fish , a blue owl , a bee"


def test_pictures_of_different_text_edits_share_no_batch():
    sae = SparseAutoencoder(128, 256, TopK(8), seed=0)
    weak, strong = (TextEdit("text_2", sae, "neon", strength) for strength in (0.5, 1.0))
    same = TextEdit("text_2", sae, "neon", 0.5)
    assert Trial(PROMPTS[0], text=(weak,)).goes_with(Trial(PROMPTS[1], text=(same,)))
    assert not Trial(PROMPTS[0], text=(weak,)).goes_with(Trial(PROMPTS[0], text=(strong,)))
    assert not Trial(PROMPTS[0], text=(weak,)).goes_with(Trial(PROMPTS[0]))
