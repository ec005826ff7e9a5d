"""The gates of several models side by side: seeds, or a U-Net and a transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from diffusae.errors import UserError, together
from diffusae.files import atomic_path, atomic_write_json
from diffusae.miniature.gate_figures import GateFigure
from diffusae.parsing import read_json, reading, typed

Gates = Mapping[str, Sequence[GateFigure]]
"""Model -> its figures."""


def write_gate_table(directories: Sequence[str], into: Path) -> str:
    """Write `gates.md` and `gates.json` of these directories into another; returns the Markdown.

    Raises:
        UserError: no directory is given, two have the same name, or a gate.json is missing or
            damaged.
    """
    gates = read_gates(directories)
    text = gate_table(gates)
    with atomic_path(into / "gates.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    atomic_write_json(
        into / "gates.json",
        {
            name: [asdict(figure) | {"passed": figure.passed} for figure in figures]
            for name, figures in gates.items()
        },
    )
    return text


def read_gates(directories: Sequence[str]) -> dict[str, list[GateFigure]]:
    """The figures of every directory, by its name."""
    names = [Path(directory).name for directory in directories]
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"gates={list(directories)} must be directories of different names, in which `diffusae"
            " miniature part=gate` wrote gate.json"
        )
    gates: dict[str, list[GateFigure]] = {}
    faults = []
    for name, directory in zip(names, directories, strict=True):
        try:
            gates[name] = _figures(Path(directory) / "gate.json")
        except UserError as error:
            faults.append(str(error))
    together(faults)
    return gates


def _figures(path: Path) -> list[GateFigure]:
    remedy = "measure the model again: diffusae miniature part=gate"
    try:
        rows = read_json(path, remedy=remedy, kind=list)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy} directory={path.parent}") from None
    names = {field.name for field in fields(GateFigure)}
    with reading(path, remedy=remedy):
        return [typed(GateFigure, {name: row[name] for name in names & row.keys()}) for row in rows]


def gate_table(gates: Gates) -> str:
    """A Markdown table: a row a figure, a column a model. A bound that is not kept says "fails".

    Example of an entry: "0.810 [0.773, 0.842], n = 500, **fails**".
    """
    rows = dict.fromkeys(figure.name for figures in gates.values() for figure in figures)
    lines = [["figure", "bound", *gates], ["---"] * (2 + len(gates)), ["**the gate**", "", *(
        _verdict(figures) for figures in gates.values()
    )]]  # fmt: skip
    for row in rows:
        found = [_of(figures, row) for figures in gates.values()]
        bounds = dict.fromkeys(_bound(figure) for figure in found if figure is not None)
        lines.append([row, " or ".join(filter(None, bounds)), *map(_entry, found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _of(figures: Sequence[GateFigure], name: str) -> GateFigure | None:
    return next((figure for figure in figures if figure.name == name), None)


def _verdict(figures: Sequence[GateFigure]) -> str:
    failed = sum(not figure.passed for figure in figures)
    bounds = sum(figure.bound is not None for figure in figures)
    return f"**fails** in {failed} of {bounds} bounds" if failed else f"passed, {bounds} bounds"


def _bound(figure: GateFigure) -> str:
    sign = ">=" if figure.at_least else "<="
    return "" if figure.bound is None else f"{sign} {figure.bound:.2f}"


def _entry(figure: GateFigure | None) -> str:
    if figure is None:
        return "not measured"
    value = "no data" if figure.value is None else f"{figure.value:.3f}"
    interval = "" if figure.ci95 is None else f" [{figure.ci95[0]:.3f}, {figure.ci95[1]:.3f}]"
    return f"{value}{interval}, n = {figure.n}{'' if figure.passed else ', **fails**'}"
