"""Collections of given pictures and of texts: what they hold, what is refused, and that a kill
costs nothing.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from composing import compose
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, read_images, read_updates
from diffusae.collecting import collect as collecting
from diffusae.collecting import pictures as record_pictures
from diffusae.collecting import texts as record_text
from diffusae.errors import UserError
from diffusae.evaluation.result import load_results
from diffusae.metrics.registry import metric
from diffusae.runs.record import read_record
from diffusae.stages import collect as stage
from diffusae.stages.annotate import annotate
from diffusae.stages.evaluate import evaluate
from diffusae.stages.report import report
from diffusae.stages.train import train
from diffusae.study.study import Study
from picture_files import encoded, pixels, put, sample
from stages.test_collection_tasks import contents
from tars import write_tar

SMALL = ["debug=tiny", "model.batch_size=3", "activations.group_size=3", "model.steps=5"]
WORLD = [
    "collection=pictures_world",
    "grid.blocks=[mid]",
    "grid.timesteps=[1.0,0.5]",
    "collection.counts={train: 4, validation: 2, dictionary: 2, tune: 2, test: 2}",
]
TEXT = ["collection=text", "grid.blocks=[text_1,text_2]", "block.name=text_1",
        "prompts.counts={train: 9, validation: 3, dictionary: 3, tune: 3, test: 4}"]  # fmt: skip
ONE_SPLIT = "collection.shares={train: 1.0}"


def study_in(directory: Path, *overrides: str, stage: str = "collect") -> Study:
    return Study(compose(stage, overrides=[*SMALL, f"paths.outputs={directory}", *overrides]))


def collected(directory: Path, *overrides: str) -> tuple[Study, Manifest]:
    study = study_in(directory, *overrides)
    assert stage.collect(study.cfg)
    return study, Manifest.load(study.activations)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Manifest]:
    return collected(tmp_path_factory.mktemp("world"), *WORLD)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Manifest]:
    return collected(tmp_path_factory.mktemp("texts"), *TEXT)


def killed_after(monkeypatch: pytest.MonkeyPatch, module: object, name: str, calls: int) -> None:
    """Call number `calls` of a function of `module` raises, as if the process ended there."""
    own: Callable = getattr(module, name)
    left = [calls]

    def dying(*args: object, **values: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return own(*args, **values)

    monkeypatch.setattr(module, name, dying)


def test_given_pictures_carry_their_labels_and_the_manifest_names_the_tasks(world) -> None:
    study, manifest = world
    assert manifest.header["collection"] == "pictures"
    assert manifest.header["label_tasks"] == study.given.source.tasks()
    assert manifest.header["undecodable_pictures"] == 0
    assert [stream.folder for stream in manifest.streams] == [
        "mid/t1.00/uncond",
        "mid/t0.50/uncond",
    ]
    stream = manifest.stream("mid", 0.5, "uncond")
    assert (stream.step_index, stream.timestep) == (
        2,
        401,
    )  # as of a cell of a generation of five steps
    for read in read_updates(study.activations, manifest, stream, "train"):
        assert read.updates.shape == (64, 128)
        assert read.meta["labels"] == study.given[read.image_id].labels
        assert read.meta["prompt"] == ""
    shown = list(read_images(study.activations, manifest, "test"))
    assert len(shown) == 2
    for image_id, picture, _ in shown:
        assert np.array_equal(picture, study.given.source.picture(int(image_id)))


def test_pooled_outputs_are_the_means_of_whole_ones(tmp_path: Path) -> None:
    few = [
        "collection=pictures_world",
        "grid.blocks=[mid]",
        "grid.timesteps=[0.5]",
        "collection.record=output",
        "collection.counts={train: 2, validation: 1, dictionary: 0, tune: 0, test: 0}",
    ]
    (whole, manifest), (pooled, thin) = (
        collected(tmp_path, *few, f"name=pooled-{flag}", f"collection.pooled={flag}")
        for flag in ("false", "true")
    )
    _, all_of_it = load_updates(whole.activations, manifest, manifest.streams[0], "train")
    _, means = load_updates(pooled.activations, thin, thin.streams[0], "train")
    assert thin.streams[0].grid == (1, 1) and means.shape == (2, 1, 128)
    np.testing.assert_allclose(
        means[:, 0], all_of_it.astype(np.float32).mean(axis=1), rtol=2e-3, atol=2e-3
    )


def test_a_denoiser_drawn_anew_is_told_and_gives_other_updates(world, tmp_path: Path) -> None:
    study, manifest = world
    other, drawn = collected(tmp_path, *WORLD, "collection.random_weights=true")
    assert drawn.header["random_weights"] and not manifest.header["random_weights"]
    stream = manifest.streams[0]
    ours, theirs = (
        load_updates(s.activations, m, stream, "train")[1]
        for s, m in ((study, manifest), (other, drawn))
    )
    assert np.abs(ours.astype(float) - theirs).max() > 0.1
    with pytest.raises(UserError, match=r"(?s)differs.*random_weights: true -> false"):
        stage.collect(study_in(tmp_path, *WORLD).cfg)


@pytest.mark.parametrize(("overrides", "module", "name"), [
    (WORLD, record_pictures, "capture_noised"), (TEXT, record_text, "capture_text"),
])  # fmt: skip
def test_a_killed_collection_goes_on_to_the_same_bytes(
    overrides: list[str], module: object, name: str, tmp_path: Path, monkeypatch, request
) -> None:
    whole, _ = request.getfixturevalue("world" if overrides is WORLD else "texts")
    with monkeypatch.context() as patch:
        killed_after(patch, module, name, 2)
        with pytest.raises(KeyboardInterrupt):
            stage.collect(study_in(tmp_path, *overrides).cfg)
    study = study_in(tmp_path, *overrides)
    assert not (study.activations / "manifest.json").exists()
    assert stage.collect(study.cfg)
    assert contents(study.activations) == contents(whole.activations)
    monkeypatch.setattr(collecting, "load_model", None)
    assert not stage.collect(study.cfg)  # finished: nothing loads


def test_tasks_share_given_pictures_to_the_same_bytes(world, tmp_path: Path) -> None:
    for shard in ("1/2", "0/2"):
        stage.collect(study_in(tmp_path, *WORLD, f"collect.shard={shard}").cfg)
    actual, expected = (
        contents(study.activations) for study in (study_in(tmp_path, *WORLD), world[0])
    )
    assert {name: actual[name] for name in expected} == expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(4):
        put(tmp_path / "pictures" / ("cat", "dog")[n % 2] / f"{n}.png", encoded(pixels(n, 80, 100)))
    return tmp_path / "pictures"


def of_folder(folder: Path, *overrides: str) -> list[str]:
    grid = ["grid.blocks=[mid]", "grid.timesteps=[0.5]", ONE_SPLIT]
    shares = [
        "collection.shares.validation=0.0",
        "collection.shares.dictionary=0.0",
        "collection.shares.tune=0.0",
        "collection.shares.test=0.0",
    ]
    return [
        "collection=pictures_folder",
        f"collection.source.path={folder}",
        *grid,
        *shares,
        *overrides,
    ]


def test_pictures_of_folders_are_fitted_to_the_model_and_labelled_by_their_folder(
    folder: Path, tmp_path: Path
) -> None:
    study, manifest = collected(tmp_path, *of_folder(folder))
    assert manifest.header["label_tasks"] == {"class": ["cat", "dog"]}
    samples = list(read_updates(study.activations, manifest, manifest.streams[0], "train"))
    assert {sample.meta["name"]: sample.meta["labels"] for sample in samples} == {
        f"{kind}/{n}.png": {"class": kind} for n, kind in enumerate(("cat", "dog", "cat", "dog"))
    }


def test_pictures_that_do_not_decode_are_counted_and_named_and_left_out_only_when_told_to(
    folder: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    put(folder / "cat" / "bad.png", encoded(pixels(9))[:50])
    put(folder / "dog" / "empty.jpg", b"")
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "load_model", None)  # refused before the model loads
        with pytest.raises(
            UserError,
            match=r"(?s)2 of 6 pictures do not decode.*cat/bad.png: .*skip_undecodable=true",
        ) as error:
            stage.collect(study_in(tmp_path, *of_folder(folder)).cfg)
    assert "dog/empty.jpg" in str(error.value)
    study, manifest = collected(tmp_path, *of_folder(folder, "collection.skip_undecodable=true"))
    assert manifest.header["undecodable_pictures"] == 2
    assert manifest.splits == {"train": {"images": 4, "rejected": 0}}
    assert (
        "2 of 6 pictures do not decode and are left out" in caplog.text
        and "dog/empty.jpg" in caplog.text
    )
    record = read_record(study.activations)
    assert record is not None and record.determines["collection"]["skip_undecodable"] is True


def test_pictures_of_tars_are_collected_with_their_labels(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample("1", 1, "cat"), *sample("2", 2, "dog")])
    options = [
        option.replace("pictures_folder", "pictures_webdataset") for option in of_folder(path)
    ]
    study, manifest = collected(tmp_path, *options)
    assert manifest.header["label_tasks"] == {"class": ["cat", "dog"]}
    samples = list(read_updates(study.activations, manifest, manifest.streams[0], "train"))
    assert sorted(option.meta["labels"]["class"] for option in samples) == ["cat", "dog"]


def test_texts_hold_one_vector_a_token_of_their_own_and_no_padding(texts) -> None:
    study, manifest = texts
    assert (
        manifest.ragged and manifest.image_size is None and manifest.header["collection"] == "text"
    )
    assert [(stream.folder, stream.grid, stream.d_in) for stream in manifest.streams] == [
        ("text_1/t1.00/cond", (1, 32), 128), ("text_2/t1.00/cond", (1, 32), 128),
    ]  # fmt: skip
    for read in read_updates(study.activations, manifest, manifest.streams[0], "train"):
        tokens = read.meta["tokens"]["tokenizer"]
        assert tokens[0] == "<|startoftext|>" and tokens[-1] == "<|endoftext|>"
        assert tokens.count("<|endoftext|>") == 1
        assert read.meta["positions"] == list(range(len(tokens))) and len(read.updates) == len(
            tokens
        )


def test_the_start_token_is_left_out_where_that_is_asked_for(texts, tmp_path: Path) -> None:
    few = [*TEXT[:3], "prompts.counts={train: 3, validation: 1, dictionary: 0, tune: 0, test: 0}"]
    study, manifest = collected(tmp_path, *few, "collection.start_token=false")
    whole, all_of_it = texts
    stream = manifest.streams[0]
    ours = list(read_updates(study.activations, manifest, stream, "train"))
    theirs = list(read_updates(whole.activations, all_of_it, stream, "train"))
    for mine, other in zip(ours, theirs[:3], strict=True):
        assert mine.meta["positions"] == other.meta["positions"][1:]
        np.testing.assert_allclose(mine.updates, other.updates[1:], rtol=1e-2, atol=1e-2)


def test_an_autoencoder_is_trained_on_tokens_evaluated_and_reported(texts) -> None:
    study, _ = texts
    outputs = study.directory.parent
    # The settings of Concept Steerers (PAPERS: k 32, x4, k_aux 256, 1/32, lr 4e-4), k and k_aux at
    # this size.
    sae = ["sae.k=8", "sae.d_sae=512", "sae.k_aux=64", "sae.aux_coefficient=0.03125", "sae.lr=4e-4"]
    assert train(study_in(outputs, *TEXT, *sae, stage="train").cfg)
    evaluated = study_in(outputs, *TEXT, *sae, "evaluation=reconstruction", stage="evaluate")
    assert evaluate(evaluated.cfg)
    assert (study.directory / "sae" / "text_1-t1.00-cond-k8" / "sae.safetensors").exists()
    rows = {
        row.metric: row
        for row in load_results(evaluated.evaluation("reconstruction") / "results.json")
    }
    manifest = Manifest.load(study.activations)
    assert rows["fvu"].estimate.n == manifest.vectors(manifest.streams[0], "test")
    report(study_in(outputs, *TEXT, *sae, stage="report").cfg)
    page = (study.directory / "report" / "index.html").read_text()
    assert "outputs of text encoders" in page and "text_1" in page


def test_texts_have_no_pictures_to_annotate(texts) -> None:
    study, _ = texts
    with pytest.raises(UserError, match=r"keeps no pictures \(collection=text\)"):
        annotate(study_in(study.directory.parent, *TEXT, stage="annotate").cfg)


def test_a_collection_of_given_pictures_is_reported_with_their_labels(world) -> None:
    study, _ = world
    report(study_in(study.directory.parent, *WORLD, stage="report").cfg)
    page = (study.directory / "report" / "index.html").read_text()
    assert "given pictures, one pass a time t under the empty prompt: updates" in page
    labels = study.given[next(p.image_id for p in study.prompts if p.split == "test")].labels
    assert ", ".join(labels.values()) in page


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["collection=text", "grid.blocks=[mid]"], "block mid is no text encoder's layer"),
        (["collection=text", "grid.timesteps=[0.5]"], r"t=0.5: a text encoder runs once"),
        (["collection=text", "grid.conditionings=[uncond]"], "collection=text has cond alone"),
        (["collection=text", "collection.start_token=1"], "start_token=1 must be true or false"),
        (["block.name=text_1"], "block text_1 is a text encoder's layer"),
        ([*WORLD, "grid.conditionings=[cond]"], "collection=pictures has uncond alone"),
        (
            [*WORLD, "collection.prompt=a fish", "conditioning.branch=uncond"],
            "collection=pictures has cond alone",
        ),
        ([*WORLD, "collection.record=input"], r"collection.record 'input'; known: output, update"),
        ([*WORLD, "collection.pooled=3"], "collection.pooled=3 must be true or false"),
        (
            [*WORLD, "collection.counts.train=-1"],
            "collection.counts.train=-1 must be a whole number",
        ),
        (
            ["collection=pictures_folder", "collection.shares.train=0.5"],
            "collection.shares add up to 0.9",
        ),
        (["collection.kind=films"], r"collection.kind 'films'; known: generation, pictures, text"),
        ([*WORLD, "grid.timesteps=[0.5,0.51]"], "fall on one of 5 steps"),
    ],
)
def test_what_cannot_be_collected_is_refused_before_anything_loads(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        study_in(tmp_path, *overrides).check()


def test_an_empty_prompt_needs_no_guidance_of_the_model(tmp_path: Path) -> None:
    study_in(tmp_path, *WORLD, "model.guidance=1.0").check()


def test_a_layer_that_does_not_exist_is_refused_with_the_valid_ones(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(collecting, "load_model", None)
    with pytest.raises(UserError, match=r"'text2_1' does not exist; .* text_0 to text_3"):
        stage.collect(study_in(tmp_path, "collection=text", "grid.blocks=[text_1,text2_1]").cfg)


def test_guidance_decides_nothing_of_given_pictures(tmp_path: Path) -> None:
    one, other = (
        collecting._determines(study_in(tmp_path, *WORLD, f"model.guidance={g}"))
        for g in (3.0, 7.0)
    )
    assert one == other
    assert collecting._determines(study_in(tmp_path, *WORLD, "model.steps=6")) != one


def test_an_annotator_made_for_another_models_pictures_is_refused(tmp_path: Path) -> None:
    other = study_in(tmp_path, "model=sd14")
    refusal = (
        "this annotator judges pictures of miniature alone, and model.name=sd14; choose"
        " annotator=grounded_sam"
    )
    for name in ("composition", "cohesion", "spatial"):
        (fault,) = unfit(other, name)
        assert fault.startswith(refusal)
    assert not unfit(other, "reconstruction")
    for options in (
        ["annotator=clipseg"],
        ["annotator.models=[miniature,sd14]"],
        ["annotator.models=null"],
    ):
        assert not unfit(study_in(tmp_path, "model=sd14", *options), "composition", "spatial")
    given = study_in(
        tmp_path, *WORLD, "model=sd14"
    )  # drawn pictures of the world, whatever model looks at them
    assert not unfit(given, "latents")


def unfit(study: Study, *names: str) -> list[str]:
    return [fault for name in names for fault in metric(name).unfit(study)]


def test_metrics_say_which_stages_and_which_kind_of_collection_they_need(tmp_path: Path) -> None:
    assert metric("reconstruction").stages == {"train"}
    assert metric("cohesion").stages == {"label", "annotate"}
    text, pictures, generation = (study_in(tmp_path, *kind) for kind in (TEXT, WORLD, []))
    names = ("reconstruction", "composition", "latents")
    assert not unfit(generation, *names)
    assert [fault.split()[1] for fault in unfit(pictures, *names)] == ["composition"]
    assert [fault.split()[1] for fault in unfit(text, *names)] == ["composition", "latents"]
