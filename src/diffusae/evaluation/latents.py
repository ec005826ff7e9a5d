"""The statistics of a cell's latents in one table, and their summary.

A latent that is active in fewer pictures than `minimum_pictures` is *rare*: it has a row, but its
entropies are NaN and it counts in no summary. The others are *judged*.

- noun_entropy, style_entropy: bits, see `label_entropy`; lower = purer.
- context_free_fraction: the share of judged latents whose `position_share` (the share of a map's
  variance that lies between positions, see `concepts.statistics`) reaches a threshold. The paper's
  context-free features have a low variance over pictures (Emergence, arXiv 2504.15473, section 4);
  the share is that variance, independent of a latent's strength. Range [0, 1]; such latents name
  nothing, so lower is better.
- stability: mean cosine with the partner in an SAE of another seed, see `stability`; higher is
  better.

Empty cases: no judged latents, no labels or no other SAE: no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from diffusae.errors import UserError
from diffusae.evaluation.label_entropy import LabelVotes, Votes
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import NO_DATA, Estimate, Resampling, Result, bootstrap_mean
from diffusae.evaluation.stability import matched_cosines
from diffusae.settings import Settings, Within

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class LatentJudging(Settings, part="evaluation"):
    """How latents are judged."""

    n_top: Annotated[int, Within(1, 10**7)]
    """Pictures: those with the highest spatial means are a latent's top pictures."""
    minimum_pictures: Annotated[int, Within(1, 10**7)]
    """A latent that is active in fewer is judged by nothing but how often it fires."""
    context_free: Annotated[float, Within(1e-9, 1)]
    """The share of a map's variance between positions from which a latent is context-free."""
    n_draws: Annotated[int, Within(1, 10**7)]
    """Of random pictures, for the baseline."""


def latent_table(
    statistics: pd.DataFrame,
    *,
    votes: Mapping[str, Votes],
    judging: LatentJudging,
    stability: Float[Tensor, " d_sae"] | None = None,
) -> pd.DataFrame:
    """The statistics of every latent with `rare`, `context_free`, entropies and `stability`.

    Args:
        statistics: one row a latent: `pictures_active`, `position_share` and `top_images` among its
            columns.
        votes: kind of label ("noun", "style") -> labels of every picture.
        stability: the cosine of each latent with its partner; None: NaN in the table.
    """
    table = statistics.copy()
    table["rare"] = table["pictures_active"] < judging.minimum_pictures
    table["context_free"] = ~table["rare"] & (table["position_share"] >= judging.context_free)
    top = [list(pictures)[: judging.n_top] for pictures in table["top_images"]]
    for kind, of_kind in votes.items():
        entropies = LabelVotes(of_kind).entropies(top)
        table[f"{kind}_entropy"] = np.where(table["rare"], np.nan, entropies)
    table["stability"] = np.nan if stability is None else stability.numpy()
    return table


def latent_results(
    table: pd.DataFrame,
    *,
    votes: Mapping[str, Votes],
    judging: LatentJudging,
    shuffled_position_share: Sequence[float],
    random_stability: Sequence[float] | None,
    cell: Mapping[str, Any],
    **resampling: Unpack[Resampling],
) -> list[Result]:
    """The rows of a cell, with intervals over its judged latents.

    Baselines: for entropies, as many pictures drawn at random; for context-free latents, the
    position shares of the same codes with the positions of every picture shuffled; for stability,
    the partners of the same latents among random directions.
    """
    mean, seed = partial(bootstrap_mean, **resampling), resampling.get("seed", 0)
    rare = table["rare"].to_numpy(dtype=bool)
    active = table["pictures_active"].to_numpy()
    judged: Any = table[~rare]
    details = {
        "n_judged": len(judged),
        "n_rare": int((rare & (active > 0)).sum()),
        "n_silent": int((active == 0).sum()),
        "n_top": judging.n_top,
        "minimum_pictures": judging.minimum_pictures,
    }

    def row(
        metric: str, own: Estimate, unit: str, beside: dict[str, Estimate], **more: Any
    ) -> Result:
        higher = metric == "stability"
        about = details | more
        return Result(metric, own, higher, unit, dict(cell), beside, about, version=VERSION)

    rows = []
    for kind, of_kind in votes.items():
        entropies = judged[f"{kind}_entropy"].dropna()
        top = judged.loc[entropies.index, "top_images"]
        sizes = [min(len(pictures), judging.n_top) for pictures in top]
        chance = LabelVotes(of_kind).of_random_pictures(sizes, n_draws=judging.n_draws, seed=seed)
        own = mean(entropies.to_numpy())
        rows.append(row(f"{kind}_entropy", own, "bits", {"random_pictures": chance}))
    own = share(judged["context_free"])
    shuffled = np.asarray(shuffled_position_share, dtype=np.float64)[~rare]
    chance = share(shuffled >= judging.context_free)
    beside = {"shuffled_positions": chance}
    threshold = judging.context_free
    rows.append(row("context_free_fraction", own, "share", beside, threshold=threshold))
    stable, random = NO_DATA, NO_DATA
    if random_stability is not None:
        stable = mean(judged["stability"].to_numpy())
        random = mean(np.asarray(random_stability, dtype=np.float64)[~rare])
    rows.append(row("stability", stable, "cosine", {"random_directions": random}))
    return rows


def stability_of(
    directions: Float[Tensor, "m d"], others: Float[Tensor, "n d"], random: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Matched cosines with another SAE and with random directions; `UserError` for the same SAE."""
    if directions.shape == others.shape and bool((directions == others).all()):
        raise UserError(
            "the other SAE is this one: its stability is 1 by definition; name one of another seed"
        )
    return matched_cosines(directions, others), matched_cosines(directions, random)
