"""The page of all settings, made from the YAML files of conf/ and the comments in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

import yaml

INTRODUCTION = """# Configuration

This page is made from the files of `conf/`, which are the only place where a default is written.
Every command reads them. `group=option` chooses an option, `group.setting=value` changes one value:

```
diffusae train block=mid sae=batchtopk sae.k=16 trainer.steps=1000
```

`diffusae COMMAND --help` lists the groups, and `diffusae COMMAND --cfg job` shows all settings with
their values. [The command line](../command.md) explains overrides.
A value `${...}` is taken from another setting, `???` must be given, and `null` is no value.
"""
COMMENT = re.compile(r"(?:^|\s)# ?(.*)$")


@dataclass(frozen=True)
class Setting:
    """One leaf of a YAML file: its dotted name, its value as it is written, its comment."""

    name: str
    value: str
    comment: str


def configuration_page(conf: Path) -> str:
    """The page as Markdown: the commands' own settings, then every group with its options."""
    shared = conf / "base.yaml"
    commands = sorted(path for path in conf.glob("*.yaml") if path != shared)
    parts = [INTRODUCTION, "## All commands\n", section(shared, ""), "## Single commands\n"]
    parts += [f"### `diffusae {path.stem}`\n\n{section(path, '')}" for path in commands]
    for folder in sorted({path.parent for path in conf.rglob("*/*.yaml")}):
        group = folder.relative_to(conf).as_posix()
        parts.append(f"## Group `{group}`\n")
        for path in sorted(folder.glob("*.yaml")):
            shared_part = path.stem.startswith("_")
            title = f"Shared by options of {group}" if shared_part else f"{group}={path.stem}"
            anchor = f"{group.replace('/', '-')}-{path.stem.strip('_')}"
            body = section(path, package(path, group))
            parts.append(f"### `{title}` {{ #{anchor} }}\n\n{body}")
    return "\n".join(parts)


def package(path: Path, group: str) -> str:
    """Where the settings of a file stand in the whole configuration."""
    if "# @package _global_" in path.read_text(encoding="utf-8"):
        return ""
    return {"check": "evaluation.check"}.get(group, group.replace("/", "."))


def section(path: Path, prefix: str) -> str:
    """What a file says at its head, what it extends, and its settings as a table."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    head = " ".join(
        line.lstrip("# ") for line in lines[: head_length(lines)] if "@package" not in line
    )
    root = yaml.compose(text)
    settings = list(leaves(root, prefix, lines)) if root else []
    paragraphs = [prose(head.strip())]
    rows = []
    for setting in settings:
        if setting.name.removeprefix(f"{prefix}.") == "defaults":
            options = re.sub(r"[\[\]{}]|_self_,? ?|, _self_", "", setting.value).replace(": ", "=")
            paragraphs += [f"It begins with: `{options}`."] if options != "base" else []
        elif setting.name != "stage":
            rows.append(f"| `{setting.name}` | {code(setting.value)} | {prose(setting.comment)} |")
    if rows:
        paragraphs.append("\n".join(["| setting | default | |", "|---|---|---|", *rows]))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def head_length(lines: list[str]) -> int:
    """How many lines at the start of a file are comments."""
    return next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))


def leaves(node: yaml.Node, prefix: str, lines: list[str]):
    """The settings below a node, in the order of the file."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        for key, value in node.value:
            name = f"{prefix}.{key.value}" if prefix else key.value
            if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
                comment = comment_at(key, key, lines)
                if comment:
                    yield Setting(name, "", comment)
                yield from leaves(value, name, lines)
            else:
                yield Setting(name, written(value, lines), comment_at(key, value, lines))


def written(node: yaml.Node, lines: list[str]) -> str:
    """A value as it stands in the file; a list of several lines in one."""
    if isinstance(node, yaml.ScalarNode):
        length = node.end_mark.index - node.start_mark.index
        return lines[node.start_mark.line][node.start_mark.column :][:length]
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(written(item, lines) for item in node.value)}]"
    assert isinstance(node, yaml.MappingNode)
    return f"{{{', '.join(f'{k.value}: {written(v, lines)}' for k, v in node.value)}}}"


def comment_at(key: yaml.Node, value: yaml.Node, lines: list[str]) -> str:
    """The comment above a key and those on its own lines. The file's head belongs to no key."""
    first, last = key.start_mark.line, value.end_mark.line
    if last == len(lines) or (last > first and not lines[last][: value.end_mark.column].strip()):
        last -= 1  # a block list ends where the next key begins
    above = []
    start = first - 1
    while start >= head_length(lines) and lines[start].lstrip().startswith("#"):
        above.insert(0, lines[start].strip().lstrip("# "))
        start -= 1
    beside = []
    for line in lines[first : last + 1]:
        text = re.sub(r"\"[^\"]*\"|'[^']*'", lambda match: "x" * len(match[0]), line)
        if text.strip().startswith("#") and last > first:
            continue
        if match := COMMENT.search(text):
            comment = line[match.start(1) :]
            item = line[: match.start()].strip().removeprefix("- ")
            beside.append(f"{item}: {comment}" if line is not lines[first] else comment)
    return " ".join([*above, "; ".join(beside)]).strip()


def prose(text: str) -> str:
    """A comment as Markdown for a cell of a table: only code and links to pages are markup."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [
        re.sub(r"([|*_\[\]{}`])", r"\\\1", escape(part, quote=False)) for part in parts[::2]
    ]
    return re.sub(r"docs/(\w+\.md)", r"[\1](../\1)", "".join(parts))


def code(text: str) -> str:
    """A value for a cell of a table."""
    text = text.replace("|", "\\|")
    return f"`{text}`" if text else ""
