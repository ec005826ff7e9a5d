"""Miniature: train the shipped model's parts, assemble the pipeline folder, and measure it at the
gate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusae.errors import UserError, together
from diffusae.jobs.processes import device_fault
from diffusae.miniature.settings import GateSettings, MiniatureSettings, TrainingSettings
from diffusae.runs.lock import directory_lock
from diffusae.study.resolvers import register_resolvers

log = logging.getLogger(__name__)
register_resolvers()


def miniature(cfg: DictConfig) -> None:
    """Do one part, or all of them one after the other; what is trained already is not trained
    again.
    """
    kinds = (MiniatureSettings, TrainingSettings, GateSettings)
    device = device_fault(cfg.training.accelerator, setting="training.accelerator")
    faults = [fault for kind in kinds for _, fault in kind.faults_in(cfg)]
    together([*faults, *([device] if device else [])])
    settings = MiniatureSettings.of(cfg)
    if settings.part == "table":
        from diffusae.miniature.gate_table import write_gate_table

        print(write_gate_table(settings.gates, Path(settings.directory)))
        return
    folder, directory = Path(settings.folder), Path(settings.directory)
    if settings.part == "gate" and not folder.is_dir():
        raise UserError(
            f"there is no pipeline folder {folder.absolute()} to measure; write it with `diffusae"
            " miniature part=assemble`, or name another one: 'folder=${shipped_miniature:}' is the"
            " shipped one"
        )
    from diffusae.miniature.measured import pass_gate  # diffusers and Lightning take seconds
    from diffusae.miniature.train import MiniatureTraining

    training = MiniatureTraining(directory, TrainingSettings.of(cfg))
    parts: dict[str, Callable[[], Any]] = {
        "autoencoder": training.autoencoder,
        "annotator": training.annotator,
        "denoiser": training.denoiser,
        "assemble": lambda: training.assemble(folder),
        "gate": lambda: pass_gate(folder, directory, training.world, GateSettings.of(cfg)),
    }
    with directory_lock(directory):
        for name, part in parts.items():
            if settings.part in ("all", name):
                log.info("miniature: %s", name)
                part()
