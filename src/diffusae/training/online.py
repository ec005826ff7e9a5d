"""Training every cell of a grid while its training pictures are made. `activations.chunk_buffer`
tells how.

Several processes make the pictures in turn (`collecting/rounds.py`), and divide the streams: each
trains what `training/shares.py` gives it, as if it were alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from diffusae.activations.chunk_buffer import Chunk, ChunkBuffer
from diffusae.activations.datamodule import SequentialBatches
from diffusae.activations.epoch_size import pictures_needed
from diffusae.activations.manifest import Manifest
from diffusae.activations.paired import PairedSequential
from diffusae.activations.reader import require_sound
from diffusae.activations.schema import Stream
from diffusae.activations.settings import ActivationSettings
from diffusae.activations.together import StreamsDataModule
from diffusae.errors import UserError
from diffusae.jobs.progress import at_work, progress_bar
from diffusae.jobs.ranks import Ranks
from diffusae.runs.record import signature
from diffusae.sae.settings import TrainerSettings
from diffusae.study.streams import TRAINING_SPLIT, stream_of, target_stream_of
from diffusae.study.study import Study
from diffusae.training.cell import tell_kernels
from diffusae.training.train_grid import Together

log = logging.getLogger(__name__)

VALIDATION_SPLIT = "validation"

Pictures = Callable[[int, int, Callable[[], bool]], Generator[Mapping[str, np.ndarray], None, None]]
"""pictures(epoch, first, wanted): the epoch's accepted pictures from number `first` on, as stream
folder -> [positions, d_in], until no process wants any more.
"""


class ChunkBatches(IterableDataset[dict[str, Float[Tensor, "batch d_in"]]]):
    """The batches of the chunk at hand, {stream: batch}, for a training of `steps` steps that is
    carried out chunk by chunk. The state is the number of given steps.
    """

    def __init__(self, *, steps: int) -> None:
        self.steps = steps
        self.pairs: dict[str, str | None] = {}
        """Stream -> that of its target; None: it is its own."""
        self.first = 0
        """The step of the chunk's first batch."""
        self.chunk: Chunk | None = None
        self._given = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Float[Tensor, "batch d_in"]]]:
        assert self.chunk is not None, "no chunk is at hand"
        while self._given < min(self.steps, self.first + len(self.chunk)):
            batches = self.paired(self.chunk.batch(self._given - self.first))
            self._given += 1
            yield batches

    def paired(self, batches: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "batch width"]]:
        """The batch of every stream that is trained on, with the target's beside it."""
        return {
            name: batches[name]
            if target is None
            else torch.cat([batches[name], batches[target]], dim=1)
            for name, target in self.pairs.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The number of given steps."""
        return {"steps": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the given steps. They lie in the chunk at hand."""
        self._given = state["steps"]
        assert self.chunk is not None and 0 <= self._given - self.first < len(self.chunk)


@dataclass(frozen=True)
class OnlineStream:
    """A stream whose training pictures are made, and whose validation pictures are stored."""

    root: Path
    manifest: Manifest
    stream: Stream
    batch_size: int
    batches_of_epoch: int
    target: Stream | None = None

    def val_dataloader(self) -> SequentialBatches | PairedSequential:
        """The validation batches in the order of the shards."""
        one, *other = (
            SequentialBatches(
                self.root,
                manifest=self.manifest,
                stream=stream,
                split=VALIDATION_SPLIT,
                batch_size=self.batch_size,
            )
            for stream in (self.stream, self.target)
            if stream is not None
        )
        return PairedSequential(one, *other) if other else one


class OnlineData(StreamsDataModule):
    """Chunks for training, and stored pictures for validation."""

    def __init__(self, streams: Mapping[str, OnlineStream], *, steps: int, verify: bool) -> None:
        super().__init__()
        self.streams, self.verify = dict(streams), verify
        self.batches = ChunkBatches(steps=steps)
        self.batches.pairs = {
            name: one.target and one.target.folder for name, one in streams.items()
        }

    def prepare_data(self) -> None:
        """Refuse damaged shards of validation pictures."""
        if self.verify:
            self.verify = False  # every chunk begins anew
            one = next(iter(self.streams.values()))
            targets = [one.target.folder for one in self.streams.values() if one.target]
            require_sound(one.root, one.manifest, streams=[*self.streams, *targets])

    def first_batches(self) -> dict[str, Float[Tensor, "batch d_in"]]:
        """Those of the first chunk, which is at hand."""
        assert self.batches.chunk is not None and self.batches.first == 0
        return self.batches.paired(self.batches.chunk.batch(0))

    def train_dataloader(self) -> ChunkBatches:
        return self.batches

    def val_dataloader(self) -> list[SequentialBatches | PairedSequential]:
        return [stream.val_dataloader() for stream in self.streams.values()]


class Pace:
    """Trainings that take their steps together: equally many, and on streams with equally many
    vectors a picture.

    Args:
        studies: name -> training.
        directory: for their common checkpoints.
        manifest: of the collection, which holds the other splits.
        images: pictures of an epoch.
    """

    def __init__(
        self, studies: Mapping[str, Study], directory: Path, manifest: Manifest, images: int
    ) -> None:
        one = next(iter(studies.values()))
        settings = ActivationSettings.of(one.cfg)
        streams = {study.cell.folder: stream_of(study, manifest) for study in studies.values()}
        targets = {
            study.cell.folder: target_stream_of(study, manifest) for study in studies.values()
        }
        read = [*streams.values(), *(target for target in targets.values() if target)]
        self.steps = TrainerSettings.of(one.cfg).steps
        self.buffer = ChunkBuffer(
            widths={stream.folder: stream.d_in for stream in read},
            images=images,
            positions=manifest.positions(next(iter(streams.values())), TRAINING_SPLIT),
            batch_size=settings.batch_size,
            buffer_vectors=settings.buffer_vectors,
            seed=one.seed,
            dtype=manifest.numbers.read,
        )
        batches = self.buffer.batches_of_epoch
        self.data = OnlineData(
            {
                folder: OnlineStream(
                    one.activations, manifest, stream, settings.batch_size, batches, targets[folder]
                )
                for folder, stream in streams.items()
            },
            steps=self.steps,
            verify=settings.verify,
        )
        self.together = Together(
            studies,
            directory,
            self.data.streams,
            self.data,
            stream_of=lambda study: study.cell.folder,
        )
        self.done = not self.together.waiting

    @property
    def pictures(self) -> int:
        """Pictures that the whole training needs, epoch after epoch."""
        buffer = self.buffer
        return pictures_needed(
            self.steps,
            images=buffer.images,
            positions=buffer.positions,
            batch_size=buffer.batch_size,
            buffer_vectors=buffer.buffer_vectors,
        )

    def begin(self) -> None:
        """Go to the chunk of the next step."""
        self.buffer.seek(self.together.step)

    def take(self, epoch: int, image: int, rows: Mapping[str, np.ndarray]) -> None:
        """Take a picture, and train on the chunk that it completes."""
        if not self.done:
            for chunk in self.buffer.add(epoch, image, rows):
                self._train(chunk)
                if self.done:
                    return

    def end_epoch(self, epoch: int, images: int) -> None:
        """Train on the short last chunk of an epoch of so many accepted pictures."""
        if not self.done and self.buffer.epoch == epoch:
            for chunk in self.buffer.end(images):
                self._train(chunk)

    def _train(self, chunk: Chunk) -> None:
        first = chunk.epoch * self.buffer.batches_of_epoch + chunk.first
        until = min(self.steps, first + len(chunk))
        self.data.batches.first, self.data.batches.chunk = first, chunk
        with at_work(f"training up to step {until} of {self.steps}"):
            self.together.fit(until, progress=False)
        if until == self.steps:
            self.done = True
            self.together.save()


def train_online(
    shares: Sequence[Mapping[str, Study]],
    directory: Path,
    pictures: Pictures,
    *,
    images: int,
    ranks: Ranks,
) -> None:
    """Train the studies of these shares while `pictures` makes their training pictures, `images` an
    epoch, and write the files of each. `directory` is for checkpoints.

    Without a share this process only takes part in making the pictures.

    Raises:
        UserError: the collection lacks a stream or validation pictures, or all training pictures
            are rejected; another process has ended.
    """
    tell_kernels(study for share in shares for study in share.values())
    paces = [pace for share in shares for pace in paces_of(share, directory, images)]
    with ExitStack() as records:
        for pace in paces:
            if not pace.done:
                records.enter_context(pace.together)
                pace.begin()
        waiting = [pace for pace in paces if not pace.done]
        memory = sum(pace.buffer.bytes for pace in waiting)
        log.info("the buffers of %d streams take %.2f GB of memory",
                 sum(len(pace.buffer.widths) for pace in waiting), memory / 1e9)  # fmt: skip
        total = max(ranks.told(max((pace.pictures for pace in waiting), default=0)))
        done = [epoch * images + first for epoch, first in _places(paces, ranks)]
        shown = total if ranks.leads else 0
        with progress_bar("pictures", total=shown, done=min(done, default=0)) as (advance, _):

            def count(epoch: int, image: int) -> None:
                if epoch * images + image <= total:  # the last groups may hold more than is needed
                    advance(1)

            while places := _places(paces, ranks):
                _pass(paces, pictures, min(places), count, ranks)


def _places(paces: Sequence[Pace], ranks: Ranks) -> list[tuple[int, int]]:
    """The epoch and the picture that every process needs next, of those that need one."""
    own = min((pace.buffer.place for pace in paces if not pace.done), default=None)
    return [tuple(place) for place in ranks.told(own) if place is not None]


def _pass(
    paces: Sequence[Pace],
    pictures: Pictures,
    place: tuple[int, int],
    count: Callable[[int, int], None],
    ranks: Ranks,
) -> None:
    """Make the pictures of one epoch, from the first that a process needs to the last."""
    epoch, image = place

    def wanted() -> bool:
        return not all(pace.done for pace in paces)

    with closing(pictures(epoch, image, wanted)) as made:
        for rows in made:
            for pace in paces:
                pace.take(epoch, image, rows)
            image += 1
            count(epoch, image)
            if ranks.count == 1 and not wanted():  # the rest of the group need not be made
                return
    if not image:
        raise UserError("all training pictures are rejected; see the warnings above")
    for pace in paces:
        pace.end_epoch(epoch, image)


def paces_of(studies: Mapping[str, Study], directory: Path, images: int) -> list[Pace]:
    """The studies by the steps that they take together, every pace with a directory of its own,
    which is named after its members.
    """
    root = next(iter(studies.values())).activations
    manifest = Manifest.load(root)
    if not manifest.splits.get(VALIDATION_SPLIT, {}).get("images"):
        raise UserError(
            f"split {VALIDATION_SPLIT!r} of {root} has no pictures; collect more prompts for it"
        )
    kinds: dict[tuple[int, int], dict[str, Study]] = {}
    for name, study in studies.items():
        positions = manifest.positions(stream_of(study, manifest), TRAINING_SPLIT)
        steps = TrainerSettings.of(study.cfg).steps
        kinds.setdefault((positions, steps), {})[name] = study
    return [
        Pace(
            members,
            directory / f"{signature({'members': sorted(members)})}-{positions}-{steps}",
            manifest,
            images,
        )
        for (positions, steps), members in kinds.items()
    ]
