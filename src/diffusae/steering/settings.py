"""Settings of `diffusae steer` and `look`, and what they say of a picture: its name and title."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf

from diffusae.activations.schema import Cell
from diffusae.interventions.edits import Outside
from diffusae.settings import Given, Settings, Within
from diffusae.study.settings import Seed

Branch = Literal["cond", "uncond"]
Latents = Annotated[int, Within(1, 10**7)]


class Caption:
    """The rule of a text that must be given."""

    example = "'...'"

    def broken(self, value: Any, kind: type) -> str | None:
        return None if str(value or "").strip() else f"is empty; give prompt={self.example}"


class Indices:
    """The rule of a list of latents."""

    def broken(self, value: Any, kind: type) -> str | None:
        if not isinstance(value, list) or not value:
            return "must be a list of latents, such as latents=[373]"
        whole = all(
            isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value
        )
        return None if whole else "must hold whole numbers from 0"


class Strength:
    """The rule of a strength, below 0 or above."""

    def broken(self, value: Any, kind: type) -> str | None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if number and math.isfinite(value) and value != 0 else NOT_A_STRENGTH


NOT_A_STRENGTH = "must be a finite number other than 0, which changes nothing"


@dataclass(frozen=True, kw_only=True)
class PictureSettings(Settings, part=""):
    """One picture, and what is steered or looked at in it: a concept, or latents of one cell."""

    prompt: Annotated[str, Caption()]
    concept: str | None
    latents: Annotated[list[int], Indices()] | None
    picture_seed: Seed

    @property
    def subject(self) -> str:
        """What is steered or looked at, in words."""
        return self.concept or f"latents {listed(self.latents or [])}"


@dataclass(frozen=True, kw_only=True)
class LookSettings(PictureSettings, part=""):
    """`conf/look.yaml`."""

    @classmethod
    def _faults_of(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super()._faults_of(values)
        if (values["latents"] is None) == (not values["concept"]):
            yield "concept", "give one of the two: concept='...', or latents=[...] of one cell"


@dataclass(frozen=True, kw_only=True)
class SteerSettings(PictureSettings, part=""):
    """`conf/steer.yaml`."""

    strengths: list[Annotated[float, Strength()]]
    conditionings: list[Branch]
    """The guidance branches that are edited."""
    preserve_norm: bool
    """Whether an edited vector gets its former length."""

    @classmethod
    def _values(cls, cfg: DictConfig) -> dict[str, Any]:
        values = super()._values(cfg)
        seed = values["picture_seed"]
        return values | {"picture_seed": 0 if seed is None else seed}

    @classmethod
    def _faults_of(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super()._faults_of(values)
        if values["latents"] is None and not values["concept"]:
            yield "concept", "concept is missing; give concept='...' or latents=[...]"
        elif values["latents"] is not None and values["concept"]:
            yield "concept", "concept and latents are both given; leave one of them out"


@dataclass(frozen=True, kw_only=True)
class EditListSettings(Settings, part=""):
    """`conf/steer.yaml` where an edit list is given."""

    edits: Annotated[str, Given("must be a YAML file; give edits=FILE.yaml")]
    prompt: Annotated[str, Caption()] | None
    picture_seed: Seed | None
    concept: str | None
    latents: list[int] | None
    preserve_norm: bool

    @classmethod
    def _values(cls, cfg: DictConfig) -> dict[str, Any]:
        given = not OmegaConf.is_missing(cfg, "prompt")
        return super()._values(cfg) | {"prompt": cfg.prompt if given else None}

    @classmethod
    def _faults_of(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super()._faults_of(values)
        for name in ("concept", "latents", "preserve_norm"):
            if values[name]:
                yield name, f"{name} is for one edit, and edits=... lists them; leave one out"


@dataclass(frozen=True, kw_only=True)
class Intervention(Settings, part="intervention"):
    """What is done with the latents (`conf/intervention`). Those below have more settings."""

    name: Literal["spatial", "global", "amplify", "ablate", "clamp", "text"]


@dataclass(frozen=True, kw_only=True)
class Spatial(Intervention, part="intervention"):
    """`conf/intervention/spatial.yaml`."""

    region: str
    """A name of `interventions.regions.NAMED`, or the path of a painted picture."""
    outside: Outside
    unit_length: bool
    """Whether the sum of the concept vectors has unit length, or is added as it is."""
    n_latents: Latents
    """Of a noun that the dictionary does not have."""


@dataclass(frozen=True, kw_only=True)
class Global(Intervention, part="intervention"):
    """`conf/intervention/global.yaml`."""

    n_latents: Latents
    """Those that tell the style best."""
    under_objects: list[str]
    """Factors that show in objects."""


@dataclass(frozen=True, kw_only=True)
class Text(Intervention, part="intervention"):
    """`conf/intervention/text.yaml`."""

    layer: str
    strength: Annotated[float, Strength()] | None
    """Of one picture; None: a picture for each of the command's strengths."""


_WITH_MORE: Mapping[str, type[Intervention]] = {"spatial": Spatial, "global": Global, "text": Text}


@dataclass(frozen=True, kw_only=True)
class TextBeside(Settings, part="with_text"):
    """Steering through the text encoder beside another intervention."""

    concept: str | None
    """None: there is none."""
    layer: str
    strength: Annotated[float, Strength()]
    conditionings: list[Branch]
    name: str | None
    """Of the experiment that has the layer's SAE; None: this one."""
    sae_tag: str | None


def kinds_of(cfg: DictConfig) -> tuple[type[Settings], ...]:
    """The settings that a configuration of `diffusae steer` has beside those of all stages."""
    return (SteerSettings, TextBeside, _WITH_MORE.get(cfg.intervention.name, Intervention))


@dataclass(frozen=True)
class Steering:
    """A whole configuration of `diffusae steer`."""

    picture: SteerSettings
    intervention: Intervention
    beside: TextBeside

    @classmethod
    def of(cls, cfg: DictConfig) -> Steering:
        """The settings in a composed configuration."""
        return cls(*(kind.of(cfg) for kind in (SteerSettings, kinds_of(cfg)[2], TextBeside)))  # type: ignore[arg-type]

    @property
    def text(self) -> Text | None:
        """The intervention where it is one on the text; None where it is another."""
        return self.intervention if isinstance(self.intervention, Text) else None

    @property
    def region(self) -> str | None:
        """Where the intervention acts; None: everywhere."""
        return self.intervention.region if isinstance(self.intervention, Spatial) else None

    @property
    def strengths(self) -> list[float]:
        """One for each edited picture: the intervention's own one, where it has one."""
        one = None if self.text is None else self.text.strength
        return self.picture.strengths if one is None else [one]

    def directory_name(self, cell: Cell, tag: str) -> str:
        """A directory's name that says what is in it.

        Args:
            tag: of the autoencoder; "": as the name was before it held the tag.
        """
        picture, beside, text = self.picture, self.beside.concept, self.text
        if text is not None:
            one = None if text.strength is None else f"lambda{text.strength:g}"
            words = [one, text.layer, tag]
        else:
            with_text = None if beside is None else f"with {beside}"
            place = f"{cell.key}-{tag}" if tag else f"{cell.block} t{cell.t:.2f}"
            words = [self.region, with_text, place]
        named = [word for word in words if word]
        name = self.intervention.name
        return file_name(name, picture.subject, *named, picture.prompt, picture.picture_seed)

    def title(self, cell: Cell) -> str:
        """What stands above the pictures."""
        picture, beside = self.picture, self.beside.concept
        what = f"{self.intervention.name}: {picture.subject}"
        if self.text is not None:
            return f"{what} ({self.text.layer}), {picture.prompt!r}"
        where = "" if self.region is None else f" to {self.region}"
        place = f"{cell.block}, t = {cell.t:g}"
        with_text = "" if beside is None else f", with text: {beside}"
        return f"{what}{where} ({place}){with_text}, {picture.prompt!r}"


def listed(latents: Sequence[int]) -> str:
    """Such as "3, 7"."""
    return ", ".join(map(str, latents))


def file_name(*words: Any) -> str:
    """Words as the name of a directory: lower case, at most 120 characters.

    A name that had to leave out letters or an end gets a few digits of a hash, so that other words
    have another name.
    """
    text = " ".join(map(str, words))
    name = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
    if len(name) <= 120 and text.isascii():
        return name
    return f"{name[:111]}-{sha256(text.encode()).hexdigest()[:8]}"
