"""Damaged files of captions in every format: captions or one `UserError`, in bounded memory."""

import bz2
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusae.prompts import caption_source
from diffusae.prompts.caption_source import FilePrompts
from diffusae.prompts.caption_text import caption_fault
from fuzz.mutations import mutated, mutated_json, mutated_tar
from fuzz.only_user_errors import only_user_errors
from tars import tar_of

CAPTIONS = ["a red fish", "Öl auf Leinwand, ein 'Kreis'", "犬と猫", 'a "blue" house']
ROWS = [{"caption": text, "score": n / 2, "nsfw": n % 2 == 0} for n, text in enumerate(CAPTIONS)]


def tar_bytes() -> bytes:
    members = []
    for number, row in enumerate(ROWS):
        texts = {"txt": str(row["caption"]), "json": json.dumps(row), "png": "no picture"}
        members += [(f"part/{number}.{name}", text.encode()) for name, text in texts.items()]
    return tar_of(members)


def parquet_bytes() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), stream, row_group_size=2)
    return stream.getvalue()


def csv_text(delimiter: str) -> str:
    cells = [['"' + str(value).replace('"', '""') + '"' for value in row.values()] for row in ROWS]
    return "".join(delimiter.join(row) + "\n" for row in [list(ROWS[0]), *cells])


VALID: dict[str, bytes] = {
    "a.txt": "\n".join(CAPTIONS).encode(),
    "b.txt": "\n".join(CAPTIONS).encode("utf-16"),
    "a.csv": csv_text(",").encode(),
    "a.tsv": csv_text("\t").encode(),
    "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode(),
    "a.parquet": parquet_bytes(),
    "a.tar": tar_bytes(),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress,
}  # fmt: skip

# Settings that may or may not suit a file.
SETTINGS = st.fixed_dictionaries(
    {"bad_lines": st.sampled_from(["refuse", "skip"])},
    optional={
        "encoding": st.sampled_from(["utf-16", "utf-16-le", "latin-1", "gb18030"]),
        "delimiter": st.sampled_from([";", "tab"]),
        "where": st.sampled_from(
            [["nsfw != true"], ["score >= 0.5", "nsfw == false"], ["score == 'x'"]]
        ),
        "column": st.sampled_from(["caption", "json.caption", "score", "txt"]),
    },
)


def read(path: Path, settings: dict[str, Any]) -> None:
    """Read all captions; accepted ones are visible text that can be written."""
    # Files of one size follow each other within a tick of the clock.
    caption_source._read.cache_clear()
    with only_user_errors():
        counts: dict[str, int | None] = {"train": None}
        source = FilePrompts(path, counts, split="hash", shares={"train": 1}, **settings)
        for _, text, where in source.texts():
            assert text.strip() and not caption_fault(text)
            (text + where).encode("utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captions")


@pytest.mark.parametrize("name", VALID)
def test_valid_files_are_read_whole(folder: Path, name: str) -> None:
    for suffix, compress in COMPRESS.items():
        if name != "a.parquet" or not suffix:
            path = folder / (name + suffix)
            path.write_bytes(compress(VALID[name]))
            encoding = "utf-16" if name == "b.txt" else "utf-8"
            captions = FilePrompts(path, {"train": 4}, encoding=encoding).texts()
            assert [text for _, text, _ in captions] == CAPTIONS


@pytest.mark.parametrize("name", VALID)
@given(data=st.data())
def test_damaged_bytes(folder: Path, name: str, data: st.DataObject) -> None:
    settings: dict[str, Any] = data.draw(st.one_of(st.just({"bad_lines": "skip"}), SETTINGS))
    if name == "b.txt":
        settings["encoding"] = "utf-16"
    path = folder / name
    path.write_bytes(data.draw(mutated(VALID[name])))
    read(path, settings)


@given(
    name=st.sampled_from(["a.jsonl", "a.tar"]),
    suffix=st.sampled_from([".gz", ".bz2"]),
    data=st.data(),
)
def test_damage_to_compressed_files_and_inside_them(
    folder: Path, name: str, suffix: str, data: st.DataObject
) -> None:
    inside = data.draw(st.one_of(st.just(VALID[name]), mutated(VALID[name])))
    outside = COMPRESS[suffix](inside)
    path = folder / (name + suffix)
    path.write_bytes(data.draw(st.one_of(st.just(outside), mutated(outside))))
    read(path, {"bad_lines": "skip"})


@given(lines=st.lists(mutated_json(ROWS[1]), min_size=1, max_size=4), settings=SETTINGS)
def test_json_lines_of_other_values(
    folder: Path, lines: list[bytes], settings: dict[str, Any]
) -> None:
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    read(folder / "a.jsonl", settings)


@given(data=mutated_tar(VALID["a.tar"]), settings=SETTINGS)
def test_tars_with_other_headers(folder: Path, data: bytes, settings: dict[str, Any]) -> None:
    (folder / "a.tar").write_bytes(data)
    read(folder / "a.tar", settings)


@given(text=st.text(), settings=SETTINGS, name=st.sampled_from(["a.txt", "a.csv", "a.jsonl"]))
def test_any_text_as_a_caption(
    folder: Path, text: str, settings: dict[str, Any], name: str
) -> None:
    data = {
        "a.txt": text,
        "a.csv": f'caption,score\n"{text}",1\n',
        "a.jsonl": json.dumps({"caption": text}),
    }[name]
    (folder / name).write_bytes(data.encode("utf-8", "surrogatepass"))
    read(folder / name, settings)
