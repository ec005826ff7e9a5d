"""The gradient that leads a token search: against finite differences of the embedding."""

import torch

from diffusae.interventions.token_gradient import TokenGradient, single_words

CAPTION = "a cat b"


def replaced(caption: str, text: str) -> str:
    return caption.replace("cat", text)


def favour(pipe) -> TokenGradient:
    index = CAPTION.index("cat")
    return TokenGradient(pipe.tokenizer, pipe.text_encoder, [CAPTION], replaced, lambda _: index)


def test_whole_words_are_tokens_that_end_a_word(pipe):
    words = single_words(pipe.tokenizer)
    assert {word for word in words if word} == {*"abcdefghijklmnopqrstuvwxyz", "cat"}
    for place, word in enumerate(words):
        if word:
            assert pipe.tokenizer(word, add_special_tokens=False).input_ids == [place]


def test_the_searched_place_follows_the_text_before_the_word(pipe):
    assert favour(pipe).places == [2]  # the start, "a"


def test_a_score_is_the_first_order_change_of_the_distance(pipe):
    guide = favour(pipe)
    scores = guide("x y", 1)
    weight = pipe.text_encoder.get_input_embeddings().weight
    token, other = (
        pipe.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("y", "q")
    )
    direction, own = (
        (weight[other] - weight[token]).detach().clone(),
        weight[token].detach().clone(),
    )
    step = 1e-3

    def distance() -> float:
        with torch.no_grad():
            return float((guide._encode(["a x y b"]) - guide.wanted).square().sum())

    try:
        changed = []
        for sign in (1, -1):
            weight.data[token] = own + sign * step * direction
            changed.append(distance())
    finally:
        weight.data[token] = own
    slope = (changed[0] - changed[1]) / (2 * step)
    torch.testing.assert_close(float(scores[token] - scores[other]), slope, rtol=2e-2, atol=1e-4)


def test_the_original_captions_have_distance_0(pipe):
    guide = favour(pipe)
    with torch.no_grad():
        assert torch.equal(guide._encode([CAPTION]), guide.wanted)
