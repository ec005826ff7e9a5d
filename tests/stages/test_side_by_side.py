"""`diffusae compare studies=[...]`: a U-Net's and a transformer's study on one page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from composing import compose
from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result, save_results
from diffusae.metrics.decisions import DecisionSettings, pairs_of
from diffusae.miniature.worlds import SCENES
from diffusae.report import side_by_side
from diffusae.runs.record import run_record
from diffusae.stages.compare import compare
from diffusae.study.study import Study
from diffusae.summaries.claims import Judgement
from diffusae.summaries.registration import Registered
from diffusae.summaries.three_stages import summarise_three_stages
from report.test_claims import HOLDS, JUDGED
from report.test_decisions import rows as decided
from stages.evaluated_interventions import place_spatial

WORKS = {"no_edit": [0] * 8, "concepts": [1] * 8, "random_latent": [0] * 8}
MOVED = replace(HOLDS, name="moved", claim=replace(HOLDS.claim, window="early"))
STYLED = replace(
    HOLDS, name="styled",
    claim=replace(HOLDS.claim, sentence="A style can be steered", window="middle"),
)  # fmt: skip
ABOVE = replace(HOLDS, name="above", state="undecided")  # of composition: no window
STATES = {"miniature_scenes": ("holds", "holds"), "miniature_dit": ("fails", "holds")}


def judged(registered: Registered) -> Judgement:
    """The verdicts of a model's study, in the place of those of its fresh pictures."""
    moved, styled = STATES.get(registered.study.directory.name, ("undecided", "undecided"))
    verdicts = [replace(MOVED, state=moved), replace(STYLED, state=styled), ABOVE]
    return replace(JUDGED, verdicts=verdicts)


def composed(directory: Path, *overrides: str, stage: str = "compare"):
    return compose(
        stage, ["experiment=two_architectures", f"paths.outputs={directory}", *overrides]
    )


def study_of(model: str, directory: Path) -> Study:
    return Study(composed(directory, f"model={model}"))


def evaluated(study: Study, name: str, results: list[Result]) -> None:
    place = study.directory / "evaluation" / name / "mid-t0.50-cond-k10"
    with run_record(
        place, stage="evaluate", config={}, determines={"cell": name}, parents={}, seed=0
    ):
        save_results(place / "results.json", results)


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(side_by_side, "judgement_of", judged)
    unet, dit = (study_of(name, tmp_path) for name in ("miniature_scenes", "miniature_dit"))
    place_spatial(unet, WORKS, t=1.0, examples=False)
    summarise_three_stages(unet)
    evaluated(unet, "decisions", decided("noun", "own", Estimate(0.7, (0.6, 0.8), 4), 4, 3, 0, 1))
    evaluated(dit, "decisions", decided("noun", "own", Estimate(0.3, (0.2, 0.4), 4), 4, 3, 0, 1))
    cell = {"model": "miniature_dit", "block": "mid", "t": 0.5, "conditioning": "cond"}
    composition = Result("composition", Estimate(0.4, (0.3, 0.5), 9), True, "IoU", cell)
    evaluated(dit, "composition", [composition])
    (unet.directory / "report").mkdir()
    (unet.directory / "report" / "index.html").write_text("its own page")
    return tmp_path


def test_one_page_says_for_each_model_whether_the_law_holds(outputs, caplog):
    compare(composed(outputs))
    figures = json.loads((outputs / "two_architectures" / "index.json").read_text())
    unet, dit = figures["miniature_scenes"], figures["miniature_dit"]
    assert (unet["law_holds"], dit["law_holds"]) == (True, False)
    assert [(one["name"], one["state"]) for one in dit["claims"]] == [
        ("moved", "fails"), ("styled", "holds"), ("above", "undecided")
    ]  # fmt: skip
    assert dit["decisions"][0]["time"]["value"] == 0.3
    assert dit["composition"][0]["ci95"] == [0.3, 0.5]
    page = (outputs / "two_architectures" / "index.html").read_text()
    # The claim on composition is no part of the law.
    assert "holds. Of 2 claims: 2 hold, 0 fail, 0 undecided." in page
    assert "does not hold. Of 2 claims: 1 hold, 1 fail, 0 undecided." in page
    assert "+0.43 [+0.31, +0.55]</small>" not in page  # it says against what, and of how many
    assert "+0.43 [+0.31, +0.55] against no edit, 50 pictures" in page
    assert 'href="miniature_scenes/report/index.html"' in page  # the other has no page yet
    assert 'href="miniature_dit' not in page
    for figure in ("0.70<small>[0.60, 0.80]</small>", "0.30<small>[0.20, 0.40]</small>"):
        assert figure in page
    assert "<td>miniature_dit</td><td>mid</td>" in page


def test_the_curves_have_a_line_for_each_study(outputs):
    compare(composed(outputs))
    page = (outputs / "two_architectures" / "index.html").read_text()
    start = page.index('<script type="application/json" id="charts">')
    chart = page[start : page.index("</script>", start)]
    assert '"miniature_scenes"' in chart
    assert '"miniature_dit"' in chart
    assert '"title":"study"' in chart


def test_a_study_without_results_is_refused_by_its_directory(outputs, tmp_path):
    with pytest.raises(UserError, match="nothing has no finished result of composition"):
        compare(composed(outputs, f"studies=[{tmp_path}/nothing]"))


def test_both_members_are_one_experiment_in_directories_of_their_own(tmp_path):
    unet, dit = (study_of(name, tmp_path) for name in ("miniature_scenes", "miniature_dit"))
    assert unet.directory == tmp_path / "two_architectures" / "miniature_scenes"
    assert dit.directory == tmp_path / "two_architectures" / "miniature_dit"
    assert dit.cfg.annotator.folder == f"{dit.cfg.model.source}/annotator"
    assert [cell.key for cell in unet.grid] == [cell.key for cell in dit.grid]


def test_the_attributes_of_decisions_are_those_of_the_world_and_its_captions_suffice(tmp_path):
    cfg = composed(tmp_path, "evaluation=decisions_scenes", stage="run")
    settings = DecisionSettings.of(cfg)
    words = {name: list(values) for name, values in settings.words.items()}
    assert words["noun"] == list(SCENES.nouns)
    assert words["colour"] == list(SCENES.colours)
    assert {name: words[name] for name in SCENES.factors} == {
        name: list(values) for name, values in SCENES.factors.items()
    }
    assert cfg.metric_settings.decisions.attributes == cfg.evaluation.attributes
    for attribute in words:
        assert len(pairs_of(Study(cfg).prompts, attribute, settings)) == settings.captions
