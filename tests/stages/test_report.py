"""The report of a study that is half finished, damaged, or on a disk that cannot be written."""

import ast
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffusae.errors import UserError
from diffusae.report.compared import figures_below
from diffusae.report.page import write_report
from diffusae.report.study import FinishedStudy
from diffusae.runs.record import run_record
from diffusae.stages.compare import compare
from diffusae.stages.report import report
from runs.test_outputs import flip_a_bit
from stages.evaluated_interventions import place_spatial
from stages.test_emergence import TIMES, evaluate, study_in

SPATIAL = "evaluation/spatial/down-t1.00-cond-k10"
OUTCOMES = {name: [1.0, 0.0] * 4 for name in ("no_edit", "concepts", "random_latent")}


def sketch(path: Path, page: FinishedStudy) -> None:
    """In the place of `write_report`, which takes seconds: what the page would show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(row.stage, row.cell, row.status) for row in page.runs]
    path.write_text(repr((rows, len(page.results), len(page.examples), len(page.emergence))))


@pytest.fixture(autouse=True, scope="module")
def _sketched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusae.report.page.write_report", sketch)
        yield


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A study without a collection, of three evaluations, their curve and an intervention, reported
    on.
    """
    study = study_in(tmp_path_factory.mktemp("outputs"))
    for t in TIMES:
        evaluate(study, t)
    place_spatial(study, OUTCOMES, t=1.0)
    report(study.cfg)
    return study


@pytest.fixture
def study(reported, tmp_path):
    shutil.copytree(reported.directory, tmp_path / "made")
    return study_in(tmp_path)


def page(study) -> Path:
    return study.directory / "report" / "index.html"


def drawn(study) -> bool:
    """Whether `report` draws the page anew."""
    before = page(study).stat().st_mtime_ns if page(study).is_file() else None
    report(study.cfg)
    return page(study).stat().st_mtime_ns != before


def test_the_same_study_is_drawn_once_wherever_it_lies(study):
    assert not drawn(study)


def test_a_report_that_is_up_to_date_imports_no_charts(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusae.report.page", None)  # importing it would raise
    assert not drawn(study)


def test_a_page_that_is_not_as_it_was_written_is_drawn_again(study):
    whole = page(study).read_bytes()
    page(study).write_text("garbage")
    assert drawn(study)
    assert page(study).read_bytes() == whole
    page(study).unlink()
    assert drawn(study)
    page(study).with_name("shows.json").write_text("[")
    assert drawn(study)


def test_a_first_report_names_its_place_and_the_report_at_the_end_replaces_it(
    study, monkeypatch, caplog
):
    shown: list[str] = []

    def keep(path: Path, finished: FinishedStudy) -> None:
        shown.append(finished.so_far)
        sketch(path, finished)

    monkeypatch.setattr("diffusae.report.page.write_report", keep)
    with caplog.at_level(logging.INFO):
        for so_far in ("1 of 18 cells", "1 of 18 cells", "", ""):
            report(study.cfg, so_far=so_far)
    assert shown == ["1 of 18 cells", ""]
    assert f"a first report, of 1 of 18 cells: {page(study)}" in caplog.text
    assert f"the report: {page(study)}" in caplog.text


def failed(study) -> None:
    """A composition that a full disk ended: objects, and no results."""
    directory = study.directory / "evaluation" / "composition" / "mid-t1.00-uncond-k10"
    cell = {"model": "miniature", "block": "mid", "t": 1.0, "conditioning": "uncond"}
    config = {"sae": {"tag": "k10"}}

    def fill() -> None:
        with run_record(
            directory,
            stage="evaluate",
            config=config,
            determines={"cell": cell},
            parents={},
            seed=0,
        ):
            (directory / "objects.parquet").write_bytes(b"cut")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fill()


def test_a_report_that_was_drawn_while_a_cell_had_failed_is_drawn_again_when_it_has_finished(
    study, caplog
):
    failed(study)
    assert drawn(study)
    assert "mid-t1.00-uncond-k10: its run is failed" in caplog.text
    assert "failed" in page(study).read_text()
    assert not drawn(study)
    evaluate(study, 1.0, conditioning="uncond")
    assert drawn(study)
    assert "failed" not in page(study).read_text()


@pytest.mark.parametrize(
    "name", ["objects.parquet", "results.json", "examples.parquet", "run.json"]
)
def test_a_damaged_evaluation_is_left_out_and_named_and_the_page_is_drawn(study, name, caplog):
    flip_a_bit(study.directory / SPATIAL / name)
    page(study).unlink()
    report(study.cfg)
    assert "left out: " in caplog.text and f"{SPATIAL}/{name}" in caplog.text
    rows, results, examples, curves = ast.literal_eval(page(study).read_text())
    assert ("damaged" in [status for *_, status in rows]) and (results, examples, curves) == (
        3,
        0,
        1,
    )


def test_a_half_finished_study_without_a_collection_has_a_page(study, monkeypatch):
    monkeypatch.setattr("diffusae.report.page.write_report", write_report)
    monkeypatch.setattr("diffusae.report.vega.library", lambda: "")
    failed(study)
    flip_a_bit(study.directory / SPATIAL / "run.json")
    assert drawn(study)
    assert "mid-t1.00-uncond-k10" in page(study).read_text()


def test_a_curve_that_another_configuration_claims_does_not_keep_the_page_from_being_drawn(study):
    study = study_in(study.directory.parent, "emergence.share=0.5")
    before = page(study).stat().st_mtime_ns
    with pytest.raises(UserError, match=r"share: 0\.9 -> 0\.5"):
        report(study.cfg)
    assert page(study).stat().st_mtime_ns != before


def test_a_study_of_nothing_finished_says_what_to_run(tmp_path):
    study = study_in(tmp_path)
    with pytest.raises(UserError, match="holds no finished run; run `diffusae run`"):
        report(study.cfg)
    failed(study)
    with pytest.raises(UserError, match="holds no finished run"):
        report(study.cfg)


def test_a_comparison_leaves_out_what_is_damaged(study, caplog):
    flip_a_bit(study.directory / SPATIAL / "results.json")
    assert "down-t1.00-cond-k10" not in {figure.name for figure in figures_below(study.directory)}
    assert f"{SPATIAL}/results.json has SHA-256" in caplog.text


@pytest.fixture
def read_only(study, monkeypatch):
    """The study as on a disk that is mounted to be read; root may write anywhere else."""
    access, opened = os.access, os.open

    def refused(path: object) -> bool:
        return str(path).startswith(str(study.directory))

    def open_(path, flags, *rest, **options):
        if refused(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *rest, **options)

    def mkdir(path, *_args, exist_ok=False, **_options):
        if not (exist_ok and path.is_dir()):
            raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: access(path, mode) and not (mode & os.W_OK and refused(path)),
    )
    monkeypatch.setattr(os, "open", open_)
    real = Path.mkdir
    monkeypatch.setattr(
        Path,
        "mkdir",
        lambda path, *args, **options: (mkdir if refused(path) else real)(path, *args, **options),
    )
    write = Path.write_text

    def write_text(path, *args, **options):
        if refused(path):
            raise OSError(30, "Read-only file system", str(path))
        return write(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    return study


def test_a_study_on_a_disk_that_cannot_be_written_is_up_to_date_compared_and_reported_elsewhere(
    read_only, tmp_path, caplog, monkeypatch
):
    report(read_only.cfg)  # up to date: nothing is written
    cfg = read_only.cfg.copy()
    cfg.emergence.n_resamples = 10  # now it is not
    with pytest.raises(UserError, match=r"report cannot be written.*paths\.report=DIRECTORY"):
        report(cfg)
    asked = {"reference": "arxiv_2504_15473", "studies": [], "page": "studies.html"}
    compare(OmegaConf.create({**read_only.cfg, **asked}))
    assert "the comparison is shown and not kept" in caplog.text
    elsewhere = read_only.cfg.copy()
    elsewhere.paths.report = str(tmp_path / "elsewhere")
    report(elsewhere)
    assert (tmp_path / "elsewhere" / "index.html").is_file()
