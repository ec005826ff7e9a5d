"""The charts and the run behind a figure."""

import json

import pytest
from starlette.testclient import TestClient

import diffusae
from diffusae.evaluation.result import Estimate, Result, save_results
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.security import Security
from diffusae.runs.record import run_record
from diffusae.study.study import Study
from exploring.tiny_study import composed, place_study

BROWSER = {"accept": "text/html"}
CELL = "down-t1.00-cond-k4"


def evaluated(outputs, t, value):
    """Composition of one cell: IoU, and chance below it."""
    study = Study(composed(outputs, "evaluate", "block.name=down", f"timestep.t={t}"))
    directory = study.evaluation("composition")
    with run_record(
        directory, stage="evaluate", config=study.config(), seed=3,
        determines={"cell": study.cell.coordinates()}, parents={"label": "0123456789abcdef"},
    ):  # fmt: skip
        row = Result(
            "composition", Estimate(value, (value - 0.02, value + 0.03), 40, 20), True, "IoU",
            study.cell.coordinates(), {"chance": Estimate(0.1, None, 40, 20)},
            {"note": "<script>alert(1)</script>"},
        )  # fmt: skip
        save_results(directory / "results.json", [row])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    directory = place_study(outputs)
    evaluated(outputs, 1.0, 0.25)
    evaluated(outputs, 0.5, 0.5)
    return directory


@pytest.fixture(scope="module")
def client(study):
    app = build_app(Explored(diffusae.open(study)), Security("127.0.0.1"))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def test_the_charts_are_the_sections_of_the_report_with_their_data(client):
    page = client.get("/charts/", headers=BROWSER).text
    assert '<section id="composition">' in page and 'id="chart-0"' in page
    charts = page.split('id="charts">')[1].split("</script>")[0]
    assert json.loads(charts)
    assert all(f'"value":{value}' in charts for value in (0.25, 0.5, 0.1))
    assert "<script>alert" not in page


def test_every_row_of_figures_links_to_its_run_and_the_run_names_its_command(client):
    page = client.get("/charts/", headers=BROWSER).text
    assert f'href="../evaluation/composition/{CELL}/"' in page
    run = client.get(f"/evaluation/composition/{CELL}/", headers=BROWSER).text
    assert "0.250" in run and "[0.230, 0.280]" in run and "40 of 20 pictures" in run
    command = (
        "diffusae evaluate name=tiny model=miniature evaluation=composition block.name=down"
        " timestep.t=1.0 conditioning.branch=cond sae.k=4 sae.tag=k4"
    )
    assert command in run


def test_the_files_of_a_run_are_shown_without_the_machine_and_its_paths(client, study):
    record = client.get(f"/evaluation/composition/{CELL}/run.json").json()
    assert record["seed"] == 3 and record["parents"] == {"label": "0123456789abcdef"}
    assert not {"host", "pid", "config"} & record.keys()
    assert str(study) not in json.dumps(record)
    rows = client.get(f"/evaluation/composition/{CELL}/results.json").json()
    assert rows[0]["value"] == 0.25


@pytest.mark.parametrize(
    "address",
    ["/evaluation/composition/none/", "/evaluation/../sae/", "/etc/run.json", "/x/results.json",
     "/..%2f..%2fetc/run.json", "/%2fetc/run.json"],
)  # fmt: skip
def test_only_runs_of_the_study_have_an_address(client, address):
    assert client.get(address).status_code == 404


def test_a_study_without_evaluations_says_what_to_run(explored):
    app = build_app(explored, Security("127.0.0.1"))
    client = TestClient(app, base_url="http://127.0.0.1")
    page = client.get("/charts/", headers=BROWSER)
    assert page.status_code == 200 and "nothing was evaluated" in page.text
