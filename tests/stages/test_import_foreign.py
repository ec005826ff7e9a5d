"""Whether a foreign autoencoder belongs to the cell that it is imported for, before a
collection.
"""

import json

import pytest

import foreign_saes
from composing import compose
from diffusae.errors import UserError
from diffusae.report.card_summary import summary_in
from diffusae.runs.record import read_record
from diffusae.sae.exchange import export_sae, import_sae
from diffusae.sae.storage import load_sae
from diffusae.stages.export_cell import export_cell
from diffusae.stages.import_cell import import_cell
from diffusae.study.study import Study
from foreign_saes import Weights

WEIGHTS = Weights.drawn(6, 11)
TAG = "sae.tag=x"


@pytest.fixture(autouse=True)
def _converted_here(monkeypatch, tmp_path_factory):
    foreign_saes.convert_here(monkeypatch, tmp_path_factory.mktemp("converted"))


def imported(tmp_path, written, *overrides):
    options = [f"paths.outputs={tmp_path}", f"source={written.source}", TAG]
    cfg = compose("import", ["debug=tiny", *options, *overrides])
    import_cell(cfg)
    return Study(cfg).sae


@pytest.fixture
def unbox(tmp_path):
    return foreign_saes.sdxl_unbox(tmp_path, WEIGHTS)


@pytest.fixture
def saeuron(tmp_path):
    return foreign_saes.saeuron(tmp_path, WEIGHTS)


def test_an_autoencoder_of_another_model_block_or_moment_is_refused_with_both_sides(tmp_path):
    written = foreign_saes.sdxl_unbox(tmp_path, WEIGHTS, hookpoint="unet.up_blocks.0.attentions.1")
    with pytest.raises(UserError) as refused:
        imported(tmp_path, written)
    for part in (
        "something else than this cell (there -> here)",
        "model stabilityai/sdxl-turbo -> miniature",
        "hookpoint up_blocks.0.attentions.1 -> mid_block.attentions.0",
        "t 1.0 -> 0.5",
        "another_cell=true",
    ):
        assert part in str(refused.value)
    assert not (tmp_path / "tiny" / "sae").exists()


def test_an_autoencoder_of_outputs_is_refused_where_updates_are_recorded(tmp_path, saeuron):
    with pytest.raises(UserError, match=r"\(there -> here\): quantity output -> update; choose"):
        imported(tmp_path, saeuron)
    with pytest.raises(UserError, match=r"quantity output -> update, t 0.25 -> 0.5; choose"):
        imported(tmp_path, saeuron, "stated.t=0.25")


def test_one_of_outputs_fits_given_pictures_of_which_outputs_are_recorded(tmp_path, saeuron):
    pictures = ("collection=pictures_world", "collection.record=output")
    pictures += ("stated.conditioning=uncond",)  # the branch of an empty prompt
    assert imported(tmp_path, saeuron, *pictures).is_dir()
    with pytest.raises(UserError, match=r"quantity output -> pooled_output"):
        imported(tmp_path, saeuron, *pictures, "collection.pooled=true", "sae.tag=y")


def test_what_it_was_trained_on_is_recorded(tmp_path, unbox):
    stated = ("stated.model=miniature", "stated.t=0.5", "stated.scale=2.0")
    directory = imported(tmp_path, unbox, *stated)
    metadata = load_sae(directory)[1]
    assert metadata["trained_on"] == {
        "model": "miniature",
        "hookpoint": "mid_block.attentions.0",
        "quantity": "update",
        "t": 0.5,
        "conditioning": "cond",
        "scale": 2.0,
    }
    assert (metadata["hookpoint"], metadata["imported_from"]) == (
        "mid_block.attentions.0",
        "sdxl_unbox",
    )
    record = read_record(directory)
    assert record is not None
    assert record.determines["stated"] == {"model": "miniature", "t": 0.5, "scale": 2.0}
    assert set(record.determines["files"]) == {"state_dict.pth", "config.json"}


def test_the_card_of_an_autoencoder_of_outputs_says_so(tmp_path, saeuron):
    text = ("collection=pictures_world", "collection.record=output", "stated.conditioning=uncond")
    imported(tmp_path, saeuron, *text)
    export_cell(compose("export", ["debug=tiny", f"paths.outputs={tmp_path}", *text[:2], TAG]))
    (card,) = (tmp_path / "tiny").glob("export/sae_lens/*-x/README.md")
    said = card.read_text()
    assert "It reconstructs the outputs of one transformer block" in said
    assert "Its input is the block's output in float32, one vector a position.\n" in said
    summary = summary_in(said)
    assert summary is not None and (summary.d_in, summary.conditioning) == (6, "uncond")


def test_another_cell_takes_it_all_the_same_and_records_both_sides(tmp_path, unbox):
    metadata = load_sae(imported(tmp_path, unbox, "another_cell=true"))[1]
    assert metadata["cell"]["model"] == "miniature"
    assert metadata["trained_on"]["model"] == "stabilityai/sdxl-turbo"


def test_what_nobody_says_is_told(tmp_path, caplog):
    written = foreign_saes.overcomplete(tmp_path, WEIGHTS)
    imported(tmp_path, written, "stated.k=3", "stated.quantity=update")
    assert "does not say its model, hookpoint, t, conditioning: taken for the cell's" in caplog.text


def test_a_text_encoders_autoencoder_fits_its_layer_alone(tmp_path):
    written = foreign_saes.steerers(tmp_path, WEIGHTS)
    text = ("collection=text", "stated.model=miniature")
    with pytest.raises(UserError, match=r"hookpoint text_1 -> text_2; choose"):
        imported(tmp_path, written, *text)
    directory = imported(tmp_path, written, *text, "block.name=text_1", "grid.blocks=[text_1]")
    assert json.loads((directory / "cfg.json").read_text())["metadata"]["quantity"] == "output"


def test_the_hookpoint_of_a_place_in_the_list_is_compared_by_its_path(tmp_path, unbox):
    stated = ("stated.model=miniature", "stated.t=0.5")
    with pytest.raises(UserError, match=r"hookpoint mid_block.attentions.0 -> down_blocks"):
        imported(tmp_path, unbox, *stated, "model.hookpoints.mid=0")


def test_an_export_of_another_cell_is_refused_too(tmp_path):
    sae = import_sae(foreign_saes.saeuron(tmp_path / "a", WEIGHTS).source)
    facts = {"model": "miniature", "block": "mid", "conditioning": "cond", "t": 1.0}
    facts |= {"hookpoint": "mid_block.attentions.0", "quantity": "update"}
    export_sae(tmp_path / "b", sae, format="sae_lens", metadata=facts)
    written = foreign_saes.Written(tmp_path / "b", lambda x: (x, x), "sae_lens", {})
    with pytest.raises(UserError, match=r"\(there -> here\): t 1.0 -> 0.5; choose"):
        imported(tmp_path, written)
    imported(tmp_path, written, "timestep=early")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("stated.t=2", "stated.t=2 must be a number from 0 to 1, or all"),
        ("stated.k=0", "stated.k=0 must be a whole number from 1"),
        ("stated.scale=0", "stated.scale=0 must be a number from 1e-09"),
        ("stated.conditioning=both", "unknown stated.conditioning 'both'; known: cond, uncond"),
        ("format=onnx", "unknown format 'onnx'; known: diffract, eai_sparsify, overcomplete"),
    ],
)
def test_a_wrong_setting_is_one_message(tmp_path, unbox, wrong, message):
    with pytest.raises(UserError, match=message):
        imported(tmp_path, unbox, wrong)
