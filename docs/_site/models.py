"""The page of all models, made from conf/model, the adapters and the published sizes; its table of
features is what the tests found (`make families`).

The sources are read and not run: the site is built without the package's own requirements.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from configuration import head_length, prose

ROOT = Path(__file__).parents[2]
BACKBONE = ROOT / "src/diffusae/backbone"
TESTED = ROOT / "docs/reference/models-tested.json"

INTRODUCTION = """# All models

This page is made from the files of `conf/model`, from the adapters in
`src/diffusae/backbone/families`, and from the published sizes in
`src/diffusae/backbone/architectures`. [Models](../models.md) explains how they are used.

**The published weights of no model on this page have been run by this project.** Only the
[miniatures](../miniature.md) were trained and studied here. What stands in for the weights: small
random pipelines of the published classes ([what the tests found](#what-the-tests-found)), and the
published sizes, built without memory and compared with the published numbers of parameters.

The hub could not be asked. Identifiers, pinned revisions and sizes come from public places that
cite them; a model's section says where from.
"""
GUIDANCE = {
    "one_batch": "one batch",
    "cond_first": "one batch, `cond` first",
    "two_passes": "two passes",
    "guided_passes": "two passes, by the guidance scale",
    "none": "none",
}


def models_page(conf: Path = ROOT / "conf", tested: Path = TESTED) -> str:
    """The page as Markdown."""
    known = families()
    models = [
        yaml.safe_load(path.read_text(encoding="utf-8")) | {"path": path}
        for path in sorted((conf / "model").glob("*.yaml"))
        if not path.stem.startswith("_")
    ]
    published = [model for model in models if model.get("architecture")]
    found = json.loads(tested.read_text(encoding="utf-8"))
    parts = [
        INTRODUCTION,
        f"## Families\n\n{families_table(known)}",
        f"## What the tests found\n\n{features_table(found)}",
        f"## Models of conf/model\n\n{models_table(published)}",
        *(section(model, known) for model in published),
    ]
    return "\n".join(parts)


def families() -> list[dict[str, Any]]:
    """What every adapter states of its family, from its source."""
    return [
        facts
        for path in sorted((BACKBONE / "families").glob("*.py"))
        for facts in stated(ast.parse(path.read_text(encoding="utf-8")))
    ]


def stated(module: ast.Module) -> Iterator[dict[str, Any]]:
    """The class attributes that are literals, of every class that names a family."""
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            facts = {
                target.id: ast.literal_eval(line.value)
                for line in node.body
                if isinstance(line, ast.Assign) and literal(line.value)
                for target in line.targets
                if isinstance(target, ast.Name)
            }
            if "family" in facts:
                yield {"layout": "one_batch", "pipelines": (), "with_a_picture": ()} | facts


def literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def families_table(known: list[dict[str, Any]]) -> str:
    rows = [
        (
            facts["family"],
            names(facts["denoisers"]),
            names(facts["pipelines"] or facts["videos"]),
            GUIDANCE[facts["layout"]],
        )
        for facts in known
    ]
    more = [
        f"- {facts['family']}: {names(facts['with_a_picture'])}.\n"
        for facts in known
        if facts["with_a_picture"]
    ]
    return (
        "The stages run these pipelines, except Wan's and LTX-Video's: videos are captured and "
        "steered from Python. Any other class is refused by name.\n\n"
        + table(("family", "denoiser", "pipelines", "guidance"), rows)
        + "\nPipelines that need more than a prompt are for `capture_updates` and `steer` in "
        + f"Python:\n\n{''.join(more)}"
    )


def names(classes: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in classes)


def features_table(found: Mapping[str, Any]) -> str:
    """One row for every tiny pipeline, one column for every feature."""
    rows, columns = found["families"], found["features"]
    lines = [
        (f"`{name}`", f"`{row['pipeline']}`", *(cell(row[column]) for column in columns))
        for name, row in rows.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        "Every family is held to the same claims on a small pipeline with random weights, beside a "
        "plain look at its blocks that uses none of the library's hooks, and the pipeline's own "
        "call: two pictures (or videos) that are wider than high, the branches of guidance that it "
        "runs, three steps. A number is how many tests passed on the CPU; `-` says that none "
        "applies. `offload` is group offloading from the CPU to the CPU. `compile` traces the "
        f"layers and generates no code. Made by `make families` with {versions}.\n\n"
        + table(("tiny pipeline", "class", *columns), lines)
        + f"\nTests that do not apply to a pipeline, and why:\n\n{reasons(rows, columns)}"
    )


def reasons(rows: Mapping[str, Any], columns: list[str]) -> str:
    """Every reason with the pipelines and columns that it is of."""
    where: dict[str, list[str]] = {}
    for name, row in rows.items():
        of_row: dict[str, list[str]] = {}
        for column in columns:
            for reason in row[column].get("none", ()):
                of_row.setdefault(reason, []).append(column)
        for reason, of in of_row.items():
            where.setdefault(reason, []).append(f"`{name}` ({', '.join(of)})")
    return "".join(
        f"- {reason}: {', '.join(all_of)}.\n" for reason, all_of in sorted(where.items())
    )


def cell(outcome: Mapping[str, Any]) -> str:
    if "failed" in outcome:
        return f"{outcome['failed']} FAILED"
    return str(outcome["passed"]) if "passed" in outcome else "-"


def models_table(models: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"[`{model['name']}`](#{model['name']})",
            model["source"],
            f"{model['height']}x{model['width']}",
            guidance(model),
            f"{model['steps']}, {scheduler(model)}",
            model["dtype"],
        )
        for model in models
    ]
    return table(("`model=`", "hub id", "px", "guidance", "steps, scheduler", "dtype"), rows)


def guidance(model: Mapping[str, Any]) -> str:
    """How guidance runs with the file's own settings."""
    layout, scale = model.get("guidance_layout"), model["guidance"]
    if layout == "one_batch":
        return f"one batch, scale {scale:g}" if scale > 1 else "none"
    if layout == "cond_first":
        return f"one batch, `cond` first, scale {scale:g}" if scale > 0 else "none"
    if layout == "guided_passes":
        return f"two passes, scale {scale:g}" if scale > 1 else "none"
    if layout == "two_passes":
        second = model.get("true_guidance")
        passes = f"two passes, scale {second:g}" if second else "two passes if asked"
        return f"{passes}; {scale:g} as an input" if scale else passes
    return f"none; {scale:g} as an input" if scale > 1 else "none"


def scheduler(model: Mapping[str, Any]) -> str:
    return {"ddim": "DDIM", "keep": "its own"}[model["scheduler"]]


def pinned(model: Mapping[str, Any]) -> str:
    revision = model.get("revision")
    return f"`{revision}`" if revision else "none is pinned"


def section(model: Mapping[str, Any], known: list[dict[str, Any]]) -> str:
    """A model: what its file says at its head, and its settings."""
    text = model["path"].read_text(encoding="utf-8")
    lines = text.splitlines()
    head = " ".join(line.lstrip("# ") for line in lines[: head_length(lines)])
    parts = json.loads(
        (BACKBONE / "architectures" / f"{model['architecture']}.json").read_text(encoding="utf-8")
    )
    denoiser = parts["denoiser"]["_class_name"]
    family = next(facts["family"] for facts in known if denoiser in facts["denoisers"])
    rows = [
        ("family, pipeline", f"{family}, `{parts['pipeline']}`"),
        ("hub id, revision", f"{model['source']}, {pinned(model)}"),
        ("blocks", ", ".join(hookpoints(model, text))),
        ("size, dtype", f"{model['height']} x {model['width']} px, {model['dtype']}"),
        ("steps", f"{model['steps']}, {scheduler(model)} scheduler"),
        ("guidance", guidance(model)),
        ("sizes from", prose(parts["documented"])),
        ("not verified", prose(parts.get("unverified", "no file of the hub was read"))),
        ("never run", "the published weights"),
    ]
    body = "".join(f"| {name} | {value} |\n" for name, value in rows)
    return (
        f"### `{model['name']}` {{ #{model['name']} }}\n\n{prose(head)}\n\n| | |\n|---|---|\n{body}"
    )


def hookpoints(model: Mapping[str, Any], text: str) -> Iterator[str]:
    """Path, positions and d_in of every block, as the file's comments have them (a test compares
    these with the published sizes)."""
    shapes = dict(re.findall(r"^  (\w+): \S+ # (\d+(?:x\d+)+)", text, re.MULTILINE))
    for block, path in model["hookpoints"].items():
        yield f"{block} `{path}` ({shapes[block]})"
