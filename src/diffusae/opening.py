"""From a study's directory, or a model's name, to what a notebook works with: the configuration
behind `diffusae.open` and `diffusae.load_model`.

A study's record says what the study is, and nothing in it is obeyed. Plain values are taken from
it, into the shipped configuration; parts are built from the list of `study/building.py`; nothing is
fetched or loaded from a place that only the record names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from diffusae.cli.arguments import CommandLine
from diffusae.cli.configs import Composer
from diffusae.errors import UserError
from diffusae.exploring.opened import OpenModel, OpenStudy, UntrustedSource
from diffusae.plugins import use
from diffusae.runs.record import RunRecord, read_record
from diffusae.runs.survey import finished_runs
from diffusae.sources import fingerprint
from diffusae.study.resolvers import register_resolvers
from diffusae.study.study import Study

STAGE = "look"
"""The command whose configuration is composed: no other needs as little."""

TAKEN = (
    "name", "seed", "stream", "model", "grid", "block", "timestep", "conditioning", "collection",
    "sae", "dictionary", "embedding",
)  # fmt: skip
"""What is taken from a record, beside whether codes are stored. Everything else is as shipped, such
as where things are written, fetched and sent.
"""


def open_study(
    directory: Path | str, overrides: Sequence[str], *, model_source: str | None
) -> OpenStudy:
    """The study in a directory; see `diffusae.open`."""
    directory = Path(directory).expanduser()
    record = _record_of(directory)
    cfg = _composed(overrides) if overrides else _from_record(directory, record, model_source)
    cfg.paths.experiment = _text(str(directory))
    settings = Study(cfg)
    settings.check()
    return OpenStudy(settings)


def load_model(name: str, overrides: Sequence[str]) -> OpenModel:
    """A model by the name of its configuration; see `diffusae.load_model`."""
    settings = Study(_composed([f"model={name}", *overrides]))
    settings.check()
    return OpenModel(settings)


def _composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration of a command with these overrides, checked as the command checks it."""
    register_resolvers()
    cfg = CommandLine.parse(overrides).checked(STAGE)
    use(cfg.plugins)  # of the caller's overrides; no record is in here yet
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg


def _record_of(directory: Path) -> RunRecord:
    """The record of the study's collection, or of one of its autoencoders.

    Raises:
        UserError: there is no finished one, or it is damaged.
    """
    if (record := read_record(directory / "activations")) is not None:
        return record
    for _, record in finished_runs(directory / "sae", "*"):
        return record
    made = [path.parent.name for path in sorted(directory.parent.glob("*/sae"))]
    raise UserError(
        f"there is no study in {directory}: it has neither activations/ nor sae/ with a finished"
        f" run. `diffusae run experiment=miniature` makes one in outputs/miniature"
        + (f"; {directory.parent} holds {', '.join(made)}" if made else "")
    )


def _from_record(directory: Path, record: RunRecord, model_source: str | None) -> DictConfig:
    """The shipped configuration with the values of a record in it."""
    recorded = record.config
    model = recorded.get("model")
    if not isinstance(model, Mapping):
        raise UserError(f"the record of {directory} has no model; give the study's overrides")
    register_resolvers()
    shipped = model.get("name") in Composer(STAGE).options("model")
    cfg = _composed([f"model={model['name']}"] if shipped else [])
    source = model_source or _source(directory, record, cfg.model if shipped else {})
    with open_dict(cfg):
        cfg.model = {**cfg.model, **_values(model), "source": _text(source)}
        for name in TAKEN:
            if name in recorded and name != "model":
                cfg[name] = _values(recorded[name])
        stored = recorded.get("activations")
        if isinstance(stored, Mapping) and stored.get("held_out") == "codes":
            cfg.activations.held_out = "codes"
    return cfg


def _source(directory: Path, record: RunRecord, shipped: Mapping[str, Any] | DictConfig) -> str:
    """Where the model is loaded from: the place that the shipped configuration names.

    Raises:
        UntrustedSource: the record names another place or revision; a file may not decide what is
            loaded.
    """
    model, made_from = record.config["model"], record.determines.get("model")
    source, revision = model.get("source"), model.get("revision")
    known = shipped.get("source")
    if known is not None and (source, revision) == (known, shipped.get("revision")):
        return known
    files = made_from.get("source") if isinstance(made_from, Mapping) else None
    if known is not None and files == f"files {fingerprint(known)}":
        return known  # the same files, where another machine has them
    at = f" at revision {revision}" if revision else ""
    raise UntrustedSource(
        f"the record of {directory} names the model source {source}{at}, and diffusae's own"
        f" configuration does not. If you trust it, give it yourself:"
        f" diffusae.open({str(directory)!r}, model_source={source!r})",
        source,
    )


def _values(value: Any) -> Any:
    """Recorded values as they are: `${...}` in them is text."""
    if isinstance(value, Mapping):
        return {key: _values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_values(inner) for inner in value]
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    """A text in which OmegaConf sees no interpolation."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value)
