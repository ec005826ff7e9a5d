"""Registering claims, and the study of fresh pictures on which they are judged.

That study is `outputs/<name>-claims/<claims>/`: a study like any other, with the same settings and
the same autoencoders, but with other captions and other noise. Nothing was chosen on its pictures.
Its directory `registration/` says what was claimed, and when: it is written before the first of
these pictures is made.
"""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from diffusae.errors import UserError, together
from diffusae.evaluation.claims import Registration, registration_faults
from diffusae.files import atomic_path
from diffusae.interventions.windows import WINDOWS, window_at
from diffusae.parsing import typed
from diffusae.prompts.fresh import fresh_captions
from diffusae.runs.record import RECORD, RunRecord, read_record, run_signature, state
from diffusae.runs.survey import finished_runs
from diffusae.study.building import build
from diffusae.study.names import name_fault
from diffusae.study.study import Study

log = logging.getLogger(__name__)

STAGE = "register"
FILE = "captions.jsonl"
CHOOSING = ("dictionary", "tune")
"""The splits that name latents and choose settings: as many fresh pictures as the study has."""


@dataclass(frozen=True)
class Registered:
    """A study's claims, whether or not they are registered yet."""

    study: Study
    claims: Registration

    @classmethod
    def of(cls, study: Study) -> Registered:
        """Those of `claims`; `UserError` for one that lacks an entry or has an unknown one."""
        try:
            return cls(study, typed(Registration, study.part("claims")))
        except UserError as error:
            raise UserError(f"claims: {error}") from error

    def faults(self) -> list[str]:
        """What is wrong with the claims in this study. Nothing is loaded."""
        faults = registration_faults(self.claims, [cell.key for cell in self.study.grid])
        if (fault := name_fault("claims.name", self.claims.name)) is not None:
            faults.append(fault)
        if self.study.kind != "generation":
            faults.append(
                f"claims are judged on pictures that are generated of captions, and"
                f" collection={self.study.kind} has none; choose collection=generation"
            )
        for name, claim in self.claims.stated.items():
            if claim.window is not None and 0 <= claim.cell.t <= 1:
                own = next(n for n, ends in WINDOWS.items() if ends == window_at(claim.cell.t))
                if own != claim.window:
                    faults.append(
                        f"claims.stated.{name}.window={claim.window}: at t={claim.cell.t:g} the"
                        f" window {own} is edited"
                    )
        return faults

    @property
    def values(self) -> dict[str, Any]:
        """What decides the verdicts, and what is registered."""
        return self.study.part("claims")

    @property
    def pictures(self) -> int:
        """How many fresh pictures are made."""
        counts = self.study.cfg.prompts.counts
        return self.claims.captions + sum(counts.get(split) or 0 for split in CHOOSING)

    @property
    def signature(self) -> str:
        """The first 16 digits of the SHA-256 of the registered values: comments are none of
        them.
        """
        return run_signature(determines=self.values, parents={})

    @cached_property
    def fresh(self) -> Study:
        """The study of the fresh pictures."""
        cfg: DictConfig = copy.deepcopy(self.study.cfg)
        own = self.study.cfg.prompts
        with open_dict(cfg):
            cfg.paths.sae = str(Path(cfg.paths.sae))
            cfg.paths.experiment = f"{self.study.directory}-claims/{self.claims.name}"
            cfg.name, cfg.seed = f"{self.study.name}-claims/{self.claims.name}", self.claims.seed
            for name in ("activations", "codes"):
                cfg.paths[name] = f"{cfg.paths.experiment}/{name}"
            cfg.activations.source, cfg.activations.store_training = None, True
            cfg.stability.seeds, cfg.stability.seed = 1, None  # one autoencoder a cell is judged
            cfg.activations.positions_per_image = cfg.activations.max_vectors = None
            cfg.prompts = {
                "_target_": "diffusae.prompts.caption_source.FilePrompts",
                "path": str(self.directory / FILE),
                "counts": {
                    "train": 0,
                    "validation": 0,
                    **{split: own.counts.get(split, 0) for split in CHOOSING},
                    "test": self.claims.captions,
                },
            }
        return Study(cfg)

    @property
    def directory(self) -> Path:
        """Of the registration: captions.jsonl and its run.json."""
        return Path(f"{self.study.directory}-claims") / self.claims.name / "registration"

    @property
    def record(self) -> RunRecord | None:
        """The finished registration, of these claims or of others in their place."""
        record = read_record(self.directory)
        return record if record is not None and record.status == "finished" else None

    @property
    def changed(self) -> bool:
        """Whether the claims are other ones than those that are registered."""
        return self.record is not None and self.record.signature != self.signature

    def register(self) -> bool:
        """Write down the claims and the captions of the fresh pictures. False: they are.

        Raises:
            UserError: other claims were registered under this name, and figures exist already.
        """
        if self.changed:
            if any(finished_runs(self.directory.parent / "evaluation", "*/*")):
                self._refuse_change()
            (self.directory / RECORD).unlink()  # nobody has looked at anything yet
        if state(self.directory, determines=self.values, parents={}) == "finished":
            return False
        captions = self._captions()
        with (
            self.study.recorded(
                self.directory, STAGE, determines=self.values, seed=self.claims.seed
            ),
            atomic_path(self.directory / FILE) as temporary,
        ):
            rows = (json.dumps({"caption": text}, ensure_ascii=False) for text in captions)
            temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")
        log.info(
            "%d claims are registered: %s (%s)",
            len(self.claims.stated), self.directory, self.signature,
        )  # fmt: skip
        return True

    def _refuse_change(self) -> None:
        try:
            state(self.directory, determines=self.values, parents={})
        except UserError as error:
            raise UserError(
                f"the claims were changed after their result existed, so the result is stale and"
                f" the new claims cannot be judged on these pictures. {error}, or register the new"
                " claims: give claims.name and claims.seed other values"
            ) from error

    def _captions(self) -> list[str]:
        """Captions that neither the study has nor any earlier registration."""
        together(self._seed_faults())
        own = self.study.cfg.prompts

        def texts(more: int) -> Any:
            cfg = copy.deepcopy(own)
            if more:
                if cfg.counts.get("test") is None:
                    raise UserError("prompts.counts.test takes all captions; give it a number")
                cfg.counts.test += more
            return build(cfg, "prompts").texts()

        seen = [
            json.loads(line)["caption"]
            for file in sorted(self.directory.parents[1].glob(f"*/registration/{FILE}"))
            for line in file.read_text(encoding="utf-8").splitlines()
            if file.parent != self.directory
        ]
        return fresh_captions(texts, self.pictures, seen=seen)

    def _seed_faults(self) -> list[str]:
        """Whether the fresh noise has seeds that were used: those of the study or of an earlier
        registration.
        """
        used = {self.study.name: (self.study.seed, len(self.study.prompts))}
        for directory, record in finished_runs(self.directory.parents[1], "*/registration"):
            if directory != self.directory and record.seed is not None:
                lines = (directory / FILE).read_text(encoding="utf-8").count("\n")
                used[directory.parent.name] = (record.seed, lines)
        seed = self.claims.seed
        return [
            f"claims.seed={seed} gives the fresh pictures noise that {name} has used (seeds {first}"
            f" to {first + n - 1}); choose one from {first + n} on"
            for name, (first, n) in used.items()
            if first < seed + self.pictures and seed < first + n
        ]
