"""All formats give the same captions, and report the places of bad ones."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusae.errors import UserError
from diffusae.prompts import caption_files
from diffusae.prompts.caption_files import read_rows
from tars import write_tar

CAPTIONS = ["a red fish", "an owl, Öl on canvas", 'a "cat"', "犬と猫"]
SCORES = [5.5, 6.5, 7.0, 4.0]


def write_text(path, captions=CAPTIONS):
    path.write_text("".join(f"{c}\n" for c in captions), encoding="utf-8")


def write_csv(path, captions=CAPTIONS, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerow(["score", "caption"])
        rows.writerows(zip(SCORES, captions, strict=True))


def write_jsonl(path, captions=CAPTIONS):
    rows = [{"caption": c, "score": s} for c, s in zip(captions, SCORES, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path, captions=CAPTIONS):
    pq.write_table(pa.table({"score": SCORES, "caption": captions}), path, row_group_size=2)


def write_samples(path, captions=CAPTIONS):
    members = []
    for number, (caption, score) in enumerate(zip(captions, SCORES, strict=True)):
        members += [
            (f"part/{number:03d}.jpg", b"no picture"),
            (f"part/{number:03d}.txt", caption.encode()),
            (f"part/{number:03d}.json", json.dumps({"score": score, "alt": caption}).encode()),
        ]
    write_tar(path, members)


WRITERS = {
    "a.txt": write_text,
    "a.csv": write_csv,
    "a.tsv": lambda path: write_csv(path, delimiter="\t"),
    "a.jsonl": write_jsonl,
    "a.parquet": write_parquet,
    "a.tar": write_samples,
}


def rows_of(path, *, format=None, column=None, fields=()):
    return list(read_rows(path, format=format, column=column, fields=fields))


def faults_of(path, **options):
    return {row.where: row.fault for row in rows_of(path, **options) if row.fault}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_captions_in_order(tmp_path, name):
    WRITERS[name](tmp_path / name)
    rows = rows_of(tmp_path / name)
    assert [row.text for row in rows] == CAPTIONS
    assert not any(row.fault for row in rows)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "a.txt"])
def test_other_columns_come_along(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert [
        float(row.fields["score"]) for row in rows_of(tmp_path / name, fields=["score"])
    ] == SCORES


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_compressed_files_and_a_byte_order_mark_are_read_through(tmp_path, name):
    WRITERS[name](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + data))
    assert [row.text for row in rows_of(tmp_path / f"{name}.gz")] == CAPTIONS


def test_a_format_can_be_named_where_the_suffix_tells_none(tmp_path):
    write_text(tmp_path / "captions")
    with pytest.raises(UserError, match=r"suffix '' is of no known format.*text \(.txt"):
        rows_of(tmp_path / "captions")
    assert [row.text for row in rows_of(tmp_path / "captions", format="text")] == CAPTIONS
    with pytest.raises(UserError, match=r"unknown format of captions .* 'xml'; known: csv, jsonl"):
        rows_of(tmp_path / "captions", format="xml")


def test_lines_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\n\xff\xfe\nfine too\n")
    assert faults_of(tmp_path / "a.txt") == {"line 2": "not UTF-8 (byte 1); save the file as UTF-8"}
    (tmp_path / "a.csv").write_bytes(b'caption\n"two\nlines"\nbad \xff\nfine\n')
    rows = rows_of(tmp_path / "a.csv")
    assert [(row.where, row.text) for row in rows][::2] == [
        ("line 2", "two\nlines"),
        ("line 5", "fine"),
    ]
    assert faults_of(tmp_path / "a.csv") == {"line 4": "not UTF-8; save the file as UTF-8"}


def test_bad_jsonl_lines_are_named_with_what_is_wrong(tmp_path):
    lines = [
        '{"caption": "fine"}',
        "{broken",
        "[1, 2]",
        '{"text": "a cat"}',
        '{"caption": 7}',
        '{"caption": null}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    faults = faults_of(tmp_path / "a.jsonl")
    assert list(faults) == ["line 2", "line 3", "line 4", "line 5"]
    for part, fault in zip(
        (
            "not JSON",
            "a list, not a JSON object",
            "no 'caption', only text",
            "is a number, not text",
        ),
        faults.values(),
        strict=True,
    ):
        assert part in fault
    assert rows_of(tmp_path / "a.jsonl")[5].text == ""  # null is an empty caption


def test_csv_rows_of_another_length_and_open_quotes_are_named(tmp_path):
    (tmp_path / "a.csv").write_text('caption,score\nan owl, oil,3\na fish,4\n"open,5\nlost,6\n')
    faults = faults_of(tmp_path / "a.csv")
    assert "3 fields, but the header has 2" in faults["line 2"]
    assert "not CSV" in faults["line 4"]
    assert len(rows_of(tmp_path / "a.csv")) == 3


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_missing_column_lists_the_columns(tmp_path, name):
    WRITERS[name](tmp_path / name)
    with pytest.raises(
        UserError, match=r"unknown column 'captoin'; known: caption, score. Did you mean 'caption'"
    ):
        rows_of(tmp_path / name, column="captoin")


def test_a_text_file_has_no_columns(tmp_path):
    write_text(tmp_path / "a.txt")
    with pytest.raises(UserError, match="text has no columns"):
        rows_of(tmp_path / "a.txt", column="caption")


def test_bad_parquet_is_refused_and_a_damaged_row_group_is_named(tmp_path, monkeypatch):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(UserError, match=r"bad.parquet is not readable as Parquet"):
        rows_of(tmp_path / "bad.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"caption": CAPTIONS}),
        path,
        row_group_size=2,
        compression="gzip",
        use_dictionary=False,
    )
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    monkeypatch.setattr(caption_files, "ROWS_AT_ONCE", 2)
    rows = rows_of(path)
    assert [row.text for row in rows[:2]] == CAPTIONS[:2]
    assert (rows[2].where, len(rows)) == ("row 3", 3)
    assert "not readable" in rows[2].fault


def test_parquet_values_that_are_no_text_are_named(tmp_path):
    binary = pa.array([b"fine", b"\xff\xfe", None]).view(pa.binary())
    text = pa.StringArray.from_buffers(
        3, binary.buffers()[1], binary.buffers()[2], binary.buffers()[0], 1
    )
    pq.write_table(pa.table({"caption": text, "score": [1, 2, 3]}), tmp_path / "a.parquet")
    rows = rows_of(tmp_path / "a.parquet")
    assert [(row.text, row.fault[:9]) for row in rows] == [
        ("fine", ""),
        ("", "not UTF-8"),
        ("", ""),
    ]
    with pytest.raises(
        UserError, match=r"the column 'score' is of type int64, not text; set prompts.column"
    ):
        rows_of(tmp_path / "a.parquet", column="score")


def test_parquet_is_read_in_pieces_of_bounded_size(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(caption_files, "ROWS_AT_ONCE", 3)
    assert [row.where for row in rows_of(tmp_path / "a.parquet")] == [
        "row 1",
        "row 2",
        "row 3",
        "row 4",
    ]


def test_samples_without_a_caption_member_are_named(tmp_path):
    write_tar(
        tmp_path / "a.tar",
        [("1.txt", b"a cat"), ("2.jpg", b""), ("3.txt", b"\xff"), ("4.txt", b"a dog")],
    )
    rows = rows_of(tmp_path / "a.tar")
    assert [row.where for row in rows] == ["sample 1", "sample 2", "sample 3", "sample 4"]
    assert "no .txt member" in rows[1].fault
    assert "its .txt is not UTF-8" in rows[2].fault
    assert (rows[0].text, rows[3].text) == ("a cat", "a dog")


def test_a_caption_may_stand_in_the_json_member(tmp_path):
    write_samples(tmp_path / "a.tar")
    assert [row.text for row in rows_of(tmp_path / "a.tar", column="json.alt")] == CAPTIONS
    assert (
        "no 'caption', only score, alt"
        in rows_of(tmp_path / "a.tar", column="json.caption")[0].fault
    )


def test_a_cut_tar_gives_what_is_whole_and_names_the_sample(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.txt", b"a cat"), ("2.txt", b"x" * 4000)])
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: 512 * 4])
    rows = rows_of(tmp_path / "a.tar")
    assert rows[0].text == "a cat"
    assert "cut or damaged" in rows[-1].fault
    (tmp_path / "b.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"b.tar is not readable as a tar"):
        rows_of(tmp_path / "b.tar")
