"""Settings of a study as a whole, and of what it collects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from diffusae.backbone.blocks import TokenStream
from diffusae.errors import UserError
from diffusae.prompts.hash_split import HashSplit
from diffusae.prompts.prompt_set import check_counts
from diffusae.settings import Settings, Within

Kind = Literal["generation", "pictures", "text"]
Seed = Annotated[int, Within(0, 2**63)]


@dataclass(frozen=True, kw_only=True)
class RootSettings(Settings, part=""):
    """What stands at the root of every configuration."""

    seed: Seed
    stage: str
    stream: TokenStream
    """Whose tokens a hookpoint without `@picture` or `@text` reads."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings, part=""):
    """What `run` does at which cells (`conf/run.yaml`); `metrics.schedule` looks at the names."""

    judge_claims: bool
    """Whether claims are judged at the end."""
    side_by_side: bool
    """Whether all cells are trained at once."""
    metrics: list[str]
    """Of every cell."""
    metrics_at: Mapping[str, list[str] | None]
    """Metric -> keys of the cells that it is for."""
    metric_settings: Mapping[str, Mapping[str, Any] | None]
    """Metric -> values in the place of its own."""


@dataclass(frozen=True, kw_only=True)
class MomentSettings(Settings, part="timestep"):
    """The moment of the study's cell."""

    t: Annotated[float, Within(0, 1)]


@dataclass(frozen=True, kw_only=True)
class BlockSettings(Settings, part="block"):
    """The block of the study's cell."""

    name: str


@dataclass(frozen=True, kw_only=True)
class BranchSettings(Settings, part="conditioning"):
    """The conditioning of the study's cell."""

    branch: str


@dataclass(frozen=True, kw_only=True)
class GridSettings(Settings, part="grid"):
    """The cells that one collection records (`conf/base.yaml`); `study.grid_checks` looks at their
    values."""

    timesteps: list[float]
    blocks: list[str]
    conditionings: list[str]
    k: list[int] | None
    """Of `train_grid`: trains every cell with each; None: with `sae.k`."""


class Text:
    """The rule of a text that may be empty."""

    def broken(self, value: Any, kind: type) -> str | None:
        return None if isinstance(value, str) else "must be a text, empty for none"


@dataclass(frozen=True, kw_only=True)
class CollectionSettings(Settings, part="collection"):
    """What is collected (`conf/collection`)."""

    kind: Kind


@dataclass(frozen=True, kw_only=True)
class PictureCollection(Settings, part="collection"):
    """Given pictures (`conf/collection/pictures_*.yaml`)."""

    prompt: Annotated[str, Text()]
    """Of every pass; empty: the unconditional branch."""
    record: Literal["update", "output"]
    """What a hookpoint without a site is: the block's update, or its output (`:after`)."""
    pooled: bool
    """Whether the mean over a picture's positions is stored in their place."""
    skip_undecodable: bool
    random_weights: bool
    """Whether the denoiser's weights are drawn anew."""
    random_weights_seed: Seed
    counts: Mapping[str, int | None]
    """Split -> its pictures; None: as many as there are."""
    shares: Mapping[str, float] | None
    """Split -> its share of all pictures; None: the source names the splits."""
    split_seed: int

    @classmethod
    def _faults_of(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super()._faults_of(values)
        counts, shares, seed = (values[name] for name in ("counts", "shares", "split_seed"))
        checks: dict[str, Callable[[], object]] = {
            "counts": lambda: check_counts(counts, open_ended=shares is not None),
            "shares": lambda: HashSplit(shares, seed=seed),
        }
        for name, check in checks.items():
            try:
                if isinstance(values[name], Mapping):
                    check()
            except UserError as error:
                yield f"collection.{name}", str(error).replace("prompts.", "collection.")


@dataclass(frozen=True, kw_only=True)
class TextCollection(Settings, part="collection"):
    """What text encoders make of captions (`conf/collection/text.yaml`)."""

    start_token: bool


@dataclass(frozen=True, kw_only=True)
class GenerationCollection(Settings, part="collection"):
    """Generated pictures (`conf/collection/generation.yaml`): ConceptAttention beside the updates.

    `capture.concept_attention` says what the settings mean.
    """

    concepts: list[str] | None
    """Words whose saliency is recorded; None: none."""
    concept_blocks: list[str] | None
    """Paths of the joint blocks that are averaged; None: all."""
    concept_token: Literal["first", "mean"]
    concept_unit_length: bool

    @classmethod
    def _faults_of(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        concepts = values["concepts"]
        if concepts is None:  # the others say nothing then, and earlier studies do not have them
            return
        yield from super()._faults_of(values)
        if isinstance(concepts, list) and not 0 < len(set(concepts)) == len(concepts):
            yield (
                "collection.concepts",
                f"collection.concepts={concepts} must be one word or more, each once; give others,"
                " or null",
            )


OF_KIND: Mapping[str, tuple[type[Settings], ...]] = {
    "generation": (GenerationCollection,),
    "pictures": (PictureCollection,),
    "text": (TextCollection,),
}
"""What a collection of one kind has beside it."""
