"""With `activations.held_out=codes`, dictionary, tune and test pictures are stored as pictures and
codes, and labelling and evaluation give what they give from stored updates.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

import command
import diffusae
from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, verify
from diffusae.backbone.describe import describe
from diffusae.collecting.coding import collections_due
from diffusae.errors import UserError
from diffusae.labelling.codes import code_source, coded_split
from diffusae.metrics import reconstruction
from diffusae.miniature.shapes import NOUNS
from diffusae.planning.estimate import estimate
from diffusae.sae.storage import load_sae, save_sae
from diffusae.stages.annotate import annotate
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import evaluate
from diffusae.stages.label import label
from diffusae.stages.train_grid import train_grid
from diffusae.steering.spatial_directions import directions_of
from diffusae.study.study import Study

pytestmark = pytest.mark.filterwarnings("ignore")

TINY = [
    "debug=tiny",
    "grid.timesteps=[0.0]",
    "grid.blocks=[mid,down]",
    "grid.conditionings=[cond]",
    "grid.k=[2,4]",
    "timestep=final",
    "block=mid",
    "sae.k=4",
    "model.steps=2",
    "model.batch_size=2",
    "prompts.counts={train: 4, validation: 2, dictionary: 3, tune: 2, test: 2}",
    "activations.group_size=2",
    "trainer.accelerator=cpu",
]
CODED = ["activations.held_out=codes"]
SPLITS = ("dictionary", "tune", "test")


def composed(directory: Path, *overrides: str, command: str = "collect") -> DictConfig:
    return compose(command, [*TINY, f"paths.outputs={directory}", "name=study", *overrides])


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """The study with all updates stored, trained and annotated."""
    directory = tmp_path_factory.mktemp("stored")
    collect(composed(directory))
    train_grid(composed(directory, command="train_grid"))
    annotate(composed(directory, command="annotate"))
    return directory


@pytest.fixture(scope="module")
def coded(stored, tmp_path_factory) -> Path:
    """The same study with codes. Its autoencoders are those of the other one."""
    directory = tmp_path_factory.mktemp("coded")
    assert collect(composed(directory, *CODED))
    shutil.copytree(stored / "study" / "sae", directory / "study" / "sae")
    assert collect(composed(directory, *CODED))
    annotate(composed(directory, *CODED, command="annotate"))
    return directory


def study_in(directory: Path, *overrides: str) -> Study:
    return Study(composed(directory, *overrides, command="label"))


def test_the_first_collection_holds_the_other_splits_and_the_second_no_updates(stored, coded):
    first, second = (Manifest.load(coded / "study" / name) for name in ("activations", "codes"))
    whole = Manifest.load(stored / "study" / "activations")
    assert first.splits.keys() == {"train", "validation"}
    assert second.splits == {split: whole.splits[split] for split in SPLITS}
    assert {(codes.stream, codes.tag) for codes in second.codes} == {
        (f"{block}/t0.00/cond", f"k{k}") for block in ("mid", "down") for k in (2, 4)
    }
    held = {(shard.stream, shard.split) for shard in second.entries}
    assert {stream for stream, _ in held if stream.endswith("/cond")} == {"attention/t0.00/cond"}
    # Nothing reads the attention of dictionary pictures.
    assert {split for stream, split in held if stream.startswith("attention")} == {"tune", "test"}
    assert {split for stream, split in held if stream == "images"} == {*SPLITS}
    assert not verify(coded / "study" / "codes", second)


def test_before_the_autoencoders_are_trained_these_pictures_wait_for_them(tmp_path, caplog):
    study = study_in(tmp_path, *CODED)
    with caplog.at_level("INFO"):
        assert collections_due(study) == [study]
    assert "pictures wait for 4 of 4 autoencoders" in caplog.text


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("block", ["mid", "down"])
def test_stored_codes_are_those_of_stored_updates_to_the_bit(stored, coded, split, block):
    codes = []
    for study in (study_in(stored, f"block={block}"), study_in(coded, f"block={block}", *CODED)):
        source = code_source(study, load_sae(study.sae)[0])
        codes.append(coded_split(study, source, split))
    of_updates, of_codes = codes
    assert of_codes.image_ids == of_updates.image_ids and of_codes.prompts == of_updates.prompts
    assert torch.equal(of_codes.values, of_updates.values)
    assert torch.equal(of_codes.indices, of_updates.indices)
    assert of_updates.values.shape[-1] == 4 and of_codes.updates is None


def test_the_codes_are_those_of_the_autoencoder_rounded_to_float16(stored):
    study = study_in(stored)
    manifest = Manifest.load(study.activations)
    stream = manifest.stream("mid", 0.0, "cond")
    ids, updates = load_updates(study.activations, manifest, stream, "test")
    sae, _ = load_sae(study.sae)
    for picture, own, image_id in zip(code_source(study, sae)("test"), updates, ids, strict=True):
        dense = sae.encode_dense(torch.from_numpy(own).float()).half().float()
        assert picture.image_id == image_id
        assert torch.equal(torch.from_numpy(picture.codes.dense(sae.d_sae)), dense)


def labelled(directory: Path, *overrides: str) -> dict[str, bytes]:
    label(composed(directory, *overrides, "dictionary.min_count=1", command="label"))
    written = directory / "study" / "concepts" / "mid-t0.00-cond-k4"
    return {path.name: path.read_bytes() for path in written.iterdir() if path.name != "run.json"}


@pytest.fixture(scope="module")
def dictionaries(stored, coded) -> list[dict[str, bytes]]:
    return [labelled(stored), labelled(coded, *CODED)]


def test_labelling_writes_the_same_bytes(dictionaries):
    of_updates, of_codes = dictionaries
    assert {"dictionary.parquet", "latents.parquet", "gallery.safetensors"} <= of_codes.keys()
    assert of_codes == of_updates


def rows(directory: Path, metric: str, *overrides: str) -> list[dict]:
    evaluate(composed(directory, *overrides, f"evaluation={metric}", command="evaluate"))
    path = directory / "study" / "evaluation" / metric / "mid-t0.00-cond-k4" / "results.json"
    return json.loads(path.read_text())


@pytest.mark.parametrize("metric", ["latents", "composition", "cohesion"])
def test_figures_are_the_same_and_only_probes_of_updates_are_missing(
    stored, coded, dictionaries, metric
):
    of_updates, of_codes = rows(stored, metric), rows(coded, metric, *CODED)
    probes = {"noun_probe", "any_object_probe"}
    if metric == "composition":
        assert not probes & of_codes[0]["baselines"].keys()
        assert "cross_attention" in of_codes[0]["baselines"]
        for probe in probes:
            del of_updates[0]["baselines"][probe]
    assert of_codes == of_updates


def test_reconstruction_reads_validation_pictures_and_says_so(coded, monkeypatch):
    of_updates = rows(coded, "reconstruction", *CODED)
    assert {row["details"]["split"] for row in of_updates} == {"validation"}
    # Training pictures are stored, so the baselines have those and the figures all of validation.
    assert {row["n"] for row in of_updates if row["metric"] == "l0"} == {2}
    with pytest.raises(UserError, match="reconstruction needs two validation pictures"):
        reconstruction._require_some(0)


def test_codes_of_another_autoencoder_are_refused(coded, tmp_path):
    study = study_in(coded, *CODED, f"paths.experiment={tmp_path}/study",
                     f"paths.codes={coded}/study/codes")  # fmt: skip
    sae, metadata = load_sae(coded / "study" / "sae" / study.cell_name)
    with torch.no_grad():
        sae.b.add_(1)
    save_sae(study.sae, sae, metadata)
    with pytest.raises(UserError, match=r"codes mid/t0.00/cond/k4 belong to another autoencoder"):
        code_source(study, sae)


def test_directions_of_concepts_are_the_same_and_those_of_updates_are_missing(
    stored, coded, dictionaries
):
    of_updates, of_codes = (
        directions_of(study, load_sae(study.sae)[0], sorted(NOUNS), n_latents=2)
        for study in (study_in(stored), study_in(coded, *CODED))
    )
    assert of_updates["difference_of_means"].keys() == of_updates["neuron"].keys() != set()
    assert of_codes["difference_of_means"] == of_codes["neuron"] == {}
    for method in ("concepts", "chosen_latents", "random_latent"):
        assert of_codes[method].keys() == of_updates[method].keys()
        for noun, directions in of_codes[method].items():
            for direction, expected in zip(directions, of_updates[method][noun], strict=True):
                assert torch.equal(direction, expected)


def test_a_notebook_reads_the_codes_of_an_opened_study(stored, coded):
    both = []
    for directory in (stored, coded):
        cell = diffusae.open(directory / "study").cell("mid", t=0.0, tag="k4")
        both.append(dict(cell.codes("test")))
    of_updates, of_codes = both
    assert of_codes.keys() == of_updates.keys() and len(of_codes) == 2
    for image_id, (values, indices) in of_codes.items():
        assert torch.equal(values, of_updates[image_id].values)
        assert torch.equal(indices, of_updates[image_id].indices)


def test_the_plan_counts_the_shards_that_are_then_written(coded):
    study = study_in(coded, *CODED)
    counted = estimate(study, describe(study.cfg.model.source))
    first, second = (Manifest.load(coded / "study" / name) for name in ("activations", "codes"))
    folders = {codes.folder for codes in second.codes}
    codes = sum(shard.bytes for shard in second.entries if shard.stream in folders)
    assert 0.5 * counted.code_bytes < codes <= counted.code_bytes
    others = sum(shard.bytes for shard in first.entries)
    assert others == pytest.approx(counted.bytes_to_collect - counted.bytes_with_codes, rel=0.03)


def test_what_needs_updates_of_these_pictures_says_that_only_codes_are_stored(coded):
    root = coded / "study" / "codes"
    manifest = Manifest.load(root)
    stream = manifest.stream("mid", 0.0, "cond")
    with pytest.raises(UserError, match=r"updates of mid/t0.00/cond in the split test are needed"):
        load_updates(root, manifest, stream, "test")


def test_a_damaged_shard_of_codes_is_made_again_to_the_byte(coded, tmp_path):
    shutil.copytree(coded / "study", tmp_path / "study")
    shard = tmp_path / "study" / "codes" / "mid" / "t0.00" / "cond" / "k2" / "shard-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    others = {path: path.stat().st_mtime_ns for path in shard.parent.glob("shard-000002.tar")}
    assert collect(composed(tmp_path, *CODED))
    assert shard.read_bytes() == whole
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert not collect(composed(tmp_path, *CODED))


def test_tasks_share_the_second_collection_too(coded, tmp_path):
    (tmp_path / "study").mkdir()
    for name in ("activations", "sae"):
        shutil.copytree(coded / "study" / name, tmp_path / "study" / name)
    for part in ("1/2", "0/2"):
        assert collect(composed(tmp_path, *CODED, f"collect.shard={part}"))
    manifests = [directory / "study" / "codes" / "manifest.json" for directory in (coded, tmp_path)]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()


@pytest.mark.parametrize(
    ("command", "overrides", "message"),
    [
        ("collect", ["collection=text", "grid.blocks=[text_1]", "block.name=text_1",
                     "grid.timesteps=[1.0]", "timestep.t=1.0"], "pictures that are generated"),
        ("collect", ["activations.source=/there"], "activations.source names a collection"),
        ("run", [], "set side_by_side=true or activations.store_training=false"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_codes_are_refused(tmp_path, command, overrides, message):
    with pytest.raises(UserError, match=message):
        Study(composed(tmp_path, *CODED, *overrides, command=command)).check()


@pytest.mark.slow
def test_run_goes_to_its_end_without_stored_training_pictures_and_updates(tmp_path):
    options = ["debug=tiny", "grid.timesteps=[1.0]", "grid.blocks=[mid]", *CODED]
    options += ["activations.store_training=false", f"paths.outputs={tmp_path}"]
    command.diffusae("run", *options)
    root = tmp_path / "tiny"
    splits = {name: Manifest.load(root / name).splits.keys() for name in ("activations", "codes")}
    assert splits == {"activations": {"validation"}, "codes": {*SPLITS}}
    metrics = {path.parents[1].name for path in root.rglob("evaluation/*/*/results.json")}
    assert metrics == {"composition", "reconstruction", "cohesion", "latents"}
    assert (root / "report" / "index.html").is_file()
    again = command.diffusae("run", *options)
    assert "skipped" in again.stdout + again.stderr
