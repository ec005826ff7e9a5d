"""A metric as one object: what it needs, its settings, its check, its rows, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from diffusae.backbone.text_layers import names_text_layer
from diffusae.evaluation.metric_settings import InterventionSettings, MetricSettings
from diffusae.labelling.annotate import annotator_faults
from diffusae.report.shown import Shown

if TYPE_CHECKING:
    import numpy as np

    from diffusae.concepts.embeddings import WordEmbedding
    from diffusae.evaluation.result import Result
    from diffusae.study.study import Study

S = TypeVar("S", bound=MetricSettings)
Embedding = Callable[[], "WordEmbedding"]
"""Loads the embedding that `embedding` names; a metric that needs none does not call it."""
Pictures = Sequence[tuple[str, "np.ndarray"]]
"""Captions and pictures, uint8 [height, width, 3], as a W&B panel shows them."""

Needs = Literal["updates", "pictures", "captions", "labels", "text"]
"""What the collection must hold: updates of any kind; pictures, with their positions; pictures
generated of captions; class labels of given pictures; a text encoder's layers.
"""


@dataclass(frozen=True)
class Beside:
    """A finished run that a metric reads beside the cell's own.

    Attributes:
        name: what run.json calls it among the parents.
        directory: where it is.
        stage: the command that makes it.
        study: the study by which `run` makes it; None: it is the user's to make.
    """

    name: str
    directory: Path
    stage: str
    study: Study | None = None


@dataclass(frozen=True)
class Panel:
    """Pictures of a metric in the cell's W&B run, beside its examples before and after: made of the
    study and the metric's settings.
    """

    name: str
    pictures: Callable[[Study, Any], Pictures]


def _nothing(*_: Any) -> tuple[Any, ...]:
    return ()


def _nothing_else(*_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Metric(Shown, Generic[S]):
    """One metric, which `evaluation=NAME` computes at one cell; how it is shown says `Shown`.

    Attributes:
        name: as `metrics`, `metrics_at`, and the `name` in its YAML file say it.
        settings: the type of its settings; its YAML file holds their values.
        rows: computes the rows of results.json, and writes what else it keeps into
            `study.evaluation(name)`.
        made_from: the cell's runs that it reads: "train", "label", "annotate".
        needs: of the collection.
        judges: whether it makes new pictures, which the annotator of this very run judges.
        faults: what is wrong with the settings in this study, besides what the settings refuse
            themselves. Nothing is loaded yet.
        beside: the other runs that it reads.
        parts: the parts of the configuration that decide its rows, beside those of every metric
            (`evaluation`, `embedding`, and `annotator` where it judges).
        panel: pictures for W&B.
        made: how many pictures one cell takes at most, by the settings; None: not counted.
    """

    settings: type[S]
    rows: Callable[[Study, S, Embedding], list[Result]]
    made_from: tuple[str, ...] = ("train",)
    needs: Needs = "updates"
    judges: bool = False
    faults: Callable[[Study, S], Iterable[str]] = _nothing
    beside: Callable[[Study, S], Sequence[Beside]] = _nothing
    parts: Callable[[S], Sequence[str]] = _nothing
    determines: Callable[[Study, S], Mapping[str, Any]] = _nothing_else
    panel: Panel | None = None
    made: Callable[[S], int] | None = None

    @property
    def stages(self) -> set[str]:
        """The stages that must be finished before; labelling reads annotations."""
        return {*self.made_from} | ({"annotate"} if "label" in self.made_from else set())

    def unfit(self, study: Study) -> Iterator[str]:
        """Why the study's collection cannot have this metric, or its annotator cannot judge it."""
        if self.judges or ("annotate" in self.stages and study.kind == "generation"):
            yield from annotator_faults(study)
        if (fault := _LACKING[self.needs](study)) is not None:
            yield f"metric {self.name} needs {fault}"
        elif self.needs in ("pictures", "captions", "labels") and (fault := study.text_fault):
            yield f"metric {self.name} needs the picture's tokens: {fault}"


def _of_captions(study: Study) -> str | None:
    if study.kind == "generation":
        return None
    return (
        f"pictures generated of captions, which collection={study.kind} does not have; leave it out"
    )


def _of_labels(study: Study) -> str | None:
    if study.kind == "pictures":
        return None
    return (
        f"class labels, which collection={study.kind} does not have; choose given pictures such as"
        " collection=pictures_world, or leave it out"
    )


def _of_pictures(study: Study) -> str | None:
    if study.kind == "text":
        return "pictures, which collection=text does not have; leave it out"
    if study.kind == "pictures" and study.cfg.collection.pooled:
        return "the positions of pictures; set collection.pooled=false"
    return None


def _of_text(study: Study) -> str | None:
    if names_text_layer(study.cell.block):
        return None
    return (
        f"a text encoder's layer, and block {study.cell.block} is none; set collection=text"
        " block.name=text_2"
    )


_LACKING: Mapping[Needs, Callable[[Study], str | None]] = {
    "updates": lambda _: None,
    "pictures": _of_pictures,
    "captions": _of_captions,
    "labels": _of_labels,
    "text": _of_text,
}
"""What is needed and why the study does not have it; None where it has."""


def unguided(study: Study, settings: InterventionSettings) -> Iterator[str]:
    """What is wrong with branches that the study's model does not run."""
    if "uncond" in settings.conditionings and "uncond" not in study.branches:
        yield (
            f"{study.cfg.model.name} runs without classifier-free guidance; set"
            " evaluation.conditionings=[cond]"
        )
