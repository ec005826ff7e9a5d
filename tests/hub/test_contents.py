import pytest

from diffusae.errors import UserError
from diffusae.hub.contents import RemoteFile, autoencoder_files, folder_of, git_oid, listing_lines


def of(*paths):
    return [RemoteFile(path, 10) for path in paths]


def test_a_blobs_name_is_the_one_that_git_gives(tmp_path):
    (tmp_path / "a").write_bytes(b"hello\n")
    # `git hash-object`
    assert git_oid(tmp_path / "a") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_file_is_compared_in_whatever_is_known_of_it(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"hello\n")
    sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert RemoteFile("a", 6).fault(path) is None
    assert RemoteFile("a", 6, sha256=sha, git_oid=git_oid(path)).fault(path) is None
    assert RemoteFile("a", 7).fault(path) == "a: expected 7 bytes, found 6"
    assert RemoteFile("a", 6, sha256="00").fault(path) == f"a: SHA-256 expected 00, found {sha}"


def test_a_folder_that_leads_out_of_the_repository_is_never_chosen():
    with pytest.raises(UserError, match=r"folders with a cfg.json: none"):
        folder_of(of("../x/cfg.json"), folder=None, prefix="mid", where="owner/saes")


def test_the_weights_come_first_and_gits_own_files_do_not_count():
    files = of("README.md", "cfg.json", ".gitattributes", "sae.safetensors", "deeper/sae.pt")
    assert [file.path for file in autoencoder_files(files, "", where="x")] == [
        "sae.safetensors",
        "cfg.json",
        "README.md",
    ]


def test_a_listing_has_sizes_and_their_sum():
    lines = listing_lines([RemoteFile("a", 999, "x"), RemoteFile("bc", 1_500_000_000, "y")])
    assert [line.split() for line in lines] == [
        ["a", "999", "B", "sha256", "x"],
        ["bc", "1.5", "GB", "sha256", "y"],
        ["together", "1.5", "GB"],
    ]
