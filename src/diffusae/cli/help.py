"""`--help` and `--version`, made from what there is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from diffusae import plugins
from diffusae.cli.arguments import CommandLine
from diffusae.cli.configs import Composer, config_directory
from diffusae.cli.stage_list import CHOICES, STAGES
from diffusae.metrics.registry import names

_WIDTH = 118


def usage() -> str:
    """What `diffusae --help` prints: the stages, and what the groups that name a job offer."""
    rows = "\n".join(f"  {name:<11}{what}" for name, what in STAGES.items())
    chosen = "\n".join(
        _listed(f"{stage} {group}=", _options(group), lead="  ") for stage, group in CHOICES.items()
    )
    papers = sorted(
        path.stem for path in (Path(__file__).parents[1] / "report" / "paper").glob("*.json")
    )
    compared = _listed("compare reference=", papers, lead="  ")
    computed = _listed("run metrics=[...], metrics_at.METRIC=[...]: ", list(names()), lead="  ")
    return f"""usage: diffusae STAGE [overrides]

stages:
{rows}

{chosen}
{computed}
{compared}

diffusae STAGE --help     the groups of its configuration, their options, and its own settings
diffusae STAGE --cfg job  all its settings with their values
diffusae --version        of diffusae and the libraries that decide results

-m runs a job for every combination:
  diffusae train -m timestep=early,middle,final block=down,mid,up conditioning=cond,uncond"""


def stage_help(stage: str, line: CommandLine) -> str:
    """What `diffusae STAGE --help` prints: groups with their options, the user's own included, and
    the stage's own settings.
    """
    composer = Composer(stage, config_dir=line.config_dir, config_name=line.config_name)
    groups = "\n".join(
        _listed(f"{group}=", [_with_package(group, name) for name in names], lead="  ")
        for group, names in composer.groups().items()
    )
    root = (config_directory() / f"{stage}.yaml").read_text(encoding="utf-8").strip()
    own = "\n".join(f"  {text}" for text in root.splitlines())
    return f"""diffusae {stage}: {STAGES[stage]}

groups, chosen with group=option (+group=option where the stage has none of its own):
{groups}

{_plugins()}

the stage's own settings, beside those of the groups ({stage}.yaml):
{own}

diffusae {stage} --cfg job shows all settings with their values; setting=value changes one, \
--config-dir DIR adds your own options."""


def _with_package(group: str, option: str) -> str:
    """An option's name, with the package that it comes from where it is a plug-in's."""
    for package, folder in plugins.options().items():
        if (folder / group / f"{option}.yaml").is_file():
            return f"{option} ({package})"
    return option


def _plugins() -> str:
    """What packages of the user's own offer."""
    rows = [
        f"  {group}: {part.name} = {part.target} (package {part.package})"
        for group in plugins.GROUPS
        for part in plugins.parts(group)
    ]
    return "\n".join(
        [
            "parts of your own packages (docs/extending.md); all others are built in:",
            *(rows or ["  none"]),
        ]
    )


def versions() -> str:
    """What `diffusae --version` prints: one line, with the commit where the sources are a
    repository.
    """
    from diffusae.study.versions import commit

    at = commit()
    parts = [f"diffusae {_version('diffusae')}{f' (commit {at})' if at else ''}"]
    parts += [
        f"{name} {_version(name)}"
        for name in ("torch", "diffusers", "transformers", "pytorch-lightning")
    ]
    return ", ".join(parts)


def _options(group: str) -> list[str]:
    options = sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
    return [name for name in options if not name.startswith("_")]


def _listed(head: str, names: list[str], *, lead: str) -> str:
    """`head` and the names, in lines that fit."""
    import textwrap

    text = head + ", ".join(names)
    return textwrap.fill(
        text, _WIDTH, initial_indent=lead, subsequent_indent=lead + " " * 4, break_on_hyphens=False
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
