"""What the erasure benchmark tried: a row a picture, distances of whole sets, and examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd

from diffusae.benchmarks.erasure.defended import Ask, DefendedPictures, Seen
from diffusae.benchmarks.erasure.target_prompts import TargetPrompts
from diffusae.evaluation.erasure import COLUMNS, OTHERS, PLAIN, ErasurePoint, Point, Table, points
from diffusae.evaluation.kernel_distance import kernel_distance
from diffusae.evaluation.result import Estimate, Resampling
from diffusae.interventions import defences as kinds
from diffusae.interventions.defences import Defence
from diffusae.report.before_after import Kept


class Trials:
    """Makes pictures under defences and keeps what they show.

    Args:
        own: the name of the cell's own autoencoder, by which text edits are told from those of
            other autoencoders.
    """

    def __init__(
        self, pictures: DefendedPictures, *, own: str, **resampling: Unpack[Resampling]
    ) -> None:
        self.pictures, self.own, self.resampling = pictures, own, resampling
        self.rows: list[dict[str, Any]] = []
        self.distances: dict[tuple[str, str, str, float], Estimate] = {}
        self.kept: list[Kept] = []

    @property
    def table(self) -> Table:
        """A row a picture."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def points(self) -> list[ErasurePoint]:
        """The figures of all trials."""
        return points(self.table, self.distances)

    def both(self, target: str, defence: Defence, prompts: TargetPrompts, split: str) -> list[Seen]:
        """Plain prompts and others; what is seen in the plain ones comes back."""
        plain = self.see(target, defence, prompts.named[split], split, PLAIN)
        others = self.see(target, defence, prompts.others[split], split, OTHERS)
        features = [seen.features for seen in others]
        if split == "test" and all(of_picture is not None for of_picture in features):
            stacked = np.stack([of_picture for of_picture in features if of_picture is not None])
            place = (target, self.variant(defence), defence.name, defence.strength)
            if defence.name == kinds.NONE:
                self._unharmed = stacked
            else:
                self.distances[place] = kernel_distance(self._unharmed, stacked, **self.resampling)
        return plain

    def see(
        self,
        target: str,
        defence: Defence,
        asks: Sequence[Ask],
        split: str,
        kind: str,
        *,
        variant: str | None = None,
    ) -> list[Seen]:
        """Make the pictures, and put a row of each into the table."""
        what = f"{target}: {defence.name} {defence.strength:g}, {kind}"
        all_seen = self.pictures.see(asks, defence, target, what=what)
        for ask, seen in zip(asks, all_seen, strict=True):
            self.rows.append(
                {
                    "target": target,
                    "variant": self.variant(defence) if variant is None else variant,
                    "defence": defence.name,
                    "strength": float(defence.strength),
                    "split": split,
                    "kind": kind,
                    "image_id": ask.image_id,
                    "prompt": ask.prompt,
                    "found": seen.found,
                    "nouns_found": _number(seen.aligned.nouns_found),
                    "style_reached": _number(seen.aligned.style_reached),
                    "aligned": _number(seen.aligned.aligned),
                }
            )
        return all_seen

    def keep(
        self, target: str, chosen: Iterable[Defence], prompts: TargetPrompts, *, examples: int
    ) -> None:
        """The first plain prompts under the chosen defences, and the first
        others.
        """
        for split_kind, asks in ((PLAIN, prompts.named["test"]), (OTHERS, prompts.others["test"])):
            few = asks[:examples]
            for defence in chosen:
                for ask, seen in zip(
                    few, self.pictures.see(few, defence, target, what="examples"), strict=True
                ):
                    erased = not seen.found if split_kind == PLAIN else seen.aligned.aligned == 1
                    case = f"{target} to go" if split_kind == PLAIN else f"{target} not asked for"
                    method = "no_edit" if defence.name == kinds.NONE else defence.name
                    self.kept.append(
                        Kept(
                            case,
                            ask.image_id,
                            ask.prompt,
                            method,
                            defence.strength,
                            bool(erased),
                            seen.picture,
                        )
                    )

    def variant(self, defence: Defence) -> str:
        """The autoencoder of a defence; "" where it has none."""
        return self.own if defence.name == kinds.TEXT_EDIT else ""

    def point(self, defence: Defence) -> Point:
        """What the figures of a defence are called by."""
        return self.variant(defence), defence.name, float(defence.strength)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
