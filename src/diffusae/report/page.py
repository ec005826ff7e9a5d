"""The page: what the template needs, prepared from a study, and the file written.

The page needs nothing from the net: pictures and charts are inside. Text from outside is escaped by
the template; a Content-Security-Policy in the page forbids it to load anything.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diffusae.files import atomic_path
from diffusae.masking import masked
from diffusae.report import charts, pictures, plots, style, tables
from diffusae.report.emergence import Curve, curves_of, emergence_chart
from diffusae.report.erasure import Target, erasure_headline, is_erasure, targets_of
from diffusae.report.erasure_chart import trade_off_chart
from diffusae.report.examples import ExampleTable, example_tables
from diffusae.report.knowledge import (
    READERS,
    Answer,
    answers_of,
    knowledge_chart,
    knowledge_headline,
    knowledge_metrics,
    purity_titles,
)
from diffusae.report.pictures import PictureBook
from diffusae.report.steering import METRICS as STEERING
from diffusae.report.steering import strength_lines, strip_tables
from diffusae.report.study import Concept, ErasureRun, Prediction, PredictionKey, Run, Study
from diffusae.report.three_stage_chart import three_stage_chart
from diffusae.report.three_stages import (
    MEASURES,
    Line,
    controls_of,
    lines_of,
    signed,
    verdicts_of,
    window_text,
)

TEMPLATE = "page.html.j2"
HEAVY = 12 * 2**20
# The rest of Okabe and Ito's palette: blocks have the other colours.
NOUN_COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#999999")
# Seen on dark and on bright parts of a map alike.
ON_MAPS = "#66e0ff"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Panel:
    """One moment of one block: a drawing, for each noun its colour, name and IoU, and the run that
    predicted it.
    """

    drawing: Markup
    figures: list[tuple[str, str, str]]
    run: Run | None


@dataclass(frozen=True)
class PanelTable:
    """Panels of one conditioning: a line a block (or block and noun), a column a t; None is no
    data.
    """

    conditioning: str
    lines: list[tuple[str, list[Panel | None]]]


@dataclass(frozen=True)
class PredictionView:
    """One prompt over time."""

    caption: str
    reference: Markup
    legend: list[tuple[str, str, bool]]  # colour, noun, was it found
    times: list[float]
    compositions: list[PanelTable]
    scores: list[PanelTable]


@dataclass(frozen=True)
class ConceptView:
    """A card of the gallery: each picture and the same picture under the latent's map."""

    concept: Concept
    pairs: list[tuple[Markup, Markup]]


@dataclass(frozen=True)
class ConceptGroup:
    """The cards of one cell."""

    block: str
    t: float
    conditioning: str
    opened: bool
    cards: list[ConceptView]


@dataclass(frozen=True)
class ErasureView:
    """The erasure benchmark at one cell."""

    cell: str
    targets: list[Target]
    chart: Markup
    examples: list[ExampleTable]


def render_page(study: Study) -> str:
    """The whole page as HTML. The same study gives the same text.

    Raises:
        UserError: a row of results that lacks a field.
    """
    book = PictureBook()
    metrics = {str(row["metric"]) for row in study.results}
    emergence = curves_of(study.emergence)
    stages = lines_of(study.three_stages)
    answers = answers_of(study.results)
    erasures = [_erasure(run, number, book) for number, run in enumerate(study.erasures)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=tables.number,
        plain=tables.plain,
        capital=tables.capital,
        details=tables.details_text,
        duration=duration,
        percent=percent,
        signed=signed,
        window=window_text,
    )
    return environment.get_template(TEMPLATE).render(
        study=study,
        headline=_headline(study, answers, erasures),
        aside=bool(answers or erasures or study.strips),
        answers=answers,
        readers=[name for name in READERS if any(name in each.best for each in answers)],
        reader_names=READERS,
        known=_known(study, answers) if answers else None,
        purity=charts.grid_charts(study.results, purity_titles(study.results)),
        of_knowledge=knowledge_metrics(study.results),
        pure=_concept_groups(study.pure, book),
        sheet=[(each, book.picture(each.image, alt=each.caption)) for each in study.contact_sheet],
        curves=_curves(study) if "composition" in metrics else None,
        emergence=emergence,
        emerged=_emerged(emergence) if emergence else None,
        stages=stages,
        stage_chart=_staged(stages) if stages else None,
        stage_controls=controls_of(stages),
        stage_measures=[name for name in MEASURES if any(name in line.measures for line in stages)],
        stage_change=sorted(
            {
                "feature distance" if "distance" in line.measures else line.distance.unit
                for line in stages
                if line.edit != "spatial" and line.distance
            }
        ),
        verdicts=verdicts_of(study.claims),
        examples=example_tables(study.examples, book),
        erasures=erasures,
        of_erasure={each for each in metrics if is_erasure(each)},
        of_interventions=charts.intervention_titles(study.results),
        steering_lines=strength_lines(study.results),
        steering_tables=strip_tables(study.strips, book),
        of_steering=STEERING,
        grids=[
            *charts.grid_charts(study.results, charts.GRID),
            *charts.intervention_charts(study.results),
        ],
        tables=tables.metric_tables(study.results),
        quality=charts.quality_charts(study.results),
        of_quality=charts.quality_metrics(study.results),
        predictions=[_prediction(each, book) for each in study.predictions],
        concepts=_concept_groups(study.concepts, book),
        block_colours=style.block_colours(
            tables.blocks_of(concept.block for concept in (*study.concepts, *study.pure))
        ),
        failed=[run for run in study.runs if run.status != "finished"],
        definitions=book.definitions,
    )


def write_report(path: Path | str, study: Study) -> None:
    """Write the page to `path` (index.html), atomically; a page above 12 MB gets a warning."""
    page = masked(render_page(study)).encode()
    if len(page) > HEAVY:
        logger.warning(
            "the report has %.1f MB, above %.0f MB: browsers will be slow; show fewer concepts or"
            " predictions",
            len(page) / 2**20,
            HEAVY / 2**20,
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(page)


def duration(seconds: float | None) -> str:
    """Such as "42 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None:
        return "–"
    if seconds < 9.5:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def percent(share: float | None) -> str:
    """Such as "2.1 %"; two figures that matter."""
    if share is None or not math.isfinite(share):
        return tables.NO_DATA
    return f"{100 * share:.2g} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def _curves(study: Study) -> Markup:
    blocks = ", ".join(
        tables.blocks_of(row.block for row in tables.rows_of(study.results, "composition"))
    )
    alt = (
        f"IoU of predicted composition against t, one panel a block ({blocks}); the table below has"
        " the values."
    )
    return style.svg(plots.iou_curves(study.results), name="curves", alt=alt)


def _emerged(curves: Sequence[Curve]) -> Markup:
    names = ", ".join(curve.name for curve in curves)
    alt = (
        f"IoU over t of {names}, and the t at which each has emerged; the table below has the"
        " values."
    )
    return style.svg(emergence_chart(curves), name="emergence", alt=alt)


def _staged(lines: Sequence[Line]) -> Markup:
    edits = ", ".join(dict.fromkeys(line.edit for line in lines))
    alt = (
        f"Success and change of the picture of {edits} edits, window by window, beside the"
        " controls; the table below has the values."
    )
    return style.svg(three_stage_chart(lines), name="three-stages", alt=alt)


def _known(study: Study, answers: Sequence[Answer]) -> Markup:
    tasks = ", ".join(answer.task for answer in answers)
    alt = (
        f"Accuracy of {tasks} against t by reader and block, beside the baselines; the tables have"
        " the values."
    )
    return style.svg(knowledge_chart(study.results), name="knowledge", alt=alt)


def _headline(
    study: Study, answers: Sequence[Answer], erasures: Sequence[ErasureView]
) -> tables.Headline:
    """Composition's where it was evaluated, else what was asked instead."""
    if all(row["metric"] != "composition" for row in study.results):
        if answers:
            return knowledge_headline(answers)
        if erasures:
            return erasure_headline([target for view in erasures for target in view.targets])
    return tables.headline(study.results)


def _erasure(run: ErasureRun, number: int, book: PictureBook) -> ErasureView:
    targets = targets_of(run)
    names = ", ".join(target.name for target in targets)
    alt = (
        f"Attack success against harm when {names} is to go, a line a defence over its strengths;"
        " the tables below have the values."
    )
    drawing = style.svg(trade_off_chart(targets), name=f"erasure-{number}", alt=alt)
    return ErasureView(
        run.cell, targets, drawing, example_tables([run.examples] if run.examples else [], book)
    )


def _prediction(prediction: Prediction, book: PictureBook) -> PredictionView:
    colours = {noun: NOUN_COLOURS[i % len(NOUN_COLOURS)] for i, noun in enumerate(prediction.nouns)}
    outlines = {
        noun: book.outline(mask, prediction.image, colours[noun])
        for noun, mask in prediction.true_masks.items()
        if mask.any()
    }
    times = tables.times_of(key[2] for key in prediction.predicted)
    compositions, scores = [], []
    for conditioning in tables.conditionings_of(key[1] for key in prediction.predicted):
        blocks = tables.blocks_of(key[0] for key in prediction.predicted if key[1] == conditioning)
        cells = {block: [(block, conditioning, t) for t in times] for block in blocks}
        compositions.append(
            PanelTable(
                conditioning,
                [
                    (
                        block,
                        [
                            _composition(prediction, cell, colours, outlines, book)
                            for cell in cells[block]
                        ],
                    )
                    for block in blocks
                ],
            )
        )
        scores.append(
            PanelTable(
                conditioning,
                [
                    (
                        f"{block} · {noun}",
                        [
                            _score(prediction, (*cell, noun), colours[noun], book)
                            for cell in cells[block]
                        ],
                    )
                    for block in blocks
                    for noun in prediction.nouns
                ],
            )
        )
    return PredictionView(
        caption=prediction.caption,
        reference=book.picture(
            prediction.image, alt=prediction.caption, layers=list(outlines.values())
        ),
        legend=[(colour, noun, noun in outlines) for noun, colour in colours.items()],
        times=times,
        compositions=compositions,
        scores=scores,
    )


def _composition(
    prediction: Prediction,
    cell: tuple[str, str, float],
    colours: dict[str, str],
    outlines: dict[str, Markup],
    book: PictureBook,
) -> Panel | None:
    """All nouns of the prompt in one picture: regions as predicted, outlines as they are."""
    masks = {
        noun: found[1]
        for noun in prediction.nouns
        if (found := prediction.predicted.get((*cell, noun)))
    }
    if not masks:
        return None
    figures = [
        (colours[noun], noun, tables.number(prediction.iou.get((*cell, noun)), 2)) for noun in masks
    ]
    regions = [
        pictures.region(mask, prediction.image, colours[noun]) for noun, mask in masks.items()
    ]
    described = ", ".join(f"{noun} IoU {value}" for _, noun, value in figures)
    return Panel(
        book.picture(
            pictures.pale(prediction.image),
            alt=f"{cell[0]}, {cell[1]}, t = {cell[2]:.2f}: {described}",
            layers=[*regions, *outlines.values()],
        ),
        figures,
        prediction.runs.get(cell),
    )


def _score(
    prediction: Prediction, key: PredictionKey, colour: str, book: PictureBook
) -> Panel | None:
    """The score map behind one noun's mask, with the true outline."""
    if key not in prediction.predicted:
        return None
    block, conditioning, t, noun = key
    truth = prediction.true_masks.get(noun)
    drawing = pictures.score_map(
        prediction.predicted[key][0],
        prediction.image,
        alt=f"scores of {noun}: {block}, {conditioning}, t = {t:.2f}",
        layers=[] if truth is None else [book.outline(truth, prediction.image, ON_MAPS)],
    )
    figures = [(colour, noun, tables.number(prediction.iou.get(key), 2))]
    return Panel(drawing, figures, prediction.runs.get(key[:3]))


def _concept_groups(concepts: Sequence[Concept], book: PictureBook) -> list[ConceptGroup]:
    def cell(concept: Concept) -> tuple[str, float, str]:
        return concept.block, concept.t, concept.conditioning

    # All of cond before all of uncond.
    conditionings = tables.conditionings_of(concept.conditioning for concept in concepts)
    ordered = sorted(
        concepts,
        key=lambda each: (conditionings.index(each.conditioning), *tables.cell_order(*cell(each))),
    )
    shown = (
        (tables.main_block(concept.block for concept in concepts), conditionings[0])
        if concepts
        else None
    )
    return [
        ConceptGroup(
            *key, opened=(key[0], key[2]) == shown, cards=[_concept(each, book) for each in members]
        )
        for key, members in groupby(ordered, key=cell)
    ]


def _concept(concept: Concept, book: PictureBook) -> ConceptView:
    peaks = [float(np.nan_to_num(values).max()) for _, values in concept.pictures]
    name = f"latent {concept.latent}"
    return ConceptView(
        concept,
        [
            (
                book.picture(image, alt=f"{name}, top picture {rank}"),
                book.picture(
                    image,
                    alt=f"where {name} is active in top picture {rank}",
                    layers=[pictures.heat(values, image, high=max(peaks))],
                ),
            )
            for rank, (image, values) in enumerate(concept.pictures, start=1)
        ],
    )
