"""The training pictures of a study that does not store them, made in the order of an epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from diffusae.activations.group_filling import GroupFilling
from diffusae.activations.order import order_of_shards
from diffusae.activations.schema import CollectedSample
from diffusae.activations.settings import ActivationSettings
from diffusae.activations.stored_numbers import StoredNumbers, stored_numbers
from diffusae.backbone.settings import ModelSettings
from diffusae.collecting.collectors import collector_of
from diffusae.collecting.rounds import Rounds, Rows
from diffusae.files import read_sealed, write_sealed
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.model import check_hookpoints, describe_model, load_model
from diffusae.study.streams import TRAINING_SPLIT, stored_in, subsampling_of, training_groups
from diffusae.study.study import Study

log = logging.getLogger(__name__)


class TrainingPictures:
    """Called with an epoch and a number, it makes the epoch's accepted pictures from this one on:
    stream folder -> [kept positions, d_in], as a reader of stored shards gives them.

    Whole groups are made, in the batches in which `collect` makes them, since the size of a batch
    may change how sums round. Groups that lie before the first picture are left out if their
    accepted pictures are known from an earlier pass. Several processes make the groups in rounds,
    and each yields all pictures, with the streams that it trains on.

    Args:
        groups: the groups of pictures, as they are or would be stored.
        records: makes the pictures of a group, such as `Begun.records`.
        filling: gives a new `GroupFilling` for a group, without tars.
        numbers: how updates are stored.
        seed: of the epochs' order.
        counts: a file for the number of accepted pictures of every group.
        rounds: the processes that make the pictures.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Prompt]],
        *,
        records: Callable[[Sequence[Prompt]], Iterator[CollectedSample]],
        filling: Callable[[], GroupFilling],
        numbers: StoredNumbers,
        seed: int,
        counts: Path,
        rounds: Rounds | None = None,
    ) -> None:
        self.groups, self.records, self.filling = groups, records, filling
        self.numbers, self.seed, self._file = numbers, seed, counts
        self.rounds = rounds or Rounds()
        accepted: dict[str, int] = {}
        with suppress(OSError, ValueError, KeyError):  # none yet, or damaged: groups are made again
            accepted = dict(read_sealed(counts)["accepted"])
        self._accepted: dict[str, int] = self.rounds.ranks.told(accepted)[0]

    @property
    def images(self) -> int:
        """Pictures of an epoch: those that are accepted, and all of groups not made yet."""
        return sum(
            self._accepted.get(str(index), len(group)) for index, group in enumerate(self.groups)
        )

    def __call__(
        self, epoch: int, first: int, wanted: Callable[[], bool] = lambda: True
    ) -> Generator[Mapping[str, np.ndarray], None, None]:
        """`wanted`: whether this process needs more pictures; asked before every round."""
        image, groups = self._from(epoch, first)
        for indices in self.rounds.of(groups):
            if not self.rounds.wanted(wanted()):
                return
            rank = self.rounds.ranks.rank
            made = self._made(indices[rank]) if rank < len(indices) else iter(())
            # A short last round has no group of the last processes.
            dealt = self.rounds.dealt(made, self.numbers.stored)
            for index, pictures in zip(indices, dealt, strict=False):
                accepted = 0
                for rows in pictures:
                    if image >= first:
                        yield {name: self.numbers.decode(row) for name, row in rows.items()}
                    image, accepted = image + 1, accepted + 1
                self._note(index, accepted)

    def _from(self, epoch: int, first: int) -> tuple[int, list[int]]:
        """The groups of an epoch without those that lie before a picture, and the number of the
        first picture in them.
        """
        image, groups = 0, order_of_shards(len(self.groups), seed=self.seed, epoch=epoch)
        while groups and image + (known := self._accepted.get(str(groups[0]), first + 1)) <= first:
            image += known
            groups = groups[1:]
        return image, groups

    def _made(self, index: int) -> Iterator[Rows]:
        """The accepted pictures of a group."""
        filling = self.filling()
        for record in self.records(self.groups[index]):
            if (kept := filling.kept(record)) is not None:
                filling.count += 1
                yield {name: rows for name, (rows, _) in kept.items()}
        filling.refuse_all_rejected(index)

    def _note(self, index: int, accepted: int) -> None:
        if str(index) in self._accepted:
            return
        self._accepted[str(index)] = accepted
        if not self.rounds.ranks.leads:
            return
        write_sealed(self._file, {"accepted": self._accepted})
        if len(self._accepted) == len(self.groups) and (
            rejected := sum(map(len, self.groups)) - self.images
        ):
            log.warning(
                "%d of %d training pictures are rejected: an update is not finite in %s",
                rejected, rejected + self.images, self.numbers.name,
            )  # fmt: skip


def training_pictures(study: Study, *, counts: Path, rounds: Rounds) -> TrainingPictures:
    """The study's training pictures; the model is loaded here.

    Raises:
        UserError: a block is unknown, or the model cannot be had.
    """
    description = describe_model(ModelSettings.of(study.cfg))
    check_hookpoints(study, description)
    settings, collector = ActivationSettings.of(study.cfg), collector_of(study)
    begun = collector.begin(load_model(ModelSettings.of(study.cfg)), description)
    streams = {
        stream.folder: stream for stream in begun.streams if stored_in(stream, TRAINING_SPLIT)
    }
    numbers, subsampling = stored_numbers(settings.dtype), subsampling_of(study)

    def filling() -> GroupFilling:
        return GroupFilling(
            streams=streams, tars={}, image_size=None, subsampling=subsampling, numbers=numbers
        )

    return TrainingPictures(
        training_groups(study),
        records=lambda prompts: (
            record for batch in begun.batches(prompts) for record in batch.records()
        ),
        filling=filling,
        numbers=numbers,
        seed=study.seed,
        counts=counts,
        rounds=rounds,
    )
