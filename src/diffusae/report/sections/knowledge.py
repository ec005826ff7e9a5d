"""Which block and which moment know what: accuracies by task and reader, and the purest latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffusae.evaluation.purity import ENTROPY
from diffusae.report import charts
from diffusae.report.gathering import Source
from diffusae.report.grid import grid_charts
from diffusae.report.knowledge import READERS, answers_of
from diffusae.report.purest import load_purest, shared_labels
from diffusae.report.sections import Books, Section, View
from diffusae.report.sections.concepts import groups_of
from diffusae.report.study import Concept, FinishedStudy
from diffusae.report.tables import lead, plain, rows_of
from diffusae.report.verdicts import Case, Verdict, case_of, judged

NAME, PURITY = "knowledge", "purity"


def gather(source: Source) -> dict[str, object]:
    """The purest latents of every cell."""
    return {"pure": list(_pure(source))}


def _pure(source: Source) -> Iterator[Concept]:
    for directory, record in source.evaluations(PURITY):
        gallery, table = load_purest(directory)
        tasks = [name.removesuffix("_label") for name in table.columns if name.endswith("_label")]
        n_top = record.config["evaluation"]["n_top"]
        for latent, image_ids, maps in gallery.entries():
            row: Any = table.loc[latent]
            shared = shared_labels(table, latent, tasks)
            if isinstance(row.get("name"), str):
                shared = [(f"tagger: {row['name']}", float(row["name_share"])), *shared]
            yield source.concept(
                directory,
                record,
                latent,
                labels=[(name, round(share * n_top)) for name, share in shared],
                purity=None,
                firing_frequency=float(row["picture_share"]),
                pictures=source.shown(image_ids, maps),
            )


def verdicts(study: FinishedStudy) -> list[Verdict]:
    """Every task at the cell and with the reader that the tuning pictures choose, against the
    strongest of majority class, pixels and random weights; and purity against random pictures.
    """
    judgements = []
    for answer in answers_of(study.results):
        reader, best = answer.leading
        row = best.row
        rivals = {"majority": answer.majority, "pixels": answer.pixels}
        rivals |= {"random weights": answer.random}
        leads = {
            name: by
            for name, rival in rivals.items()
            if rival and (by := lead(row.figure, rival, higher_is_better=True)) is not None
        }
        place = f"{row.place}, {READERS[reader]}"
        case = Case(place, row.figure, "accuracy")
        if leads:
            name = min(leads, key=leads.__getitem__)
            case = Case(place, row.figure, "accuracy", name, rivals[name], leads[name])
        judgements.append(judged(f"Updates know the {plain(answer.task)}", NAME, [case]))
    for metric in dict.fromkeys(row.metric for row in study.results):
        if (task := metric.removeprefix(f"{ENTROPY}_")) == metric:
            continue
        cases = map(case_of, rows_of(study.results, metric))
        judgements.append(judged(f"A latent's top pictures share their {plain(task)}", NAME, cases))
    return judgements or [judged("Updates know what a picture shows", NAME, [])]


def view(study: FinishedStudy, books: Books) -> View | None:
    """Accuracies, purity and the purest latents."""
    answers = answers_of(study.results)
    titles = study.shows.charts(lambda one: one.name == PURITY)
    purity = grid_charts(study.results, titles, books.charts)
    if not (answers or purity or study.pure):
        return None
    tasks = ", ".join(answer.task for answer in answers)
    alt = (
        f"Accuracy of {tasks} against t by reader and block, beside the baselines; the tables have"
        " the values."
    )
    return {
        "answers": answers,
        "readers": [name for name in READERS if any(name in answer.best for answer in answers)],
        "reader_names": READERS,
        "known": books.charts.chart(charts.knowledge(study.results), alt=alt) if answers else None,
        "purity": purity,
        "pure": groups_of(study.pure, books.pictures),
    }


SECTION = Section(NAME, "Knowledge", view, gather, verdicts)
