"""A composed configuration as a study: its cells, its directories, and the checks across its
parts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from omegaconf import DictConfig, OmegaConf

from diffusae.activations.mirror import forget, mirror
from diffusae.activations.schema import Cell
from diffusae.activations.stored_numbers import NumbersName
from diffusae.backbone.layouts import Branches, Layout, configured_branches
from diffusae.errors import UserError, together, unknown
from diffusae.jobs.processes import device_fault, process_faults
from diffusae.masking import masked_value
from diffusae.prompts.prompt_set import Prompt, check_counts, number_prompts
from diffusae.runs.wandb_mode import run_id
from diffusae.sae.choices import DecoderNorm, InitialBias, InputScaling
from diffusae.sae.kernels import KernelsName, check_device, kernels_by_name
from diffusae.sae.precision import AUTO, SelectionPrecision
from diffusae.sae.sparsity_checks import CHECKS
from diffusae.study.building import build
from diffusae.study.given_pictures import GivenPictures, collection_faults
from diffusae.study.grid_checks import conditioning_faults, grid_faults, is_number
from diffusae.study.names import name_faults
from diffusae.study.resolvers import register_resolvers

if TYPE_CHECKING:
    from diffusae.sae.sparsity import Sparsity

register_resolvers()

TRAINING = ("train", "train_grid", "run")
"""Stages that train, and so need the device that `trainer` names."""
DTYPES = ("float32", "float16", "bfloat16")

# Numbers that several parts rely on: dotted name, type, least and greatest value.
_NUMBERS: tuple[tuple[str, type, float, float], ...] = (
    ("seed", int, 0, 2**63),
    ("timestep.t", float, 0, 1),
    ("model.steps", int, 1, 1000),
    ("model.guidance", float, 0, 100),
    ("model.height", int, 8, 8192),
    ("model.width", int, 8, 8192),
    ("model.batch_size", int, 1, 4096),
    ("activations.group_size", int, 1, 100_000),
    ("activations.batch_size", int, 1, 10_000_000),
    ("activations.buffer_vectors", int, 1, 10**9),
    ("activations.workers", int, 0, 1000),
    ("activations.fetch_attempts", int, 1, 1000),
    ("sae.d_sae", int, 1, 10**7),
    ("sae.encoder_norm", float, 1e-9, 10**9),
    ("sae.lr", float, 1e-12, 1e3),
    ("sae.adam_epsilon", float, 1e-30, 1),
    ("sae.aux_coefficient", float, 0, 1e6),
    ("sae.k_aux", int, 0, 10**7),
    ("sae.dead_after_vectors", int, 1, 10**15),
    ("sae.warmup_steps", int, 0, 10**9),
    ("sae.decay_steps", int, 0, 10**9),
    ("trainer.steps", int, 1, 10**9),
    ("trainer.validate_every", int, 1, 10**9),
    ("trainer.checkpoint_every", int, 1, 10**9),
    ("trainer.log_every", int, 1, 10**9),
    ("trainer.devices", int, 1, 10**4),
    ("trainer.num_nodes", int, 1, 10**4),
    ("emergence.share", float, 1e-6, 1),
    ("emergence.moments", int, 2, 1000),
    ("emergence.n_resamples", int, 1, 10**7),
    ("three_stages.margin", float, 1e-6, 1),
    ("three_stages.n_resamples", int, 1, 10**7),
)

# The same for numbers that may be null.
_OPTIONAL_NUMBERS: tuple[tuple[str, type, float, float], ...] = (
    ("model.true_guidance", float, 0, 100),
    ("model.text_tokens", int, 1, 512),
    ("sae.gradient_clip", float, 1e-9, 10**9),
    ("sae.ema", float, 0, 1 - 1e-9),
    ("activations.positions_per_image", int, 1, 10**9),
    ("activations.max_vectors", int, 1, 10**15),
    ("stability.seed", int, 0, 2**63),
    ("activations.cache_bytes", int, 1, 10**15),
    ("plan.seconds_per_picture", float, 1e-9, 10**9),
    ("plan.vectors_per_second", float, 1e-9, 10**15),
)


_SAE_CHOICES = {
    "selection_precision": (AUTO, *get_args(SelectionPrecision)),
    "input_scaling": get_args(InputScaling),
    "initial_bias": get_args(InitialBias),
    "decoder_norm": get_args(DecoderNorm),
}


@dataclass(frozen=True)
class Study:
    """One experiment at one cell, as the stages see it."""

    cfg: DictConfig

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.cfg.name

    @property
    def directory(self) -> Path:
        """`outputs/<name>`."""
        return Path(self.cfg.paths.experiment).expanduser()

    @cached_property
    def activations(self) -> Path:
        """Where the collection lies; with `activations.source`, its local copy, whose manifest is
        fetched when there is none.
        """
        root, settings = Path(self.cfg.paths.activations).expanduser(), self.cfg.activations
        if settings.source is None:
            forget(root)
        else:
            manifest = mirror(
                root,
                settings.source,
                attempts=settings.fetch_attempts,
                most_bytes=settings.cache_bytes,
                manifest_sha256=settings.source_sha256,
            )
            if (model := manifest.header.get("model")) != self.cfg.model.name:
                raise UserError(
                    f"{masked_value(settings.source)} holds updates of model {model},"
                    f" model.name={self.cfg.model.name}; choose model={model}"
                )
        return root

    @property
    def annotations(self) -> Path:
        """Where the annotator's masks lie."""
        return self.directory / "annotations"

    @property
    def cell(self) -> Cell:
        """The cell that `timestep`, `block` and `conditioning` choose."""
        return Cell(
            self.cfg.model.name,
            self.cfg.block.name,
            self.cfg.timestep.t,
            self.cfg.conditioning.branch,
        )

    @property
    def cell_name(self) -> str:
        """The cell's key with the SAE's tag, as directories and W&B runs are called:
        `mid-t0.50-cond-k10`.
        """
        return f"{self.cell.key}-{self.cfg.sae.tag}"

    def wandb_id(self, cell_name: str) -> str:
        """The id of a cell's W&B run."""
        return run_id(self.name, cell_name)

    @property
    def sae(self) -> Path:
        """The cell's trained autoencoder."""
        return self.directory / "sae" / self.cell_name

    @property
    def concepts(self) -> Path:
        """The cell's concept dictionary."""
        return self.directory / "concepts" / self.cell_name

    def evaluation(self, metric: str) -> Path:
        """The cell's results of one metric."""
        return self.directory / "evaluation" / metric / self.cell_name

    @property
    def grid(self) -> list[Cell]:
        """Every cell of `grid`."""
        grid = self.cfg.grid
        return [
            Cell(self.cfg.model.name, block, t, conditioning)
            for block in grid.blocks
            for t in grid.timesteps
            for conditioning in grid.conditionings
        ]

    @property
    def kind(self) -> str:
        """What is collected: `generation`, `pictures` or `text`."""
        return self.cfg.collection.kind

    @cached_property
    def given(self) -> GivenPictures:
        """The given pictures of a study that collects from some."""
        return GivenPictures.of(
            self.part("collection"), build(self.cfg.collection.source, "source")
        )

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Every prompt of the study, numbered and seeded; of given pictures, one a picture."""
        if self.kind == "pictures":
            return self.given.prompts(self.cfg.collection.prompt, first_seed=self.cfg.seed)
        prompts = self.part("prompts")
        check_counts(prompts["counts"], open_ended=prompts.get("split") == "hash")
        return number_prompts(build(self.cfg.prompts, "prompts").texts(), first_seed=self.cfg.seed)

    def at(self, cell: Cell, *, k: int | None = None) -> Study:
        """The same configuration at another cell, and with another k where one is given."""
        cfg = copy.deepcopy(self.cfg)
        cfg.timestep.t, cfg.block.name, cfg.conditioning.branch = (
            cell.t,
            cell.block,
            cell.conditioning,
        )
        if k is not None:
            cfg.sae.k = k
        return Study(cfg)

    def sparsity(self) -> Sparsity:
        """What chooses the active latents of this study's autoencoders, newly built."""
        return build(self.cfg.sae.sparsity, "sparsity")

    def config(self) -> dict[str, Any]:
        """The whole resolved configuration, for run.json."""
        return OmegaConf.to_container(self.cfg, resolve=True)  # type: ignore[return-value]

    def part(self, name: str) -> dict[str, Any]:
        """One resolved part of the configuration as plain values."""
        return OmegaConf.to_container(self.cfg[name], resolve=True)  # type: ignore[return-value]

    @property
    def branches(self) -> Branches:
        """The branches of guidance that the study's model runs, as its configuration has it."""
        model = self.cfg.model
        return configured_branches(model.guidance_layout, model.guidance, model.true_guidance)

    @property
    def device_type(self) -> str:
        """What autoencoders are trained on, as torch names it."""
        accelerator = self.cfg.trainer.accelerator
        if accelerator == "auto":
            import torch

            return "cuda" if torch.cuda.is_available() else "cpu"
        return "cuda" if accelerator in ("cuda", "gpu") else "cpu"

    def model_determines(self) -> dict[str, Any]:
        """What of the model's configuration decides its results: not what only describes it, and no
        option that is off.
        """
        model = self.part("model")
        for name in ("architecture", "guidance_layout", "latent_scale"):
            model.pop(name)
        off = {"true_guidance": None, "text_tokens": None, "variant": None, "compile": False}
        return {
            name: value for name, value in model.items() if name not in off or value != off[name]
        }

    def sae_determines(self) -> dict[str, Any]:
        """What of the autoencoder's configuration decides it; younger options only where they are
        not at their first value.
        """
        first = {
            "initial_bias": "geometric_median",
            "decoder_norm": "unit",
            "encoder_norm": 1.0,
            "adam_betas": [0.9, 0.999],
            "adam_epsilon": 6.25e-10,
        }
        return {
            name: value
            for name, value in self.part("sae").items()
            if name not in first or value != first[name]
        }

    def check(self) -> None:
        """Refuse what cannot work, every fault in one `UserError`, before anything is loaded."""
        together(self._faults())

    def _faults(self) -> Iterator[str]:
        cfg = self.cfg
        yield from name_faults(cfg)
        wrong = {number[0]: fault for number in _NUMBERS if (fault := _number_fault(cfg, *number))}
        yield from wrong.values()
        for number in _OPTIONAL_NUMBERS:
            if OmegaConf.select(cfg, number[0]) is not None and (
                fault := _number_fault(cfg, *number)
            ):
                yield f"{fault}, or null"
        if not isinstance(cfg.activations.ignore_free_disk, bool):
            yield (
                f"activations.ignore_free_disk={cfg.activations.ignore_free_disk} must be true or"
                " false"
            )
        for name, known in _SAE_CHOICES.items():
            if cfg.sae[name] not in known:
                yield str(unknown(f"sae.{name}", cfg.sae[name], known))
        betas = cfg.sae.adam_betas
        if len(betas) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in betas):
            yield f"sae.adam_betas={list(betas)} must be two numbers from 0 to below 1"
        if not wrong.keys() & {"sae.warmup_steps", "sae.decay_steps", "trainer.steps"}:
            scheduled = cfg.sae.warmup_steps + cfg.sae.decay_steps
            if scheduled > cfg.trainer.steps:
                yield (
                    f"sae.warmup_steps={cfg.sae.warmup_steps} +"
                    f" sae.decay_steps={cfg.sae.decay_steps} exceed"
                    f" trainer.steps={cfg.trainer.steps}; lower them"
                )
        yield from self._kernel_faults()
        if cfg.stage in TRAINING and (
            fault := device_fault(cfg.trainer.accelerator, cfg.trainer.devices)
        ):
            yield fault
        if not wrong.keys() & {
            "trainer.devices",
            "trainer.num_nodes",
            "activations.batch_size",
            "activations.buffer_vectors",
        }:
            yield from process_faults(cfg)
        k = _number_fault(cfg, "sae.k", int, 1, 10**7) if "k" in cfg.sae else None
        if k is not None:
            yield k
        elif "sae.d_sae" not in wrong:
            yield from self._sparsity_faults()
        steps = None if "model.steps" in wrong else cfg.model.steps
        yield from grid_faults(cfg, steps=steps)
        yield from collection_faults(cfg)
        if cfg.activations.dtype not in get_args(NumbersName):
            yield str(unknown("activations.dtype", cfg.activations.dtype, get_args(NumbersName)))
        if cfg.model.dtype not in DTYPES:
            yield str(unknown("model.dtype", cfg.model.dtype, DTYPES))
        if not isinstance(cfg.model.compile, bool):
            yield f"model.compile={cfg.model.compile} must be true or false"
        if cfg.model.guidance_layout not in (None, *get_args(Layout)):
            yield str(unknown("model.guidance_layout", cfg.model.guidance_layout, get_args(Layout)))
        guided = "model.guidance" in wrong or "uncond" in self.branches
        yield from conditioning_faults(cfg, guided=guided)

    def _sparsity_faults(self) -> Iterator[str]:
        """What is wrong with the sparsity, asked without torch where the class is one of ours."""
        settings = self.part("sae")["sparsity"]
        check = CHECKS.get(settings.pop("_target_", None))
        with suppress(TypeError):  # settings that the class does not have: building it names them
            if check is not None:
                yield from check(**settings, latents=self.cfg.sae.d_sae)
                return
        try:
            self.sparsity().check(self.cfg.sae.d_sae)
        except UserError as error:
            yield str(error)

    def _kernel_faults(self) -> Iterator[str]:
        """Kernels that there are not; where the stage trains, also those that do not run here."""
        kernels = self.cfg.trainer.kernels
        if kernels not in get_args(KernelsName):
            yield str(unknown("trainer.kernels", kernels, get_args(KernelsName)))
        elif kernels != "torch" and self.cfg.stage in TRAINING:  # torch's own run everywhere
            try:
                kernels_by_name(kernels)
                check_device(kernels, self.device_type)
            except UserError as error:
                yield str(error)


def _number_fault(
    cfg: DictConfig, name: str, kind: type, least: float, greatest: float
) -> str | None:
    value = OmegaConf.select(cfg, name)
    whole = kind is int
    if is_number(value) and (isinstance(value, int) or not whole) and least <= value <= greatest:
        return None
    return (
        f"{name}={value} must be a {'whole ' if whole else ''}number from {least:g} to {greatest:g}"
    )
