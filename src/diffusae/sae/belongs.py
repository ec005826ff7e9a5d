"""What an autoencoder was trained on: model, hookpoint, quantity, moment and branch. A foreign one
is compared with the cell that it shall serve.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from diffusae.errors import UserError

_HOOKPOINT = re.compile(r"(?P<path>[^:@]+)(:(?P<site>\w+))?(@(?P<stream>\w+))?")
_TEXT_LAYER = re.compile(
    r"text_encoder(?:_([23]))?\.(?:text_model\.)?encoder\.(?:layers|block)\.(\d+)"
)
_LAYER = re.compile(r"text[23]?_\d+")
_NEAR, _NEAR_STEPS = 5e-3, 5
"""Moments that differ by less are the same: in t, and in timesteps of 1,000."""
_SITES = {"after": "output"}
"""The site of a hookpoint -> the quantity, where they have different names."""


@dataclass(frozen=True, kw_only=True)
class Belongs:
    """What an autoencoder was trained on, as far as it is known; None: nobody says it.

    Attributes:
        model: a hub id such as "stabilityai/sdxl-turbo", or a short name.
        hookpoint: the module's path under the denoiser, with "@text" behind it for a text stream;
            of a text encoder's layer its name ("text_9").
        quantity: "update" (output minus input), "output", another site ("mlp_out"), or
            "pooled_output", the output averaged over positions.
        t: normalised time; "all" where one autoencoder serves every moment.
        timestep: the scheduler's own value.
        conditioning: "cond" or "uncond".
    """

    model: str | None = None
    hookpoint: str | None = None
    quantity: str | None = None
    t: float | str | None = None
    timestep: float | None = None
    conditioning: str | None = None

    @classmethod
    def at(cls, hookpoint: str, *, quantity: str | None = None, **others: Any) -> Belongs:
        """The same from a hookpoint as a configuration names it (`PATH[:SITE][@STREAM]`). Without
        a site and a `quantity` it is the update, and of a text encoder's layer the output.
        """
        match = _HOOKPOINT.fullmatch(hookpoint)
        if match is None:
            raise UserError(f"hookpoint {hookpoint!r} must be PATH, PATH:SITE or PATH:SITE@STREAM")
        path, stream = plain_path(match["path"]), match["stream"]
        site = match["site"] or ("output" if _LAYER.fullmatch(path) else "update")
        return cls(
            hookpoint=path + (f"@{stream}" if stream == "text" else ""),
            quantity=quantity or _SITES.get(site, site),
            **others,
        )

    def known(self) -> dict[str, Any]:
        """What is known, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def unknown(self) -> list[str]:
        """The names of what nobody says. A moment may be said by `t` or by the timestep."""
        known = self.known()
        moment = {"t", "timestep"} if {"t", "timestep"} & known.keys() else set()
        names = [field.name for field in fields(self) if field.name != "timestep"]
        return [name for name in names if name not in known.keys() | moment]

    def replaced(self, stated: Mapping[str, Any]) -> Belongs:
        """The same with what is stated in the place of what was known."""
        merged = asdict(self) | {name: value for name, value in stated.items() if value is not None}
        if merged["hookpoint"] is not None:
            merged["hookpoint"] = plain_path(merged["hookpoint"])
        return Belongs(**merged)


def plain_path(path: str) -> str:
    """A module's path as this package writes it, from the forms that others use.

    "unet.mid_block.attentions.0" -> "mid_block.attentions.0",
    "text_encoder_2.text_model.encoder.layers.9" -> "text2_9".
    """
    if match := _TEXT_LAYER.fullmatch(path):
        return f"text{match[1] or ''}_{match[2]}"
    return re.sub(r"^(unet|transformer)\.", "", path)


def differences(theirs: Belongs, ours: Belongs, *, names: set[str]) -> Iterator[str]:
    """ "hookpoint mid_block -> mid_block.attentions.0" for everything that both sides know and in
    which they differ.

    Args:
        ours: of the cell.
        names: by which the cell's model is known.
    """
    for name, value in ours.known().items():
        other = getattr(theirs, name)
        if other is None or (name == "t" and other == "all"):
            continue
        if name == "model":
            same = bool(names_of(str(other)) & names)
        elif isinstance(value, int | float) and isinstance(other, int | float):
            same = abs(value - other) < (_NEAR_STEPS if name == "timestep" else _NEAR)
        else:
            same = other == value
        if not same:
            yield f"{name} {other} -> {value}"


def names_of(model: str) -> set[str]:
    """A hub id or a folder as the names by which it may be meant: "OWNER/NAME" and "NAME"."""
    parts = model.lower().replace("--", "/").rstrip("/").split("/")
    return {"/".join(parts[-2:]), parts[-1]}
