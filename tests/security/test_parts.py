"""A configuration builds only the parts that its options name, each in its own place."""

import importlib
import inspect
from typing import Any

import pytest
from omegaconf import OmegaConf

from diffusae.cli import config_directory
from diffusae.errors import UserError
from diffusae.study.building import PLACES, build

TOPK = "diffusae.sae.sparsity.TopK"


def refused(node: Any, place, match="refused"):
    with pytest.raises(UserError, match=match):
        build(OmegaConf.create(node), place)  # type: ignore[arg-type]


def of(name):
    module, _, kind = f"diffusae.{name}".rpartition(".")
    return getattr(importlib.import_module(module), kind)


def named_by_options():
    """(entry, target) of every option; an option of a group belongs to the group's entry."""
    named = set()

    def walk(node, place):
        if isinstance(node, dict):
            if "_target_" in node:
                named.add((place, node["_target_"]))
            for name, child in node.items():
                walk(child, name)

    for path in config_directory().rglob("*.yaml"):
        group = path.parent.relative_to(config_directory()).as_posix()
        # Only the user's own command line chooses Hydra's parts.
        if group != "." and not group.startswith("hydra"):
            walk(OmegaConf.to_container(OmegaConf.load(path), resolve=False), group)
    return named


def test_every_option_is_on_the_list_and_nothing_else():
    listed = {(place, target) for place, part in PLACES.items() for target in part.targets}
    assert named_by_options() == listed


@pytest.mark.parametrize("place", PLACES)
def test_every_class_is_of_its_places_kind(place):
    base = of(PLACES[place].base)
    protocol = getattr(base, "_is_protocol", False)
    members = {name for name in vars(base) if protocol and not name.startswith("_")}
    for name in PLACES[place].classes:
        kind = of(name)
        assert inspect.isclass(kind)
        if members:
            lacking = {member for member in members if not hasattr(kind, member)}
            source = inspect.getsource(kind)
            assert all(f"self.{member}" in source for member in lacking), (kind, lacking)
        else:
            assert issubclass(kind, base)


@pytest.mark.parametrize(
    "target",
    [
        "diffusae.files.atomic_write_json",
        "diffusae.sae.storage.Path.touch",
        "diffusae.sae.storage.load_sae",
        "os.system",
        "diffusae.study.building.build",
        "diffusae.sae.sparsity.nn.Module",
        "diffusae.sae.sparsity.TopK.check",
        "builtins.eval",
        "diffusae.sae.sparsity.SPARSITIES",
        " diffusae.sae.sparsity.TopK",
        "",
        None,
        3,
        [TOPK],
        {"_target_": TOPK},
    ],
)
def test_no_other_target_is_built(target, tmp_path):
    refused({"_target_": target, "path": str(tmp_path / "P"), "value": "x"}, "sparsity")
    refused({"_target_": target, "path": str(tmp_path / "P"), "value": "x"}, None)
    assert not (tmp_path / "P").exists()


@pytest.mark.parametrize(
    "place", ["prompts", "source", "annotator", "tagger", "embedding", "check"]
)
def test_a_class_of_another_place_is_refused(place):
    refused({"_target_": TOPK, "k": 4}, place, match=f"refused for {place}")


@pytest.mark.parametrize(
    "extra",
    [
        {"k": {"_target_": TOPK, "k": 1}},
        {"k": [{"_target_": "os.getcwd"}]},
        {"k": {"a": {"model": {"_target_": "os.getcwd"}}}},
        {"_partial_": True},
        {"_args_": [4]},
        {"_recursive_": False},
        {"_convert_": "all"},
        {"k": {"_partial_": True}},
    ],
)
def test_parts_within_parts_and_tricks_are_refused(extra):
    refused({"_target_": TOPK, "k": 4, **extra}, "sparsity")


def test_a_setting_that_a_part_does_not_have_is_refused_by_name():
    message = "unknown setting of TopK: 'path'; known: k"
    refused({"_target_": TOPK, "k": 4, "path": "P"}, "sparsity", match=message)
    refused({"_target_": TOPK}, "sparsity", match="TopK needs k; give sparsity.k=")
    refused({"k": 4}, "sparsity", match="sparsity must name its class")


def test_what_is_named_is_built_with_parts_in_it():
    assert build(OmegaConf.create({"_target_": TOPK, "k": 4}), "sparsity").k == 4
    node = {
        "_target_": "diffusae.concepts.object_finders.ClipSeg",
        "tagger": {"_target_": "diffusae.concepts.taggers.CaptionTagger"},
        "source": "x",
    }
    assert type(build(OmegaConf.create(node), "objects").tagger).__name__ == "CaptionTagger"
