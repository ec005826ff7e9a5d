"""Decision times of a model: when does it decide noun, colour, style, tone and grain?

One word of the caption is exchanged in a part of the steps, with the same noise, and the annotator
says what the finished picture shows. No autoencoder is read, so the cell has no part in the result.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffusae.backbone.schedule import t_of
from diffusae.backbone.settings import ModelSettings
from diffusae.collecting.generation import prompts_hash
from diffusae.errors import UserError, together, unknown
from diffusae.evaluation.decisions import decision_time
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import Result
from diffusae.files import atomic_path
from diffusae.interventions.exchange import Exchange
from diffusae.interventions.windows import Window
from diffusae.metrics.metric import Embedding, Metric
from diffusae.prompts.exchanges import CaptionPair, caption_pairs, named
from diffusae.prompts.prompt_set import Prompt
from diffusae.steering.edited import EditedPictures, Trial
from diffusae.study.streams import source_determines
from diffusae.study.study import Study

NOUN, COLOUR = "noun", "colour"
THROUGHOUT: Window = (1.0, 0.0)
Shown = dict[tuple[int, Window | None], dict[str, bool]]
"""(pair's number, window; None: the old caption throughout) -> whether `old` and `new` show."""


@dataclass(frozen=True, kw_only=True)
class DecisionSettings(MetricSettings):
    """`conf/evaluation/decisions.yaml`."""

    attributes: Mapping[str, Sequence[str] | Mapping[str, str | None] | None]
    """Attribute -> its values, or {value: its words in a caption}; None: it is left out."""
    captions: Count
    """For each attribute."""
    windows: Mapping[str, Window]
    moments: tuple[float, ...]
    """The t at which the other caption begins and then stays."""
    placements: Mapping[str, float]
    """Name -> how much higher the log-SNR of every step is, as `model.log_snr_shift`."""
    steps: Count | None
    """Of a generation; None: as many as the model's."""
    n_resamples: Count

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        parts = {name: getattr(self, name) for name in ("windows", "moments", "placements")}
        for part, given in {"attributes": self.words, **parts}.items():
            if not given:
                yield f"evaluation.{part} is empty; give some"
        for name, values in self.words.items():
            if len(values) < 2:
                yield f"evaluation.attributes.{name} has {len(values)} values; give at least 2"
        for name in (*self.words, *self.windows, *self.placements):
            if not re.fullmatch(r"\w+", name):
                yield f"{name!r} names a row of results; use letters, digits and _"
        for name, (first, last) in self.windows.items():
            if not 1 >= first > last >= 0:
                yield (
                    f"evaluation.windows.{name}=[{first}, {last}] must fall from its first t to its"
                    " last one within [0, 1]"
                )
        falling = all(a > b for a, b in zip((1, *self.moments), (*self.moments, 0), strict=True))
        if not falling:
            yield (
                f"evaluation.moments={list(self.moments)} must fall between 1 and 0, both left out:"
                " these are the other caption throughout, and never"
            )
        for name, shift in self.placements.items():
            if not -10 <= shift <= 10:
                yield f"evaluation.placements.{name}={shift} must be from -10 to 10"

    @property
    def words(self) -> dict[str, dict[str, str]]:
        """{attribute: {value: its words in a caption}} of those that are not left out."""
        given = {name: values for name, values in self.attributes.items() if values is not None}
        return {
            name: (
                {value: words for value, words in values.items() if words is not None}
                if isinstance(values, Mapping)
                else {value: value for value in values}
            )
            for name, values in given.items()
        }

    @property
    def ends(self) -> list[Window]:
        """The windows of the curve: from a moment to the last step, and the whole generation."""
        return [THROUGHOUT, *((t, 0.0) for t in self.moments)]

    @property
    def tried(self) -> list[Window]:
        """Every window in which captions are exchanged, once."""
        return list(dict.fromkeys([*self.ends, *self.windows.values()]))


def decision_rows(study: Study, settings: DecisionSettings, _embedding: Embedding) -> list[Result]:
    """For every attribute and placement of the steps: the decision time, and the share of pictures
    that show the new value after an exchange in one window alone.
    """
    pairs = {name: pairs_of(study.prompts, name, settings) for name in settings.words}
    rows: list[Result] = []
    table: list[dict[str, Any]] = []
    for placement, shift in settings.placements.items():
        tried = _Tried(_placed(study, shift), settings)
        for attribute, shown in tried.all(pairs).items():
            about = {"attribute": attribute, "placement": placement, "log_snr_shift": shift}
            rows += _results(study, settings, about | {"steps": tried.pictures.steps}, shown)
            table += _table(about, pairs[attribute], shown)
    with atomic_path(study.evaluation(METRIC.name) / "pictures.parquet") as temporary:
        pd.DataFrame(table).to_parquet(temporary, engine="pyarrow", index=False)
    return rows


def pairs_of(
    prompts: Sequence[Prompt], attribute: str, settings: DecisionSettings
) -> list[CaptionPair]:
    """The first pairs of the split `test` for an attribute. A colour is exchanged where the caption
    names one noun, so that it is clear whose it is.

    Raises:
        UserError: there are fewer than asked for.
    """
    of_split = [prompt for prompt in prompts if prompt.split == "test"]
    if attribute == COLOUR and NOUN in settings.words:
        nouns = list(settings.words[NOUN].values())
        of_split = [prompt for prompt in of_split if len(named(prompt.text, nouns)) == 1]
    pairs = caption_pairs(of_split, settings.words[attribute])[: settings.captions]
    if len(pairs) < settings.captions:
        raise UserError(
            f"{len(pairs)} captions of the split test name exactly one value of {attribute}, and"
            f" evaluation.captions={settings.captions}; lower it, or give more captions"
            " (prompts.counts.test) or other evaluation.attributes"
        )
    return pairs


def _placed(study: Study, shift: float) -> Study:
    """The study with its steps at another place."""
    cfg = copy.deepcopy(study.cfg)
    cfg.model.log_snr_shift = shift
    return Study(cfg)


class _Tried:
    """The pictures of all exchanges, and what they show."""

    def __init__(self, study: Study, settings: DecisionSettings) -> None:
        self.settings = settings
        # Pictures whose exchange begins at the same moment go in one batch.
        self.windows = sorted(settings.tried, key=lambda window: window[0], reverse=True)
        last = min(first for first, _ in self.windows)
        self.pictures = EditedPictures(
            study, [], conditionings=["cond"], steps=settings.steps, last_exchange=last
        )
        together(self._faults(self.pictures.annotator))

    def all(self, pairs: Mapping[str, Sequence[CaptionPair]]) -> dict[str, Shown]:
        """By attribute."""
        every = [(name, n, pair) for name, of in pairs.items() for n, pair in enumerate(of)]
        prompts = {pair.prompt.image_id: pair.prompt for _, _, pair in every}
        others = {
            name: [pair.caption for _, _, pair in every if pair.prompt.image_id == name]
            for name in prompts
        }
        plain = self.pictures.make(
            [Trial(one, also=tuple(others[name])) for name, one in prompts.items()], what="pictures"
        )
        before = {name: made[1] for name, made in zip(prompts, plain, strict=True)}
        self._require_colours(before.values())
        trials = [(*one, window) for window in self.windows for one in every]
        made = self.pictures.make(
            [Trial(p.prompt, exchange=Exchange(p.caption, w)) for _, _, p, w in trials],
            what="pictures of exchanged captions",
        )
        shown: dict[str, Shown] = {name: {} for name in pairs}
        for name, n, pair in every:
            shown[name][n, None] = self._shows(name, pair, before[pair.prompt.image_id])
        for (name, n, pair, window), (_, annotation) in zip(trials, made, strict=True):
            shown[name][n, window] = self._shows(name, pair, annotation)
        return shown

    def _shows(self, attribute: str, pair: CaptionPair, annotation: Any) -> dict[str, bool]:
        """Whether a picture shows the old and the new value."""
        if attribute == NOUN:
            seen = set(annotation.masks)
        elif attribute in self.pictures.annotator.factors:
            seen = {annotation.factors.get(attribute)}
        else:
            words = self.settings.words[NOUN]
            ((_, word),) = named(pair.prompt.text, list(words.values()))
            noun = next(value for value, known in words.items() if known.lower() == word)
            seen = {annotation.colours.get(noun)}
        return {"old": pair.old in seen, "new": pair.new in seen}

    def _faults(self, annotator: Any) -> Iterator[str]:
        """Attributes and values that the annotator cannot judge."""
        known = {**annotator.factors, NOUN: annotator.labels}
        for name in self.settings.words:
            if name in known:
                yield from (
                    str(unknown(f"value in evaluation.attributes.{name}:", value, known[name]))
                    for value in self.settings.words[name]
                    if value not in known[name]
                )
            elif name != COLOUR:
                yield str(unknown("attribute in evaluation.attributes:", name, [*known, COLOUR]))
            elif NOUN not in self.settings.words:
                yield "evaluation.attributes.colour is of a noun; give evaluation.attributes.noun"

    def _require_colours(self, annotations: Any) -> None:
        asked = COLOUR in self.settings.words and COLOUR not in self.pictures.annotator.factors
        if asked and not any(one.colours for one in annotations):
            raise UserError(
                "the annotator names no colour of any object; leave colour out of"
                " evaluation.attributes, or give the annotator a factor colour"
            )


def _results(
    study: Study, settings: DecisionSettings, about: Mapping[str, Any], shown: Shown
) -> list[Result]:
    captions = len({n for n, _ in shown})

    def column(window: Window | None, value: str = "new") -> list[bool]:
        return [shown[n, window][value] for n in range(captions)]

    ends = [*settings.ends, None]
    times = [*(first for first, _ in settings.ends), 0.0]
    time = decision_time(
        times,
        np.array([column(window) for window in ends]).T,
        n_resamples=settings.n_resamples,
        seed=study.seed,
    )
    baselines = {
        "old_caption": share(column(None)),
        "new_caption_ceiling": share(column(THROUGHOUT)),
    }
    curve = [
        {"t": t, **asdict(share(column(window))), "old": share(column(window, "old")).value}
        for t, window in zip(times, ends, strict=True)
    ]
    details = {**about, "captions": captions, "pictures": len(shown)}
    ending = f"{about['attribute']}_{about['placement']}"
    cell = study.cell.coordinates()
    return [
        Result(
            metric=f"decided_{ending}",
            estimate=time,
            higher_is_better=True,
            unit="t",
            cell=cell,
            details={**details, "curve": curve},
        ),
        *(
            Result(
                metric=f"shown_{name}_{ending}",
                estimate=share(column(window)),
                higher_is_better=True,
                unit="share",
                cell=cell,
                baselines=baselines,
                details={**details, "window": list(window)},
            )
            for name, window in settings.windows.items()
        ),
    ]


def _table(
    about: Mapping[str, Any], pairs: Sequence[CaptionPair], shown: Shown
) -> Iterator[dict[str, Any]]:
    """A row for each picture."""
    for (n, window), shows in shown.items():
        first, last = window or (None, None)
        pair = pairs[n]
        yield {
            "placement": about["placement"],
            "attribute": about["attribute"],
            "image_id": pair.prompt.image_id,
            "caption": pair.prompt.text,
            "other_caption": pair.caption,
            "old": pair.old,
            "new": pair.new,
            "first": first,
            "last": last,
            "shows_old": shows["old"],
            "shows_new": shows["new"],
        }


def _stepless(study: Study, settings: DecisionSettings) -> Iterator[str]:
    """Windows that no step lies in."""
    steps = settings.steps or ModelSettings.of(study.cfg).steps
    times = [t_of(index, steps) for index in range(steps)]
    for window in settings.tried:
        if not any(map(Exchange("", window).acts_at, times)):
            yield f"none of {steps} steps lies in {list(window)}; widen it or take more steps"


def _determines(study: Study, _settings: DecisionSettings) -> dict[str, Any]:
    test = [prompt for prompt in study.prompts if prompt.split == "test"]
    return {"model": source_determines(study), "prompts": prompts_hash(test)}


def pictures_made(settings: DecisionSettings) -> int:
    """How many pictures the metric takes at most: as many as if no caption named two attributes."""
    captions = len(settings.words) * settings.captions
    return len(settings.placements) * captions * (1 + len(settings.tried))


METRIC = Metric(
    name="decisions",
    title="When does the model decide what the picture shows?",
    section="decisions",
    settings=DecisionSettings,
    rows=decision_rows,
    made_from=(),
    needs="captions",
    judges=True,
    made=pictures_made,
    faults=_stepless,
    determines=_determines,
)
