"""The direction of imports: floor above floor, no arrow back up."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "diffusae"
GROUND = {
    "contents",
    "devices",
    "errors",
    "files",
    "masking",
    "memory",
    "parsing",
    "plugins",
    "settings",
    "sources",
    "stopping",
    "table_files",
    "tar_samples",
    "tensor_files",
}
DOMAIN = {
    "activations",
    "backbone",
    "concepts",
    "evaluation",
    "hub",
    "pictures",
    "prompts",
    "runs",
    "sae",
}
"""Packages that know the data, and no configuration. They import no sibling."""
MODEL = {"capture", "interventions"}
"""What is done with a running model."""
WIRED = DOMAIN | MODEL | {"jobs", "miniature", "study"}
"""What every package above `study` may import."""
ALLOWED: dict[str, set[str]] = {
    "capture": {"backbone"},
    "interventions": {"backbone", "capture", "sae"},
    "jobs": {"activations", "sae"},
    "miniature": {"backbone", "capture", "interventions", "jobs"},
    "study": DOMAIN | MODEL | {"jobs", "miniature"},
    "training": WIRED,
    "planning": WIRED | {"training"},
    "collecting": WIRED | {"labelling", "planning"},
    "labelling": WIRED,
    "steering": WIRED | {"labelling"},
    "summaries": WIRED,
    "report": WIRED | {"labelling", "summaries"},
    "benchmarks": WIRED | {"collecting", "labelling", "report", "steering", "training"},
    "metrics": WIRED | {"benchmarks", "collecting", "labelling", "report", "steering", "training"},
    "exploring": WIRED | {"labelling", "report", "steering"},
    "explorer": WIRED | {"exploring", "labelling", "metrics", "report", "steering", "summaries"},
    "stages": {p.name for p in SOURCE.iterdir() if p.is_dir()} - {"cli", "stages"},
    "cli": {"stages", "metrics", "study", "jobs", "runs"},
    "opening": {"cli", "exploring", "runs", "study"},
    "__init__": {"exploring", "opening"},
    "__main__": {"cli"},
}


def imported_packages(path: Path) -> set[str]:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.level == 0
            and (node.module or "").startswith("diffusae")
        ):
            parts = (node.module or "").split(".")
            imported |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {a.name.split(".")[1] for a in node.names if a.name.startswith("diffusae.")}
    return imported


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_import_goes_to_a_sibling_or_back_up(path: Path):
    package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    foreign = imported_packages(path) - {package} - GROUND - ALLOWED.get(package, set())
    assert not foreign, f"{package} imports {foreign}"


def test_the_walk_sees_imports():
    assert "capture" in imported_packages(SOURCE / "collecting" / "generation.py")
    assert imported_packages(SOURCE / "errors.py") == set()
