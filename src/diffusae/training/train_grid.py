"""Training every cell of a grid, and every k, side by side in one process."""

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
from diffusae.runs.stop_together import StopTogether, one_command
from diffusae.sae.settings import TrainerSettings
from diffusae.sae.side_by_side import Member, SideBySide
from diffusae.study.settings import GridSettings
from diffusae.study.study import Study
from diffusae.training.cell import mirror_of, recorded, tell_kernels, trained, training_signature
from diffusae.training.train import (
    data_of,
    last_validation,
    mirror_log,
    module_of,
    save_trained,
    trainer_of,
)

log = logging.getLogger(__name__)


def grid_members(cfg: DictConfig) -> dict[str, Study]:
    """Every training of the grid by the name of its directory."""
    ks = GridSettings.of(cfg).k
    if ks is not None and "k" not in cfg.sae:
        raise UserError(
            f"grid.k={ks} needs a sparsity with a k, sae={cfg.sae.tag} has none; leave grid.k out"
        )
    study = Study(cfg)
    studies = [study.at(cell, k=k) for cell in study.grid for k in ks or [None]]
    for study in studies:
        study.check()
    names = [study.cell_name for study in studies]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"several trainings would be called {', '.join(twins)}; let sae.tag name what differs,"
            " such as 'k${sae.k}', and give every k once"
        )
    steps = {study.cell.block: TrainerSettings.of(study.cfg).steps for study in studies}
    if len(set(steps.values())) > 1:
        by_block = ", ".join(f"{block} {count}" for block, count in steps.items())
        raise UserError(
            f"trainings side by side take equally many steps, and trainer.steps gives {by_block};"
            " train these blocks one after the other with grid.blocks"
        )
    return dict(zip(names, studies, strict=True))


def trainings_together(directory: Path, studies: Mapping[str, Study]) -> list[str]:
    """The names of the trainings to carry out together.

    Where a run of this very configuration was killed, these are its own: its checkpoints hold all
    of them. Otherwise they are all that are not finished.
    """
    waiting = [name for name, study in studies.items() if not trained(study)]
    if not waiting:
        return []
    listed = directory / "members.json"
    try:
        begun = read_json(listed, remedy="")
        if begun == {name: training_signature(studies[name]) for name in begun}:
            return list(begun)
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        pass
    shutil.rmtree(directory, ignore_errors=True)  # checkpoints of another configuration
    atomic_write_json(listed, {name: training_signature(studies[name]) for name in waiting})
    return waiting


def train_together(studies: Mapping[str, Study], directory: Path) -> None:
    """Train these studies side by side and write the files of each; `directory` is for their common
    checkpoints.
    """
    # Not of the command's own cell: steps may depend on the block.
    cfg = next(iter(studies.values())).cfg
    settings = TrainerSettings.of(cfg)
    streams: dict[str, ActivationDataModule] = {}
    for study in studies.values():
        if study.cell.key not in streams:
            streams[study.cell.key] = data_of(study)
    tell_kernels(studies.values())
    pl.seed_everything(cfg.seed, verbose=False)
    members = {
        name: Member(study.cell.key, module_of(study, streams[study.cell.key].d_in))
        for name, study in studies.items()
    }
    module = SideBySide(members)
    data = TogetherDataModule(streams, steps=settings.steps)
    metrics = {name: study.sae / "metrics.jsonl" for name, study in studies.items()}
    # A training that was saved just before a kill is finished, and its run.json stays as it is.
    waiting = {name: study for name, study in studies.items() if not trained(study)}
    with ExitStack() as records:
        for study in waiting.values():
            records.enter_context(recorded(study))
        data.prepare_data()
        checkpoints = Checkpoints(
            directory / "checkpoints", every=settings.checkpoint_every, logs=list(metrics.values())
        )
        resumed = checkpoints.resume()
        if resumed is None:
            for member in members.values():
                member.module.initialise(next(iter(streams[member.stream].val_dataloader())))
        else:
            log.info("%d trainings go on from step %d", len(members), resumed.step)
        batches = {
            name: len(streams[member.stream].train_dataloader()) for name, member in members.items()
        }
        stop = StopTogether(checkpoints.save)
        trainer = trainer_of(
            cfg, MemberLogger(metrics, batches=batches), [checkpoints, stop], progress=True
        )
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
