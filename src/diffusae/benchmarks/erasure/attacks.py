"""The adversarial prompts of one target: of words, of a token search against the model, and of a
user's lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusae.backbone.latents import encode_pictures
from diffusae.benchmarks.erasure.defended import Ask, DefendedPictures
from diffusae.benchmarks.erasure.settings import HOW_READ, ErasureSettings, Search
from diffusae.errors import UserError, together
from diffusae.interventions.defences import Defence, no_defence
from diffusae.interventions.guided_prediction import GuidedPredictions, mean_squared_differences
from diffusae.interventions.token_gradient import TokenGradient, single_words
from diffusae.prompts.attacks import attacked, names_word, replace_word
from diffusae.prompts.caption_files import read_rows
from diffusae.prompts.token_search import SearchResult, allowed_tokens, search_tokens
from diffusae.study.pictures_at_once import pictures_at_once


def in_words(
    kind: str, asks: Sequence[Ask], target: str, settings: ErasureSettings, *, seed: int
) -> list[Ask]:
    """The asks with their prompts attacked in words; seeds and captions stay."""
    prompts = attacked(
        kind,
        [ask.prompt for ask in asks],
        target,
        synonyms=settings.synonyms,
        paraphrases=settings.paraphrases,
        edits=settings.misspelling_edits,
        seed=seed,
    )
    return _with_prompts(asks, prompts)


def with_tokens(asks: Sequence[Ask], target: str, tokens: str) -> list[Ask]:
    """The asks with found tokens in the target's place."""
    return _with_prompts(asks, [replace_word(ask.prompt, target, tokens) for ask in asks])


def listed(values: Mapping[str, Any], *, seed: int) -> list[Ask]:
    """The prompts of a user's list, one of `evaluation.lists`, each with a seed of its own.

    Raises:
        UserError: bad lines, named by number; no prompt.
    """
    name, path, rows = values["name"], Path(values["path"]).expanduser(), []
    if not path.is_file():
        raise UserError(f"evaluation.lists: {name} at {path} is no file; give the file of the list")
    most = values.get("most")
    how: dict[str, Any] = {key: values[key] for key in HOW_READ if values.get(key) is not None}
    for row in read_rows(path, **{"format": None, "column": None, **how}):
        if (
            most is None or len(rows) < most or row.ends
        ):  # a damaged file is refused, wherever it is damaged
            rows.append(row)
    together(
        f"{path}, {row.where}: {row.fault or 'empty; remove it'}"
        for row in rows
        if row.fault or not row.text.strip()
    )
    if not rows:
        raise UserError(f"{path} holds no prompt; give another file in evaluation.lists")
    texts = [row.text.strip() for row in rows]
    return [
        Ask(f"{name}-{place:05d}", seed + place, text, text) for place, text in enumerate(texts)
    ]


class TokenAttack:
    """A search for tokens that bring the target back, against the model under any defence.

    What is minimised is P4D's objective over a few pictures that show the target, whatever the
    defence (`GuidedPredictions`); candidates come from the undefended text encoder's gradient and
    at random.

    Args:
        asks: prompts that name the target, of the tuning split.
        shown: the undefended model's picture of each, where it shows the target; others are None.
            Not all are.
        settings: `evaluation.search`.
    """

    def __init__(
        self,
        pictures: DefendedPictures,
        asks: Sequence[Ask],
        shown: Sequence[np.ndarray | None],
        target: str,
        settings: Search,
        *,
        seed: int,
    ) -> None:
        known = [(ask, image) for ask, image in zip(asks, shown, strict=True) if image is not None]
        known = known[: settings.pictures]
        assert known
        self._target, self._settings, self._seed = target, settings, seed
        self._captions = [ask.prompt for ask, _ in known]
        pipe = pictures.pipe
        images = torch.from_numpy(np.stack([image for _, image in known]))
        size = pictures_at_once(pictures.model, pipe)
        self._predictions = GuidedPredictions(
            pipe,
            encode_pictures(pipe, images, batch_size=size),
            [ask.seed for ask, _ in known],
            steps=settings.steps,
            batch_size=size,
            **pictures.asked,
        )
        self._wanted = self._predictions([self._captions], no_defence())
        self._words = single_words(pipe.tokenizer)
        self._allowed = allowed_tokens(self._words, without=[target])
        self._gradient = TokenGradient(
            pipe.tokenizer,
            pipe.text_encoder,
            self._captions,
            lambda caption, tokens: replace_word(caption, target, tokens),
            lambda caption: first_place(caption, target),
        )
        self._known: dict[str, SearchResult] = {}

    def against(self, defence: Defence) -> SearchResult:
        """The best tokens found; for a defence that leaves attacked prompts alone, those against
        the model without any.
        """
        key = "" if defence.only_words else f"{defence.name} {defence.strength:g}"
        if key not in self._known:
            self._known[key] = search_tokens(
                self._words,
                self._allowed,
                lambda texts: self._losses(texts, defence),
                length=self._settings.length,
                rounds=self._settings.rounds,
                candidates=self._settings.candidates,
                favour=self._gradient,
                seed=self._seed,
            )
        return self._known[key]

    def _losses(self, texts: Sequence[str], defence: Defence) -> torch.Tensor:
        cases = [
            [replace_word(caption, self._target, text) for caption in self._captions]
            for text in texts
        ]
        return mean_squared_differences(self._predictions(cases, defence), self._wanted)


def first_place(caption: str, target: str) -> int:
    """Where the target's word begins in a caption, in characters."""
    marked = replace_word(caption, target, "\0")
    return marked.index("\0")


def named(asks: Sequence[Ask], target: str) -> list[Ask]:
    """Those whose caption holds the target's word, so that attacks can take its place."""
    return [ask for ask in asks if names_word(ask.caption, target)]


def _with_prompts(asks: Sequence[Ask], prompts: Sequence[str]) -> list[Ask]:
    return [
        Ask(ask.image_id, ask.seed, prompt, ask.caption)
        for ask, prompt in zip(asks, prompts, strict=True)
    ]
