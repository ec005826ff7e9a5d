"""Training every cell of a grid, and every k, side by side in one process."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import pytorch_lightning as pl
from omegaconf import DictConfig

from diffusae.activations.datamodule import ActivationDataModule
from diffusae.activations.schema import Stream
from diffusae.activations.together import StreamsDataModule, TogetherDataModule
from diffusae.errors import UserError
from diffusae.files import atomic_write_json
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.parsing import read_json
from diffusae.runs.checkpoint import Checkpoint, Checkpoints
from diffusae.runs.lightning_logger import MemberLogger
from diffusae.runs.stop_together import Pause, Paused, StopTogether, one_command
from diffusae.sae.settings import TrainerSettings
from diffusae.sae.side_by_side import Member, SideBySide
from diffusae.sae.watch import named
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


def grid_members(cfg: DictConfig, *, equal_steps: bool = True) -> dict[str, Study]:
    """Every training of the grid by the name of its directory.

    Raises:
        UserError: a setting is wrong, names repeat, or, where `equal_steps` are needed, blocks have
            different ones.
    """
    ks = GridSettings.of(cfg).k
    if ks is not None and "k" not in cfg.sae:
        raise UserError(
            f"grid.k={ks} needs a sparsity with a k, sae={cfg.sae.tag} has none; leave grid.k out"
        )
    study = Study(cfg)
    studies = study.trainings
    for study in studies:
        study.check()
    names = [study.cell_name for study in studies]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"several trainings would be called {', '.join(twins)}; let sae.tag name what differs,"
            " such as 'k${sae.k}', and give every k once"
        )
    steps = {study.cell.block: TrainerSettings.of(study.cfg).steps for study in studies}
    if equal_steps and len(set(steps.values())) > 1:
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


class StreamData(Protocol):
    """What a training needs to know of one stream."""

    @property
    def stream(self) -> Stream: ...

    @property
    def target(self) -> Stream | None: ...

    @property
    def batches_of_epoch(self) -> int: ...


class Together:
    """Trainings side by side, from their records to their files.

    Within the context the records of all of them are kept. `fit` trains, at once or in several
    parts, and `save` ends it.

    Args:
        studies: name -> training. All take equally many steps.
        directory: for their common checkpoints.
        streams: what each stream is like.
        data: gives the batches of training, {stream: vectors}.
        stream_of: the name of a study's stream.
    """

    def __init__(
        self,
        studies: Mapping[str, Study],
        directory: Path,
        streams: Mapping[str, StreamData],
        data: StreamsDataModule,
        *,
        stream_of: Callable[[Study], str] = lambda study: study.cell.key,
    ) -> None:
        # Not of the command's own cell: steps may depend on the block.
        self.cfg = next(iter(studies.values())).cfg
        self.settings = TrainerSettings.of(self.cfg)
        self.streams, self.data = streams, data
        pl.seed_everything(self.cfg.seed, verbose=False)
        self.members = {}
        for name, study in studies.items():
            read = streams[stream_of(study)]
            d_target = None if read.target is None else read.target.d_in
            module = module_of(study, read.stream.d_in, d_target)
            self.members[name] = Member(stream_of(study), module)
        self.module = SideBySide(self.members)
        self.metrics = {name: study.sae / "metrics.jsonl" for name, study in studies.items()}
        # A training that was saved just before a kill is finished, and its run.json stays as it is.
        self.waiting = {name: study for name, study in studies.items() if not trained(study)}
        self.checkpoints = Checkpoints(
            directory / "checkpoints",
            every=self.settings.checkpoint_every,
            logs=list(self.metrics.values()),
        )
        self._from: Checkpoint | None = None
        self._records = ExitStack()

    @property
    def step(self) -> int:
        """The steps that are done."""
        return 0 if self._from is None else self._from.step

    def __enter__(self) -> Self:
        with ExitStack() as records:
            for study in self.waiting.values():
                records.enter_context(recorded(study))
            self.data.prepare_data()
            self._from = self.checkpoints.resume()
            if self._from is not None:
                log.info("%d trainings go on from step %d", len(self.members), self.step)
            self._records = records.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._records.__exit__(*error)

    def fit(self, until: int | None = None, *, progress: bool = True) -> None:
        """Train to the end, or pause after the step `until` with a checkpoint.

        Autoencoders are initialised with the first training batch of their stream, which they are
        trained on as well.
        """
        batches = {
            name: self.streams[member.stream].batches_of_epoch
            for name, member in self.members.items()
        }
        if self._from is None:
            first = self.data.first_batches()
            for member in self.members.values():
                member.module.initialise(first[member.stream])
        self.module.train()  # a pause right after a validation leaves it in evaluation mode
        stop, pause = StopTogether(self.checkpoints.save), Pause(until, self.checkpoints.save)
        trainer = trainer_of(
            self.cfg,
            MemberLogger(self.metrics, batches=batches),
            [self.checkpoints, stop, pause],
            progress=progress,
            alone=True,
        )
        with one_command(stop), suppress(Paused):
            trainer.fit(
                self.module,
                datamodule=self.data,
                ckpt_path=None if self._from is None else self._from.path,
                weights_only=True,
            )
            return
        for name, member in self.members.items():
            with named(name):  # no checkpoint is written of such weights
                member.module.refuse_broken_weights()
        self._from = self.checkpoints.newest()

    def save(self) -> None:
        """Write the files of every training, end the records, and send the figures to W&B."""
        measured = {name: last_validation(path) for name, path in self.metrics.items()}
        for name, study in self.waiting.items():
            member = self.members[name]
            read = self.streams[member.stream]
            save_trained(study, member.module, read.stream, measured[name], read.target)
        self._records.close()
        for name, study in self.waiting.items():
            with mirror_of(study) as mirror:
                mirror_log(self.metrics[name], mirror)
                mirror.summary(measured[name])


@tells_memory("training seeds side by side", "activations.batch_size", "activations.buffer_vectors")
def train_seeds(studies: Sequence[Study]) -> None:
    """Train autoencoders of one cell that differ in their seed side by side; a single one is left
    to `train_cell`.
    """
    if len(studies) == 1:
        return
    named = {study.cell_name: study for study in studies}
    first = studies[0]
    directory = first.sae.parent / f".seeds-{first.cell_name}"
    waiting = trainings_together(directory, named)
    if waiting:
        train_together({name: named[name] for name in waiting}, directory)
    shutil.rmtree(directory, ignore_errors=True)


def stream_of_seed(study: Study, first: Study) -> str:
    """The name of the study's stream, whose order depends on the seed, beside those of `first`."""
    key = study.cell.key
    return key if study.seed == first.seed else f"{key}-seed{study.seed}"


def train_together(studies: Mapping[str, Study], directory: Path) -> None:
    """Train these studies side by side on what is stored, and write the files of each."""
    streams: dict[str, ActivationDataModule] = {}
    first = next(iter(studies.values()))
    stream_of = partial(stream_of_seed, first=first)
    for study in studies.values():
        if (name := stream_of(study)) not in streams:
            streams[name] = data_of(study)
    tell_kernels(studies.values())
    steps = TrainerSettings.of(first.cfg).steps
    data = TogetherDataModule(streams, steps=steps)
    with Together(studies, directory, streams, data, stream_of=stream_of) as together:
        together.fit()
        together.save()
