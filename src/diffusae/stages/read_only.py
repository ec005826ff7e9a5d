"""Studies that lie where nothing can be written: what is made of them goes elsewhere, or is left out and said."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from diffusae.stages.resolvers import home_of

log = logging.getLogger(__name__)

_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


def takes_files(directory: Path) -> bool:
    """Whether files can be made in a directory, or in the nearest one above it that exists."""
    directory = directory.absolute()
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return not directory.is_dir() or os.access(directory, os.W_OK | os.X_OK)


def results_directory(cfg: DictConfig) -> Path:
    """Where `plan`, `report` and `compare` write: `paths.results`; null: the study itself, or, where that takes no files, a
    directory of its name in the present one.
    """
    if cfg.paths.get("results") is not None:
        return Path(home_of(cfg.paths.results))
    study = Path(home_of(cfg.paths.experiment))
    if takes_files(study):
        return study
    elsewhere = Path(f"{str(cfg.name).replace('/', '-')}-results")
    log.warning("%s takes no files: results go to %s (paths.results)", study, elsewhere.absolute())
    return elsewhere


@contextmanager
def left_out_where_read_only(what: str) -> Iterator[None]:
    """Around the writing of a summary: where the disk takes no files, it is left out, with a warning."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        log.warning("%s cannot be written and is left out: %s", what, error)
