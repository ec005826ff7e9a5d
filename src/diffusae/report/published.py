"""The autoencoders that a repository holds: where each belongs and what was measured on it, from
its listing, its cards and its small configurations. Weights are not fetched, and nothing that a
repository says is obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffusae.errors import UserError
from diffusae.hub.contents import CARD, CONFIG, RemoteFile
from diffusae.hub.repository import HubRepository, LocalRepository, small_file
from diffusae.parsing import json_value
from diffusae.report.card_summary import LONGEST_TEXT, Figure, summary_in
from diffusae.sae.belongs import names_of, plain_path
from diffusae.sae.checkpoint import hookpoint_of

MOST_BYTES = 1 << 20
"""Of one card or configuration."""
MOST_ENTRIES = 1000
"""Of one repository; of larger ones the first are listed."""
_OF_CARD = ("model", "block", "hookpoint", "t", "conditioning", "d_in", "d_sae", "sparsity")
_STATE = re.compile(r"state_dict\.(pth|pt|safetensors)|sae\.safetensors|sae_weights\.safetensors")
_DIFFRACT = re.compile(r"(?:sae|transcoder)_(?:img|txt)_(\d+)\.pt")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One autoencoder of a repository; None: not said.

    Attributes:
        repo, place: the repository, and the folder or file in it.
        measured: the figures of its card. Empty: no card says any.
    """

    repo: str
    place: str
    model: str | None = None
    block: str | None = None
    hookpoint: str | None = None
    t: float | None = None
    conditioning: str | None = None
    d_in: int | None = None
    d_sae: int | None = None
    sparsity: str | None = None
    measured: tuple[Figure, ...] = ()

    def fits(self, *, model: str | None, block: str | None, t: float | None) -> bool:
        """Whether it is of this model (a hub id or a name), of this block (its name or its path)
        and of this moment; None: of any.
        """
        named = self.model is not None and model is not None
        return (
            (model is None or (named and bool(names_of(self.model or "") & names_of(model))))
            and (block is None or plain_path(block) in (self.block, self.hookpoint))
            and (t is None or (self.t is not None and abs(self.t - t) < 5e-3))
        )


def published_in(repository: HubRepository | LocalRepository) -> list[Published]:
    """Every autoencoder of the repository, by place.

    Raises:
        HubUnreachable: the hub does not answer.
        UserError: the repository does not exist, or a file is another than it lists.
    """
    commit = repository.commit()
    files = {file.path: file for file in repository.files(commit)}
    found: list[Published] = []
    for place, folder in list(_places(files))[:MOST_ENTRIES]:
        entry = Published(repo=repository.repo, place=place or ".", hookpoint=_hookpoint(place))
        card = _text(repository, files.get(_in(folder, CARD)), commit)
        config = _text(repository, files.get(_in(folder, CONFIG)), commit)
        summary = summary_in(card)
        if summary is not None:
            values = {name: getattr(summary, name) for name in _OF_CARD}
            found.append(replace(entry, **values, measured=summary.results))
        else:
            found.append(replace(entry, **_of_config(config)))
    return found


def _places(files: dict[str, RemoteFile]) -> Iterator[tuple[str, str]]:
    """(place, folder) of every autoencoder: a folder of one, or a file among several."""
    for path in sorted(files):
        folder, _, name = path.rpartition("/")
        if _STATE.fullmatch(name):
            yield folder, folder
        elif _DIFFRACT.fullmatch(name):
            yield path, folder


def _hookpoint(place: str) -> str | None:
    """The path that a name of the place says."""
    parts = place.split("/")
    if match := _DIFFRACT.fullmatch(parts[-1]):
        return f"transformer_blocks.{match[1]}"
    hookpoint = hookpoint_of(parts)
    return None if hookpoint is None else plain_path(hookpoint)


def _of_config(text: str) -> dict[str, Any]:
    """Cell and sizes by a `cfg.json` of ours, or of one that has the same entries."""
    try:
        config = _dict(json_value(text))
    except UserError:
        return {}
    metadata = _dict(config.get("metadata"))
    cell = metadata | _dict(metadata.get("cell"))
    kinds = {"model": str, "block": str, "hookpoint": str, "conditioning": str, "t": float}
    values: dict[str, Any] = {name: cell.get(name) for name in kinds}
    values |= {
        "d_in": config.get("d_in"),
        "d_sae": config.get("d_sae") or config.get("num_latents"),
    }
    values["sparsity"] = _dict(config.get("sparsity")).get("name")
    kinds |= {"d_in": int, "d_sae": int, "sparsity": str}
    return {
        name: value[:LONGEST_TEXT] if isinstance(value, str) else value
        for name, value in values.items()
        if type(value) is kinds[name]
    }


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _text(repository: HubRepository | LocalRepository, file: RemoteFile | None, commit: str) -> str:
    if file is None or file.size > MOST_BYTES:
        return ""
    data = small_file(repository, file, commit, most=MOST_BYTES)
    return data.decode(errors="replace")


def in_words(figures: Sequence[Figure]) -> str:
    """Measured values in words: "fvu 0.312 [0.25, 0.375] n 77"."""
    return "; ".join(map(_figure, figures)) or "not measured"


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return f"{figure.metric} no data"
    interval = "" if figure.ci95 is None else " [{:.3g}, {:.3g}]".format(*figure.ci95)
    return f"{figure.metric} {figure.value:.3g}{interval} n {figure.n}"
