"""The catalogue, of a hub in little and of directories."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from rich.console import Console

import diffusae.stages.catalogue as stage
from composing import compose
from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.hub.contents import RemoteFile
from diffusae.hub.repository import LocalRepository, small_file
from diffusae.report import published
from diffusae.report.card_summary import KEY, VERSION, CardSummary, Figure, summary_in
from diffusae.report.published import Published, published_in
from diffusae.stages.catalogue import catalogue
from local_hub import local_hub

FVU = Result("fvu", Estimate(0.3125, (0.25, 0.375), 77, 20), False, "share")
IOU = Result("composition", Estimate(0.5, None, 9), True, "IoU")


def summary(**changes) -> CardSummary:
    values: dict[str, Any] = {
        "version": VERSION,
        "model": "miniature",
        "block": "mid",
        "hookpoint": "mid_block.attentions.0",
        "t": 0.5,
        "conditioning": "cond",
        "d_in": 8,
        "d_sae": 32,
        "sparsity": "topk",
        "results": (Figure.of(FVU), Figure.of(IOU)),
        **changes,
    }
    return CardSummary(**values)


def card(of: CardSummary | None = None) -> str:
    return f"---\nlibrary_name: x\n{(of or summary()).line()}\n---\n# A card\n"


def config(*overrides):
    return compose("catalogue", list(overrides))


def listed(capsys, *overrides):
    catalogue(config("catalogue.format=json", *overrides))
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """A directory with an SAE of ours, one of SAeUron and one of DifFRACT."""
    ours, theirs = tmp_path / "mid-t0.50-cond-k4", tmp_path / "unet.up_blocks.1.attentions.2"
    for folder in (ours, theirs, tmp_path / "temporal-aware-saes"):
        folder.mkdir()
    (ours / "README.md").write_text(card())
    (theirs / "cfg.json").write_text(json.dumps({"d_in": 640, "num_latents": 10240, "k": 32}))
    for folder in (ours, theirs):
        (folder / "sae.safetensors").write_bytes(b"never read")
    (tmp_path / "temporal-aware-saes" / "sae_img_6.pt").write_bytes(b"never read")
    return tmp_path


def test_autoencoders_are_listed_with_the_measured_figures_of_their_cards(copies, capsys):
    rows = {row["place"]: row for row in listed(capsys, f"catalogue.repos=[{copies}]")}
    assert list(rows) == [
        "mid-t0.50-cond-k4",
        "temporal-aware-saes/sae_img_6.pt",
        "unet.up_blocks.1.attentions.2",
    ]
    ours = rows["mid-t0.50-cond-k4"]
    assert (ours["model"], ours["block"], ours["t"], ours["d_sae"]) == ("miniature", "mid", 0.5, 32)
    assert ours["measured"][0] == {
        "metric": "fvu",
        "unit": "share",
        "higher_is_better": False,
        "value": 0.3125,
        "ci95": [0.25, 0.375],
        "n": 77,
        "clusters": 20,
    }
    theirs = rows["unet.up_blocks.1.attentions.2"]
    assert (theirs["hookpoint"], theirs["d_in"]) == ("up_blocks.1.attentions.2", 640)
    assert (theirs["d_sae"], theirs["measured"], theirs["model"]) == (10240, [], None)
    assert rows["temporal-aware-saes/sae_img_6.pt"]["hookpoint"] == "transformer_blocks.6"


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ("model=miniature", 1),
        ("model=owner/miniature", 1),
        ("model=mini", 0),
        ("block=mid", 1),
        ("block=unet.up_blocks.1.attentions.2", 1),
        ("t=0.5", 1),
        ("t=0.25", 0),
    ],
)
def test_a_catalogue_is_filtered_by_model_block_and_moment(copies, capsys, chosen, found):
    rows = listed(capsys, f"catalogue.repos=[{copies}]", f"catalogue.{chosen}")
    assert len(rows) == found


def test_people_see_a_table_with_n_and_interval(copies, capsys, monkeypatch):
    monkeypatch.setattr(stage, "Console", lambda: Console(width=240))
    catalogue(config(f"catalogue.repos=[{copies}]"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "fvu 0.312 [0.25, 0.375] n 77; composition 0.5 n 9" in shown
    assert "not measured" in shown and "3 SAEs" in shown


def test_the_hub_is_asked_for_small_files_alone(capsys, monkeypatch, tmp_path):
    with local_hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        hub.repos["owner/saes"] = {
            "a/sae.safetensors": b"weights",
            "a/cfg.json": b"{}",
            "a/README.md": card().encode(),
        }
        hub.lies["a/sae.safetensors"] = b"fetched"
        asked = f"catalogue.endpoint={hub.url}"
        (row,) = listed(capsys, "catalogue.repos=[owner/saes]", asked)
        assert (row["place"], row["measured"][0]["n"]) == ("a", 77)
        with pytest.raises(UserError, match="owner/none: there is no repository owner/none"):
            catalogue(config("catalogue.repos=[owner/none]", asked))


def test_offline_the_error_names_what_would_serve(copies, capsys, caplog, monkeypatch):
    nowhere = "catalogue.endpoint=http://127.0.0.1:9"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=r"cannot be reached .* directory with copies would serve"):
        catalogue(config("catalogue.repos=[owner/saes,owner/more]", nowhere))
    assert len(listed(capsys, f"catalogue.repos=[{copies},owner/saes]", nowhere)) == 3
    assert "left out: the hub cannot be reached for owner/saes" in caplog.text


def test_without_repositories_the_known_ones_are_asked(monkeypatch):
    asked: list[str] = []

    def ask(repository) -> list[Published]:
        asked.append(repository.repo)
        return []

    monkeypatch.setattr(stage, "published_in", ask)
    catalogue(config("catalogue.format=json"))
    assert asked == config().catalogue.known and "bcywinski/SAeUron" in asked


def test_what_a_repository_says_is_text_on_the_terminal(capsys, monkeypatch):
    attack = "\x1b]0;pwned\x07[red]x[/red]\u202e"
    entry = Published(repo=attack, place="p", model=attack, sparsity=attack)
    monkeypatch.setattr(stage, "_of_all", lambda _: [entry])
    monkeypatch.setattr(stage, "Console", lambda: Console(width=400))
    catalogue(config())
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_a_card_says_to_programs_what_it_says_to_people():
    assert summary_in(card()) == summary()
    attack = '<script>\n---\n[a](b) `c` $d$ "e" \\ | é'
    evil = card(summary(model=attack, hookpoint=attack * 100))
    for raw in ("<script", "[a](", "`c`", "$d$", "|"):
        assert raw not in evil
    read = summary_in(evil)
    assert read is not None and read.model == attack and len(read.hookpoint) == 200


@pytest.mark.parametrize(
    "line",
    [
        "diffusae: {",
        "diffusae: []",
        "diffusae: {}",
        "diffusae: " + "[" * 100_000,
        summary().line().replace('"t": 0.5', '"t": NaN'),
        summary().line().replace('"n": 77', '"n": -1'),
        summary().line().replace('"version": 1', '"version": 99'),
        summary().line().replace('"d_in": 8', '"d_in": "8"'),
        "x: 1",
    ],
)
def test_a_damaged_summary_counts_as_none(line):
    assert summary_in(f"---\n{line}\n---\n# A card\n") is None
    assert summary_in(f"# A card\n{line}\n") is None


def test_only_the_front_matter_of_a_card_is_read():
    assert summary_in(f"---\nx: 1\n---\n{summary().line()}\n") is None
    assert KEY == "diffusae: "


def test_a_large_card_is_not_fetched(copies, monkeypatch):
    monkeypatch.setattr(published, "MOST_BYTES", 10)
    assert all(not entry.measured for entry in published_in(LocalRepository(copies)))
    with pytest.raises(UserError, match=r"README.md has 400 bytes, at most 10"):
        small_file(LocalRepository(copies), RemoteFile("README.md", 400), "", most=10)


def test_an_autoencoder_without_a_card_is_listed_by_its_configuration(tmp_path):
    (tmp_path / "sae.safetensors").write_bytes(b"")
    cell: dict[str, Any] = {"model": "m", "block": "up", "t": 0.0, "conditioning": "uncond"}
    metadata = {"cell": cell, "hookpoint": "a.1"}
    config = {"d_in": 8, "d_sae": 32, "sparsity": {"name": "topk"}, "metadata": metadata}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    (entry,) = published_in(LocalRepository(tmp_path))
    sizes: dict[str, Any] = {"d_in": 8, "d_sae": 32, "sparsity": "topk", "hookpoint": "a.1"}
    assert entry == Published(repo=str(tmp_path), place=".", **sizes, **cell)


def test_a_configuration_of_wrong_values_says_nothing(tmp_path):
    (tmp_path / "sae.safetensors").write_bytes(b"")
    for text in ("{", "[1]", '{"d_in": "8", "metadata": [1], "sparsity": 3, "d_sae": true}'):
        (tmp_path / "cfg.json").write_text(text)
        (entry,) = published_in(LocalRepository(tmp_path))
        assert entry == Published(repo=str(tmp_path), place=".")
