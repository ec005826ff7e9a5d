"""A transcoder from one block's stream to another's, through all stages on a random pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates
from diffusae.backbone.describe import describe
from diffusae.errors import UserError
from diffusae.evaluation.result import load_results
from diffusae.planning.estimate import estimate
from diffusae.sae.storage import load_sae
from diffusae.stages.annotate import annotate
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import evaluate
from diffusae.stages.export_cell import export_cell
from diffusae.stages.train import train
from diffusae.stages.train_grid import train_grid
from diffusae.stages.train_online import train_online
from diffusae.study.streams import target_stream_of
from diffusae.study.study import Study
from tiny_families import FAMILIES

TRANSCODERS = [
    "grid.timesteps=[0.5]",
    "grid.blocks=[down]",
    "grid.conditionings=[cond]",
    "block=down",
    "timestep=middle",
    "sae.target=up",
    "model.batch_size=2",
    "prompts.counts={train: 6, validation: 2, dictionary: 2, tune: 1, test: 3}",
    "activations.group_size=3",
    "sae.selection_precision=float32",
    "trainer.accelerator=cpu",
    "annotator.models=null",
]
TAG = "down-t0.50-cond-k4-to-up"


@pytest.fixture(scope="module")
def family() -> str:
    return "sd3"


@pytest.fixture(scope="module")
def collected(family: str, folder: Path) -> Path:
    assert collect(composed("collect", folder))
    return folder


def composed(stage: str, folder: Path, *overrides: str) -> DictConfig:
    return compose(stage, [*FAMILIES["sd3"].overrides(folder), *TRANSCODERS, *overrides])


def vectors(study: Study, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of a split, as stored."""
    root = study.activations
    manifest = Manifest.load(root)
    stored = [
        load_updates(root, manifest, manifest.stream(block, 0.5, "cond"), split)[1]
        for block in ("down", "up")
    ]
    x, y = (torch.from_numpy(one.astype(np.float32)).flatten(0, 1) for one in stored)
    return x, y


def test_the_target_is_recorded_and_counted_without_being_trained_on(collected: Path) -> None:
    study = Study(composed("plan", collected))
    manifest = Manifest.load(study.activations)
    recorded = {stream.block for stream in manifest.streams}
    assert recorded == {"down", "up", "attention"}
    counted = estimate(study, describe(collected))
    assert [one.stream.block for one in counted.trained] == ["down"]
    target = target_stream_of(study, manifest)
    assert target is not None and target.hookpoint == "transformer_blocks.2"
    sizes = {one.stream.block: one.bytes for one in counted.streams}
    found: dict[str, int] = {}
    for shard in manifest.entries:
        block = shard.stream.partition("/")[0]
        found[block] = found.get(block, 0) + shard.bytes
    assert sizes["up"] == sizes["down"] and found["down"] <= sizes["down"]


def test_the_figures_are_those_of_the_target_beside_the_mean_and_a_linear_map(
    collected: Path,
) -> None:
    cfg = composed("train", collected)
    assert train(cfg)
    study = Study(cfg)
    assert study.sae.name == TAG
    sae, metadata = load_sae(study.sae)
    assert sae.transcodes and metadata["target"]["block"] == "up"
    assert metadata["target"]["hookpoint"] == "transformer_blocks.2"
    evaluate(composed("evaluate", collected, "evaluation=reconstruction"))
    rows = {row.metric: row for row in load_results(study.evaluation("reconstruction") / NAME)}
    (x, y), (x_train, y_train) = vectors(study, "test"), vectors(study, "train")
    variance = (y - y.mean(dim=0)).square().sum()
    fvu = rows["fvu"]
    assert fvu.estimate.value == pytest.approx(
        float((y - sae(x)).square().sum() / variance), rel=1e-3
    )
    assert fvu.estimate.ci95 is not None and fvu.estimate.clusters == 3
    assert set(fvu.baselines) == {"linear", "untrained", "mean"}
    assert fvu.baselines["mean"].value == 1
    ones = torch.ones(len(x_train), 1)
    weights = torch.linalg.lstsq(
        torch.cat([x_train, ones], dim=1).double(), y_train.double(), driver="gelsd"
    ).solution
    linear = torch.cat([x, torch.ones(len(x), 1)], dim=1).double() @ weights
    expected = float((y - linear).square().sum() / variance)
    assert fvu.baselines["linear"].value == pytest.approx(expected, rel=1e-2)


def test_it_takes_the_place_of_its_target_in_the_running_model(collected: Path) -> None:
    cfg = composed("train", collected)
    train(cfg)
    annotate(composed("annotate", collected))
    few = ["evaluation.pictures=2", "evaluation.denoising_pictures=2", "evaluation.n_halves=2"]
    evaluate(composed("evaluate", collected, "evaluation=faithfulness", *few))
    rows = {row.metric: row for row in load_results(Study(cfg).evaluation("faithfulness") / NAME)}
    assert rows["picture_ssim"].details["target"] == "up"
    for metric, same in (("picture_ssim", 1.0), ("denoising_error_change", 0.0)):
        control = rows[metric].baselines[CONTROL].value
        assert control == pytest.approx(same, abs=1e-3)
    # The model takes what stands in the place of the target: the transcoder's, or the mean.
    changed = rows["picture_mse"]
    own, mean, none = (changed.estimate, *(changed.baselines[n] for n in ("mean_update", CONTROL)))
    assert all(one.value is not None for one in (own, mean, none))
    assert min(own.value or 0, mean.value or 0) > (none.value or 0)
    assert own.value != mean.value


def weights_alone(collected: Path) -> bytes:
    train(composed("train", collected))
    return (Study(composed("train", collected)).sae / WEIGHTS).read_bytes()


def test_trainings_side_by_side_give_the_same_weights(collected: Path, tmp_path: Path) -> None:
    alone = weights_alone(collected)
    where = f"paths.sae={tmp_path / 'grid'}"
    train_grid(composed("train_grid", collected, where, "grid.k=[4,3]"))
    assert (tmp_path / "grid" / TAG / WEIGHTS).read_bytes() == alone


@pytest.mark.slow  # test_pairs_are_read_beside_other_streams_from_epoch_to_epoch reads such pairs
def test_a_training_while_pictures_are_made_gives_the_same_weights(
    collected: Path, tmp_path: Path
) -> None:
    alone = weights_alone(collected)
    unstored = ["activations.store_training=false", f"paths.outputs={tmp_path}"]
    assert collect(composed("collect", collected, *unstored))
    train_online(composed("train_online", collected, *unstored))
    assert (Study(composed("train", collected, *unstored)).sae / WEIGHTS).read_bytes() == alone


def test_it_is_exported_where_the_format_can_hold_it(collected: Path) -> None:
    train(composed("train", collected))
    export_cell(composed("export", collected, "format=eai_sparsify"))
    directory = Study(composed("train", collected)).directory / "export" / "eai_sparsify" / TAG
    assert json.loads((directory / "cfg.json").read_text())["transcode"] is True
    assert "target" in (directory / "README.md").read_text()
    with pytest.raises(UserError, match="sae_lens knows no transcoder topk"):
        export_cell(composed("export", collected, "format=sae_lens"))


@pytest.mark.parametrize(
    ("stage", "overrides", "message"),
    [
        ("train", ["sae.target=down"], "sae.target=down of block down is the block itself"),
        ("collect", ["sae.target=mlp_out"], "no block, and no site of its module"),
        ("collect", ["activations.held_out=codes"], "keeps nothing that its figures"),
        (
            "train_online",
            ["activations.store_training=false", "trainer.devices=2"],
            "deals single streams over 2 processes",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_loads(
    folder: Path, stage: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Study(composed(stage, folder, *overrides)).check()


NAME, WEIGHTS, CONTROL = "results.json", "sae.safetensors", "with_error"
