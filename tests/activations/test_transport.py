"""Remote files come whole and checked, by every kind of URL, and continue after a cut."""

import fsspec
import numpy as np
import pytest

from diffusae.activations import transport
from diffusae.activations.transport import Source
from diffusae.errors import UserError
from diffusae.files import digest_of
from local_server import served

DATA = np.random.default_rng(0).bytes(1_000_000)
SHA = digest_of(DATA)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setattr(transport, "_PIECE", 40_960)
    monkeypatch.setattr(transport, "PAUSE_S", 0.0)


@pytest.fixture
def origin(tmp_path):
    (tmp_path / "there/mid").mkdir(parents=True)
    (tmp_path / "there/mid/shard.tar").write_bytes(DATA)
    return tmp_path / "there"


@pytest.fixture
def server(origin):
    with served(origin) as state:
        yield state


def fetched(source, tmp_path, path="mid/shard.tar"):
    target = tmp_path / "here" / path
    source.fetch(path, target, size=len(DATA), sha256=SHA)
    assert [p.name for p in target.parent.iterdir()] == [target.name]  # nothing temporary is left
    return target.read_bytes()


def partial(tmp_path, data):
    path = tmp_path / f"here/mid/shard.tar.{SHA[:16]}.partial"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "url", ["{origin}", "file://{origin}", "pipe:cat {origin}/{{path}}", "file://{origin}/{{path}}"]
)
def test_directories_and_commands_give_their_files(origin, tmp_path, url):
    assert fetched(Source(url.format(origin=origin)), tmp_path) == DATA


def test_a_memory_filesystem_and_a_server_give_their_files(server, tmp_path):
    with fsspec.open("memory://bucket/mid/shard.tar", "wb") as file:
        file.write(DATA)  # type: ignore[union-attr]
    assert fetched(Source("memory://bucket"), tmp_path) == DATA
    (tmp_path / "here/mid/shard.tar").unlink()
    assert fetched(Source(server.url), tmp_path) == DATA
    assert Source(server.url).read("mid/shard.tar") == DATA


def test_a_cut_download_goes_on_where_it_was_cut(server, tmp_path):
    server.cuts["mid/shard.tar"] = 800_000
    assert fetched(Source(server.url), tmp_path) == DATA
    (first, begun), *rest = server.asked
    assert (first, begun) == ("mid/shard.tar", 0)
    kept = min(start for _, start in rest)
    # The rest alone was asked for again, but for what the client had not handed on
    assert 0 < kept <= 800_000


@pytest.mark.parametrize("ranges", [True, False])
def test_what_a_kill_left_is_continued_where_the_server_can_and_fetched_anew_where_not(
    server, tmp_path, ranges
):
    server.ranges = ranges
    partial(tmp_path, DATA[:300_000])
    assert fetched(Source(server.url), tmp_path) == DATA
    starts = [start for _, start in server.asked]
    assert (min(starts) == 300_000) if ranges else (starts[-1] == 0)


@pytest.mark.parametrize("url", ["file://{origin}", "pipe:cat {origin}/{{path}}"])
def test_what_a_kill_left_of_other_sources_is_continued_or_replaced(origin, tmp_path, url):
    partial(tmp_path, DATA[:300_000])
    assert fetched(Source(url.format(origin=origin)), tmp_path) == DATA


def test_a_temporary_file_that_is_damaged_is_given_up_and_fetched_anew(server, tmp_path):
    partial(tmp_path, bytes(300_000))
    assert fetched(Source(server.url), tmp_path) == DATA
    assert ("mid/shard.tar", 0) in server.asked


def test_faults_of_the_server_are_outlived(server, tmp_path):
    server.faults = 2
    assert fetched(Source(server.url, attempts=3), tmp_path) == DATA
    server.faults = 2
    with pytest.raises(
        UserError, match=r"cannot be fetched from http.*2 attempts.*run the same command again"
    ):
        Source(server.url, attempts=2).read("mid/shard.tar")


def test_other_contents_than_the_manifests_are_refused(origin, tmp_path):
    for data in (DATA[:-1] + b"!", DATA + b"!"):
        (origin / "mid/shard.tar").write_bytes(data)
        with pytest.raises(
            UserError, match=rf"not what the manifest says: expected sha256 {SHA}, found"
        ):
            fetched(Source(f"file://{origin}"), tmp_path)
        assert not list((tmp_path / "here").rglob("*.*"))
    (origin / "mid/shard.tar").write_bytes(DATA[:-1])
    with pytest.raises(UserError, match="cut after 999999 of 1000000 bytes"):
        fetched(Source(f"file://{origin}"), tmp_path)


def test_a_missing_file_a_failing_command_and_a_silent_host_are_told(origin, server, tmp_path):
    for source in (Source(f"file://{origin}"), Source(server.url)):
        with pytest.raises(UserError, match=r"nowhere.tar is not found at"):
            source.read("nowhere.tar")
    with pytest.raises(UserError, match=r"exit 3"):
        Source("pipe:exit 3 # {path}", attempts=1).read("mid/shard.tar")
    with pytest.raises(UserError, match=r"cannot be fetched from http://127.0.0.1:9"):
        Source("http://127.0.0.1:9", attempts=1).read("mid/shard.tar")


def test_the_place_of_a_file_is_no_part_of_a_command(origin, tmp_path):
    with pytest.raises(UserError, match="exit 1"):
        Source(f"pipe:cat {origin}/{{path}}", attempts=1).read(f"x; touch {tmp_path}/broken")
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pipe:cat shard.tar", "must hold {path} where the file's path goes"),
        ("nonsense://bucket", "cannot be opened.*nonsense"),
    ],
)
def test_a_source_that_cannot_work_is_refused_at_once(url, message):
    with pytest.raises(UserError, match=message):
        Source(url)
    with pytest.raises(UserError, match="fetch_attempts=0"):
        Source("memory://bucket", attempts=0)


def test_a_scheme_whose_library_is_missing_names_the_extra():
    try:
        import s3fs  # noqa: F401  # type: ignore[import-not-found]
    except ImportError:
        with pytest.raises(UserError, match=r"diffusae\[remote\]"):
            Source("s3://bucket/dir")
    else:
        pytest.skip("s3fs is installed")
