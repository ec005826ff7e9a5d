"""Other people's autoencoders in a tiny study of the miniature: imported, labelled, evaluated,
shown in the explorer and steered by, one of each format.
"""

import json
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import diffusae
import foreign_saes
from composing import compose
from diffusae.backbone.settings import ModelSettings
from diffusae.evaluation.result import load_results
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.security import Security
from diffusae.runs.record import read_record
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import evaluate
from diffusae.stages.import_cell import import_cell
from diffusae.stages.label import label
from diffusae.stages.steer import steer
from diffusae.study.model import describe_model
from diffusae.study.study import Study
from foreign_saes import Weights

pytestmark = pytest.mark.slow

CELL = ("debug=tiny", "grid.timesteps=[1.0]", "grid.blocks=[mid]", "grid.conditionings=[cond]")
CELL += ("timestep=early", "block=mid", "conditioning=cond", "model.steps=3")
TEXT = ("debug=tiny", "collection=text", "name=texts", "evaluation=reconstruction")
PROMPT = "a flat drawing of a red fish"
D_SAE = 96


def config(stage: str, outputs: Path, *overrides: str, of: tuple[str, ...] = CELL):
    return compose(stage, [*of, f"paths.outputs={outputs}", *overrides])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    collect(config("collect", root))
    return root


@pytest.fixture(scope="module")
def weights(outputs: Path) -> Weights:
    return Weights.drawn(next(s["d_in"] for s in streams_of(outputs) if s["block"] == "mid"), D_SAE)


def streams_of(outputs: Path) -> list[dict]:
    """The recorded streams, from the manifest."""
    path = outputs / "tiny" / "activations" / "manifest.json"
    return json.loads(path.read_text())["streams"]


FITTING = {
    "sdxl_unbox": ["stated.model=miniature"],
    "saeuron": ["another_cell=true"],
    "revelio": ["another_cell=true"],
    "overcomplete": ["stated.k=3", "stated.model=miniature"],
    "diffract": ["another_cell=true"],
}


@pytest.mark.parametrize("format", FITTING)
def test_a_foreign_autoencoder_is_labelled_evaluated_explored_and_steered_by(
    format, outputs, weights, tmp_path
):
    source = foreign_saes.WRITERS[format](tmp_path, weights).source
    tag = f"sae.tag={format}"
    assert import_cell(config("import", outputs, tag, f"source={source}", *FITTING[format]))
    study = Study(config("label", outputs, tag))
    record = read_record(study.sae)
    assert record is not None and record.determines["format"] == format
    metadata = json.loads((study.sae / "cfg.json").read_text())["metadata"]
    assert metadata["hookpoint"] == "mid_block.attentions.0" and metadata["quantity"] == "update"
    assert metadata["trained_on"]["scale"] == 1.0
    if format == "diffract":  # the scheduler's value of the study's own cell
        (stream,) = (s for s in streams_of(outputs) if s["block"] == "mid")
        assert record.determines["stated"]["timestep"] == stream["timestep"]
    assert label(config("label", outputs, tag))
    assert evaluate(config("evaluate", outputs, tag, "evaluation=reconstruction"))
    rows = load_results(study.evaluation("reconstruction") / "results.json")
    assert {"explained_variance", "l0"} <= {row.metric for row in rows}
    picture = [f"prompt='{PROMPT}'", "latents=[0,5]", "strengths=[4]"]
    assert steer(config("steer", outputs, tag, *picture))
    (strip,) = (study.directory / "steer").glob("*/strip.png")
    assert strip.stat().st_size > 0
    shutil.rmtree(study.directory / "steer")
    explored = explorer(study.directory)
    for address in ("/", f"/cells/{study.cell_name}/", f"/latents/{study.cell_name}/5/"):
        page = explored.get(address)
        assert page.status_code == 200 and study.cell_name in page.text


def explorer(directory: Path) -> TestClient:
    app = build_app(Explored(diffusae.open(directory)), Security("127.0.0.1"))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=True)


def test_a_text_encoders_autoencoder_is_evaluated_and_steered_by(outputs, tmp_path):

    collect(config("collect", outputs, of=TEXT))
    study = Study(config("train", outputs, "sae.tag=theirs", of=TEXT))
    layers = describe_model(ModelSettings.of(study.cfg), text_layers=True).text_layers
    weights = Weights.drawn(layers["text_2"].d_in, D_SAE)
    hookpoint = "text_encoder.text_model.encoder.layers.2"
    source = foreign_saes.steerers(tmp_path, weights, hookpoint=hookpoint).source
    options = ("sae.tag=theirs", f"source={source}", "stated.model=miniature")
    assert import_cell(config("import", outputs, *options, of=TEXT))
    assert evaluate(config("evaluate", outputs, "sae.tag=theirs", of=TEXT))
    picture = ["intervention=text", "concept=neon", "intervention.strength=1.0"]
    picture += [f"prompt='{PROMPT}'", "model.steps=3", "sae.tag=theirs"]
    assert steer(config("steer", outputs, *picture, of=TEXT))
    assert list((study.directory / "steer").glob("*/strip.png"))
