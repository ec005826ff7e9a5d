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
from diffusae.errors import UserError, together, unknown
from diffusae.interventions.defences import Defence, no_defence
from diffusae.interventions.guided_prediction import GuidedPredictions, mean_squared_differences
from diffusae.interventions.token_gradient import TokenGradient, single_words
from diffusae.prompts.attacks import KINDS, attacked, names_word, replace_word
from diffusae.prompts.caption_files import read_rows
from diffusae.prompts.token_search import SearchResult, allowed_tokens, search_tokens

TRANSFER, DEFENDED = "tokens_transfer", "tokens_defended"
SEARCHED = (TRANSFER, DEFENDED)
"""Tokens found against the undefended model, and against the defended one itself."""
_HOW = ("format", "column", "delimiter", "encoding")
"""How a user's list is read, as captions are (docs/prompts.md)."""
_LIST = ("name", "path", *_HOW, "target", "most")


def targets_of(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is to go, with the concept prompts of each."""
    return {str(each["name"]): list(each["prompts"]) for each in settings["targets"]}


def check_attacks(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the settings of attacks; nothing is read yet."""
    known, targets = (*KINDS, *SEARCHED), targets_of(settings)
    faults = [
        str(unknown("attack in evaluation.attacks:", each, known))
        for each in settings["attacks"]
        if each not in known
    ]
    if "synonym" in settings["attacks"]:
        faults += [
            f"evaluation.synonyms knows none of {target!r}; add some, or leave the attack out"
            for target in targets
            if not settings["synonyms"].get(target)
        ]
    for place, values in enumerate(settings["lists"]):
        name = f"evaluation.lists[{place}]"
        faults += [
            str(unknown(f"value in {name}:", each, _LIST)) for each in values if each not in _LIST
        ]
        faults += [
            f"{name}.{each} is missing; give it"
            for each in ("name", "path", "target")
            if not values.get(each)
        ]
        if (target := values.get("target")) and target not in targets:
            faults.append(str(unknown(f"target of {name}:", target, targets)))
    return faults


def in_words(
    kind: str, asks: Sequence[Ask], target: str, settings: Mapping[str, Any], *, seed: int
) -> list[Ask]:
    """The asks with their prompts attacked in words; seeds and captions stay."""
    prompts = attacked(
        kind,
        [ask.prompt for ask in asks],
        target,
        synonyms=settings["synonyms"],
        paraphrases=settings["paraphrases"],
        edits=settings["misspelling_edits"],
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
    how: dict[str, Any] = {each: values[each] for each in _HOW if values.get(each) is not None}
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
        settings: Mapping[str, Any],
        *,
        seed: int,
    ) -> None:
        there = [(ask, each) for ask, each in zip(asks, shown, strict=True) if each is not None]
        there = there[: settings["pictures"]]
        assert there
        self._target, self._settings, self._seed = target, settings, seed
        self._captions = [ask.prompt for ask, _ in there]
        pipe = pictures.pipe
        images = torch.from_numpy(np.stack([each for _, each in there]))
        self._predictions = GuidedPredictions(
            pipe,
            encode_pictures(pipe, images, batch_size=pictures.model.batch_size),
            [ask.seed for ask, _ in there],
            steps=settings["steps"],
            batch_size=pictures.model.batch_size,
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
                length=self._settings["length"],
                rounds=self._settings["rounds"],
                candidates=self._settings["candidates"],
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
