"""A metric's settings: the option of `evaluation`, entry by entry, each of its type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, Self, get_type_hints

from omegaconf import DictConfig, OmegaConf

from diffusae.errors import UserError, together, unknown
from diffusae.parsing import of_type
from diffusae.settings import Settings, Within

PART = "evaluation"
Count = Annotated[int, Within(1, 10**7)]
"""At least one: pictures, prompts, latents, resamples."""


class MetricSettings(Settings, part=PART):
    """The base of metrics' settings dataclasses.

    An entry that the metric does not have is refused, unlike in other parts of the configuration:
    it would decide nothing. A field with a default may be missing from the YAML file.

    Raises:
        UserError: every entry that is unknown, missing, of another type or out of range.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__(part=PART)

    def __post_init__(self) -> None:
        together(self.faults())

    def faults(self) -> Iterator[str]:
        """What is wrong with the values; a class that relates several adds to this."""
        yield from (fault for _, fault in self._faults_of(vars(self)))

    @classmethod
    def of(cls, cfg: DictConfig) -> Self:
        """The settings in a composed configuration."""
        given: dict[str, Any] = OmegaConf.to_container(cfg[PART], resolve=True)  # type: ignore[assignment]
        metric, hints = given.pop("name", None), get_type_hints(cls)
        known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
        faults = [
            str(unknown(f"value of evaluation={metric}:", name, known))
            for name in given
            if name not in known
        ]
        faults += [
            f"evaluation.{name} is missing; give it"
            for name, field in known.items()
            if name not in given and field.default is MISSING
        ]
        values = {}
        for name in given.keys() & known.keys():
            try:
                values[name] = of_type(given[name], hints[name], f"{PART}.{name}")
            except UserError as error:
                faults += (f if PART in f else f"{PART}.{name}: {f}" for f in error.faults)
        together(faults)
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class EditedSettings(MetricSettings):
    """What the metrics of edited pictures have in common."""

    tune_prompts: Count
    test_prompts: Count
    steps: Count | None
    """Of a generation; None: as many as the model's."""
    examples: Annotated[int, Within(0, 10**7)]
    """Cases whose pictures are kept to be looked at."""
    n_resamples: Count

    def prompts(self, split: str) -> int:
        """How many prompts of a split are asked for."""
        return self.tune_prompts if split == "tune" else self.test_prompts


@dataclass(frozen=True, kw_only=True)
class InterventionSettings(EditedSettings):
    """The settings of one kind of edit, at several strengths."""

    conditionings: tuple[Literal["cond", "uncond"], ...]
    """The guidance branches that are edited."""
    strengths: tuple[float, ...]
    """To be tried on the tuning split."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not self.strengths or not all(map(self.allows, self.strengths)):
            rule = "numbers above 0" if not self.allows(-1.0) else "finite numbers other than 0"
            yield f"evaluation.strengths={list(self.strengths)} must hold {rule}; give some"

    @staticmethod
    def allows(strength: float) -> bool:
        """Whether a strength makes sense."""
        return strength > 0
