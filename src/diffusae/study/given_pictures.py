"""The given pictures of a study: which there are, in which split, and what the configuration may
say of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, get_args

from omegaconf import DictConfig

from diffusae.capture.quantities import Quantity
from diffusae.errors import UserError, unknown
from diffusae.jobs.progress import progress_bar
from diffusae.pictures.decode import Undecodable
from diffusae.pictures.given import GivenPicture, PictureSource, dealt, listing_hash
from diffusae.prompts.hash_split import HashSplit
from diffusae.prompts.prompt_set import SPLITS, Prompt, check_counts

KINDS = ("generation", "pictures", "text")

_TOLD = 20
"""Pictures that one message names."""


def branch_of_prompt(prompt: str) -> str:
    """The conditioning of a pass under this prompt: the empty one is the unconditional branch."""
    return "cond" if prompt else "uncond"


def collection_faults(cfg: DictConfig) -> Iterator[str]:
    """Every fault of `collection` itself."""
    collection = cfg.collection
    if collection.kind not in KINDS:
        yield str(unknown("collection.kind", collection.kind, KINDS))
    elif collection.kind == "pictures":
        if collection.record not in get_args(Quantity):
            yield str(unknown("collection.record", collection.record, get_args(Quantity)))
        flags = ("pooled", "skip_undecodable", "random_weights")
        prompt = collection.prompt
        if not isinstance(prompt, str):
            yield f"collection.prompt={prompt} must be a text, empty for none"
        for name in flags:
            if not isinstance(collection[name], bool):
                yield f"collection.{name}={collection[name]} must be true or false"
        if (
            not isinstance(collection.random_weights_seed, int)
            or collection.random_weights_seed < 0
        ):
            yield (
                f"collection.random_weights_seed={collection.random_weights_seed} must be a whole"
                " number from 0"
            )
        for check in (_check_counts, _check_shares):
            try:
                check(collection)
            except UserError as error:
                yield str(error).replace("prompts.", "collection.")
    elif collection.kind == "text" and not isinstance(collection.start_token, bool):
        yield f"collection.start_token={collection.start_token} must be true or false"


def _check_counts(collection: DictConfig) -> None:
    check_counts(collection.counts, open_ended=collection.shares is not None)


def _check_shares(collection: DictConfig) -> None:
    if collection.shares is not None:
        HashSplit(collection.shares, seed=collection.split_seed)


@dataclass(frozen=True)
class GivenPictures:
    """The pictures of a source in their splits, numbered in that order."""

    source: PictureSource
    pictures: tuple[GivenPicture, ...]

    @classmethod
    def of(cls, collection: Mapping[str, Any], source: PictureSource) -> Self:
        """The pictures that `collection` asks for of a source.

        Raises:
            UserError: there are none.
        """
        counts = {
            split: count for split in SPLITS if (count := collection["counts"].get(split, 0)) != 0
        }
        shares, seed = collection["shares"], collection["split_seed"]
        split_of = _no_split if shares is None else HashSplit(shares, seed=seed)
        pictures = dealt(source.listed(), counts=counts, split_of=split_of, seed=seed)
        if not pictures:
            raise UserError("there are no pictures; raise the counts under collection.counts")
        return cls(source, tuple(pictures))

    def prompts(self, text: str, *, first_seed: int) -> list[Prompt]:
        """Each picture as a prompt with its id, the seed of its noise and its split."""
        return [
            Prompt(f"{place:06d}", text, first_seed + place, picture.split, picture.name)
            for place, picture in enumerate(self.pictures)
        ]

    def __getitem__(self, image_id: str) -> GivenPicture:
        return self.pictures[int(image_id)]

    @cached_property
    def listing(self) -> str:
        """One hash over all names, splits and labels, and the source's own."""
        told = (f"{each.name} {each.split} {sorted(each.labels.items())}" for each in self.pictures)
        return listing_hash([self.source.fingerprint(), *told])

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
            rest = f"\n  - and {len(faults) - _TOLD} more" if len(faults) > _TOLD else ""
            raise UserError(
                f"{undecodable(len(faults), len(prompts))}:\n  - "
                + "\n  - ".join(faults[:_TOLD])
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
