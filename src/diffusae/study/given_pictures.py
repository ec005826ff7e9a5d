"""The given pictures of a study, each in its split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from diffusae.errors import UserError
from diffusae.jobs.progress import progress_bar
from diffusae.pictures.decode import Undecodable
from diffusae.pictures.given import GivenPicture, PictureSource, assign_splits, listing_hash
from diffusae.prompts.hash_split import HashSplit
from diffusae.prompts.prompt_set import SPLITS, Prompt
from diffusae.study.settings import PictureCollection

MOST_NAMED = 20
"""Pictures that one message names."""


def branch_of_prompt(prompt: str) -> str:
    """The conditioning of a pass under this prompt: the empty one is the unconditional branch."""
    return "cond" if prompt else "uncond"


@dataclass(frozen=True)
class GivenPictures:
    """The pictures of a source in their splits, numbered in that order."""

    source: PictureSource
    pictures: tuple[GivenPicture, ...]

    @classmethod
    def of(cls, collection: PictureCollection, source: PictureSource) -> Self:
        """The pictures that `collection` asks for of a source.

        Raises:
            UserError: there are none.
        """
        counts = {
            split: count for split in SPLITS if (count := collection.counts.get(split, 0)) != 0
        }
        shares, seed = collection.shares, collection.split_seed
        split_of = _no_split if shares is None else HashSplit(shares, seed=seed)
        pictures = assign_splits(source.listed(), counts=counts, split_of=split_of, seed=seed)
        if not pictures:
            raise UserError("there are no pictures; raise the counts under collection.counts")
        return cls(source, tuple(pictures))

    def prompts(self, text: str, *, first_seed: int) -> list[Prompt]:
        """One prompt a picture, with its id, the seed of its noise and its split."""
        return [
            Prompt(f"{place:06d}", text, first_seed + place, picture.split, picture.name)
            for place, picture in enumerate(self.pictures)
        ]

    def __getitem__(self, image_id: str) -> GivenPicture:
        return self.pictures[int(image_id)]

    @cached_property
    def listing(self) -> str:
        """One hash over all names, splits and labels, and the source's own."""
        lines = (f"{p.name} {p.split} {sorted(p.labels.items())}" for p in self.pictures)
        return listing_hash([self.source.fingerprint(), *lines])

    def decodable(self, prompts: Sequence[Prompt], *, skip: bool) -> tuple[list[Prompt], list[str]]:
        """The pictures that decode, and what is wrong with the others. Every picture is decoded for
        this, one at a time.

        Raises:
            UserError: some do not, and they are not to be skipped; they are counted and named.
        """
        if self.source.drawn:
            return list(prompts), []
        good: list[Prompt] = []
        faults: list[str] = []
        with progress_bar("pictures checked", total=len(prompts)) as (advance, _):
            for prompt in prompts:
                try:
                    self.source.picture(self[prompt.image_id].place)
                    good.append(prompt)
                except Undecodable as error:
                    faults.append(f"{prompt.where}: {error}")
                advance(1)
        if faults and not skip:
            rest = f"\n  - and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
            raise UserError(
                f"{undecodable(len(faults), len(prompts))}:\n  - "
                + "\n  - ".join(faults[:MOST_NAMED])
                + f"{rest}\nmend or remove them, or leave them out with"
                " collection.skip_undecodable=true"
            )
        if not good:
            raise UserError(
                f"no picture decodes, of {len(prompts)} in all, such as {faults[0]}; give others"
            )
        return good, faults


def undecodable(count: int, total: int) -> str:
    """How many pictures do not decode, as a sentence."""
    return (
        f"{count} of {total} picture{'s' * (total != 1)} {'does' if count == 1 else 'do'} not"
        " decode"
    )


def _no_split(name: str) -> str:
    raise UserError(f"{name} belongs to no split; give collection.shares")
