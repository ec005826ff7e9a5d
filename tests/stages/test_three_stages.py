"""The three-stage table, made of interventions as they lie in the directories of a study."""

import json

import numpy as np
import pandas as pd
import pytest

from diffusae.errors import UserError
from diffusae.evaluation.result import Result, load_results, save_results
from diffusae.runs.record import read_record
from diffusae.study.study import Study
from diffusae.summaries.three_stages import claims_in, summarise_three_stages, window_name
from stages.evaluated_interventions import place_global, place_spatial, record_again
from stages.test_emergence import study_in

SPATIAL = {
    "no_edit": [1, 0, 0, 0, 1, 0, 0, 0],
    "concepts": [1, 1, 1, 0, 1, 1, 1, 1],
    "random_latent": [1, 0, 0, 0, 0, 0, 0, 1],
}
STYLE = {
    "concepts": [1, 1, 1, 1, 1, 0],
    "random_latent": [1, 0, 1, 0, 1, 0],
    "neuron": [1, 1, 1, 1, 1, 0],
}


def table(study: Study) -> pd.DataFrame:
    return pd.read_parquet(study.directory / "evaluation" / "three_stages" / "table.parquet")


def rows(study: Study) -> list[Result]:
    return load_results(study.directory / "evaluation" / "three_stages" / "results.json")


def find(study: Study, metric: str) -> Result:
    return next(row for row in rows(study) if row.metric == metric)


def test_a_row_holds_every_measure_of_one_method_at_one_cell(tmp_path):
    study = study_in(tmp_path)
    place_spatial(study, SPATIAL, t=0.8, rest=0.05)
    summarise_three_stages(study)
    rows = table(study)
    assert rows["method"].tolist() == ["concepts", "no_edit", "random_latent"]
    assert set(rows["window"]) == {"early"}
    assert set(zip(rows["block"], rows["t"], rows["tag"], rows["blocks"], strict=True)) == {
        ("down", 0.8, "k10", "down")
    }
    assert rows["success"].tolist() == pytest.approx([7 / 8, 2 / 8, 2 / 8])
    assert rows["success_n"].tolist() == [8, 8, 8]
    assert rows["kept"].tolist() == [1, 1, 1]
    assert rows["distance"].tolist() == pytest.approx([0.05, 0, 0.05])
    assert rows["strength"].tolist() == [3, 0, 3]
    assert rows["success_difference"].tolist()[1:] == pytest.approx([5 / 8, 5 / 8])
    assert np.isnan(rows["success_difference"].iloc[0])
    assert rows["lpips"].isna().tolist() == [True] * 3
    assert rows["lpips_n"].tolist() == [0] * 3


def test_only_the_test_cases_at_the_chosen_strength_are_compared(tmp_path):
    study = study_in(tmp_path)
    directory = place_spatial(study, SPATIAL)
    cases = pd.read_parquet(directory / "objects.parquet")
    other = cases[(cases["method"] == "concepts") & (cases["split"] == "test")].assign(
        strength=99.0, success=False
    )
    pd.concat([cases, other]).to_parquet(directory / "objects.parquet", index=False)
    record_again(directory)
    summarise_three_stages(study)
    assert find(study, "spatial_success").details["differences"]["no_edit"][
        "value"
    ] == pytest.approx(5 / 8)


def test_a_case_that_the_concepts_lack_is_left_out_of_the_difference(tmp_path):
    study = study_in(tmp_path)
    directory = place_spatial(study, SPATIAL)
    cases = pd.read_parquet(directory / "objects.parquet")
    lost = (cases["method"] == "concepts") & (cases["region"] == "top_left")
    cases[~lost].to_parquet(directory / "objects.parquet", index=False)
    record_again(directory)
    summarise_three_stages(study)
    differences = find(study, "spatial_success").details["differences"]["no_edit"]
    assert differences["value"] == pytest.approx(5 / 6)  # of the other regions
    assert differences["n"] == 6


def test_random_draws_that_met_a_case_count_as_their_mean(tmp_path):
    study = study_in(tmp_path)
    directory = place_spatial(study, SPATIAL)
    cases = pd.read_parquet(directory / "objects.parquet").assign(draw=0)
    drawn = cases[(cases["method"] == "random_latent") & (cases["split"] == "test")]
    again = drawn.assign(draw=1, success=True)  # 2 of 8 without it
    pd.concat([cases, again]).to_parquet(directory / "objects.parquet", index=False)
    record_again(directory)
    summarise_three_stages(study)
    differences = find(study, "spatial_success").details["differences"]
    assert differences["random_latent"]["value"] == pytest.approx(7 / 8 - (2 / 8 + 1) / 2)
    assert differences["random_latent"]["n"] == 8


def test_a_claim_is_asked_at_the_sae_of_the_windows_own_t_where_there_is_one(tmp_path):
    study = study_in(tmp_path)
    nothing = dict.fromkeys(SPATIAL, SPATIAL["no_edit"])
    place_spatial(study, {**SPATIAL, "concepts": [1] * 8, "random_latent": [0] * 8}, t=0.8)
    place_spatial(study, nothing, t=1.0)
    summarise_three_stages(study)
    (early,) = [a for a in claims_in(study) if (a.window, a.edit) == ("early", "spatial")]
    assert [cell.cell.t for cell in early.cells] == [1.0]
    assert not early.holds  # as at t = .8 alone it would
    own = {row.cell["t"]: row.details["own_t"] for row in rows(study)}
    assert own == {0.8: False, 1.0: True}


def test_chance_is_the_share_of_a_region_and_of_spatial_success_alone(tmp_path):
    study = study_in(tmp_path)
    place_spatial(study, SPATIAL)
    place_global(study, {"style": STYLE})
    summarise_three_stages(study)
    assert {row.metric: row.details["chance"] for row in rows(study) if row.details["chance"]} == {
        "spatial_success": 0.25
    }


def test_each_factor_is_an_edit_of_its_own_and_no_edit_is_a_constant(tmp_path):
    study = study_in(tmp_path)
    # 24 pictures: with 6 of them nobody could say that two methods are alike.
    style = {method: list(outcomes) * 4 for method, outcomes in STYLE.items()}
    place_global(study, {"style": style, "grain": STYLE}, t=0.5, distance=0.3, similarity=0.8)
    summarise_three_stages(study)
    rows = table(study)
    assert rows.groupby("edit").size().to_dict() == {"grain": 4, "style": 4}
    style = rows[rows["edit"] == "style"].set_index("method")
    assert set(style["window"]) == {"middle"}
    assert style.loc[
        "concepts", ["success", "reached", "distance", "similarity"]
    ].tolist() == pytest.approx([5 / 6, 3 / 6, 0.3, 0.8])
    assert style.loc[
        "no_edit", ["success_difference", "similarity_difference"]
    ].tolist() == pytest.approx([5 / 6, -0.2])
    assert style.loc["random_latent", "success_difference"] == pytest.approx(2 / 6)
    row = find(study, "style_rose")
    assert row.details["standing"]["no_edit"] == "better"
    assert row.details["standing"]["neuron"] == "alike"  # the same outcome case by case


def test_blocks_together_stand_beside_the_single_block(tmp_path):
    study = study_in(tmp_path)
    place_global(study, {"style": STYLE})
    place_global(study, {"style": STYLE}, blocks=["down", "mid", "up"])
    summarise_three_stages(study)
    rows = table(study).query("method == 'concepts'").set_index("together")
    assert rows["blocks"].to_dict() == {False: "down", True: "down+mid+up"}
    assert set(rows["edit"]) == {"style"}
    assert rows["success"].tolist() == pytest.approx([5 / 6, 5 / 6])


def test_cells_of_one_window_all_appear(tmp_path):
    study = study_in(tmp_path)
    place_spatial(study, SPATIAL, t=1.0)
    place_spatial(study, SPATIAL, t=0.8)
    place_spatial(study, SPATIAL, t=0.8, tag="k20")
    summarise_three_stages(study)
    rows = table(study).query("method == 'concepts'")
    assert sorted(zip(rows["window"], rows["t"], rows["tag"], strict=True)) == [
        ("early", 0.8, "k10"),
        ("early", 0.8, "k20"),
        ("early", 1.0, "k10"),
    ]


def test_results_without_their_cases_are_in_the_table_without_a_difference(tmp_path):
    study = study_in(tmp_path)
    directory = place_spatial(study, SPATIAL)
    (directory / "objects.parquet").unlink()
    record_again(directory)
    summarise_three_stages(study)
    row = find(study, "spatial_success")
    assert row.value == pytest.approx(7 / 8)
    assert row.details["differences"] == {}


def test_the_claims_are_told_by_what_was_evaluated(tmp_path):
    study = study_in(tmp_path)
    assert claims_in(study) == []
    # 20 pictures of four regions.
    many = {method: list(outcomes) * 10 for method, outcomes in SPATIAL.items()}
    place_spatial(study, {**many, "concepts": [1] * 80, "random_latent": [0] * 80}, t=0.8)
    place_spatial(study, dict.fromkeys(many, many["no_edit"]), t=0.5)
    summarise_three_stages(study)
    answers = {(answer.window, answer.edit): answer for answer in claims_in(study)}
    assert answers["early", "spatial"].holds is True
    assert answers["middle", "spatial"].holds is True  # fixed: nothing rises
    assert answers["final", "spatial"].holds is None
    assert answers["final", "spatial"].cells == []


def test_two_pictures_that_all_agree_decide_nothing(tmp_path):
    study = study_in(tmp_path)
    place_spatial(study, {**SPATIAL, "concepts": [1] * 8, "random_latent": [0] * 8}, t=0.8)
    place_spatial(study, dict.fromkeys(SPATIAL, SPATIAL["no_edit"]), t=0.5)
    summarise_three_stages(study)
    answers = {(answer.window, answer.edit): answer for answer in claims_in(study)}
    assert answers["early", "spatial"].holds is None
    assert answers["middle", "spatial"].holds is None


def test_claims_that_lack_a_field_are_named_with_their_file(tmp_path):
    study = study_in(tmp_path)
    place_spatial(study, SPATIAL, t=0.8)
    summarise_three_stages(study)
    directory = study.directory / "evaluation" / "three_stages"
    (directory / "claims.json").write_text('[{"window": "early"}]')
    record_again(directory)
    with pytest.raises(UserError, match=r"claims.json is damaged: .*missing: can,.* report again"):
        claims_in(study)


def test_its_record_names_every_evaluation_and_a_second_time_changes_nothing(tmp_path):
    study = study_in(tmp_path)
    place_spatial(study, SPATIAL, t=0.8)
    place_global(study, {"style": STYLE}, t=0.5)
    summarise_three_stages(study)
    directory = study.directory / "evaluation" / "three_stages"
    record = read_record(directory)
    assert record is not None
    assert (record.stage, record.status) == ("three_stages", "finished")
    assert set(record.parents) == {
        "evaluate spatial/down-t0.80-cond-k10",
        "evaluate global/down-t0.50-cond-k10",
    }
    before = (directory / "results.json").stat().st_mtime_ns
    summarise_three_stages(study)
    assert (directory / "results.json").stat().st_mtime_ns == before


def test_it_is_made_again_when_there_is_more_or_when_another_margin_is_asked_for(tmp_path):
    study = study_in(tmp_path)
    place_spatial(study, SPATIAL, t=0.8)
    summarise_three_stages(study)
    place_spatial(study, SPATIAL, t=0.1)
    summarise_three_stages(study)
    assert set(table(study)["window"]) == {"early", "final"}
    summarise_three_stages(study_in(tmp_path, "three_stages.margin=0.2"))
    record = read_record(study.directory / "evaluation" / "three_stages")
    assert record is not None
    assert record.determines["margin"] == 0.2


def test_nothing_is_written_where_no_intervention_is_finished(tmp_path):
    study = study_in(tmp_path)
    summarise_three_stages(study)
    assert not (study.directory / "evaluation" / "three_stages").exists()
    directory = place_spatial(study, SPATIAL)
    record = json.loads((directory / "run.json").read_text()) | {"status": "failed"}
    (directory / "run.json").write_text(json.dumps(record))
    summarise_three_stages(study)
    assert not (study.directory / "evaluation" / "three_stages").exists()


def test_a_metric_that_the_table_does_not_know_is_told_and_left_out(tmp_path, caplog):
    study = study_in(tmp_path)
    directory = place_spatial(study, SPATIAL)
    results = load_results(directory / "results.json")
    strange = Result(
        "spatial_charm", results[0].estimate, True, "x", results[0].cell, {}, results[0].details
    )
    save_results(directory / "results.json", [*results, strange])
    record_again(directory)
    summarise_three_stages(study)
    assert "spatial_charm has no place in the three-stage table" in caplog.text
    assert "spatial_charm" not in {row.metric for row in rows(study)}


def test_a_window_has_its_name_and_another_its_ends():
    assert [window_name(window) for window in ([1.0, 0.6], (0.6, 0.2), [0.2, 0.0], [1.0, 0.8])] == [
        "early",
        "middle",
        "final",
        "1 to 0.8",
    ]
