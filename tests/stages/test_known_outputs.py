"""Every reader of a run's files knows their bytes: one flipped bit, size and time kept, is named,
never used.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from diffusae.activations.manifest import Manifest
from diffusae.activations.writer import ActivationWriter
from diffusae.concepts.annotations import Annotations, PackedMasks
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.gallery import Gallery
from diffusae.errors import UserError
from diffusae.evaluation.result import load_results
from diffusae.report.before_after import load_examples
from diffusae.report.purest import load_purest
from diffusae.runs.record import read_record, run_record, state
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import load_sae, save_sae
from diffusae.summaries.emergence import summarise_emergence
from diffusae.summaries.three_stages import summarise_three_stages
from runs.test_outputs import flip_a_bit
from small_collections import sample_of, stream_of
from stages.evaluated_interventions import place_spatial
from stages.test_emergence import TIMES, evaluate, study_in

GALLERY = Gallery(latents=[0], image_ids=[["a"]], maps=[torch.ones(1, 4, 4)])


def dictionary() -> ConceptDictionary:
    figures = {name: [1.0] for name in ("purity", "firing_frequency", "mean_activation")}
    latents = pd.DataFrame({"latent": [0], **figures, "top_images": [["a"]], "top_values": [[1.0]]})
    table = pd.DataFrame(
        {"latent": [0], "label": ["cat"], "count": [2], "mean_iou": [0.7], "share": [1.0]}
    )
    vectors = torch.ones(1, 8)
    return ConceptDictionary(
        table,
        latents,
        ["cat"],
        vectors,
        torch.tensor([0]),
        vectors.clone(),
        {"d_sae": 1, "grid": [2, 2]},
    )


def place_annotations(directory: Path) -> None:
    masks = PackedMasks(["a"])
    masks.add("a", {"cat": torch.ones(4, 4).bool().numpy()})
    described = pd.DataFrame({"image_id": ["a"], "style": ["flat"]})
    Annotations(masks=masks, second=PackedMasks(["a"]), described=described).save(directory)


def place_purity(directory: Path) -> None:
    GALLERY.save(directory)
    pd.DataFrame({"latent": [0], "place_label": ["left"]}).to_parquet(directory / "latents.parquet")


def place_collection(directory: Path) -> None:
    stream = stream_of((1, 1), 2)
    writer = ActivationWriter(directory, streams=[stream], header={"model": "m"})
    updates = {stream.folder: torch.ones(1, 2).numpy()}
    image = torch.zeros(8, 8, 3).byte().numpy()
    writer.write_group(0, [sample_of("a", 0, "test", updates, image=image)])
    writer.finish()


def place_sae(directory: Path) -> None:
    save_sae(directory, SparseAutoencoder(4, 8, TopK(2), seed=0), {})


Place = Callable[[Path], object]

FILES: dict[str, tuple[str, Place, Place, tuple[str, ...]]] = {
    "a collection": ("collect", place_collection, Manifest.load, ("manifest.json",)),
    "an autoencoder": ("train", place_sae, load_sae, ("sae.safetensors", "cfg.json")),
    "a dictionary": (
        "label",
        lambda directory: dictionary().save(directory),
        ConceptDictionary.load,
        ("dictionary.json", "dictionary.parquet", "latents.parquet", "embeddings.safetensors"),
    ),
    "a gallery": ("label", GALLERY.save, Gallery.load, ("gallery.json", "gallery.safetensors")),
    "annotations": (
        "annotate",
        place_annotations,
        Annotations.load,
        ("objects.parquet", "pictures.parquet"),
    ),
    "purity": ("evaluate", place_purity, load_purest, ("latents.parquet", "gallery.json")),
}
"""What -> its stage, what writes it, what reads it, its files."""


@pytest.mark.parametrize(
    ("what", "name"), [(what, name) for what, (*_, names) in FILES.items() for name in names]
)
def test_a_flipped_bit_is_named_by_its_reader_and_the_command_makes_the_same_bytes_again(
    tmp_path, what, name
):
    stage, place, load, _ = FILES[what]

    def make() -> None:
        with run_record(tmp_path, stage=stage, config={}, determines={}, parents={}, seed=0):
            place(tmp_path)

    make()
    load(tmp_path)
    before = (tmp_path / name).read_bytes()
    flip_a_bit(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} has SHA-256 .*, expected .*`diffusae {stage}`"):
        load(tmp_path)
    assert state(tmp_path, determines={}, parents={}) == "unfinished"
    make()
    load(tmp_path)
    assert (tmp_path / name).read_bytes() == before


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A study of a curve's evaluations, two interventions, and their summaries."""
    study = study_in(tmp_path_factory.mktemp("outputs"))
    for t in TIMES:
        evaluate(study, t)
    place_spatial(
        study, {name: [1.0] * 8 for name in ("no_edit", "concepts", "random_latent")}, t=1.0
    )
    summarise_emergence(study)
    summarise_three_stages(study)
    return study


@pytest.fixture
def study(evaluated, tmp_path):
    shutil.copytree(evaluated.directory, tmp_path / "made")
    return study_in(tmp_path)


SPATIAL = "evaluation/spatial/down-t1.00-cond-k10"
CURVE = "evaluation/emergence/mid-cond-k10"
TABLE = "evaluation/three_stages"


@pytest.mark.parametrize(
    ("place", "load"),
    [
        (f"{SPATIAL}/results.json", lambda path: load_results(path)),
        (f"{SPATIAL}/examples.parquet", lambda path: load_examples(path.parent)),
        ("evaluation/composition/mid-t1.00-cond-k10/results.json", lambda path: load_results(path)),
        (f"{CURVE}/results.json", lambda path: load_results(path)),
    ],
)
def test_results_and_pictures_are_known_too(study, place, load):
    path = study.directory / place
    load(path)
    flip_a_bit(path)
    with pytest.raises(UserError, match=rf"{path.name} has SHA-256"):
        load(path)


@pytest.mark.parametrize(
    "place",
    [f"{CURVE}/results.json", *(f"{TABLE}/{name}" for name in ("results.json", "table.parquet"))],
)
def test_a_damaged_summary_is_made_again_to_the_same_bytes(study, place):
    path = study.directory / place
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    summarise_emergence(study)
    summarise_three_stages(study)
    assert path.read_bytes() == before


def test_a_summary_is_made_again_where_what_it_was_made_of_was_evaluated_again_with_another_result(
    study,
):
    curve = study.directory / CURVE / "results.json"
    before = curve.read_bytes()
    evaluate(study, 1.0)  # the same figures
    summarise_emergence(study)
    assert curve.read_bytes() == before
    evaluate(study, 0.5, noun_probe=0.4)
    evaluate(study, 1.0, noun_probe=0.4)
    evaluate(study, 0.0, noun_probe=0.4)
    summarise_emergence(study)
    assert "noun_probe" in load_results(curve)[0].baselines


def test_a_damaged_evaluation_is_in_no_summary_and_named(study, caplog):
    (study.directory / SPATIAL / "objects.parquet").write_bytes(b"")
    place_spatial(
        study, {name: [0.0] * 8 for name in ("no_edit", "concepts", "random_latent")}, t=0.1
    )
    summarise_three_stages(study)
    assert f"{SPATIAL}/objects.parquet has 0 bytes" in caplog.text
    record = read_record(study.directory / "evaluation" / "three_stages")
    assert record is not None
    assert set(record.parents) == {"evaluate spatial/down-t0.10-cond-k10"}
