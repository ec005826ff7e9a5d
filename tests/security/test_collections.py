"""A foreign collection runs nothing, fetches nothing and touches no file outside its directory."""

import json
import shutil

import pytest

from diffusae.activations import transport
from diffusae.activations.journal import read_journals
from diffusae.activations.local_copy import COPY_FILE, fetch_ahead, forget, keep_copy, open_shard
from diffusae.activations.manifest import Manifest
from diffusae.activations.merge import merge_parts
from diffusae.activations.reader import discard_damaged, require_sound, verify
from diffusae.errors import UserError
from diffusae.files import digest_of

SHARD = "mid/t0.50/cond/shard-000000.tar"


@pytest.fixture
def downloaded(collection, tmp_path):
    """A collection from elsewhere without one of its shards, beside a file of the user's own."""
    root, _ = collection
    (root / "run.json").write_text('{"signature": "abc"}')
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (copy / SHARD).unlink()
    (tmp_path / "victim").write_text("mine")
    return copy


def named(root, path):
    """Change the path of the first shard in the manifest."""
    value = json.loads((root / "manifest.json").read_text())
    value["shards"][0]["path"] = path
    (root / "manifest.json").write_text(json.dumps(value))


def mirrored(root, url, **more):
    """A mirror.json as an attacker writes it."""
    sha = digest_of((root / "manifest.json").read_bytes())
    value = {"url": url, "manifest": sha, "attempts": 1, "most_bytes": 1}
    value |= {"url_sha256": digest_of(url.encode()), **more}
    (root / COPY_FILE).write_text(json.dumps(value))


def shard_of(root):
    return next(shard for shard in Manifest.load(root).entries if shard.path == SHARD)


def test_a_mirror_json_runs_no_command_and_fetches_nothing(downloaded, tmp_path):
    for url in (f"pipe:touch {tmp_path}/PWNED; cat {{path}}", f"file://{tmp_path}"):
        mirrored(downloaded, url)
        shard = shard_of(downloaded)
        fetch_ahead(downloaded, shard)
        with pytest.raises(
            UserError, match=r"is not in .*copy of a remote collection.*set activations.source"
        ):
            open_shard(downloaded, shard)
        with pytest.raises(UserError, match="missing"):
            require_sound(downloaded, Manifest.load(downloaded))
    assert not (tmp_path / "PWNED").exists() and not (downloaded / SHARD).exists()


def test_a_mirror_json_evicts_nothing(downloaded):
    mirrored(downloaded, "memory://nowhere")
    shards = sorted(downloaded.rglob("*.tar"))
    for shard in Manifest.load(downloaded).entries:
        if shard.path != SHARD:
            open_shard(downloaded, shard).close()
    assert [fault.kind for fault in verify(downloaded, Manifest.load(downloaded))] == ["missing"]
    assert sorted(downloaded.rglob("*.tar")) == shards


def test_a_mirror_json_of_another_url_than_the_users_does_not_count(
    downloaded, collection, tmp_path
):
    mirrored(downloaded, f"pipe:touch {tmp_path}/PWNED; cat {{path}}")
    keep_copy(downloaded, f"file://{collection[0]}")
    open_shard(downloaded, shard_of(downloaded)).close()
    assert not (tmp_path / "PWNED").exists() and (downloaded / SHARD).exists()


def test_without_a_source_a_former_copy_is_read_as_it_is(downloaded, collection):
    mirrored(downloaded, f"file://{collection[0]}")
    keep_copy(downloaded, f"file://{collection[0]}")
    forget(downloaded)
    with pytest.raises(UserError, match=r"set activations.source"):
        open_shard(downloaded, shard_of(downloaded))


def test_a_secret_in_a_url_is_not_in_mirror_json_and_the_copy_is_known_again(
    collection, tmp_path, monkeypatch
):
    monkeypatch.setattr(transport, "PAUSE_S", 0.0)
    (collection[0] / "run.json").write_text("{}")
    url = f"pipe:cat {collection[0]}/{{path}} # s3cr3t-v4lue"
    keep_copy(tmp_path / "here", url)
    assert "s3cr3t-v4lue" not in (tmp_path / "here" / COPY_FILE).read_text()
    asked = []
    monkeypatch.setattr(transport.Source, "read", lambda *args: asked.append(args))
    keep_copy(tmp_path / "here", url)
    assert asked == []  # the same URL: nothing is asked again


@pytest.mark.parametrize(
    "path",
    ["../victim", "../../victim.tar", "/victim.tar", "mid/../../victim.tar", "..\\victim.tar",
     "C:\\victim.tar", "C:victim.tar", "mid\0.tar", "", ".tar", "mid//a.tar", "./a.tar",
     "mid/.hidden.tar", "manifest.json", "mid/$(touch x).tar", "a\n.tar",
     "mid/" + 300 * "a" + ".tar", 7, None, ["a.tar"]],
)  # fmt: skip
def test_a_path_that_leads_out_is_refused_whoever_loads(downloaded, path):
    named(downloaded, path)
    with pytest.raises(UserError, match="which is no shard's place; do not use it"):
        Manifest.load(downloaded)


def test_a_shard_named_twice_is_refused(downloaded):
    named(downloaded, "mid/t0.50/cond/shard-000001.tar")
    with pytest.raises(UserError, match="twice"):
        Manifest.load(downloaded)


@pytest.mark.parametrize("place", ["mid/t0.50/cond/shard-000001.tar", "mid", "groups", "linked"])
def test_a_link_that_leads_out_is_refused_and_what_it_leads_to_stays(downloaded, tmp_path, place):
    outside = tmp_path / "outside"
    if (downloaded / place).exists():
        (downloaded / place).rename(outside)
    else:
        outside.mkdir()
    (downloaded / place).symlink_to(outside)
    for ask in (Manifest.load, lambda root: merge_parts(tmp_path / "merged", [root], groups=1)):
        with pytest.raises(UserError, match="is a link that leads out of the collection"):
            ask(downloaded)
    assert outside.exists()


def test_a_collection_may_itself_be_reached_by_a_link(downloaded, tmp_path):
    (tmp_path / "link").symlink_to(downloaded)
    assert Manifest.load(tmp_path / "link") == Manifest.load(downloaded)


def test_a_journal_that_names_a_file_outside_is_no_journal(downloaded, tmp_path):
    path = downloaded / "groups/000000.json"
    value = json.loads(path.read_text())
    value["shards"] = {"../victim": next(iter(value["shards"].values()))}
    path.write_text(json.dumps(value))
    discard_damaged(downloaded, verify(downloaded, Manifest.load(downloaded)))
    assert (tmp_path / "victim").read_text() == "mine"
    assert 0 not in read_journals(downloaded)


def test_a_manifest_without_end_is_not_read_to_its_end(monkeypatch, tmp_path):
    monkeypatch.setattr(transport, "MOST_READ", 1000)
    with pytest.raises(UserError, match="more than 1000 bytes"):
        transport.Source("pipe:yes # {path}", attempts=1).read("manifest.json")


def test_a_shard_larger_than_the_disk_is_not_begun(tmp_path):
    source = transport.Source(f"file://{tmp_path}", attempts=1)
    with pytest.raises(UserError, match=r"bytes are free|are free at"):
        source.fetch("a.tar", tmp_path / "here/a.tar", size=10**18, sha256="0" * 64)
    assert not list((tmp_path / "here").glob("*"))
