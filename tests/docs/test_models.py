"""The page of all models is made from conf/model, the adapters, the published sizes and what the
tests found.
"""

import json
from pathlib import Path

import yaml

from diffusae.backbone.families.table import FAMILIES

from .pages import DOCS, MADE, ROOT  # which makes docs/_site importable

# isort: split
from models import families, features_table, guidance

PAGE = MADE[DOCS / "reference/models.md"]
CONF = ROOT / "conf/model"


def test_every_model_is_on_the_page_with_its_revision_and_blocks() -> None:
    files = [path for path in CONF.glob("*.yaml") if not path.stem.startswith("_")]
    models = [yaml.safe_load(path.read_text()) for path in files]
    published = [model for model in models if model.get("architecture")]
    assert len(published) > 10
    for model in published:
        (_, after) = PAGE.split(f"### `{model['name']}` {{ #{model['name']} }}\n")
        own = after.partition("\n### ")[0]
        assert model["source"] in own and (model["revision"] or "none is pinned") in own
        for block, path in model["hookpoints"].items():
            assert f"{block} `{path}` (" in own
        assert f"{model['height']} x {model['width']} px, {model['dtype']}" in own
        assert "| not verified | " in own and "| never run | the published weights |" in own


def test_the_families_are_those_that_the_adapters_state() -> None:
    """They are read from the sources, without running them."""
    told = {facts["family"]: facts for facts in families()}
    assert told.keys() == {adapter.family for adapter in FAMILIES}
    for adapter in FAMILIES:
        facts = told[adapter.family]
        for name in ("denoisers", "pipelines", "with_a_picture", "layout"):
            assert facts[name] == getattr(adapter, name), adapter


def test_a_feature_that_failed_or_does_not_exist_is_seen_in_the_table() -> None:
    row = {"pipeline": "P", "edit": {"passed": 2, "failed": 1}, "attention": {"none": "why"}}
    found = {"versions": {}, "features": ["edit", "attention"], "families": {"one": row}}
    assert "| `one` | `P` | 1 FAILED | - |" in features_table(found)


def test_guidance_is_told_with_the_scale_of_the_file() -> None:
    settings = {"guidance_layout": "one_batch", "guidance": 4.5}
    assert guidance(settings) == "one batch, scale 4.5"
    assert guidance(settings | {"guidance": 0.0}) == "none"
    first = {"guidance_layout": "cond_first", "guidance": 0.5}
    assert guidance(first) == "one batch, `cond` first, scale 0.5"
    assert guidance(first | {"guidance": 0.0}) == "none"
    flux = {"guidance_layout": "two_passes", "guidance": 3.5}
    assert guidance(flux) == "two passes if asked; 3.5 as an input"
    assert guidance(flux | {"true_guidance": 2.0}) == "two passes, scale 2; 3.5 as an input"


def test_the_committed_table_is_the_one_that_the_page_shows() -> None:
    found = json.loads((DOCS / "reference/models-tested.json").read_text())
    assert features_table(found) in PAGE
    assert Path(ROOT / "Makefile").read_text().count("models-tested.json") == 1
