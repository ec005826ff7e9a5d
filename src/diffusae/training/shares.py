"""Which process trains what, where several train the streams of a grid while pictures are made.

A training belongs to one share, and a share to one process. So its batches, sums and weights are
those of a single process. All trainings of a stream are in one share, since a stream's pictures are
then sent to one process only.

The shares are made when a training begins, one a process, and stay: checkpoints hold what trains
side by side. With fewer processes later, some carry out several shares. With more, or with more
processes than streams, the others only make pictures, which is most of the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from diffusae.activations.manifest import Manifest
from diffusae.files import read_sealed, write_sealed
from diffusae.sae.settings import SaeSettings, TrainerSettings
from diffusae.study.streams import stream_of
from diffusae.study.study import Study


def shares_of(studies: Mapping[str, Study], count: int) -> list[dict[str, Study]]:
    """The studies in shares of about equal work. Some are empty where streams are fewer."""
    manifest = Manifest.load(next(iter(studies.values())).activations)
    work: dict[str, int] = {}
    for study in studies.values():
        steps, d_sae = TrainerSettings.of(study.cfg).steps, SaeSettings.of(study.cfg).d_sae
        numbers = steps * d_sae * stream_of(study, manifest).d_in
        work[study.cell.folder] = work.get(study.cell.folder, 0) + numbers
    return [
        {name: study for name, study in studies.items() if study.cell.folder in streams}
        for streams in equal_shares(work, count)
    ]


def equal_shares(work: Mapping[str, float], count: int) -> list[list[str]]:
    """Give one after the other, the most work first, to the share that has the least so far.

    >>> equal_shares({"a": 3, "b": 5, "c": 4, "d": 1}, 2)
    [['b', 'd'], ['c', 'a']]
    """
    shares: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(work, key=lambda name: -work[name]):
        min(shares, key=lambda share: sum(work[one] for one in share)).append(name)
    return shares


def number_of_shares(file: Path, processes: int) -> int:
    """In how many shares the training began, by a note that it left. It begins now in one share a
    process where there is none, or it is damaged.
    """
    with suppress(OSError, ValueError, KeyError):
        return int(read_sealed(file)["shares"])
    write_sealed(file, {"shares": processes})
    return processes
