"""Edit lists: several edits of one generation, as YAML or JSON.

    prompt: a flat drawing of a red fish
    picture_seed: 0
    edits:
      - cell: down-t1.00-cond-k10
        latents: [373]
        intervention: spatial
        strength: 3.0
        region: top_left
      - layer: text_2
        concept: neon
        strength: 0.5

A list may come from a stranger: it names no file, and is read with limits.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml

from diffusae.errors import UserError, together, unknown
from diffusae.interventions.edits import Outside
from diffusae.interventions.regions import NAMED, Region
from diffusae.interventions.windows import Window
from diffusae.parsing import call_typed, of_type, reading, shown
from diffusae.study.names import name_fault

MOST_BYTES = 1 << 20
"""Of a file."""
MOST_EDITS = 16
MOST_LATENTS = 256
"""Of one edit."""
LARGEST_SIDE = 128
"""Rows and columns of a painted region."""
LARGEST_STRENGTH = 1e4
LONGEST_PROMPT = 2000
"""Characters."""
LARGEST_SEED = 2**53 - 1
"""Up to here a whole number is the same in JSON, in JavaScript and here."""

Intervention = Literal["spatial", "global", "amplify", "ablate", "clamp"]
Conditioning = Literal["cond", "uncond"]


@dataclass(frozen=True, kw_only=True)
class Painted:
    """A region by hand, over the whole picture: `height` rows of `width` characters, 0 or 1."""

    height: int
    width: int
    rows: tuple[str, ...]

    def faults(self) -> Iterator[str]:
        """What is wrong with it."""
        if not (1 <= self.height <= LARGEST_SIDE and 1 <= self.width <= LARGEST_SIDE):
            yield f"its height and width must be whole numbers from 1 to {LARGEST_SIDE}"
        elif [len(row) for row in self.rows] != [self.width] * self.height:
            yield f"its rows must be {self.height} texts of {self.width} characters"
        else:
            try:
                Region.of_rows(self.rows)
            except UserError as error:
                yield str(error)


Place = str | Painted
"""A name of `interventions.regions.NAMED`, or a painted region."""


@dataclass(frozen=True, kw_only=True)
class LatentEdit:
    """An edit of a block's updates by latents of one autoencoder.

    Attributes:
        cell: the autoencoder's name, such as "down-t1.00-cond-k10".
        latents: its latents; None: those of `concept`.
        concept: a noun of the cell's dictionary, or for "global" a style, such as "night".
        intervention, strength: see `steering.latent_changes.changes_of_latents`.
        region: "spatial" needs one; "amplify", "ablate" and "clamp" may have one.
        source: of "spatial": where the object is now. Only there is subtracted.
        outside: of "spatial": see `SpatialMove`.
        window: (first, last) t; None: the window of the cell's t.
        conditionings: the branches that are edited; None: the cell's own.
    """

    cell: str
    intervention: Intervention
    strength: float
    latents: tuple[int, ...] | None = None
    concept: str | None = None
    region: Place | None = None
    source: Place | None = None
    outside: Outside = "subtract"
    window: Window | None = None
    conditionings: tuple[Conditioning, ...] | None = None

    def faults(self) -> Iterator[str]:
        """What is wrong with it by itself: nothing of the study is looked at."""
        if (self.latents is None) == (not self.concept):
            yield "needs either latents or a concept"
        if self.latents is not None and not _one_to(MOST_LATENTS, self.latents):
            yield f"latents must be 1 to {MOST_LATENTS} different whole numbers"
        yield from _strength_faults(self.strength)
        if self.intervention in ("spatial", "global") and not self.strength > 0:
            yield f"strength={self.strength:g} of {self.intervention} must be above 0"
        elif self.intervention == "clamp" and self.strength < 0:
            yield f"strength={self.strength:g} of a clamp must not be below 0: codes never are"
        yield from self._place_faults()
        first, last = self.window or (1.0, 0.0)
        if not 0 <= last <= first <= 1:
            yield f"window=[{first:g}, {last:g}] must fall within [0, 1]; 1 is the first step"
        if self.conditionings is not None and not _one_to(2, self.conditionings):
            yield "conditionings must be cond, uncond or both"

    def _place_faults(self) -> Iterator[str]:
        if self.intervention == "spatial" and self.region is None:
            yield f"a spatial edit needs a region: {', '.join(NAMED)}, or a painted one"
        if self.intervention == "global" and self.region is not None:
            yield "a global edit acts everywhere; leave its region out"
        if self.source is not None and self.intervention != "spatial":
            yield "only a spatial edit has a source; leave it out"
        if self.source is not None and self.outside == "keep":
            yield "outside=keep subtracts nothing, also in a source; leave one of them out"
        for name in ("region", "source"):
            place = getattr(self, name)
            if isinstance(place, str) and place not in NAMED:
                yield str(unknown(f"{name} (or a painted one)", place, NAMED))
            elif isinstance(place, Painted):
                yield from (f"{name}: {fault}" for fault in place.faults())


@dataclass(frozen=True, kw_only=True)
class TextEditEntry:
    """Steering of the text encoder: see `interventions.text.TextEdit`.

    Attributes:
        layer: of the encoder, such as "text_2".
        concept: one of `concept_prompts`.
        strength: lambda.
        name, sae_tag: the study beside this one that has the layer's autoencoder, and its tag;
            None: this study's own.
        conditionings: the encodings that are edited.
    """

    layer: str
    concept: str
    strength: float
    name: str | None = None
    sae_tag: str | None = None
    conditionings: tuple[Conditioning, ...] = get_args(Conditioning)

    def faults(self) -> Iterator[str]:
        """What is wrong with it by itself."""
        yield from _strength_faults(self.strength)
        if self.strength == 0:
            yield "strength=0 changes nothing; give another number"
        if not _one_to(2, self.conditionings):
            yield "conditionings must be cond, uncond or both"
        for setting in ("layer", "name", "sae_tag"):
            value = getattr(self, setting)
            if value is not None and (fault := name_fault(setting, value)):
                yield fault


ListedEdit = LatentEdit | TextEditEntry


@dataclass(frozen=True)
class EditList:
    """One generation and its edits, in their order.

    Attributes:
        prompt, picture_seed: None: they are given elsewhere.
        edits: at most `MOST_EDITS`.
    """

    prompt: str | None
    picture_seed: int | None
    edits: tuple[ListedEdit, ...]

    @classmethod
    def of(cls, value: Any) -> Self:
        """The list that a JSON or YAML value is.

        Raises:
            UserError: with all that is wrong with it, edit by edit.
        """
        if not isinstance(value, dict):
            raise UserError(
                f"an edit list has the keys prompt, picture_seed and edits, is {_shown(value)}"
            )
        _require_known(value, ("prompt", "picture_seed", "edits"), "an edit list")
        prompt = of_type(value.get("prompt"), str | None, "prompt")
        seed = of_type(value.get("picture_seed"), int | None, "picture_seed")
        edits = edits_of(value.get("edits"))
        together([*prompt_faults(prompt), *seed_faults(seed)])
        return cls(prompt, seed, edits)

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """The list in a YAML file.

        Raises:
            UserError: there is no such file, it is too large or no YAML, or the list is wrong.
        """
        path = Path(path).expanduser()
        try:
            with reading(path, remedy="mend the edit list"):
                if (size := path.stat().st_size) > MOST_BYTES:
                    raise UserError(f"it has {size} bytes, but at most {MOST_BYTES} are read")
                return cls.of(yaml.load(path.read_text("utf-8"), Loader=_PlainLoader))
        except FileNotFoundError:
            raise UserError(f"there is no edit list {path}; give edits=FILE.yaml") from None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON without what is not given; `of` reads it."""
        head = {"prompt": self.prompt, "picture_seed": self.picture_seed}
        value: dict[str, Any] = {name: one for name, one in head.items() if one is not None}
        return value | {"edits": [_plain(edit) for edit in self.edits]}

    def to_yaml(self) -> str:
        """The file that `read` reads."""
        return yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True, width=1000)

    @property
    def digest(self) -> str:
        """A hash of the edits, 16 hex digits."""
        text = json.dumps([_plain(edit) for edit in self.edits], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def edits_of(value: Any) -> tuple[ListedEdit, ...]:
    """The edits of a JSON or YAML list.

    Raises:
        UserError: with all that is wrong with them.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_EDITS:
        raise UserError(f"edits must be a list of 1 to {MOST_EDITS} edits, is {_shown(value)}")
    edits, faults = [], []
    for number, one in enumerate(value, start=1):
        what = f"edit {number}"
        try:
            edit = _edit_of(one, what)
        except UserError as error:
            faults.append(str(error))
            continue
        faults += [f"{what}: {fault}" for fault in edit.faults()]
        edits.append(edit)
    together(faults)
    return tuple(edits)


def prompt_faults(prompt: str | None) -> Iterator[str]:
    """What is wrong with a prompt; None is not given, and right."""
    if prompt is not None and not prompt.strip():
        yield "the prompt is empty; say what the picture shows"
    elif prompt is not None and len(prompt) > LONGEST_PROMPT:
        yield f"the prompt has {len(prompt)} characters, and at most {LONGEST_PROMPT} are taken"


def seed_faults(seed: int | None) -> Iterator[str]:
    """What is wrong with a seed; None is not given, and right."""
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        yield f"picture_seed={shown(seed)} must be a whole number from 0 to {LARGEST_SEED}"


def region_of(place: Place | None) -> Region | None:
    """The region that an edit names or paints."""
    if isinstance(place, Painted):
        return Region.of_rows(place.rows)
    return None if place is None else Region(place)


def _edit_of(value: Any, what: str) -> ListedEdit:
    if not isinstance(value, dict):
        raise UserError(f"{what} must have keys such as cell and strength, is {_shown(value)}")
    kind = TextEditEntry if "layer" in value else LatentEdit
    _require_known(value, [field.name for field in fields(kind)], what)
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    lacking = [name for name in needed if name not in value]
    if lacking:
        raise UserError(f"{what} needs {', '.join(lacking)}")
    return call_typed(kind, value, what)


def _require_known(value: Mapping[Any, Any], names: Sequence[str], what: str) -> None:
    for name in value:
        if name not in names:
            raise unknown(f"key of {what}:", str(name)[:80], names)


def _one_to(most: int, values: Sequence[Any]) -> bool:
    """Whether there are so many values, and no two alike."""
    return 1 <= len(values) <= most and len(set(values)) == len(values)


def _strength_faults(strength: float) -> Iterator[str]:
    if not math.isfinite(strength) or abs(strength) > LARGEST_STRENGTH:
        yield f"strength={strength:g} must be a number up to {LARGEST_STRENGTH:g}"


def _plain(edit: Any) -> dict[str, Any]:
    """An edit as plain JSON, without what has its default."""
    value = {}
    for field in fields(edit):
        one = getattr(edit, field.name)
        if one != field.default:
            one = _plain(one) if isinstance(one, Painted) else one
            value[field.name] = list(one) if isinstance(one, tuple) else one
    return value


def _shown(value: Any) -> str:
    try:
        return shown(value)
    except TypeError:  # YAML has values that JSON has not, such as dates
        return type(value).__name__


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which may grow a small file without bound, and without double keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise UserError("an alias (*name) is refused; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if double := [key for key in keys if keys.count(key) > 1]:
            raise UserError(f"the key {str(double[0])[:80]!r} comes twice")
        return super().construct_mapping(node, deep)
