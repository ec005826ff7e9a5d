"""Run: every stage over the whole grid, in one process. Each cell is finished before the next
begins.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from time import monotonic

from omegaconf import DictConfig

from diffusae.activations.schema import Cell
from diffusae.activations.settings import ActivationSettings
from diffusae.collecting.collect import collect_alone
from diffusae.errors import UserError, together
from diffusae.jobs.faults import is_users, reason
from diffusae.jobs.outcomes import JobOutcome, print_outcomes
from diffusae.jobs.progress import at_work, progress_bar
from diffusae.labelling.label import label_cell, labelled, word_embedding
from diffusae.memory import importing
from diffusae.metrics.evaluate import evaluate_cell, evaluated, runs_beside
from diffusae.metrics.metric import Embedding
from diffusae.metrics.registry import metric
from diffusae.metrics.schedule import Studies, chosen_metrics, studies_at
from diffusae.runs.lock import directory_lock
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.stages.annotate import annotate
from diffusae.stages.claims import claims as judge
from diffusae.stages.report import report
from diffusae.stopping import raise_if_received
from diffusae.study.seeds import in_figures, twins_of
from diffusae.study.settings import RunSettings
from diffusae.study.study import Study
from diffusae.summaries.registration import Registered
from diffusae.training.cell import mirror_of, trained

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Carry a whole experiment out. What is finished is skipped; a failing cell does not stop the
    others.

    Raises:
        UserError: after all cells, when some of them failed; the table of all cells says why.
    """
    study = Study(cfg)
    study.check()
    judges = RunSettings.of(cfg).judge_claims
    if judges:
        together(Registered.of(study).faults())
    cells = studies_at(study, chosen_metrics(study))
    with directory_lock(study.directory):
        collect_alone(study)
        for beside in _collections_beside(cells.values()):
            beside.check()
            collect_alone(beside)
        coded = study.held_out.coded  # these pictures are made when the autoencoders are trained
        annotates = any("annotate" in _stages(studies) for studies in cells.values())
        if annotates and not coded:
            annotate(cfg)
        if not ActivationSettings.of(cfg).store_training:
            from diffusae.stages.train_online import train_online

            train_online(cfg)
        elif RunSettings.of(cfg).side_by_side:
            from diffusae.stages.train_grid import train_grid

            train_grid(cfg)
        if coded:
            collect_alone(study.held_out)
            if annotates:
                annotate(cfg)
        failures = _cells(study, cells)
        unjudged = _unjudged(cfg) if judges and not failures else None
        with at_work("the report"):
            undrawn = _undrawn(cfg, quietly=bool(failures))
    if failures:
        raise UserError(
            f"{len(failures)} of {len(study.grid)} cells failed: {', '.join(failures)}; the same"
            f" command runs only these again{undrawn}"
        )
    if unjudged is not None:
        raise unjudged
    log.info("explore it in the browser: diffusae explore %s", shlex.quote(str(study.directory)))


def _unjudged(cfg: DictConfig) -> UserError | None:
    """Judge the claims; why not all of them were, which the report is drawn before."""
    try:
        judge(cfg)
    except UserError as error:
        return error
    return None


def _first_report(cfg: DictConfig, finished: int, cells: int) -> None:
    """A page of the pictures and the first cell, while the others are still to come. Where it
    fails, that is said, and the study goes on.
    """
    with at_work("a first report"):
        if why := _undrawn(cfg, quietly=True, so_far=f"{finished} of {cells} cells"):
            log.warning("no first report%s", why)


def _undrawn(cfg: DictConfig, *, quietly: bool, so_far: str = "") -> str:
    """Draw the report. Where it fails beside cells (`quietly`), why: it must not hide which cells
    failed.
    """
    try:
        report(cfg, so_far=so_far)
    except Exception as error:
        raise_if_received()
        if not quietly:
            raise
        log.debug("the report failed", exc_info=error)
        return f". The report is not complete: {reason(error)}"
    return ""


def _cells(study: Study, cells: Mapping[Cell, Studies]) -> list[str]:
    """Train, label and evaluate cell by cell; return the names of those that failed.

    The metrics that only some cells have come after all cells are trained: they may edit several
    blocks at once.
    """
    embedding = cache(lambda: word_embedding(study))
    everywhere = RunSettings.of(study.cfg).metrics
    # All cells are asked first: where another configuration's result is in the place of one, the
    # command ends before anything is trained.
    waiting = [studies for studies in cells.values() if not _finished(studies)]
    log.info("%d of %d cells are finished", len(cells) - len(waiting), len(cells))
    outcomes = {
        one.cell_name: JobOutcome(one.cell_name, "skipped") for one in map(_one, cells.values())
    }
    rounds: list[Callable[[Studies], None]] = [
        lambda studies: _carry_out(
            _part(studies, everywhere, True), embedding, label="label" in _stages(studies)
        ),
        lambda studies: _evaluate(_part(studies, everywhere, False), embedding),
    ]
    again = [studies for studies in waiting if _part(studies, everywhere, False)]
    unreported = len(waiting) + len(again) > 1  # else the report of all comes as soon
    with progress_bar("cells", total=len(waiting) + len(again)) as (advance, name):
        for number, carry_out in enumerate(rounds):
            for studies in again if number else waiting:
                cell, begun = _one(studies).cell_name, monotonic()
                before = outcomes[cell]
                if before.outcome != "failed":
                    name(f"{'interventions at ' if number else ''}{cell}")
                    outcomes[cell] = _outcome(
                        cell, lambda work=carry_out, of=studies: work(of), before, begun
                    )
                advance(1)
                if unreported and outcomes[cell].outcome == "done":
                    unreported = False
                    _first_report(study.cfg, 1 + len(cells) - len(waiting), len(cells))
    print_outcomes(list(outcomes.values()))
    return [cell for cell, outcome in outcomes.items() if outcome.outcome == "failed"]


def _outcome(cell: str, work: Callable[[], None], before: JobOutcome, begun: float) -> JobOutcome:
    """What becomes of a cell in one round; a signal to stop is no failure of the cell."""
    outcome, why = "done", ""
    try:
        work()
    except Exception as error:
        raise_if_received()  # what it broke on its way is no failure either
        outcome, why = "failed", reason(error)
        log.error("cell %s failed: %s", cell, why, exc_info=None if is_users(error) else error)
    raise_if_received()
    return JobOutcome(cell, outcome, why, seconds=before.seconds + monotonic() - begun)


def _stages(studies: Studies) -> set[str]:
    """The stages that a cell's metrics are made from."""
    return {stage for name in studies for stage in metric(name).stages}


def _collections_beside(cells: Iterable[Studies]) -> list[Study]:
    """The other collections that metrics read, each once."""
    by_place: dict[str, Study] = {}
    for study in (study for studies in cells for study in studies.values()):
        for beside in runs_beside(study):
            if beside.stage == "collect" and beside.study is not None:
                by_place.setdefault(str(beside.directory), beside.study)
    return list(by_place.values())


def _part(studies: Studies, everywhere: Sequence[str], common: bool) -> Studies:
    """The metrics that every cell has (`common`), or the others."""
    return {name: study for name, study in studies.items() if (name in everywhere) == common}


def _one(studies: Studies) -> Study:
    """The cell as a study, whatever the metric."""
    return next(iter(studies.values()))


def _finished(studies: Studies) -> bool:
    """Whether a cell has nothing left to do."""
    one = _one(studies)
    return (
        all(map(trained, (one, *twins_of(one), *_trained_beside(studies))))
        and ("label" not in _stages(studies) or all(map(labelled, (one, *in_figures(one)))))
        and all(map(evaluated, studies.values()))
    )


def _trained_beside(studies: Studies) -> Iterator[Study]:
    """The other cells of the grid whose autoencoders the metrics read."""
    for study in studies.values():
        for beside in runs_beside(study):
            if beside.stage == "train" and beside.study is not None:
                yield beside.study


def _carry_out(studies: Studies, embedding: Embedding, *, label: bool) -> None:
    with importing():
        from diffusae.training.train import train_cell  # Lightning, which takes seconds to import
        from diffusae.training.train_grid import train_seeds

    one = _one(studies)
    train_seeds([one, *twins_of(one)])
    if label:
        for view in in_figures(one):
            with mirror_of(view) as mirror, at_work("labelling"):
                label_cell(view, mirror, embedding())
    with mirror_of(one) as mirror:
        train_cell(one, mirror, progress=True)
        if label:
            with at_work("labelling"):
                label_cell(one, mirror, embedding())
        _evaluate_by(studies, mirror, embedding)


def _evaluate(studies: Studies, embedding: Embedding) -> None:
    if studies:
        with mirror_of(_one(studies)) as mirror:
            _evaluate_by(studies, mirror, embedding)


def _evaluate_by(studies: Studies, mirror: WandbMirror, embedding: Embedding) -> None:
    for name, study in studies.items():
        with at_work(f"evaluation={name}"):
            evaluate_cell(study, mirror, embedding)
