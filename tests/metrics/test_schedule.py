"""Which metrics `run` computes at which cells: by name, without an entry for each metric."""

import hydra
import pytest

from composing import compose
from diffusae.cli import config_directory
from diffusae.cli.arguments import CommandLine
from diffusae.errors import UserError
from diffusae.metrics.schedule import chosen_metrics, made_anew
from diffusae.study.seeds import compared, in_figures, is_twin, saes_at, twins_of
from diffusae.study.study import Study


def composed(*overrides: str) -> Study:
    return Study(compose("run", overrides=["grid.blocks=[down,mid]", *overrides]))


def test_a_metric_is_named_on_the_command_line_with_and_without_a_plus():
    cells, settings = "metrics_at.spatial=[down-t1.00-cond]", "metric_settings.spatial.examples=2"
    for plus in ("", "+", "++"):
        cfg = CommandLine.parse([plus + cells, plus + settings]).checked("run")
        assert cfg.metrics_at == {"spatial": ["down-t1.00-cond"]}
        assert cfg.metric_settings == {"spatial": {"examples": 2}}
    again = CommandLine.parse(["experiment=miniature", cells.replace("1.00", "0.50"), settings])
    assert again.checked("run").metrics_at.spatial == ["down-t0.50-cond"]
    assert again.checked("run").metric_settings.spatial.tune_prompts == 2  # the experiment's own


def test_cells_get_the_metrics_of_all_cells_and_then_their_own():
    study = composed("metrics=[latents]", "++metrics_at.spatial=[down-t1.00-cond]")
    chosen = {cell.key: metrics for cell, metrics in chosen_metrics(study).items()}
    assert chosen["down-t1.00-cond"] == ["latents", "spatial"]
    assert chosen["mid-t1.00-cond"] == ["latents"]
    assert len(chosen) == 12


def test_unknown_metrics_and_cells_are_told_together():
    study = composed(
        "metrics=[latent]",
        "++metrics_at.spatail=[]",
        "++metrics_at.spatial=[up-t1.00-cond]",
        "++metric_settings.purty={}",
        "stability.cells=[mid]",
    )
    with pytest.raises(UserError) as raised:
        chosen_metrics(study)
    for part in (
        "unknown metric in metrics: 'latent'",
        "unknown metric in metrics_at: 'spatail'",
        "Did you mean 'spatial'?",
        "unknown metric in metric_settings: 'purty'",
        "unknown cell in metrics_at.spatial: 'up-t1.00-cond'",
        "unknown cell in stability.cells: 'mid'",
    ):
        assert part in str(raised.value)
    with pytest.raises(UserError, match="metrics is empty; name at least one of composition"):
        chosen_metrics(composed("metrics=[]"))


def test_what_interventions_make_is_counted_in_pictures_and_whole_generations():
    overrides = [
        "++metrics_at.spatial=[down-t1.00-cond,down-t0.00-cond,up-t1.00-cond]",
        "++metrics_at.faithfulness=[down-t1.00-cond]",
        "++metric_settings.spatial={test_prompts: 50, steps: 25}",
        "model.steps=50",
    ]
    study = composed(*overrides)
    with hydra.initialize_config_dir(str(config_directory()), version_base="1.3"):
        (made,) = made_anew(study)
    one = 53 + 3 * 4 * (4 * 2 + 2 * 3) + 50 * (5 * 4 + 10)
    assert (made.metric, made.cells, made.pictures) == ("spatial", 2, 2 * one)
    assert made.generations == pytest.approx(one * (1.0 + 0.2) * 25 / 50)  # up is not in the grid


def test_a_compared_cell_has_a_twin_of_another_seed_and_tag():
    study = composed("stability.seed=7", "stability.cells=[mid-t0.50-cond]")
    (twin,) = twins_of(study)
    assert (twin.cfg.seed, twin.cfg.sae.tag) == (7, "k10-seed7")
    assert not twins_of(study.at(study.grid[0]))
    assert not in_figures(study)  # it is compared with, and has no part in the figures
    assert saes_at(study, study.cell) == 2


def test_seeds_give_autoencoders_that_differ_in_their_seed_alone_and_join_the_figures():
    study = composed("stability.seeds=3", "seed=5", "evaluation=latents")
    assert [(twin.cfg.seed, twin.cfg.sae.tag) for twin in twins_of(study)] == [
        (6, "k10-seed6"),
        (7, "k10-seed7"),
    ]
    views = in_figures(compared(study))
    assert [view.cfg.seed for view in views] == [5, 5]  # the same draws of pictures
    assert [is_twin(t.cell_name, t.seed) for t in (study, *twins_of(study))] == [False, True, True]
    assert [view.sae for view in views] == [twin.sae for twin in twins_of(study)]
    assert study.cfg.evaluation.other_tag == "k10-seed6"
    assert [view.cfg.evaluation.other_tag for view in views] == ["k10", "k10"]
    assert saes_at(study, study.cell) == 3
    assert not twins_of(composed()) and saes_at(composed(), study.cell) == 1


def test_a_seed_that_is_compared_with_and_in_the_figures_is_trained_once():
    study = composed("stability.seeds=3", "stability.seed=2")
    assert [twin.cfg.seed for twin in twins_of(study)] == [1, 2]
