"""No file, message, log or W&B upload holds a secret."""

import json
import logging
import sys

import pytest

from diffusae.activations.transport import Source
from diffusae.errors import UserError
from diffusae.files import atomic_write_json
from diffusae.masking import mask_output, masked, masked_value
from diffusae.runs.record import read_record, run_record, state
from diffusae.runs.wandb_mirror import _Process

SECRET = "s3cr3t-v4lue"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:s3cr3t@host/dir", "https://***@host/dir"),
        ("simplecache::https://t0ken@host/a b", "simplecache::https://***@host/a b"),
        (
            "get https://h/a?x=1&X-Amz-Signature=ab12, 3 times",
            "get https://h/a?x=1&X-Amz-Signature=*** 3 times",
        ),
        ("https://h/{path}?token=ab12'", "https://h/{path}?token=***'"),
        ("?sig=ab%2F12&se=2026", "?sig=***&se=2026"),
        (
            "activations.source=pipe:curl -u me:s3cr3t https://h/{path}",
            "activations.source=pipe:***",
        ),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("[Errno 32] Broken pipe: 'a file'", "[Errno 32] Broken pipe: 'a file'"),
        (
            "hf://datasets/owner/name@main/dir and a@b.c",
            "hf://datasets/owner/name@main/dir and a@b.c",
        ),
        ('href="data:image/png;base64,AAkeyAA=="', 'href="data:image/png;base64,AAkeyAA=="'),
        ("k=10 sae.k=4 (t=0.5); key facts", "k=10 sae.k=4 (t=0.5); key facts"),
    ],
)
def test_a_secret_in_text_is_masked_and_nothing_else(text, shown):
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"]
)
def test_values_of_secret_variables_are_masked(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-and-long")
    assert masked(f"refused: {SECRET}!") == "refused: ***!"
    assert masked("false-and-long") == "false-and-long"


def test_plain_values_are_masked_at_every_depth():
    value = {"url": "pipe:cat {path}", "deep": [{"https://t@h": 1}, "https://t@h", 2.5, None, True]}
    assert masked_value(value) == {
        "url": "pipe:***",
        "deep": [{"https://***@h": 1}, "https://***@h", 2.5, None, True],
    }


def test_json_files_hold_no_secret_and_all_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", 'with"quote' + SECRET)
    value = {"a": f'x with"quote{SECRET}', "source": f"https://h/?sig={SECRET}", "n": [1, 2.5, "ä"]}
    atomic_write_json(tmp_path / "f.json", value)
    text = (tmp_path / "f.json").read_text()
    assert SECRET not in text
    assert json.loads(text) == {"a": "x ***", "source": "https://h/?sig=***", "n": [1, 2.5, "ä"]}


def test_run_json_holds_no_secret_and_keeps_its_signature(tmp_path):
    determines = {"source": f"https://h/?token={SECRET}"}
    config = {"activations": {"source": f"pipe:curl {SECRET}"}}
    recorded = run_record(
        tmp_path, stage="x", config=config, determines=determines, parents={}, seed=0
    )
    with pytest.raises(OSError, match="failed"), recorded:
        raise OSError(f"https://me:{SECRET}@h failed")
    assert SECRET not in (tmp_path / "run.json").read_text()
    with run_record(tmp_path, stage="x", config={}, determines=determines, parents={}, seed=0):
        pass  # the same run: the signature is of the whole value
    record = read_record(tmp_path)  # whose checksum is that of the masked values
    assert record is not None and record.status == "finished"
    assert state(tmp_path, determines=determines, parents={}) == "finished"


def test_logs_and_tracebacks_hold_no_secret(caplog, monkeypatch):
    before = logging.getLogRecordFactory(), sys.excepthook
    try:
        mask_output()
        log = logging.getLogger("diffusae.test")
        try:
            raise OSError(f"https://me:{SECRET}@h failed")
        except OSError:
            log.exception("from %s", f"https://h/?token={SECRET}")
        lines = [logging.Formatter().format(record) for record in caplog.records]
    finally:
        logging.setLogRecordFactory(before[0])
        sys.excepthook = before[1]
    assert "from https://h/?token=***" in lines[0] and "OSError: https://***@h failed" in lines[0]
    assert SECRET not in caplog.text + "".join(lines)


def test_what_goes_to_wandb_holds_no_secret(monkeypatch):
    sent = []

    class Child:
        class stdin:
            write = staticmethod(sent.append)
            flush = staticmethod(lambda: None)

    process = object.__new__(_Process)
    process._child = Child()  # type: ignore[assignment]
    config = {"activations": {"source": f"pipe:curl {SECRET}"}}
    process.send({"init": {"config": config, "name": f"?sig={SECRET}"}})
    assert SECRET not in sent[0].decode()
    written = json.loads(sent[0])["init"]["config"]
    assert written["activations"] == {"source": "pipe:***"}


@pytest.mark.parametrize(
    "url",
    [f"https://me:{SECRET}@host/d", f"https://{SECRET}@host/d", f"simplecache::https://a:{SECRET}@h/d"],
)  # fmt: skip
def test_a_name_or_token_in_a_url_is_refused_with_the_remedy_and_not_repeated(url):
    with pytest.raises(UserError, match=r"HF_TOKEN, AWS_\.\.\.") as raised:
        Source(url)
    assert SECRET not in str(raised.value)


def test_a_command_that_fails_is_not_repeated(tmp_path, caplog):
    source = Source(f"pipe:echo {SECRET} >&2; exit 3 # {{path}}", attempts=1)
    with pytest.raises(UserError, match="exit 3") as raised:
        source.read("manifest.json")
    chain, error = [], raised.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__
    assert SECRET not in " ".join(chain) + caplog.text
