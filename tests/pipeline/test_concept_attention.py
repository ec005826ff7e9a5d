"""ConceptAttention as a part of a collection: stored, counted, and without a trace in the rest."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_updates
from diffusae.activations.schema import CONCEPTS
from diffusae.backbone.describe import describe
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.concept_attention import capture_concept_attention, encode_concepts
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.planning.estimate import estimate
from diffusae.stages.collect import collect
from diffusae.study.model import check_hookpoints, load_model, sampling, scheduler_timestep
from diffusae.study.study import Study
from small_collections import contents
from tiny_families import FAMILIES

WORDS = ["fish", "sky", "cat"]
ON = ["collection.concepts=[fish,sky,cat]"]
SMALL = [
    "grid.timesteps=[1.0,0.0]",
    "grid.blocks=[mid]",
    "grid.conditionings=[cond]",
    "block=mid",
    "timestep=early",
    "model.steps=2",
    "model.batch_size=2",
    "prompts.counts={train: 2, validation: 1, dictionary: 1, tune: 1, test: 2}",
    "activations.group_size=2",
]


@pytest.fixture(scope="module")
def family() -> str:
    return "sd3"


def composed(stage: str, folder: Path, *overrides: str) -> DictConfig:
    return compose(stage, [*FAMILIES["sd3"].overrides(folder), *SMALL, *overrides])


@pytest.fixture(scope="module")
def recorded(family: str, folder: Path) -> tuple[Study, Study]:
    """A study with concepts and one without, both collected."""
    studies = []
    for name, overrides in (("with", ON), ("without", [])):
        cfg = composed("collect", folder, f"name={name}", *overrides)
        assert collect(cfg)
        studies.append(Study(cfg))
    return studies[0], studies[1]


def test_every_other_byte_of_the_collection_is_the_same(recorded: tuple[Study, Study]) -> None:
    beside, alone = (contents(study.activations) for study in recorded)
    of_concepts = {name for name in beside if name.startswith(CONCEPTS)}
    assert of_concepts and not any(name.startswith(CONCEPTS) for name in alone)
    others = beside.keys() - of_concepts
    tars = {name for name in others if name.endswith(".tar")}
    assert tars == {name for name in alone if name.endswith(".tar")}
    assert all(beside[name] == alone[name] for name in tars)


def test_maps_are_stored_of_the_pictures_that_are_evaluated_with_the_names_of_the_concepts(
    recorded: tuple[Study, Study],
) -> None:
    study = recorded[0]
    manifest = Manifest.load(study.activations)
    assert list(manifest.header["concepts"]) == WORDS
    streams = [stream for stream in manifest.streams if stream.block == CONCEPTS]
    assert [(one.t, one.grid, one.d_in) for one in streams] == [(1.0, (4, 4), 3), (0.0, (4, 4), 3)]
    splits = {shard.split for shard in manifest.entries if shard.stream == streams[0].folder}
    assert splits == {"dictionary", "tune", "test"}
    model = ModelSettings.of(study.cfg)
    pipe = load_model(model)
    asked = sampling(model)
    steps = asked.pop("steps")
    prompts = [prompt for prompt in study.prompts if prompt.split == "test"]
    times = [scheduler_timestep(pipe, adapter_of(pipe), model, one.t) for one in streams]
    words = encode_concepts(pipe, WORDS, **asked)
    with capture_concept_attention(pipe, times, words) as captured:
        generate(pipe, [p.text for p in prompts], [p.seed for p in prompts], steps=steps, **asked)
    for stream, time in zip(streams, times, strict=True):
        samples = list(read_updates(study.activations, manifest, stream, "test"))
        for sample, expected in zip(samples, captured.maps[time], strict=True):
            found = torch.from_numpy(sample.updates.copy()).float()
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_plan_counts_it_and_trains_nothing_on_it(
    recorded: tuple[Study, Study], folder: Path
) -> None:
    beside, alone = (estimate(study, describe(folder)) for study in recorded)
    assert beside.saes == alone.saes
    (one, *_) = [stream for stream in beside.streams if stream.stream.block == CONCEPTS]
    manifest = Manifest.load(recorded[0].activations)
    stored = sum(s.bytes for s in manifest.entries if s.stream == one.stream.folder)
    assert 0 < stored <= one.bytes and not one.trained


def test_models_without_joint_blocks_and_unknown_blocks_are_refused_before_anything_loads(
    folder: Path,
) -> None:
    unknown = "collection.concept_blocks=[transformer_blocks.7]"
    study = Study(composed("collect", folder, *ON, unknown))
    with pytest.raises(UserError, match=r"unknown joint block .transformer_blocks.7."):
        check_hookpoints(study, describe(folder))
    miniature = Study(compose("collect", ["debug=tiny", *ON]))
    described = describe(miniature.cfg.model.source)
    with pytest.raises(UserError, match=r"needs joint blocks .* and miniature has Transformer2D"):
        check_hookpoints(miniature, described)
    for wrong in ("[]", "[cat,cat]"):
        bad = Study(composed("collect", folder, f"collection.concepts={wrong}"))
        with pytest.raises(UserError, match="must be one word or more, each once"):
            bad.check()
