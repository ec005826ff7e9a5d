"""Train the grid: every cell, and every k that is asked for, side by side in one process."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from diffusae.activations.datamodule import ActivationDataModule
from diffusae.activations.together import TogetherDataModule
from diffusae.errors import UserError
from diffusae.files import atomic_write_json
from diffusae.parsing import read_json
from diffusae.runs.checkpoint import Checkpoints
from diffusae.runs.lightning_logger import MemberLogger
from diffusae.runs.record import signature
from diffusae.runs.stop_together import StopTogether, one_command
from diffusae.sae.side_by_side import Member, SideBySide
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.study.study import Study
from diffusae.stages.train import (
    data_of,
    last_validation,
    mirror_log,
    mirror_of,
    module_of,
    recorded,
    save_trained,
    trained,
    trainer_of,
    training_signature,
)

log = logging.getLogger(__name__)


@tells_memory("training side by side", "activations.batch_size", "sae.d_sae", "activations.buffer_vectors")
def train_grid(cfg: DictConfig) -> bool:
    """Train what is not finished of `grid`: its cells, each with every k of `grid.k`.

    Every stream is read once for all k, and the results are those of `diffusae train` cell by cell, bit for bit. W&B
    gets each training's figures when all are done. False: all were finished already.
    """
    Study(cfg).check()
    studies = _members(cfg)
    directory = Path(cfg.paths.experiment) / "sae" / f".grid-{signature({'members': sorted(studies)})}"
    together = _begun(directory, studies)
    if together:
        _train(cfg, {name: studies[name] for name in together}, directory)
    shutil.rmtree(directory, ignore_errors=True)  # also what a kill after the last training left
    log.info("%d trainings are finished", len(studies))
    return bool(together)


def _members(cfg: DictConfig) -> dict[str, Study]:
    """Every training of the grid by the name of its directory."""
    ks = cfg.grid.k
    if ks is not None and "k" not in cfg.sae:
        raise UserError(
            f"grid.k={list(ks)} needs a sparsity with a k, sae={cfg.sae.tag} has none; leave grid.k out"
        )
    study = Study(cfg)
    studies = [study.at(cell, k=k) for cell in study.grid for k in (ks or [None])]
    for study in studies:
        study.check()
    names = [study.cell_name for study in studies]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"several trainings would be called {', '.join(twins)}; let sae.tag name what differs, such as "
            "'k${sae.k}', and give every k once"
        )
    steps = {study.cell.block: study.cfg.trainer.steps for study in studies}
    if len(set(steps.values())) > 1:
        told = ", ".join(f"{block} {count}" for block, count in steps.items())
        raise UserError(
            f"trainings side by side take equally many steps, trainer.steps gives {told}; train these blocks one after the "
            "other with grid.blocks"
        )
    return dict(zip(names, studies, strict=True))


def _begun(directory: Path, studies: Mapping[str, Study]) -> list[str]:
    """The trainings to carry out together: those of a run of this very configuration that was killed, else all that are
    not finished.
    """
    waiting = [name for name, study in studies.items() if not trained(study)]
    if not waiting:
        return []
    told = directory / "members.json"
    try:
        begun = read_json(told, remedy="")
        if begun == {name: training_signature(studies[name]) for name in begun}:
            return list(begun)
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        pass
    shutil.rmtree(directory, ignore_errors=True)  # checkpoints of another configuration
    atomic_write_json(told, {name: training_signature(studies[name]) for name in waiting})
    return waiting


def _train(cfg: DictConfig, studies: Mapping[str, Study], directory: Path) -> None:
    cfg = next(iter(studies.values())).cfg  # steps may be those of the blocks
    streams: dict[str, ActivationDataModule] = {}
    for study in studies.values():
        if study.cell.key not in streams:
            streams[study.cell.key] = data_of(study)
    pl.seed_everything(cfg.seed, verbose=False)
    members = {
        name: Member(study.cell.key, module_of(study, streams[study.cell.key].d_in))
        for name, study in studies.items()
    }
    module = SideBySide(members)
    data = TogetherDataModule(streams, steps=cfg.trainer.steps)
    metrics = {name: study.sae / "metrics.jsonl" for name, study in studies.items()}
    # A training that was saved just before a kill is finished: its record stays as it is.
    waiting = {name: study for name, study in studies.items() if not trained(study)}
    with ExitStack() as records:
        for study in waiting.values():
            records.enter_context(recorded(study))
        data.prepare_data()
        checkpoints = Checkpoints(
            directory / "checkpoints", every=cfg.trainer.checkpoint_every, logs=list(metrics.values())
        )
        resumed = checkpoints.resume()
        if resumed is None:
            for member in members.values():
                member.module.initialise(next(iter(streams[member.stream].val_dataloader())))
        else:
            log.info("%d trainings go on from step %d", len(members), resumed.step)
        batches = {name: len(streams[member.stream].train_dataloader()) for name, member in members.items()}
        stop = StopTogether(checkpoints.save)
        trainer = trainer_of(cfg, MemberLogger(metrics, batches=batches), [checkpoints, stop], progress=True)
        with one_command(stop):
            trainer.fit(
                module,
                datamodule=data,
                ckpt_path=None if resumed is None else resumed.path,
                weights_only=True,
            )
        measured = {name: last_validation(path) for name, path in metrics.items()}
        for name, study in waiting.items():
            member = members[name]
            save_trained(study, member.module, streams[member.stream], measured[name])
    for name, study in waiting.items():
        with mirror_of(study) as mirror:
            mirror_log(metrics[name], mirror)
            mirror.summary(measured[name])
