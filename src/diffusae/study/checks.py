"""What a configuration must be before anything loads: its settings one by one, and together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from diffusae.activations.settings import ActivationSettings, CollectSettings
from diffusae.backbone.settings import ModelSettings
from diffusae.concepts.settings import DictionarySettings
from diffusae.errors import UserError
from diffusae.evaluation.settings import EmergenceSettings, StabilitySettings, ThreeStageSettings
from diffusae.hub.settings import PullSettings, PushSettings
from diffusae.jobs.processes import device_fault, process_faults, shard_faults
from diffusae.runs.settings import LoggerSettings
from diffusae.sae.kernels import check_device, kernels_by_name
from diffusae.sae.settings import (
    ActiveLatents,
    ExportSettings,
    ImportSettings,
    SaeSettings,
    StatedSettings,
    TrainerSettings,
)
from diffusae.sae.sparsity_checks import CHECKS
from diffusae.settings import Settings
from diffusae.study.grid_checks import conditioning_faults, grid_faults
from diffusae.study.names import name_faults
from diffusae.study.settings import (
    OF_KIND,
    BlockSettings,
    BranchSettings,
    CollectionSettings,
    GridSettings,
    MomentSettings,
    RootSettings,
    RunSettings,
)
from diffusae.study.targets import target_of

if TYPE_CHECKING:
    from diffusae.study.study import Study

SETTINGS: tuple[type[Settings], ...] = (
    RootSettings,
    CollectionSettings,
    MomentSettings,
    BlockSettings,
    BranchSettings,
    GridSettings,
    LoggerSettings,
    ModelSettings,
    ActivationSettings,
    SaeSettings,
    TrainerSettings,
    DictionarySettings,
    EmergenceSettings,
    ThreeStageSettings,
    StabilitySettings,
)
"""The settings that every stage has."""

OF_STAGE: Mapping[str, tuple[type[Settings], ...]] = {
    "collect": (CollectSettings,),
    "run": (RunSettings,),
    "export": (ExportSettings,),
    "import": (ImportSettings, StatedSettings),
    "push": (PushSettings,),
    "pull": (PullSettings,),
}
"""What a stage has beside them. Stages of higher floors name theirs when they call `Study.check`.
"""

TRAINING = ("train", "train_grid", "train_online", "run")
"""Stages that train, and so need the device that `trainer` names."""

Sound = Callable[..., bool]
"""sound(*names): whether none of these settings is wrong by itself."""


def study_faults(study: Study, others: Iterable[type[Settings]] = ()) -> Iterator[str]:
    """Every fault of a study's configuration.

    Settings are compared with each other only where none of them is wrong by itself.

    Args:
        others: settings that a stage has beside those of all stages.
    """
    cfg = study.cfg
    yield from name_faults(cfg)
    kind = CollectionSettings.unchecked(cfg).kind
    kinds = [*SETTINGS, *OF_STAGE.get(cfg.stage, ()), *OF_KIND.get(kind, ()), *others]
    kinds += [ActiveLatents] if "k" in cfg.sae else []
    wrong = dict(fault for kind in kinds for fault in kind.faults_in(cfg))
    yield from wrong.values()
    model = ModelSettings.unchecked(cfg)

    def sound(*names: str) -> bool:
        return not wrong.keys() & set(names)

    yield from _saving_faults(model, sound)
    yield from _training_faults(study, sound)
    if sound(*_STORAGE):
        yield from _storage_faults(cfg)
        yield from _code_faults(cfg)
    if sound("sae.k", "sae.d_sae", "sae.sparsity"):
        yield from _sparsity_faults(study)
    named = ("sae.target", "grid.blocks", "model.hookpoints", "activations.held_out")
    if sound(*named, "trainer.devices", "trainer.num_nodes"):
        yield from _target_faults(cfg)
    if sound("grid.timesteps", "grid.blocks", "model.hookpoints", "stream"):
        yield from grid_faults(cfg, steps=model.steps if sound("model.steps") else None)
    guidance = ("model.guidance", "model.true_guidance", "model.guidance_layout")
    if sound("grid.conditionings"):
        guided = not sound(*guidance, "model.source") or "uncond" in study.branches
        layout = None if guided else study.layout
        yield from conditioning_faults(cfg, guided=guided, layout=layout)


def _saving_faults(model: ModelSettings, sound: Sound) -> Iterator[str]:
    """Choices against too little GPU memory that do not go together."""
    try:
        _ = model.saving
    except UserError as error:
        yield str(error)
    if sound("model.compile") and model.compile and model.offload == "sequential":
        yield (
            "model.offload=sequential moves layers that model.compile=true compiles; set"
            " model.offload=group, or model.compile=false"
        )


def _target_faults(cfg: DictConfig) -> Iterator[str]:
    """What is wrong with the target of transcoders."""
    target, grid = SaeSettings.unchecked(cfg).target, GridSettings.unchecked(cfg)
    if target is None:
        return
    for block in dict.fromkeys([BlockSettings.unchecked(cfg).name, *grid.blocks]):
        try:
            target_of(target, block, ModelSettings.unchecked(cfg).hookpoints)
        except UserError as error:
            yield str(error)
    if ActivationSettings.unchecked(cfg).held_out == "codes":
        yield (
            f"sae.target={target}, and activations.held_out=codes keeps nothing that its figures"
            " could be compared with; set activations.held_out=updates"
        )
    trainer, stage = TrainerSettings.unchecked(cfg), RootSettings.unchecked(cfg).stage
    if stage == "train_online" and trainer.processes > 1:
        yield (
            f"sae.target={target}, and train_online deals single streams over {trainer.processes}"
            " processes; set trainer.devices=1 trainer.num_nodes=1, or store the training pictures"
        )


def _sparsity_faults(study: Study) -> Iterator[str]:
    """What is wrong with the sparsity, asked without torch where the class is one of ours."""
    sae = SaeSettings.unchecked(study.cfg)
    settings = dict(sae.sparsity)
    check = CHECKS.get(settings.pop("_target_", None))
    with suppress(TypeError):  # settings that the class does not have: building it names them
        if check is not None:
            yield from check(**settings, latents=sae.d_sae)
            return
    try:
        study.sparsity().check(sae.d_sae)
    except UserError as error:
        yield str(error)


def _training_faults(study: Study, sound: Sound) -> Iterator[str]:
    cfg = study.cfg
    sae, trainer = SaeSettings.unchecked(cfg), TrainerSettings.unchecked(cfg)
    activations, stage = ActivationSettings.unchecked(cfg), RootSettings.unchecked(cfg).stage
    if sound("sae.warmup_steps", "sae.decay_steps", "trainer.steps") and (
        sae.warmup_steps + sae.decay_steps > trainer.steps
    ):
        yield (
            f"sae.warmup_steps={sae.warmup_steps} + sae.decay_steps={sae.decay_steps} exceed"
            f" trainer.steps={trainer.steps}; lower them"
        )
    if stage in TRAINING:
        yield from _device_faults(study, sound)
    sizes = ("activations.batch_size", "activations.buffer_vectors")
    if sound("trainer.devices", "trainer.num_nodes", *sizes):
        yield from process_faults(
            stage,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            batch_size=activations.batch_size,
            buffer_vectors=activations.buffer_vectors,
            shard_latents=trainer.shard_latents is True,
        )
    shards = ("trainer.shard_latents", "trainer.devices", "trainer.num_nodes", "trainer.kernels")
    if stage in TRAINING and sound(*shards, "sae.d_sae", "sae.sparsity", "sae.ema"):
        yield from shard_faults(stage, sae, trainer) if trainer.shard_latents else ()


def _storage_faults(cfg: DictConfig) -> Iterator[str]:
    """What cannot be done where the split `train` is not stored."""
    activations, stage = ActivationSettings.unchecked(cfg), RootSettings.unchecked(cfg).stage
    kind = CollectionSettings.unchecked(cfg).kind
    if activations.store_training:
        return
    unstored = "activations.store_training=false"
    if stage in ("train", "train_grid"):
        yield f"{unstored}, and {stage} reads what is stored; use `diffusae train_online`"
    if kind != "generation":
        yield (
            f"{unstored} needs pictures that are generated, and collection={kind};"
            " set activations.store_training=true"
        )
    if activations.source is not None:
        yield (
            f"{unstored} makes training pictures here, beside a collection that is made here, and"
            " activations.source names one elsewhere; set activations.store_training=true"
        )
    if _has_twins(cfg):
        yield (
            f"{unstored} trains on one order of the pictures, and stability trains again on others;"
            " set stability.seed=null stability.seeds=1"
        )


_STORAGE = (
    *("activations.store_training", "activations.held_out", "activations.source"),
    *("stability.seeds", "stability.seed"),
)
"""Settings that the faults of storage are about."""


def _has_twins(cfg: DictConfig) -> bool:
    """Whether there are autoencoders of other seeds."""
    stability = StabilitySettings.unchecked(cfg)
    return stability.seed is not None or stability.seeds > 1


def _code_faults(cfg: DictConfig) -> Iterator[str]:
    """What cannot be done where codes of the dictionary, tune and test pictures are stored."""
    activations, kind = ActivationSettings.unchecked(cfg), CollectionSettings.unchecked(cfg).kind
    if activations.held_out != "codes":
        return
    coded, otherwise = "activations.held_out=codes", "set activations.held_out=updates"
    if kind != "generation":
        yield f"{coded} needs pictures that are generated, and collection={kind}; {otherwise}"
    if activations.source is not None:
        yield (
            f"{coded} makes these pictures here when the autoencoders are trained, and"
            f" activations.source names a collection elsewhere; {otherwise}"
        )
    if _has_twins(cfg):
        yield (
            f"{coded} holds codes of the autoencoders of the grid, and stability trains others; set"
            " stability.seed=null stability.seeds=1"
        )
    trains_cells = "side_by_side" in cfg and not RunSettings.unchecked(cfg).side_by_side
    if trains_cells and activations.store_training:
        yield (
            f"{coded} needs every autoencoder of the grid before the first cell is labelled, and"
            " `run` trains cell by cell; set side_by_side=true or activations.store_training=false"
        )


def _device_faults(study: Study, sound: Sound) -> Iterator[str]:
    """Devices that are not here, and kernels that do not run on them."""
    trainer = TrainerSettings.unchecked(study.cfg)
    if sound("trainer.accelerator") and (
        fault := device_fault(trainer.accelerator, trainer.devices)
    ):
        yield fault
    if sound("trainer.kernels") and trainer.kernels == "triton":  # the others run everywhere
        try:
            kernels_by_name(trainer.kernels)
            check_device(trainer.kernels, study.device_type)
        except UserError as error:
            yield str(error)
