"""Training one sparse autoencoder on the updates of one cell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers.logger import Logger

from diffusae.activations.datamodule import ActivationDataModule
from diffusae.activations.schema import Stream
from diffusae.activations.settings import ActivationSettings
from diffusae.errors import UserError
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.jobs.processes import environment_of, leads, rank_of, started_outside, strategy_of
from diffusae.jobs.training_progress import TrainingProgress
from diffusae.runs.checkpoint import Checkpoints, InPlace
from diffusae.runs.lightning_logger import JsonlLogger
from diffusae.runs.metric_log import read_metrics
from diffusae.runs.stop_together import StopTogether, one_command
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.callbacks import LastValidation, MovingAverage
from diffusae.sae.module import SAEModule
from diffusae.sae.settings import SaeSettings, TrainerSettings
from diffusae.sae.sharded import ShardedModule, ShardedTopK, shard_of
from diffusae.sae.storage import save_config, save_sae
from diffusae.study.streams import target_block
from diffusae.study.study import Study
from diffusae.training.cell import kernels_of, recorded, selection_precision, tell_kernels, trained

log = logging.getLogger(__name__)


@tells_memory("training", "activations.batch_size", "sae.d_sae", "activations.buffer_vectors")
def train_cell(study: Study, mirror: WandbMirror | None, *, progress: bool = False) -> None:
    """Train one cell and write sae.safetensors, cfg.json, metrics.jsonl and run.json.

    Where several processes train together (`diffusae.jobs.processes`), only the leading one writes.

    Args:
        mirror: the leading process' W&B run; None in the others.
        progress: whether a bar is shown.
    """
    if trained(study):
        return
    settings = TrainerSettings.of(study.cfg)
    leader = leads(settings.processes)
    data = data_of(study)
    pl.seed_everything(study.seed, verbose=False)
    module = module_of(study, data.d_in, data.d_target)
    with recorded(study) if leader else nullcontext():
        if leader:
            tell_kernels([study])
            data.prepare_data()
        metrics = study.sae / "metrics.jsonl"
        checkpoints = Checkpoints(
            study.sae / "checkpoints", every=settings.checkpoint_every, logs=[metrics]
        )
        resumed = checkpoints.resume() if leader else checkpoints.newest()
        if resumed is None:
            # Not of validation vectors, whose figures it would touch; the batch is trained on too.
            module.initialise(data.first_batch())
        elif resumed.of_shards != settings.shard_latents:
            raise UserError(
                f"this training began with trainer.shard_latents={str(resumed.of_shards).lower()};"
                f" go on with that, or remove {checkpoints.directory}"
            )
        elif leader:
            log.info("%s goes on from step %d", study.cell.key, resumed.step)
        started_here = settings.processes > 1 and not started_outside()
        # Processes that Lightning starts get copies of what they need; a mirror cannot be copied.
        logger = JsonlLogger(metrics, mirror=None if started_here else mirror)
        stop = StopTogether(checkpoints.save, shared=started_here)
        callbacks = [checkpoints, stop, *_writers(study, checkpoints.directory)]
        trainer = trainer_of(study.cfg, logger, callbacks, progress=progress)
        with one_command(stop):
            trainer.fit(
                module,
                datamodule=data,
                ckpt_path=None if resumed is None else resumed.path,
                weights_only=True,
            )
        if not leader:
            return
        measured = last_validation(metrics)
        save_trained(study, module, data.stream, measured, data.target)
        checkpoints.clear()
        if mirror is not None:
            if started_here:
                mirror_log(metrics, mirror)
            mirror.summary(measured)


def mirror_log(metrics: Path, mirror: WandbMirror) -> None:
    """Send the figures that a training has logged to a mirror that was not there while it ran."""
    for row in read_metrics(metrics):
        figures = {key: value for key, value in row.items() if key not in ("step", "nonfinite")}
        mirror.log(figures, step=row["step"])


def last_validation(metrics: Path) -> dict[str, float]:
    """The figures of the last validation, from the log: the process that validated may have been
    killed since.
    """
    last = {}
    for row in read_metrics(metrics):
        last = {key: value for key, value in row.items() if key.startswith("val/")} or last
    return last


def data_of(study: Study) -> ActivationDataModule:
    """The batches of the study's cell."""
    settings = ActivationSettings.of(study.cfg)
    return ActivationDataModule(
        study.activations,
        block=study.cell.block,
        t=study.cell.t,
        conditioning=study.cell.conditioning,
        target=target_block(study),
        batch_size=settings.batch_size,
        buffer_vectors=settings.buffer_vectors,
        seed=study.seed,
        reader=settings.reader,
        workers=settings.workers,
        buffer_on=settings.buffer_on,
        verify=settings.verify,
    )


def module_of(study: Study, d_in: int, d_target: int | None = None) -> SAEModule:
    """The study's autoencoder and how it is trained, not yet initialised; with `d_target`, its
    transcoder.
    """
    settings, trainer = SaeSettings.of(study.cfg), TrainerSettings.of(study.cfg)
    shard, sparsity, kind = None, study.sparsity(), SAEModule
    if trainer.shard_latents:
        shard = shard_of(rank_of(trainer.processes), trainer.processes, settings.d_sae)
        sparsity, kind = ShardedTopK(sparsity, shard), ShardedModule
    return kind(
        SparseAutoencoder(
            d_in,
            settings.d_sae,
            sparsity,
            encoder_bias=settings.encoder_bias,
            selection_precision=selection_precision(study),
            kernels=kernels_of(study)[0],
            input_scaling=settings.input_scaling,
            initial_bias=settings.initial_bias,
            decoder_norm=settings.decoder_norm,
            encoder_norm=settings.encoder_norm,
            d_target=d_target,
            shard=shard,
            seed=study.seed,
        ),
        lr=settings.lr,
        betas=(settings.adam_betas[0], settings.adam_betas[1]),
        epsilon=settings.adam_epsilon,
        aux_coefficient=settings.aux_coefficient,
        k_aux=settings.k_aux,
        dead_after_vectors=settings.dead_after_vectors,
        warmup_steps=settings.warmup_steps,
        decay_steps=settings.decay_steps,
        total_steps=trainer.steps,
    )


def trainer_of(
    cfg: DictConfig,
    logger: Logger,
    callbacks: Sequence[pl.Callback],
    *,
    progress: bool,
    alone: bool = False,
) -> pl.Trainer:
    """The trainer of one training, or of several side by side.

    Args:
        alone: this process trains by itself on its current device, whatever `trainer.devices` says.
    """
    sae, settings = SaeSettings.of(cfg), TrainerSettings.of(cfg)
    processes = 1 if alone else settings.processes
    devices: int | list[int] = settings.devices
    if alone:
        devices = [torch.cuda.current_device()] if Study(cfg).device_type == "cuda" else 1
    averaging = [] if sae.ema is None else [MovingAverage(decay=sae.ema)]
    bar = [TrainingProgress(every=settings.log_every)] if progress else []
    return pl.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accelerator=settings.accelerator,
        devices=devices,
        num_nodes=1 if alone else settings.num_nodes,
        strategy=strategy_of(processes, shard_latents=settings.shard_latents),
        gradient_clip_val=sae.gradient_clip,
        logger=logger,
        log_every_n_steps=settings.log_every,
        val_check_interval=settings.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        # Callbacks run in this order: a checkpoint holds what the ones before it have done.
        callbacks=[*averaging, LastValidation(), *callbacks, *bar],
        plugins=[InPlace(), *environment_of(processes)],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def _writers(study: Study, beside: Path) -> list[pl.Callback]:
    """What writes the weights where no process has them all."""
    if not TrainerSettings.of(study.cfg).shard_latents:
        return []
    from diffusae.jobs.latent_shards import WholeWeights

    return [WholeWeights(study.sae, beside=beside / "whole")]


def save_trained(
    study: Study,
    module: SAEModule,
    stream: Stream,
    measured: dict[str, float],
    target: Stream | None = None,
) -> None:
    """Write the trained autoencoder with its cell and last validation figures."""
    _warn_of_a_poor_fit(study, measured.get("val/explained_variance"))
    metadata: dict[str, Any] = {
        "cell": study.cell.coordinates(),
        "hookpoint": stream.hookpoint,
        "validation": measured,
    }
    if target is not None:
        metadata["target"] = {"block": target.block, "hookpoint": target.hookpoint}
    save = save_config if isinstance(module, ShardedModule) else save_sae
    save(study.sae, module.autoencoder, metadata)


def _warn_of_a_poor_fit(study: Study, explained: float | None) -> None:
    """Log a warning where the autoencoder is worse than the mean of the vectors."""
    if explained is None or explained >= 0:
        return
    sae = study.cfg.sae
    log.warning(
        "%s: this autoencoder is WORSE THAN THE MEAN of the vectors (explained variance %.3f in"
        " validation): nothing that is made from it means anything. Lower sae.lr=%g, raise"
        " trainer.steps=%d, or choose another sae.input_scaling=%s; then train again",
        study.cell_name,
        explained,
        sae.lr,
        study.cfg.trainer.steps,
        sae.input_scaling,
    )
