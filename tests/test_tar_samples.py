"""A user's tar is read to its end mark, or refused with the place of what is wrong."""

import io
import tarfile

import pytest

from diffusae.tar_samples import TarFault, TarSamples, key_of


def tar_of(
    *members: tuple[str | tarfile.TarInfo, bytes], format: int = tarfile.USTAR_FORMAT
) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def of_type(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("0.txt")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def with_size(data: bytes, size: int) -> bytes:
    """The same tar whose first header, with a right checksum, tells another size."""
    header = bytearray(data[:512])
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


def read(data: bytes) -> list[tuple[str, dict[str, bytes]]]:
    return [(sample.key, sample.data) for sample in TarSamples(io.BytesIO(data), {"txt"})]


WHOLE = tar_of(("a/0.png", b"picture"), ("a/0.txt", b"a fish"), ("a/1.txt", b"a cat"))


def test_samples_come_with_the_bytes_that_were_asked_for():
    assert read(WHOLE) == [("a/0", {"txt": b"a fish"}), ("a/1", {"txt": b"a cat"})]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_letters_beyond_ascii_are_read_in_every_format_of_tar(format):
    name = "d" * 90 + "/" + "é" * 120
    assert read(tar_of((f"{name}.txt", b"a fish"), format=format)) == [(name, {"txt": b"a fish"})]


@pytest.mark.parametrize("end", range(1, 2560, 97))
def test_a_tar_that_is_cut_anywhere_before_its_end_mark_is_refused(end):
    with pytest.raises(TarFault, match=r"cut|empty"):
        read(WHOLE[:end])


def test_a_flipped_bit_in_a_header_is_refused_with_its_place():
    data = bytearray(WHOLE)
    data[1024 + 3] ^= 1
    with pytest.raises(TarFault, match="the header at byte 1024 cannot be read"):
        read(bytes(data))


def test_a_header_of_zeros_and_joined_tars_are_not_taken_for_the_end():
    with pytest.raises(
        TarFault, match=r"follow the end mark at byte 1024 \(the first at byte 1536\)"
    ):
        read(WHOLE[:1024] + bytes(512) + WHOLE[1536:])
    with pytest.raises(TarFault, match="joined"):
        read(WHOLE + WHOLE)


@pytest.mark.parametrize("size", [-1, -1024, 2**40, 2**60])
def test_a_size_that_cannot_be_is_refused_without_memory_or_time(size):
    with pytest.raises(TarFault, match=r"a size of -|the tar ends at"):
        read(with_size(WHOLE, size))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "is a link.*--dereference"),
        (tarfile.LNKTYPE, "is a link.*--hard-dereference"),
        (tarfile.FIFOTYPE, "is a pipe"),
        (tarfile.CHRTYPE, "is a device"),
        (tarfile.GNUTYPE_SPARSE, "is sparse"),
        (b"V", "unknown type"),
    ],
)
def test_what_is_no_regular_file_is_refused(kind, what):
    with pytest.raises(TarFault, match=what):
        read(tar_of((of_type(kind), b"")))


def test_sparse_members_of_pax_are_refused():
    info = tarfile.TarInfo("0.txt")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    with pytest.raises(TarFault, match="is sparse"):
        read(tar_of((info, b"0\n"), format=tarfile.PAX_FORMAT))


@pytest.mark.parametrize("name", ["/0.txt", "../0.txt", "a/../../0.txt"])
def test_names_that_lead_out_of_the_tar_are_refused(name):
    with pytest.raises(TarFault, match="leads out of the tar"):
        read(tar_of((name, b"a fish")))


def test_members_twice_and_samples_in_pieces_are_refused_with_the_remedy():
    with pytest.raises(TarFault, match=r"'0.txt' comes twice"):
        read(tar_of(("0.txt", b"wrong"), ("0.txt", b"right")))
    with pytest.raises(TarFault, match=r"key '0' comes twice or interleaved .*--sort=name"):
        read(tar_of(("0.png", b""), ("1.png", b""), ("0.txt", b""), ("1.txt", b"")))


def test_a_text_is_read_up_to_a_limit():
    with pytest.raises(TarFault, match=r"'0.txt' has 1048577 bytes"):
        read(tar_of(("0.txt", bytes(2**20 + 1))))


def test_hidden_members_and_those_without_extension_are_passed_over_and_counted():
    samples = TarSamples(
        io.BytesIO(
            tar_of(
                ("._0.txt", b""), ("__MACOSX/0.txt", b""), ("README", b""), ("./0.txt", b"a fish")
            )
        ),
        {"txt"},
    )
    assert [sample.key for sample in samples] == ["./0"]
    assert (samples.passed_over_count, samples.passed_over) == (
        3,
        ["._0.txt", "__MACOSX/0.txt", "README"],
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b/c.txt", ("a.b/c", "txt")),
        ("c.v1.TXT", ("c", "v1.txt")),
        (".c.txt", None),
        ("c", None),
        ("c.", None),
        (".x/c.txt", None),
    ],
)
def test_the_key_ends_at_the_first_dot_of_the_name(name, expected):
    assert key_of(name) == expected
