"""A composed configuration as a study: its cells, its directories, and the checks across its
parts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from omegaconf import DictConfig, OmegaConf

from diffusae.activations.local_copy import forget, keep_copy
from diffusae.activations.schema import Cell
from diffusae.activations.settings import ActivationSettings
from diffusae.backbone.describe import layout_in
from diffusae.backbone.passes import Branches, configured_branches
from diffusae.backbone.settings import Layout, ModelSettings
from diffusae.backbone.sites import completed, parsed
from diffusae.errors import UserError, together
from diffusae.masking import masked_value
from diffusae.prompts.prompt_set import Prompt, check_counts, number_prompts
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import run_record
from diffusae.runs.wandb_mode import run_id
from diffusae.sae.settings import TrainerSettings
from diffusae.settings import Settings
from diffusae.study.building import build
from diffusae.study.checks import study_faults
from diffusae.study.given_pictures import GivenPictures
from diffusae.study.resolvers import register_resolvers
from diffusae.study.settings import GridSettings, Kind, PictureCollection

if TYPE_CHECKING:
    from diffusae.sae.sparsity import Sparsity

register_resolvers()


@dataclass(frozen=True)
class Study:
    """One experiment at one cell: its configuration and its directories."""

    cfg: DictConfig
    coded: ClassVar[bool] = False
    """Whether the collection holds the dictionary, tune and test pictures as codes."""

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.cfg.name

    @property
    def seed(self) -> int:
        """Of all draws that have no seed of their own."""
        return self.cfg.seed

    @property
    def directory(self) -> Path:
        """`outputs/<name>`."""
        return Path(self.cfg.paths.experiment).expanduser()

    @cached_property
    def activations(self) -> Path:
        """The collection. With `activations.source` it is a local copy, whose manifest is fetched
        where there is none.
        """
        root = Path(self.cfg.paths.activations).expanduser()
        settings = ActivationSettings.of(self.cfg)
        if settings.source is None:
            forget(root)
        else:
            manifest = keep_copy(
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
    def held_out(self) -> Study:
        """The study whose collection holds the dictionary, tune and test pictures: this one, or a
        `CodedStudy` with `activations.held_out=codes`.
        """
        coded = ActivationSettings.of(self.cfg).held_out == "codes"
        return CodedStudy(self.cfg) if coded else self

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
        return Path(self.cfg.paths.sae).expanduser() / self.cell_name

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
        grid = GridSettings.of(self.cfg)
        return [
            Cell(self.cfg.model.name, block, t, conditioning)
            for block in grid.blocks
            for t in grid.timesteps
            for conditioning in grid.conditionings
        ]

    @property
    def hookpoints(self) -> dict[str, str | int]:
        """Block -> the name of its hookpoint, or its place in the list of blocks.

        A name without a stream has that of `stream`. A name without a site means the update, or the
        output of the block where given pictures are collected with `collection.record=output`.
        """
        outputs = self.kind == "pictures" and PictureCollection.of(self.cfg).record == "output"
        return {
            block: completed(name, site="after" if outputs else "update", stream=self.cfg.stream)
            for block, name in ModelSettings.of(self.cfg).hookpoints.items()
            if name is not None
        }

    def reads_text(self, block: str) -> bool:
        """Whether a block's hookpoint is of the text's tokens."""
        return parsed(self.hookpoints.get(block, 0))[2] == "text"

    @property
    def text_fault(self) -> str | None:
        """Why the study's cell has no places in the picture; None where it has."""
        block = self.cell.block
        if self.kind == "text" or not self.reads_text(block):
            return None
        return (
            f"block {block} reads the text's tokens ({self.hookpoints[block]}), which have no place"
            " in the picture; choose a block without @text"
        )

    @property
    def kind(self) -> Kind:
        """What is collected."""
        return self.cfg.collection.kind

    @cached_property
    def given(self) -> GivenPictures:
        """The given pictures of a study that collects from some."""
        source = build(self.cfg.collection.source, "source")
        return GivenPictures.of(PictureCollection.of(self.cfg), source)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Every prompt of the study, numbered and seeded; of given pictures, one a picture."""
        if self.kind == "pictures":
            prompt = PictureCollection.of(self.cfg).prompt
            return self.given.prompts(prompt, first_seed=self.seed)
        prompts = self.cfg.prompts
        check_counts(prompts.counts, open_ended=prompts.get("split") == "hash")
        return number_prompts(build(self.cfg.prompts, "prompts").texts(), first_seed=self.seed)

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

    @property
    def trainings(self) -> list[Study]:
        """Every training of the grid: its cells, each with every k of `grid.k`."""
        ks = GridSettings.of(self.cfg).k or [None]
        return [self.at(cell, k=k) for cell in self.grid for k in ks]

    def sparsity(self) -> Sparsity:
        """What chooses the active latents of this study's autoencoders, newly built."""
        return build(self.cfg.sae.sparsity, "sparsity")

    def config(self) -> dict[str, Any]:
        """The whole resolved configuration, for run.json."""
        return OmegaConf.to_container(self.cfg, resolve=True)  # type: ignore[return-value]

    def part(self, name: str) -> dict[str, Any]:
        """One part of the configuration as plain values, resolved."""
        return OmegaConf.to_container(self.cfg[name], resolve=True)  # type: ignore[return-value]

    @contextmanager
    def recorded(
        self,
        directory: Path,
        stage: str,
        *,
        determines: Mapping[str, Any],
        parents: Mapping[str, str] | None = None,
        seed: int | Literal["study"] | None = "study",
        locks: bool = True,
        **changed: Any,
    ) -> Iterator[None]:
        """Hold a directory and keep its run.json while the block makes its contents.

        Args:
            stage: the command by which the contents are made again.
            determines, parents: what decides the contents, see `runs.record.RunRecord`.
            seed: of the contents; "study": the study's own.
            locks: False where the caller holds the directory already.
            changed: entries of the configuration that run.json tells in another way.
        """
        record = run_record(
            directory,
            stage=stage,
            config=self.config() | changed,
            determines=determines,
            parents=parents or {},
            seed=self.seed if seed == "study" else seed,
        )
        with directory_lock(directory) if locks else nullcontext(), record:
            yield

    @property
    def layout(self) -> Layout | None:
        """How guidance runs, as configured or as the model's folder says; None: a repository of the
        hub says it, which has not been asked yet."""
        model = ModelSettings.unchecked(self.cfg)
        return model.guidance_layout or layout_in(model.source)

    @property
    def branches(self) -> Branches:
        """The branches of guidance that the study's model runs at its settings. Those of an unknown
        layout are all that may run; `check_hookpoints` knows the layout."""
        return self.branches_of(self.layout)

    def branches_of(self, layout: Layout | None) -> Branches:
        """The branches that a model of this layout runs at the study's settings."""
        model = ModelSettings.unchecked(self.cfg)
        return configured_branches(layout, model.guidance, model.true_guidance)

    @property
    def device_type(self) -> str:
        """What autoencoders are trained on, as torch names it."""
        accelerator = TrainerSettings.unchecked(self.cfg).accelerator
        if accelerator == "auto":
            import torch

            return "cuda" if torch.cuda.is_available() else "cpu"
        return "cuda" if accelerator in ("cuda", "gpu") else "cpu"

    def model_determines(self) -> dict[str, Any]:
        """The settings of the model that decide its results, without those that only describe it
        and options that are off.
        """
        model = self.part("model")
        model["hookpoints"] = {
            block: None if name is None else completed(name, stream=self.cfg.stream)
            for block, name in model["hookpoints"].items()
        }
        for name in ("architecture", "guidance_layout", "latent_scale", "offload"):
            model.pop(name)
        off = {"true_guidance": None, "text_tokens": None, "variant": None, "compile": False}
        off |= {"log_snr_shift": 0, "quantization": "none", "gguf": None, "lora": None}
        off |= {"attention_slicing": False, "vae_slicing": False, "vae_tiling": False}
        return {
            name: value for name, value in model.items() if name not in off or value != off[name]
        }

    def sae_determines(self) -> dict[str, Any]:
        """The settings of the autoencoder that decide it. Options that came later are left out
        where they have their first value, so that older trainings stay finished.
        """
        first = {
            "target": None,
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

    def check(self, *others: type[Settings]) -> None:
        """Refuse what cannot work, every fault in one `UserError`, before anything is loaded.

        Args:
            others: settings that this stage has beside those of all stages.
        """
        together(study_faults(self, others))


class CodedStudy(Study):
    """The same study with its other collection: the dictionary, tune and test pictures, and their
    codes by every autoencoder of the grid in the place of updates.
    """

    coded: ClassVar[bool] = True

    @cached_property
    def activations(self) -> Path:
        return Path(self.cfg.paths.codes).expanduser()
