"""The erasure benchmark on the shipped miniature, as small as it goes: what is tried, what is
written, what is refused.
"""

import gzip
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from composing import compose
from diffusae.benchmarks.erasure import benchmark as erasure_benchmark
from diffusae.benchmarks.erasure.attacks import first_place, listed
from diffusae.benchmarks.erasure.autoencoders import UpdateAblation, updates_study
from diffusae.benchmarks.erasure.defended import Ask, DefendedPictures
from diffusae.benchmarks.erasure.settings import ErasureSettings
from diffusae.benchmarks.erasure.target_prompts import target_prompts
from diffusae.errors import UserError, together
from diffusae.evaluation.result import Result
from diffusae.interventions.unlearning import ConceptLatents
from diffusae.metrics import erasure as evaluate_erasure
from diffusae.metrics.evaluate import evaluation_faults
from diffusae.prompts.attacks import names_word
from diffusae.report.before_after import load_examples
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.study.study import Study

SMALL = [
    "evaluation=erasure",
    "block.name=text_2",
    "evaluation.steps=2",
    "evaluation.tune_prompts=1",
    "evaluation.test_prompts=2",
    "prompts.counts={train:40,validation:0,dictionary:0,tune:30,test:30}",
    "evaluation.examples=1",
    "evaluation.targets=[{name:fish,prompts:[a fish]}]",
    "evaluation.strengths.text_edit=[1.0]",
    "evaluation.strengths.safe_guidance=[max]",
    "evaluation.defences=[negative_prompt,safe_guidance,word_removal]",
    "evaluation.n_resamples=50",
    "evaluation.attacks=[misspelling,tokens_transfer,tokens_defended]",
    "evaluation.search={length:2,rounds:2,candidates:4,pictures:1,steps:2}",
    "evaluation.ablations.prompts=1",
]


def study_of(tmp_path, *overrides: str) -> Study:
    return Study(compose("evaluate", overrides=[*SMALL, f"paths.outputs={tmp_path}", *overrides]))


def settings_of(study: Study) -> ErasureSettings:
    return ErasureSettings.of(study.cfg)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Study, list[Result], pd.DataFrame]:
    """The whole benchmark with untrained autoencoders in the trained ones' place; pictures of two
    steps show next to nothing.
    """
    study = study_of(tmp_path_factory.mktemp("erasure"))
    study.evaluation("erasure").mkdir(parents=True)
    saes = {name: (layer, SparseAutoencoder(128, 256, TopK(8), seed=n)) for n, (name, layer) in
            enumerate({study.cell_name: "text_2", "text_1-other": "text_1"}.items())}  # fmt: skip
    patch = pytest.MonkeyPatch()
    patch.setattr(erasure_benchmark, "text_saes", lambda *_: saes)
    # White-box search needs a picture with the target, and two steps draw none.
    patch.setattr(DefendedPictures, "see", _always_found(DefendedPictures.see))
    try:
        results = evaluate_erasure.erasure_rows(study, settings_of(study), pytest.fail)
    finally:
        patch.undo()
    return study, results, pd.read_parquet(study.evaluation("erasure") / "trials.parquet")


def _always_found(see):
    def seen(self, asks, defence, target, *, what):
        answers = see(self, asks, defence, target, what=what)
        for answer in answers if defence.name == "none" else []:
            object.__setattr__(answer, "found", True)
        return answers

    return seen


def test_every_defence_meets_every_kind_of_prompt_on_the_same_seeds(made):
    _, _, trials = made
    tested = trials[(trials["split"] == "test") & ~trials["variant"].str.contains("other")]
    kinds = {"plain", "others", "misspelling", "tokens_transfer", "tokens_defended"}
    for defence in ("none", "text_edit", "negative_prompt", "safe_guidance", "word_removal"):
        rows = tested[tested["defence"] == defence]
        assert set(rows["kind"]) == kinds, defence
        assert {
            tuple(sorted(set(group["image_id"])))
            for kind, group in rows.groupby("kind")
            if kind != "others"
        } == {tuple(sorted(set(tested[tested["kind"] == "plain"]["image_id"])))}


def test_attacked_prompts_do_not_name_the_target_and_others_never_do(made):
    _, _, trials = made
    for kind in ("misspelling", "tokens_transfer", "tokens_defended", "others"):
        rows = trials[trials["kind"] == kind]
        assert len(rows)
        assert not any(names_word(prompt, "fish") for prompt in rows["prompt"])
    assert all(
        names_word(prompt, "fish")
        for prompt in trials[trials["kind"].isin(["plain", "paraphrase"])]["prompt"]
    )


def test_word_removal_gives_the_undefended_picture_where_the_word_is_not(made):
    _, _, trials = made
    rows = trials[(trials["kind"] == "others") & (trials["split"] == "test")]
    removed, plain = (
        rows[rows["defence"] == name].set_index("image_id") for name in ("word_removal", "none")
    )
    assert removed[["nouns_found", "aligned"]].equals(plain[["nouns_found", "aligned"]])


def test_rows_have_n_an_interval_and_all_baselines_and_every_strength_has_a_point(made):
    study, results, _ = made
    by = {row.metric: row for row in results}
    assert {
        "erasure_fish_plain",
        "erasure_fish_tokens_defended",
        "erasure_fish_others_kernel_distance",
    } <= set(by)
    plain = by["erasure_fish_plain"]
    assert plain.estimate.n == 2
    assert plain.estimate.ci95 is not None
    assert set(plain.baselines) == {"none", "negative_prompt", "safe_guidance", "word_removal"}
    assert plain.baselines["none"].value == 1.0
    table = pd.read_parquet(study.evaluation("erasure") / "points.parquet")
    own = table[
        (table["defence"] == "text_edit")
        & (table["split"] == "test")
        & (table["measure"] == "found")
    ]
    assert set(own[own["kind"] == "plain"]["strength"]) == {1.0}
    assert set(own["variant"]) == {study.cell_name, "text_1-other"}
    searched = pd.read_parquet(study.evaluation("erasure") / "searches.parquet")
    assert all(
        loss <= start for loss, start in zip(searched["loss"], searched["start"], strict=True)
    )
    assert all(len(tokens.split()) == 2 for tokens in searched["tokens"])


def test_examples_show_every_defence_beside_the_undefended_picture(made):
    study, _, _ = made
    examples = load_examples(study.evaluation("erasure"))
    assert [example.case for example in examples] == ["fish to go", "fish not asked for"]
    assert [example.method for example in examples[0].pictures] == [
        "no_edit", "text_edit", "negative_prompt", "safe_guidance", "word_removal",
    ]  # fmt: skip


def test_settings_that_cannot_work_are_refused_together(tmp_path):
    study = study_of(
        tmp_path,
        "block.name=mid",
        "evaluation.defences=[prayer]",
        "evaluation.attacks=[synonym,typo]",
        "evaluation.test_prompts=0",
        "evaluation.synonyms.fish=[]",
        "evaluation.strengths.safe_guidance=[huge]",
        "evaluation.targets=[{name:fish,prompts:[]}]",
        "evaluation.lists=[{name:mine,file:x,target:dog}]",
    )
    with pytest.raises(UserError) as raised:
        together(evaluation_faults(study))
    for part in (
        "block mid is none",
        "'prayer'",
        "'typo'",
        "test_prompts=0",
        "synonyms knows none of 'fish'",
        "'huge'",
        "no concept prompt",
        "'file'",
        "'dog'",
        "lists[0].path is missing",
    ):
        assert part in str(raised.value)


def test_a_target_that_the_annotator_cannot_tell_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot tell 'zebra'"):
        DefendedPictures(study_of(tmp_path), steps=1).require(["zebra"])


def test_a_users_list_is_read_with_bad_lines_named(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,seed\na finned thing,1\nswimming,2\n")
    asks = listed({"name": "mine", "path": str(path), "column": "prompt"}, seed=5)
    assert asks == [
        Ask("mine-00000", 5, "a finned thing", "a finned thing"),
        Ask("mine-00001", 6, "swimming", "swimming"),
    ]
    path.write_text("prompt\na\n \nb\n")
    with pytest.raises(UserError, match="line 3"):
        listed({"name": "mine", "path": str(path), "column": "prompt"}, seed=0)
    with pytest.raises(UserError, match="is no file"):
        listed({"name": "mine", "path": str(tmp_path / "none.csv")}, seed=0)
    path.write_bytes("prompt;year\na naked fish;2019\n".encode("utf-16"))
    asks = listed(
        {
            "name": "mine",
            "path": str(path),
            "column": "prompt",
            "delimiter": ";",
            "encoding": "utf-16",
        },
        seed=0,
    )
    assert [ask.prompt for ask in asks] == ["a naked fish"]
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"prompt\n" + b"a fish\n" * 9)[:-9])
    with pytest.raises(UserError, match="cut"):  # behind the prompts that were asked for, too
        listed({"name": "mine", "path": str(cut), "most": 1}, seed=0)


def test_a_list_stands_in_for_plain_prompts_of_a_target_that_no_caption_names(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("bare\nunclothed\nstripped\n")
    study = study_of(
        tmp_path, "evaluation.targets=[{name:nudity,prompts:[naked]}]", "evaluation.defences=[]",
        f"evaluation.lists=[{{name:mine,path:{path},target:nudity}}]",
    )  # fmt: skip
    settings, pictures = settings_of(study), DefendedPictures(study, steps=1)
    prompts = target_prompts("nudity", study.prompts, settings, pictures, seed=0)
    assert [ask.prompt for ask in prompts.named["tune"]] == ["bare"]
    assert [ask.prompt for ask in prompts.named["test"]] == ["unclothed", "stripped"]
    assert len(prompts.others["test"]) == settings.test_prompts


def test_the_experiment_of_updates_stands_beside_the_study_with_cells_of_the_denoiser(tmp_path):
    study = study_of(
        tmp_path, "evaluation.updates.counts={train:4,validation:0,dictionary:4,tune:0,test:0}"
    )
    beside = updates_study(study, settings_of(study).updates)
    assert beside.name == "miniature_updates"
    assert [cell.key for cell in beside.grid] == [
        "down-t1.00-cond",
        "down-t0.50-cond",
        "down-t0.00-cond",
    ]
    beside.check()


def test_the_place_of_a_word_is_counted_in_characters():
    assert first_place("a starfish and fish", "fish") == 15
    assert np.all([first_place("fish", "fish") == 0])


def test_an_ablation_has_its_autoencoders_where_the_model_is(tmp_path, monkeypatch):
    ablation = object.__new__(UpdateAblation)
    study, sae = study_of(tmp_path), SparseAutoencoder(4, 8, TopK(2))
    ablation._cells = [(updates_study(study, settings_of(study).updates), sae)]
    ablation._pictures = SimpleNamespace(pipe=SimpleNamespace(device=torch.device("meta")))  # type: ignore[assignment]
    concept = ConceptLatents(torch.tensor([1]), torch.ones(1), torch.ones(1))
    monkeypatch.setattr(ablation, "_latents", lambda *_: concept)
    (edit,) = ablation.edits("fish")(0.0)
    assert edit.change.sae.W_enc.is_meta
