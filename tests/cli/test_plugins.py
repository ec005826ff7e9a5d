"""Parts of a user's own package, as docs/extending.md has them: they are listed, built, used, and
told from what is wrong.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from diffusae import plugins
from diffusae.backbone.families.table import adapter_for, require_adapter, require_text_to_image
from diffusae.cli.arguments import CommandLine
from diffusae.cli.config_files import search_own_options
from diffusae.cli.configs import Composer
from diffusae.cli.help import stage_help
from diffusae.errors import UserError
from diffusae.metrics import registry
from diffusae.sae.sparsity import sparsity_from_config
from diffusae.study.building import build
from own_package import known, write_package


@pytest.fixture(params=["installed", "named"])
def package(request, tmp_path):
    with known(write_package(tmp_path, installed=request.param == "installed")):
        if request.param == "named":
            assert not plugins.parts("annotators")  # nobody has named it yet
            plugins.use(["mine"])
        search_own_options()
        yield tmp_path
        registry._metrics.pop("norm", None)


def composed(stage: str, *overrides: str):
    return Composer(stage).compose(overrides)


def test_help_lists_the_parts_and_options_with_the_package_that_they_come_from(package):
    text = stage_help("annotate", CommandLine.parse([]))
    assert "annotator=clipseg, grounded_sam, miniature, scenes, shadows (mine)" in text
    assert "annotators: shadows = mine.annotators.Shadows (package mine)" in text
    assert "metrics: norm = mine.metrics.NORM (package mine)" in text


def test_no_part_is_imported_before_it_is_used(package):
    stage_help("annotate", CommandLine.parse([]))
    assert not [name for name in sys.modules if name.startswith("mine.")]


def test_an_annotator_is_built_with_its_options(package):
    annotator = build(composed("annotate", "annotator=shadows").annotator, "annotator")
    pictures = np.full((2, 4, 4, 3), 255, np.uint8)
    pictures[0, :2] = 0
    dark, bright = annotator.annotate(pictures)
    assert dark.masks["shadow"].sum() == 8
    assert bright.masks == {}


def test_an_embedding_is_built_and_gives_unit_vectors(package):
    embedding = build(composed("label", "embedding=letters").embedding, "embedding")
    vectors = embedding.embed(["Abba", "b"])
    assert vectors.shape == (2, 26)
    assert vectors[0, :2].tolist() == pytest.approx([0.5**0.5, 0.5**0.5])


def test_a_sparsity_is_built_and_read_back_from_the_name_in_cfg_json(package):
    cfg = composed("train", "sae=root")
    built = build(cfg.sae.sparsity, "sparsity")
    again = sparsity_from_config(built.name, built.config())
    assert type(again) is type(built)
    assert again.config() == {"l1": 0.3}


def test_a_metric_is_known_by_name(package):
    assert "norm" in registry.names()
    assert registry.metric("norm").title == "How large are the updates?"
    assert composed("evaluate", "evaluation=norm").evaluation.pictures == 100


def test_a_model_adapter_serves_its_denoiser_and_pipelines(package):
    index = {"_class_name": "HunyuanDiTPipeline", "transformer": ["diffusers", "HunyuanDiT2DModel"]}
    require_adapter(index)
    require_text_to_image("HunyuanDiTPipeline")
    kind: Any = type("HunyuanDiT2DModel", (), {"forward": lambda self, hidden_states: None})
    denoiser = kind()
    assert type(adapter_for(denoiser)).__name__ == "HunyuanAdapter"
    with pytest.raises(UserError, match="LuminaPipeline is none of the supported pipelines"):
        require_text_to_image("LuminaPipeline")


def test_a_part_stands_in_its_own_place_alone(package):
    with pytest.raises(UserError, match="refused for annotator"):
        build(OmegaConf.create({"_target_": "mine.embeddings.Letters"}), "annotator")
    with pytest.raises(UserError, match="unknown setting of Shadows: 'path'"):
        build(
            OmegaConf.create({"_target_": "mine.annotators.Shadows", "threshold": 1, "path": "x"}),
            "annotator",
        )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('boom')", "the plug-in own cannot be imported: RuntimeError: boom"),
        ("", "the plug-in own does not say what it offers; it needs DIFFUSAE = "),
        ("DIFFUSAE = {'anotators': {}}", "group of the plug-in own: 'anotators'; known: annotat"),
        ("DIFFUSAE = {'models': {'X': 3}}", "the plug-in own: models.X=3 must be a text"),
    ],
)
def test_a_package_that_is_wrong_is_one_message_with_its_name(tmp_path, source, message):
    (tmp_path / "own.py").write_text(source)
    sys.modules.pop("own", None)
    with known(tmp_path), pytest.raises(UserError, match=re.escape(message)):
        plugins.use(["own"])
    sys.modules.pop("own", None)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("own:Absent", "the plug-in own cannot load own:Absent, its annotators: AttributeError"),
        ("own:THREE", "the plug-in own offers own:THREE among annotators, and it is no class"),
        ("own:Bare", "it is no Annotator (it lacks labels, factors, annotate)"),
    ],
)
def test_a_part_that_is_missing_or_of_a_wrong_kind_is_one_message(tmp_path, value, message):
    (tmp_path / "own.py").write_text(
        f"DIFFUSAE = {{'annotators': {{'a': '{value}'}}}}\nTHREE = 3\nclass Bare: pass\n"
    )
    sys.modules.pop("own", None)
    with known(tmp_path):
        plugins.use(["own"])
        with pytest.raises(UserError, match=re.escape(message)):
            build(OmegaConf.create({"_target_": value.replace(":", ".")}), "annotator")
    sys.modules.pop("own", None)


def test_a_metric_of_a_built_in_name_is_refused(tmp_path):
    (tmp_path / "own.py").write_text("DIFFUSAE = {'metrics': {'purity': 'own:M'}}")
    sys.modules.pop("own", None)
    with known(tmp_path):
        plugins.use(["own"])
        with pytest.raises(UserError, match="the plug-in own has a metric 'purity', which is"):
            registry.names()


@pytest.mark.parametrize("name", ["../own", "os;x", 3, ""])
def test_what_is_no_packages_name_is_refused(name):
    with pytest.raises(UserError, match="is no package's name"):
        plugins.use([name])


def test_one_package_without_a_list_is_refused_with_the_remedy():
    with pytest.raises(UserError, match=re.escape("must be a list of packages: plugins=[mine]")):
        plugins.use("mine")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`diffusae` in a folder, with the packages in it."""
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "diffusae", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("installed", [True, False])
def test_the_command_finds_a_package(tmp_path, installed):
    write_package(tmp_path, installed=installed)
    named = () if installed else ("plugins=[mine]",)
    done = run(tmp_path, "annotate", *named, "annotator=shadows", "--cfg", "job")
    assert "_target_: mine.annotators.Shadows\n  threshold: 0.4" in done.stdout, done.stderr


@pytest.mark.slow  # imports torch; test_a_sparsity_is_built_and_read_back makes nearly the claim
def test_the_command_checks_a_part_of_a_package(tmp_path):
    write_package(tmp_path)
    done = run(tmp_path, "train", "sae=root", "sae.l1=-1")
    assert done.returncode == 2
    assert done.stderr.endswith("diffusae train: l1=-1 must not be below 0; raise sae.l1\n")
