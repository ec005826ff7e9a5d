"""Where the logs of a study go that lies on a disk that takes none."""

from __future__ import annotations

import atexit
import shutil
import tempfile

from omegaconf import DictConfig, OmegaConf

from diffusae.runs.disk import is_writable
from diffusae.study.resolvers import home_of


def where_logs_go(cfg: DictConfig, *, multirun: bool) -> list[str]:
    """Overrides for a study whose disk takes no log: it is shown alone, and Hydra's own files go to
    a temporary directory.

    So a study on a read-only disk can be planned, reported on and compared.
    """
    setting = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    if is_writable(home_of(str(OmegaConf.select(cfg, setting)))):
        return []
    elsewhere = tempfile.mkdtemp(prefix="diffusae-logs-")
    atexit.register(shutil.rmtree, elsewhere, ignore_errors=True)
    return [f"{setting}={elsewhere}"]
