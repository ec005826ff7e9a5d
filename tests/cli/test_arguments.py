"""What the command line refuses before any stage is imported, and its messages."""

import re
import shlex
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cli_trials import command
from composing import compose
from diffusae.cli.arguments import CommandLine
from diffusae.cli.quoting import quoted
from diffusae.steering.settings import SteerSettings


@pytest.fixture
def diffusae(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusae.cli.command._task", lambda stage: pytest.fail(f"{stage} began"))
    return command(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "train experiment=paper_sd4",
            (
                "unknown option of experiment: 'paper_sd4'; known: miniature, .*Did you mean"
                " 'paper_sd14'"
            ),
        ),
        ("train debug=tinny", "unknown option of debug: 'tinny'; known: tiny. Did you mean 'tiny'"),
        ("evaluate evaluation=compositon", "Did you mean 'composition'"),
        ("train +sweeps=timestep_blok", "Did you mean 'timestep_block'"),
        ("train -m hydra/launcher=joblb", "Did you mean 'joblib'"),
        ("train -m sae=topk,rulu", "unknown option of sae: 'rulu'.*Did you mean 'relu'"),
        ("evaluate evaluation=erasure check@evaluation.check=q17", "Did you mean 'q16'"),
        ("train model=_common", "unknown option of model: '_common'; known: aura_flow, chroma"),
        ("collect +collection=_pictures", "unknown option of collection: '_pictures'"),
        ("train annotator=_styles", "'_styles'; known: clipseg, grounded_sam, miniature"),
        (
            "train sweeps=timestep_block",
            r"'sweeps' is not among the defaults of `diffusae train`.*\+sweeps=",
        ),
        (
            "train sae=relu sae.k=8",
            "unknown setting 'sae.k'; valid names under sae: .*k_aux, l1, lr,",
        ),
        ("train sea.k=8", "Did you mean 'sae.k'"),
        ("train k=8", "Did you mean 'sae.k'"),
        ("train sae.kk=8 traner.steps=3", "2 faults:\n.*'sae.k'.*\n.*'trainer.steps'"),
        ("train -cn label", "-cn label is the configuration of `diffusae label`; use that command"),
        ("train --foo", "--foo; `diffusae STAGE --help`"),
        ("train --config-path x", "--config-dir DIR adds yours"),
        ("train --experimental-rerun x", "reads a pickle"),
        ("train debug=tiny --config-dir absent block=mid", "there is no directory .*absent"),
        ("train fish", "'fish' is no override; write setting=value"),
        ("-m train", "The stage comes first"),
        ("trian", "Did you mean 'train'"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(diffusae, words, message):
    ended = diffusae(*words.split())
    assert ended.code == 2
    assert re.search(message, ended.err), ended.err
    assert "_common" not in ended.err.partition("known:")[2]


@pytest.mark.parametrize(
    "setting",
    [
        "name=",
        "name=../x",
        "name=/absolute",
        "name='~/x'",
        "name=a/../..",
        "name=a//b",
        "name='x '",
        "name='a\x01'",
        "name=null",
        f"name={'x' * 300}",
        "sae.tag=a/b",
        "sae.tag=..",
        "block.name=../x",
    ],
)
def test_what_cannot_be_the_name_of_a_directory_is_refused_in_one_line(diffusae, tmp_path, setting):
    ended = diffusae("train", setting)
    assert ended.code == 2
    assert ended.err.count("\n") == 1 and setting.partition("=")[0] in ended.err
    assert not list(tmp_path.iterdir())


def test_every_name_of_a_sweep_is_looked_at(diffusae):
    assert "name='../b' leads out" in diffusae("train", "-m", "name=a,../b").err


@pytest.mark.parametrize(
    "override",
    [
        "prompt=it's a fish",
        "prompt=a fish (red)",
        "paths.outputs=/data/year=2019/x",
        "prompt=café",
        "prompt=a, b",
        "prompt=12",
        "prompt=true",
        "prompt=[a]",
        "prompt=costs ${x}",
        "paths.outputs=~/x",
        "prompt={a: 1}",
    ],
)
def test_the_override_that_a_message_prints_is_the_very_text(diffusae, override):
    key, _, text = override.partition("=")
    ended = diffusae("steer", override, "concept=fish")
    assert ended.code == 2
    printed = next(line for line in ended.err.splitlines() if line.startswith("  "))
    (word,) = shlex.split(printed)
    read = OverridesParser.create().parse_override(word)
    assert read.key_or_group == key
    assert OmegaConf.create({"text": read.value()}).text == text


def test_words_of_a_text_that_was_not_quoted_are_put_together(diffusae):
    ended = diffusae("steer", "prompt=a", "red", "fish", "concept=fish")
    assert ended.err.count("prompt=") == 1 and "\"prompt='a red fish'\"" in ended.err


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("hot dog", '"hot dog"'),
        ("it costs $5 format=csv", "'it costs $5'"),
        ("word=hot dog", "\"word='hot dog'\""),
    ],
)
def test_several_bare_words_are_to_be_quoted(diffusae, words, printed):
    ended = diffusae("concepts", *words.split())
    assert ended.code == 2 and "quote" in ended.err
    assert ended.err.splitlines()[-1].strip() == printed


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@settings(max_examples=200)
def test_any_text_comes_back_from_its_quotes(text):
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return  # the user's own quotes
    if text == "???":
        return  # OmegaConf's mark of a missing value, however it is quoted: see the next test
    (word,) = shlex.split(quoted(f"prompt={text}"))
    read = PARSER.parse_override(word).value()
    assert OmegaConf.create({"text": read}).text == text


PARSER = OverridesParser.create()


def test_a_prompt_that_omegaconf_takes_as_missing_is_asked_for():
    cfg = compose("steer", overrides=["prompt='???'", "concept=fish"])
    faults = [fault for _, fault in SteerSettings.faults_in(cfg)]
    assert faults == ["prompt is missing; give prompt='...'"]


def test_flags_may_stand_between_overrides(monkeypatch, capsys, tmp_path):
    ran = []
    monkeypatch.setattr("hydra.main", lambda **_: lambda task: lambda: ran.append(sys.argv[1:]))
    ended = command(monkeypatch, capsys)(
        "train", "debug=tiny", "--config-dir", str(tmp_path), "block=mid", "-m"
    )
    assert ended.code == 0, ended.err
    assert ran == [["debug=tiny", "block=mid", "--config-dir", str(tmp_path), "-m"]]


def test_the_users_own_options_are_offered_and_taken(diffusae, tmp_path):
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "mine.yaml").write_text("defaults: [topk]\nk: 3\nown: 1\n")
    where = ("--config-dir", str(tmp_path))
    assert "mine" in diffusae("train", "--help", *where).out
    assert "Did you mean 'mine'" in diffusae("train", *where, "sae=mien").err
    assert "own, selection_precision" in diffusae("train", *where, "sae=mine", "sae.owm=3").err


def test_help_is_made_of_what_there_is(diffusae):
    help_text = diffusae("--help").out
    for name in ("erasure", "knowledge_paper", "text", "arxiv_2504_15473", "train_grid"):
        assert name in help_text
    own = diffusae("steer", "--help").out
    assert "picture_seed" in own and "intervention=ablate" in own and "_common" not in own
    assert diffusae("help", "steer").out == own
    assert "hydra/launcher=" in own


def test_the_version_is_that_of_the_libraries_too(diffusae):
    assert re.match(r"diffusae \d.*torch 2.*diffusers 0", diffusae("--version").out)


def test_a_name_that_follows_from_hydras_own_values_is_left_to_the_job():
    line = CommandLine.parse(
        ["-m", "sae=topk,batchtopk", "sae.tag=${hydra:runtime.choices.sae}-${seed}"]
    )
    assert line.checked("train").name == "miniature"
