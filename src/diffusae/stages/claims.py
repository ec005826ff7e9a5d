"""Claims: register them, make pictures that nothing was chosen on, evaluate there, and judge."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache

from omegaconf import DictConfig

from diffusae.activations.schema import Cell
from diffusae.collecting.collect import collect_alone
from diffusae.errors import UserError, together
from diffusae.jobs.faults import is_users, reason
from diffusae.jobs.outcomes import JobOutcome, print_outcomes
from diffusae.jobs.progress import at_work, progress_bar
from diffusae.labelling.label import label_cell, word_embedding
from diffusae.metrics.evaluate import evaluate_cell, evaluation_faults
from diffusae.metrics.metric import Embedding
from diffusae.metrics.registry import metric
from diffusae.metrics.schedule import Studies, config_of, made_for_claims
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import parent_signature
from diffusae.runs.settings import LoggerSettings
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.runs.wandb_mode import run_id
from diffusae.stages.annotate import annotate
from diffusae.stopping import raise_if_received
from diffusae.study.study import Study
from diffusae.summaries.claims import (
    COLUMNS,
    Judgement,
    cells_of,
    claims_markdown,
    judgement_of,
    summarise_claims,
)
from diffusae.summaries.registration import Registered
from diffusae.training.cell import mirror_of

log = logging.getLogger(__name__)


def claims(cfg: DictConfig) -> None:
    """Judge the study's registered claims. What is finished is skipped; a failing cell does not
    stop the others, and its claims are "not evaluated".

    Raises:
        UserError: faults of the claims, before anything loads; after all cells, those that failed.
    """
    study = Study(cfg)
    study.check()
    registered = Registered.of(study)
    together(registered.faults())
    cells = _studies(registered)
    together(_untrained(cells))
    fresh = registered.fresh
    log.info(
        "the claims take %d fresh pictures, and at most %d that their metrics make; `diffusae plan"
        " plan.claims=true` says how long that takes",
        registered.pictures,
        sum(row.pictures for row in made_for_claims(study, registered.claims)),
    )
    with directory_lock(registered.directory.parent):
        registered.register()
        if not fresh.held_out.coded:
            collect_alone(fresh)
        else:
            collect_alone(fresh.held_out)
        if any("annotate" in metric(name).stages for studies in cells.values() for name in studies):
            annotate(fresh.cfg)
        failures = _evaluate(fresh, cells)
        with at_work("the verdicts"):
            summarise_claims(registered)
    judgement = judgement_of(registered)
    _mirror(fresh, judgement)
    print(claims_markdown(judgement))
    if failures:
        raise UserError(
            f"{len(failures)} of {len(cells)} cells failed: {', '.join(failures)}; the same command"
            " runs only these again"
        )


def _studies(registered: Registered) -> dict[Cell, Studies]:
    """Every cell that the claims need, as a study of the fresh pictures for each of its metrics.

    Raises:
        UserError: what some metric cannot do in this study, all in one.
    """
    claims = registered.claims
    config = cache(
        lambda name: config_of(
            name, claims.settings.get(name) or {}, option=claims.options.get(name, name)
        )
    )
    cells: dict[Cell, dict[str, Study]] = {}
    for claim in claims.stated.values():
        for at in claim.cells:
            of_metric = Registered(Study(config(claim.metric)), claims).fresh
            cell = Cell(of_metric.cfg.model.name, at.block, at.t, at.conditioning)
            cells.setdefault(cell, {}).setdefault(claim.metric, of_metric.at(cell))
    first = {name: one for studies in cells.values() for name, one in studies.items()}
    together(dict.fromkeys(fault for one in first.values() for fault in evaluation_faults(one)))
    return dict(cells)


def _untrained(cells: Mapping[Cell, Studies]) -> Iterator[str]:
    """The autoencoders that are not there: fresh pictures train none."""
    for studies in cells.values():
        reads = [one for name, one in studies.items() if metric(name).made_from]
        for study in reads[:1]:
            try:
                parent_signature(study.sae, stage="train")
            except UserError as error:
                yield str(error)


def _evaluate(fresh: Study, cells: Mapping[Cell, Studies]) -> list[str]:
    """Label and evaluate cell by cell; return the names of those that failed."""
    embedding = cache(lambda: word_embedding(fresh))
    outcomes = []
    with progress_bar("cells", total=len(cells)) as (advance, name):
        for studies in cells.values():
            one = next(iter(studies.values()))
            name(one.cell_name)
            outcomes.append(_outcome(one.cell_name, lambda of=studies: _carry_out(of, embedding)))
            advance(1)
    print_outcomes(outcomes)
    return [one.name for one in outcomes if one.outcome == "failed"]


def _outcome(cell: str, work: Callable[[], None]) -> JobOutcome:
    try:
        work()
    except Exception as error:
        raise_if_received()  # what a signal to stop broke is no failure of the cell
        log.error("cell %s: %s", cell, reason(error), exc_info=None if is_users(error) else error)
        return JobOutcome(cell, "failed", reason(error))
    raise_if_received()
    return JobOutcome(cell, "done", "")


def _carry_out(studies: Studies, embedding: Embedding) -> None:
    one = next(iter(studies.values()))
    with mirror_of(one) as mirror:
        if any("label" in metric(name).stages for name in studies):
            with at_work("labelling"):
                label_cell(one, mirror, embedding())
        for name, study in studies.items():
            with at_work(f"evaluation={name}"):
                evaluate_cell(study, mirror, embedding)


def _mirror(fresh: Study, judgement: Judgement) -> None:
    """The verdicts as a table of a W&B run of their own."""
    settings = LoggerSettings.of(fresh.cfg)
    with WandbMirror(
        fresh.directory / "wandb",
        project=settings.project,
        entity=settings.entity,
        group=settings.group,
        name=f"{fresh.name} verdicts",
        run_id=run_id(fresh.name, "verdicts"),
        config={"experiment": fresh.name, "registration": judgement.signature},
        mode=settings.mode,
        timeout_s=settings.timeout_s,
    ) as mirror:
        mirror.table("claims/verdicts", COLUMNS, [cells_of(one) for one in judgement.verdicts])
        states = [verdict.state for verdict in judgement.verdicts]
        mirror.summary({f"claims/{state}": states.count(state) for state in set(states)})
