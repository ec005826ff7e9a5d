"""The training of one cell as a run: whether it is finished, what decides it, its record, and its
run in W&B. Lightning is not imported for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from diffusae.activations.settings import ActivationSettings
from diffusae.runs.record import DamagedRecord, parent_signature, read_record, run_signature, state
from diffusae.runs.settings import LoggerSettings
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.sae.kernels import fitting
from diffusae.sae.settings import KernelsName, SaeSettings, SelectionPrecision, TrainerSettings
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def trained(study: Study) -> bool:
    """Whether this very training is finished; `UserError` where another one's result is in its
    place.
    """
    known = state(study.sae, determines=_determines(study), parents=lambda: _parents(study))
    return known == "finished"


def training_signature(study: Study) -> str:
    """What decides this training's weights, in one value."""
    return run_signature(determines=_determines(study), parents=_parents(study))


def selection_precision(study: Study) -> SelectionPrecision:
    """`sae.selection_precision`. In the place of "auto": what a training that goes on began with,
    otherwise what is fast here.
    """
    chosen = SaeSettings.of(study.cfg).selection_precision
    if chosen != "auto":
        return chosen
    with suppress(DamagedRecord):
        begun = read_record(study.sae)
        if begun is not None and begun.stage == "train":  # also one that is made again
            return begun.config["sae"]["selection_precision"]
    from diffusae.sae.precision import fastest

    return fastest(study.device_type)


def kernels_of(study: Study) -> tuple[KernelsName, str]:
    """What `trainer.kernels` means for this training, and why."""
    trainer = TrainerSettings.of(study.cfg)
    return fitting(
        trainer.kernels,
        device_type=study.device_type,
        precision=selection_precision(study),
        sparsity=study.sparsity(),
        d_sae=study.cfg.sae.d_sae,
        shards=trainer.shard_latents,
    )


def tell_kernels(studies: Iterable[Study]) -> None:
    """Log what the trainings compute with, every choice once."""
    for name, reason in dict.fromkeys(kernels_of(study) for study in studies):
        log.info("training computes with kernels=%s: %s", name, reason)


@contextmanager
def recorded(study: Study) -> Iterator[None]:
    """The lock and the run.json of the study's training, with what "auto" meant."""
    sae = study.part("sae") | {"selection_precision": selection_precision(study)}
    trainer = study.part("trainer") | {"kernels": kernels_of(study)[0]}
    with study.recorded(
        study.sae,
        "train",
        determines=_determines(study),
        parents=_parents(study),
        sae=sae,
        trainer=trainer,
    ):
        yield


@contextmanager
def mirror_of(study: Study) -> Iterator[WandbMirror]:
    """The cell's W&B run: its coordinates in the config, the same run for every stage."""
    settings = LoggerSettings.of(study.cfg)
    config = {
        "experiment": study.name,
        **study.cell.coordinates(),
        "sparsity": study.sparsity().name,
        **study.sparsity().config(),
        "d_sae": study.cfg.sae.d_sae,
        "study": study.config(),
    }
    with WandbMirror(
        study.directory / "wandb",
        project=settings.project,
        entity=settings.entity,
        group=settings.group,
        name=study.cell_name,
        run_id=study.wandb_id(study.cell_name),
        config=config,
        mode=settings.mode,
        timeout_s=settings.timeout_s,
    ) as mirror:
        yield mirror


def _determines(study: Study) -> dict[str, Any]:
    """What decides the weights. The rest of the configuration (logging, paths, verification) does
    not.
    """
    activations = ActivationSettings.of(study.cfg)
    return {
        "cell": study.cell.coordinates(),
        "sae": study.sae_determines(),
        "steps": TrainerSettings.of(study.cfg).steps,
        "batch_size": activations.batch_size,
        "buffer_vectors": activations.buffer_vectors,
        "seed": study.seed,
    }


def _parents(study: Study) -> dict[str, str]:
    return {"collect": parent_signature(study.activations, stage="collect")}
