"""Every `diffusae ...` line in a code block of README.md and docs/ composes and passes checks."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from composing import compose
from diffusae.cli import STAGES
from diffusae.cli.arguments import CommandLine
from diffusae.cli.stage_list import POSITIONAL
from diffusae.study.study import Study

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SUMMARISED = (
    "miniature",
    "hookpoints",
)  # stages that study nothing, and whose models may have no grid


def commands(page: Path) -> dict[str, tuple[str, ...]]:
    """{place: words after `diffusae`} of a page's code blocks, with the page's variables."""
    commands: dict[str, tuple[str, ...]] = {}
    variables: dict[str, str] = {}
    inside = False
    text = re.sub(r"\\\n", "  ", page.read_text(encoding="utf-8"))
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        elif inside and (assigned := re.match(r'([A-Z]+)="(.*?)"', line)):
            variables[assigned[1]] = assigned[2]
        elif inside and (command := re.match(r"(?:srun )?diffusae +(.+)", line)):
            filled = command[1]
            for name, value in variables.items():
                filled = filled.replace(f"${name}", value)
            words = tuple(word for word in shlex.split(filled, comments=True) if word != "...")
            commands[f"{page.relative_to(ROOT)}:{number}"] = words
    return commands


COMMANDS = {place: words for page in PAGES for place, words in commands(page).items()}


@cache
def parser() -> OverridesParser:
    return OverridesParser.create()


def one_job(overrides: list[str]) -> list[str]:
    """The overrides of a multirun's last job, without values left to the reader (`...`)."""
    given = [override for override in overrides if not override.endswith("=...")]
    for parsed in parser().parse_overrides(given):
        if parsed.is_sweep_override():
            *_, last = parsed.sweep_string_iterator()
            given[given.index(str(parsed.input_line))] = f"{parsed.get_key_element()}={last}"
    return given


def test_pages_have_commands_and_no_variable_is_left_open():
    assert len(COMMANDS) > 60
    assert {words[0] for words in COMMANDS.values()} - {"--help", "--version"} <= set(STAGES)
    assert {
        name for words in COMMANDS.values() for word in words for name in re.findall(r"\$\w+", word)
    } <= {"$SLURM_ARRAY_TASK_ID", "$SLURM_ARRAY_TASK_COUNT"}


@pytest.mark.parametrize("place", COMMANDS)
def test_a_documented_command_composes_and_passes_the_checks(place):
    stage, *words = COMMANDS[place]
    if stage in ("--help", "--version"):
        return
    given = [word for word in words if word not in ("-m", "--help")]  # shares are of two tasks
    overrides = [re.sub(r"\$\w+", "1", re.sub(r"\$\w+_COUNT", "2", word)) for word in given]
    overrides = list(CommandLine.parse(overrides, bare=POSITIONAL.get(stage)).overrides)
    cfg = compose(stage, overrides=one_job(overrides))
    if stage not in SUMMARISED:
        Study(cfg).check()
