"""The page of all settings is made from conf/: every option, setting, default and comment."""

from pathlib import Path

import yaml

from .pages import MADE, ROOT, configuration_page

PAGE = next(iter(MADE.values()))
CONF = ROOT / "conf"


def test_every_option_of_every_group_is_on_the_page():
    options = [path for path in CONF.rglob("*/*.yaml") if not path.stem.startswith("_")]
    assert len(options) > 60
    for path in options:
        group = path.parent.relative_to(CONF).as_posix()
        assert f"### `{group}={path.stem}`" in PAGE


def leaves(node: object, prefix: str):
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip(".")


def test_every_setting_of_an_option_is_on_the_page():
    for group, option in (("sae", "_common"), ("evaluation", "spatial"), ("trainer", "default")):
        for name in leaves(yaml.safe_load((CONF / group / f"{option}.yaml").read_text()), ""):
            assert f"| `{group}.{name}` |" in PAGE


def test_a_setting_has_its_default_as_written_and_its_comments(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("# What all share.\nseed: 0\n")
    (tmp_path / "part").mkdir()
    (tmp_path / "part/one.yaml").write_text(
        "# What it is: docs/formats.md\n"
        "rate: 1.0e-3 # a | b\n"
        "# Above it.\n"
        "inner:\n"
        "  names: # of things\n"
        "    - first # the best\n"
        "    - 'a # b'\n"
        "  last: null # `x[0]` or <y>\n"
    )
    page = configuration_page(tmp_path)
    assert "What it is: [formats.md](../formats.md)" in page
    assert r"| `part.rate` | `1.0e-3` | a \| b |" in page
    assert "| `part.inner` |  | Above it. |" in page
    assert "| `part.inner.names` | `[first, 'a # b']` | of things; first: the best |" in page
    assert "| `part.inner.last` | `null` | `x[0]` or &lt;y&gt; |" in page


def test_settings_of_the_whole_configuration_have_no_group_before_them(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("seed: 0\n")
    (tmp_path / "part").mkdir()
    (tmp_path / "part/one.yaml").write_text("# @package _global_\nname: x\n")
    assert "| `name` | `x` |" in configuration_page(tmp_path)
