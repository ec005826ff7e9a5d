"""A repository of autoencoders gives weights, a configuration and text, all of them only data."""

import io
from typing import Any

import pytest
import yaml
from PIL import Image

from diffusae.activations import reader
from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.hub.contents import CONFIG, MOST_BYTES, RemoteFile, autoencoder_files, folder_of
from diffusae.hub.repository import LocalRepository
from diffusae.report.card import ModelCard, render_card
from diffusae.report.markdown import as_text

ATTACK = (
    "<script>alert(1)</script>\n\n# heading\n---\nlibrary_name: evil\n[a](javascript:b)"
    " ![c](http://d) | x | `e` $f$ ${oc.env:HF_TOKEN}"
)


def card(**changes):
    values: dict[str, Any] = {
        "name": "n",
        "format": "diffusae",
        "base_model": "o/m",
        "code_units": "data",
    }
    values |= {"cell": {"block": "mid"}, "shape": {"d_in": 8, "sparsity": "topk"}, "results": []}
    values |= {"data": {}, "training": {}, "validation": {}, "provenance": {}}
    return render_card(ModelCard(**(values | changes)))


@pytest.mark.parametrize("place", ["cell", "data", "training", "validation", "provenance"])
def test_metadata_in_a_card_is_text_on_one_line(place):
    text = card(**{place: {ATTACK: ATTACK}})
    for raw in ("<script", "\n# heading", "[a](", "![c](", "`e`", "$f$"):
        assert raw not in text
    assert text.split("---\n")[1].count("library_name") == 1 and text.count("\n---\n") == 1
    assert "&lt;script&gt;" in text


def test_the_front_matter_of_a_card_is_what_it_should_be():
    text = card(base_model=ATTACK, name=ATTACK, shape={"d_in": 8, "sparsity": ATTACK})
    front = yaml.safe_load(text.split("---\n")[1] if text.startswith("---\n") else "")
    assert (front["library_name"], front["base_model"]) == ("diffusae", ATTACK)
    assert front["tags"][-1] == ATTACK
    assert "<script" not in text.partition("\n---\n")[2]


def test_a_table_row_of_a_card_keeps_its_cells():
    own, other = Estimate(1.0, None, 3), Estimate(2.0, None, 3)
    row = Result("a|b", own, higher_is_better=True, unit="<b>", baselines={"x|y": other})
    line = next(line for line in card(results=[row]).splitlines() if line.startswith("| a"))
    assert line == r"| a\|b (&lt;b&gt;) | 1 | none | 3 | higher | x\|y 2 |"


@pytest.mark.parametrize(
    "value", [0.25, "mid_block.attentions.0", "owner/name", [0.9, 0.999], None, 'it\'s k=10 "so"']
)
def test_plain_values_stay_plain(value):
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    assert as_text(value) == shown


def test_long_values_are_cut():
    assert len(as_text("a" * 10**6)) < 2100


@pytest.mark.parametrize(
    "folder", ["..", "a/..", "../a", "/etc", "a//b", "a\\b", "C:x", "a\0", "./a"]
)
def test_a_folder_that_leads_out_is_none(folder):
    files = [RemoteFile(f"{folder}/{CONFIG}", 10), RemoteFile(f"{folder}/sae.safetensors", 10)]
    with pytest.raises(UserError, match="must hold one autoencoder"):
        folder_of(files, folder=None, prefix="", where="o/n")
    with pytest.raises(UserError, match="unknown folder"):
        folder_of(files, folder=folder, prefix="", where="o/n")


def test_a_configuration_without_end_is_not_fetched():
    files = [RemoteFile(CONFIG, MOST_BYTES[CONFIG] + 1), RemoteFile("sae.safetensors", 10)]
    with pytest.raises(UserError, match=r"cfg.json has .* bytes, but may have at most"):
        autoencoder_files(files, "", where="o/n")


@pytest.mark.parametrize("name", ["evil.py", "sae.pt", "sae.safetensors.bin", "pickle.pkl"])
def test_nothing_else_is_fetched_beside_an_autoencoder(name):
    files = [RemoteFile(file, 10) for file in (CONFIG, "sae.safetensors", name)]
    with pytest.raises(UserError, match="never pickles or code"):
        autoencoder_files(files, "", where="o/n")


def test_a_link_in_a_directory_is_not_followed_out_of_it(tmp_path):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / CONFIG).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="is a link that leads out of"):
        LocalRepository(tmp_path / "sae").fetch(RemoteFile(CONFIG, 4), tmp_path / "to", "")
    assert not (tmp_path / "to").exists()


def test_a_picture_that_says_it_is_huge_is_not_decoded(monkeypatch):
    monkeypatch.setattr(reader, "MOST_PIXELS", 100)
    data = io.BytesIO()
    Image.new("RGB", (101, 1)).save(data, format="PNG")
    with pytest.raises(ValueError, match="101 x 1 pixels are more than 100"):
        reader._decode(".png", data.getvalue(), image_size=(1, 101))
    with pytest.raises(UserError, match="the manifest says"):
        reader._decode(".png", data.getvalue(), image_size=(1, 1))
