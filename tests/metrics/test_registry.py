"""Metrics by name: each has its YAML file and its line in the docs; one more is one file."""

import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from composing import compose
from diffusae.cli import config_directory
from diffusae.errors import UserError, together
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.result import Estimate, Result, load_results, save_results
from diffusae.metrics import registry
from diffusae.metrics.evaluate import evaluation_faults
from diffusae.metrics.knowledge import KnowledgeSettings
from diffusae.metrics.metric import Metric
from diffusae.metrics.registry import COUNTED, may_count, metric, metrics, names, register
from diffusae.runs.record import run_record
from diffusae.stages.evaluate import evaluate
from diffusae.stages.report import report
from diffusae.study.study import Study
from labelled_collection import place_all, study_in

OPTIONS = sorted(path.stem for path in (config_directory() / "evaluation").glob("*.yaml"))
DOCS = Path(__file__).parents[2] / "docs"
START, END = "<!-- metrics -->", "<!-- /metrics -->"
"""What the table of metrics stands between, in one page of the docs."""


def composed(option: str, *overrides: str) -> Study:
    return Study(compose("evaluate", overrides=[f"evaluation={option}", *overrides]))


def table() -> str:
    """The metrics as the docs list them."""
    needs = {
        "updates": "any",
        "pictures": "pictures",
        "captions": "generated pictures",
        "labels": "given pictures with class labels",
        "text": "a text encoder's layers",
    }
    rows = [
        f"| `{one.name}` | {one.title} | {needs[one.needs]} | {', '.join(one.made_from)} |"
        for one in metrics()
    ]
    return "\n".join(["| metric | question | collection | made from |", "|---|---|---|---|", *rows])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_evaluation_is_a_metric_whose_settings_it_holds(option):
    study = composed(option)
    chosen = metric(study.cfg.evaluation.name)
    assert isinstance(chosen.settings.of(study.cfg), chosen.settings)


def test_every_metric_has_an_option_of_its_name():
    assert [one.name for one in metrics()] == list(names())
    assert set(names()) <= set(OPTIONS)


def test_the_paper_option_of_knowledge_has_the_papers_classifier():
    diff_c = KnowledgeSettings.of(composed("knowledge_paper").cfg).diff_c
    assert (diff_c.width, diff_c.lr, diff_c.epochs, diff_c.batch_size) == (1024, 1e-4, 90, 16)


def test_the_docs_list_the_metrics_that_there_are():
    (page,) = (path for path in DOCS.rglob("*.md") if START in path.read_text())
    inside = page.read_text().partition(START)[2].partition(END)[0].strip()
    assert inside == table(), f"put this between {START} and {END} in {page}:\n{table()}"


def test_names_are_known_without_importing_torch_or_a_metric():
    code = (
        "import sys; from diffusae.metrics.registry import names; assert 'spatial' in names();"
        "assert not {'torch', 'diffusae.metrics.composition'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_are_refused_all_at_once_by_their_names():
    study = composed(
        "spatial",
        "+evaluation.region=top_left",
        "~evaluation.steps",
        "evaluation.n_latents=many",
        "evaluation.regions=top_left",
    )
    with pytest.raises(UserError) as raised:
        together(evaluation_faults(study))
    for part in (
        "unknown value of evaluation=spatial: 'region'; known: conditionings, examples",
        "Did you mean 'regions'?",
        "evaluation.steps is missing",
        'evaluation.n_latents must be a whole number, is "many"',
        'evaluation.regions must be a list, is "top_left"',
    ):
        assert part in str(raised.value)


def test_values_out_of_range_are_refused_with_what_the_study_cannot_do():
    study = composed(
        "spatial",
        "evaluation.n_latents=0",
        "evaluation.strengths=[0.0]",
        "evaluation.regions=[]",
        "collection=text",
    )
    with pytest.raises(UserError) as raised:
        together(evaluation_faults(study))
    for part in (
        "n_latents=0 must be a whole number from 1",
        "must hold numbers above 0",
        "regions is empty",
        "metric spatial needs pictures generated of captions",
    ):
        assert part in str(raised.value)


@dataclass(frozen=True, kw_only=True)
class CountingSettings(MetricSettings):
    times: Count


def counting_rows(study, settings, _embedding):
    estimate = Estimate(float(settings.times), None, 1)
    return [Result("counting", estimate, True, "pictures", study.cell.coordinates())]


COUNTING = Metric(
    name="counting",
    title="How much is that?",
    section="quality",
    chart={"counting": "Pictures that were counted"}.get,
    claims={"counting": "There are pictures"},
    settings=CountingSettings,
    rows=counting_rows,
)


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setattr(registry, "_metrics", dict(registry._metrics))
    register(COUNTING)


def test_a_metric_of_ones_own_is_one_object_and_one_option(added, tmp_path):
    option = tmp_path / "conf" / "evaluation" / "counting.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("name: counting\ntimes: 3\n")
    own = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    study = study_in(tmp_path, own, evaluation="counting")
    place_all(study)
    assert evaluate(study.cfg)
    (row,) = load_results(study.evaluation("counting") / "results.json")
    assert (row.metric, row.value) == ("counting", 3.0)
    assert not evaluate(study.cfg)
    study.cfg.evaluation.times = 0
    with pytest.raises(UserError, match=r"evaluation\.times=0 must be a whole number from 1"):
        evaluate(study.cfg)


def test_the_report_shows_a_metric_of_ones_own_under_its_title(added, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusae.report.vega.library", lambda: "")
    study = study_in(tmp_path)
    directory = study.evaluation("counting")
    rows = counting_rows(study, CountingSettings(times=3), None)
    with run_record(directory, stage="evaluate", config={}, determines={}, parents={}, seed=0):
        save_results(directory / "results.json", rows)
    report(study.cfg)
    page = (study.directory / "report" / "index.html").read_text()
    quality = page[page.index('id="quality"') : page.index('id="making"')]
    assert '<p class="asks">How much is that?</p>' in quality
    assert '<p class="chart-title">Pictures that were counted</p>' in quality
    assert "Counting of every cell" in quality and "3.000" in quality
    assert '<a href="#quality">There are pictures</a>' in page


def test_a_section_that_the_report_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"section of metric counting: 'qualty'; known: .*quality"):
        replace(COUNTING, section="qualty")


def test_a_second_metric_of_a_name_is_refused_and_an_unknown_one_lists_the_known(added):
    register(COUNTING)  # the same once more
    with pytest.raises(UserError, match="two metrics called 'purity'"):
        register(EntryPoint("purity", "mine:METRIC", registry.GROUP))
    with pytest.raises(UserError, match=r"unknown metric 'coutning'.*Did you mean 'counting'"):
        metric("coutning")


def test_an_entry_point_that_names_no_metric_is_refused_by_its_name(added):
    register(EntryPoint("path", "pathlib:Path", registry.GROUP))
    with pytest.raises(UserError, match="pathlib:Path is not a Metric called 'path'"):
        metric("path")


def test_the_registry_names_the_metrics_that_count_their_pictures():
    assert {one.name for one in metrics() if one.made is not None} == COUNTED
    assert may_count("spatial") and not may_count("composition") and not may_count("nothing")
