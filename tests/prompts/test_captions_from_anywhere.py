"""Real caption files: other encodings, other delimiters, damage, and paths that are no files."""

import bz2
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusae.errors import UserError
from diffusae.prompts.caption_source import FilePrompts
from tars import tar_of


@pytest.fixture
def put(tmp_path):
    def write(name, data):
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return tmp_path / name

    return write


def captions(path, count=1, **settings):
    return [text for _, text, _ in FilePrompts(path, {"train": count}, **settings).texts()]


def refused(path, message, count=1, **settings):
    """Refused with the same message for both values of `bad_lines`."""
    for policy in ("refuse", "skip"):
        with pytest.raises(UserError, match=message):
            captions(path, count, bad_lines=policy, **settings)


TEXT = "Öl auf Leinwand\nein Fisch\n"


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_wide_encodings_are_told_with_the_setting_that_reads_them(put, encoding):
    path = put("a.txt", TEXT.encode(encoding))
    refused(path, rf"set prompts.encoding={encoding}$")
    assert captions(path, 2, encoding=encoding) == TEXT.splitlines()


def test_narrow_encodings_are_told_by_line_and_read_by_the_setting(put):
    path = put("a.csv", ("caption,id\n" + TEXT.replace("\n", ",1\n")).encode("latin-1"))
    with pytest.raises(
        UserError, match=r"line 2: not UTF-8.*\n.*prompts.encoding, such as latin-1"
    ):
        captions(path)
    assert captions(path, 2, encoding="latin-1") == TEXT.splitlines()


@pytest.mark.parametrize(
    ("data", "encoding", "right"),
    [
        (TEXT.encode(), "latin-1", "utf-8"),
        (b"a fish\n", "utf-16-le", "utf-8"),
        (TEXT.encode("utf-16-le"), "cp1252", "utf-16-le"),
        ("a fish\n".encode("utf-16-le"), "utf-16", "utf-16-le"),
        ("a fish".encode("utf-16"), "utf-32", "utf-16"),
    ],
)
def test_an_encoding_that_is_set_wrongly_is_refused(put, data, encoding, right):
    refused(put("a.txt", data), rf"set prompts.encoding={right}", encoding=encoding)


def test_marks_at_the_start_of_files_lines_and_members_are_no_text(put):
    assert captions(put("a.jsonl", '\ufeff{"caption": "a"}\n\ufeff{"caption": "b"}\n'), 2) == [
        "a",
        "b",
    ]
    assert captions(put("a.tar", tar_of([("0.txt", "\ufeffa fish".encode())]))) == ["a fish"]
    assert captions(
        put("b.tar", tar_of([("0.json", '\ufeff{"c": "a"}'.encode())])), column="json.c"
    ) == ["a"]


@pytest.mark.parametrize(
    ("name", "delimiter", "setting"),
    [("a.csv", ";", ";"), ("a.csv", "\t", "tab"), ("a.tsv", ",", ","), ("a.csv", "|", "|")],
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_another_delimiter_is_told_with_the_setting_that_reads_it(
    put, name, delimiter, setting, quote
):
    path = put(name, f"{quote}id{quote}{delimiter}{quote}caption{quote}\n1{delimiter}a fish\n")
    refused(path, r"set 'prompts.delimiter=")
    assert captions(path, delimiter=setting) == ["a fish"]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("head", ["", "caption\n"])
def test_every_line_end_is_one(put, ends, head):
    path = put("a.csv" if head else "a.txt", (head + "a\nb\n").replace("\n", ends))
    assert captions(path, 2) == ["a", "b"]


def test_a_column_twice_is_refused(put, tmp_path):
    refused(put("a.csv", "caption,caption\na,b\n"), "has the column 'caption' more than once")
    pq.write_table(
        pa.table([pa.array(["a"]), pa.array(["b"])], names=["caption"] * 2), tmp_path / "a.parquet"
    )
    refused(tmp_path / "a.parquet", "has the column 'caption' more than once")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"a \\ud83d fish"', "half of a surrogate pair"),
        ("[" * 100_000, "nested too deeply"),
        ('"a", "caption": "b"', "comes twice"),
        ("NaN", "is a number"),
        ('["a"]', "is a list"),
        ('{"a": 1}', "is an object"),
        ("true", "is true or false"),
        ("1" * 5000, "thousands of digits"),
    ],
)
def test_a_json_line_that_holds_no_caption_is_one_bad_line(put, line, message):
    path = put("a.jsonl", f'{{"caption": {line}}}\n{{"caption": "fine"}}\n')
    with pytest.raises(UserError, match=rf"^[^\n]*line 1: .*{message}.*\n.*bad_lines=skip"):
        captions(path)
    assert captions(path, bad_lines="skip") == ["fine"]


def test_json_over_several_lines_is_told_once(put):
    for text in (
        '[{"caption": "a"},\n{"caption": "b"}]\n',
        '[\n  {\n    "caption": "a"\n  }\n]\n',
        '{\n"caption": "a"}\n',
    ):
        refused(put("a.jsonl", text), "is JSON over several lines; write one object per line")
    refused(put("a.json", "[]"), r"suffix '.json' is of no known format.*one object per line")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("cut.txt.gz", gzip.compress(b"a red fish\na blue fish\n")[:-9], "is cut or damaged"),
        ("cut.csv.bz2", bz2.compress(b"caption\na fish\n")[:-3], "is cut or damaged"),
        ("quote.csv", b'caption,id\nfine,1\n"open,2\nlost,3\n', "line 3: not CSV"),
        ("field.csv", b'caption,id\nfine,1\nb,"' + b"x" * 140_000 + b'"\n', "line 3: not CSV"),
        (
            "cut.tar",
            tar_of([("0.txt", b"a"), ("1.txt", b"b")])[:1124],
            "the header at byte 1024 cannot be read",
        ),
        ("endless.tar", tar_of([("0.txt", b"a")])[:1024], "without an end mark"),
        ("twice.tar", tar_of([("0.txt", b"a"), ("0.txt", b"b")]), "comes twice"),
        ("page.tar", b"<!DOCTYPE html>" * 100, "a page of HTML"),
        ("page.parquet", b"<html>log in</html>", "a page of HTML"),
        ("parquet.txt", b"PAR1....", "set prompts.format=parquet"),
        ("tar.txt", tar_of([("0.txt", b"a")]), "set prompts.format=webdataset"),
        ("empty.csv", b"", "is empty"),
    ],
)
def test_a_damaged_file_is_refused_also_where_bad_lines_are_skipped(put, name, data, message):
    refused(put(name, data), message, count=2 if name.endswith(".csv") else 1)


def test_the_file_of_the_last_caption_is_checked_to_its_end(put):
    two = tar_of([("0.txt", b"a"), ("1.txt", b"b"), ("2.txt", b"c")])
    assert captions(put("whole.tar", two)) == ["a"]
    refused(put("cut.tar", two[:2048]), "without an end mark")
    lines = "".join(f"caption {n}\n" for n in range(10_000)).encode()
    refused(put("cut.txt.gz", gzip.compress(lines)[:-4]), "is cut or damaged")


def test_a_name_that_lies_about_compression_is_read_for_what_it_is(put):
    assert captions(put("a.txt.gz", "a red fish\n")) == ["a red fish"]
    assert captions(put("a.txt", gzip.compress(b"a red fish\n"))) == ["a red fish"]


def test_a_line_without_end_is_refused_before_it_fills_the_memory(put, monkeypatch):
    monkeypatch.setattr("diffusae.prompts.line_files.MOST_LINE", 1000)
    refused(put("a.txt", "x" * 5000), "line 1 has more than 1000 characters")


def test_a_sample_whose_key_has_dots_says_what_was_taken_for_what(put):
    path = put("a.tar", tar_of([("img.v1.png", b""), ("img.v1.txt", b"a fish")]))
    with pytest.raises(
        UserError, match=r"'img.v1.png' has the key 'img' and the extension 'v1.png'"
    ):
        captions(path)


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
)
def test_every_type_of_text_in_parquet_is_read(tmp_path, kind):
    values = (
        pa.array(["a fish", "a cat"]).cast(kind)
        if kind != pa.string_view()
        else pa.array(["a fish", "a cat"], kind)
    )
    pq.write_table(pa.table({"caption": values}), tmp_path / "a.parquet")
    assert captions(tmp_path / "a.parquet", 2) == ["a fish", "a cat"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([["a"]], "list"),
        ([1], "int64"),
        ([None], "null"),
        ([{"a": "b"}], "struct"),
        ([True], "bool"),
    ],
)
def test_parquet_columns_that_are_no_text_are_refused_with_their_type(tmp_path, values, kind):
    pq.write_table(pa.table({"caption": values}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", f"the column 'caption' is of type {kind}.*, not text")


def test_a_text_that_many_rows_share_does_not_fill_the_memory(tmp_path):
    # 20 GB as rows
    many = pa.DictionaryArray.from_arrays(
        pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 2**20])
    )
    pq.write_table(pa.table({"caption": many}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="20000 bad lines"):
        captions(tmp_path / "a.parquet")


def test_conditions_know_the_types_of_parquet(tmp_path):
    pq.write_table(
        pa.table({"caption": ["unsafe", "unknown", "safe"], "nsfw": [True, None, False]}),
        tmp_path / "a.parquet",
    )
    assert captions(tmp_path / "a.parquet", where=["nsfw != true"]) == ["safe"]
    refused(
        tmp_path / "a.parquet", r"a.parquet, row 1: .* holds booleans \(True\)", where=["nsfw != 1"]
    )


def test_a_column_that_no_row_has_is_refused(put):
    refused(
        put("a.jsonl", '{"caption": "a"}\n'),
        "no row of .* has the column score",
        where=["score > 5"],
    )


def test_a_folder_of_parquet_parts_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "captions.parquet"
    folder.mkdir()
    for number in (1, 0):
        pq.write_table(pa.table({"caption": [f"part {number}"]}), folder / f"part-{number}.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.crc").touch()
    assert captions(folder, 2) == ["part 0", "part 1"]
    (folder / "notes.txt").write_text("a note")
    refused(folder, r"files of several formats \(parquet, text\)")


def test_what_is_no_file_is_told_and_never_waited_for(tmp_path, put):
    os.symlink(tmp_path / "nowhere", tmp_path / "link.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("link.txt", "link to a missing file"),
        ("pipe.txt", "is a pipe"),
        ("empty", "no file of a known"),
    ):
        refused(tmp_path / name, message)
    refused("/dev/zero", "is a device")
    for path in (5, ["a.txt"], "", "x" * 5000):
        refused(path, r"prompts.path=")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delimiter": ";;"}, "must be one character"),
        ({"delimiter": 5}, "must be one character"),
        ({"delimiter": ";"}, "prompts.delimiter is for CSV"),
        ({"encoding": "klingon"}, "unknown prompts.encoding 'klingon'; known: big5"),
        ({"encoding": "rot13"}, "unknown prompts.encoding"),
        ({"column": 5}, "prompts.column=5 must be a name"),
        ({"counts": 5}, "prompts.counts=5 must give one number per split"),
    ],
)
def test_settings_are_checked_by_their_owner(put, settings, message):
    with pytest.raises(UserError, match=message):
        FilePrompts(**{"path": put("a.txt", "a cat"), "counts": {"train": 1}, **settings}).texts()


def test_one_bad_line_is_one_message_and_several_are_counted_rightly(put):
    with pytest.raises(
        UserError, match=r"^\S+a.txt, line 1: empty; remove it\nLeave bad lines out"
    ):
        captions(put("a.txt", "\nfine\n"))
    with pytest.raises(UserError, match=r"^2 bad lines:\n"):
        captions(put("a.txt", "\n\nfine\n"))
    with pytest.raises(UserError, match=r"ask for 1 caption, .* has 0"):
        captions(put("a.jsonl", json.dumps({"caption": "a"}) + "\n"), match="fish")
