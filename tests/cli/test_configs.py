"""Where the configuration is found: the package's own, never a `conf` beside the package; and how
often its files are read.
"""

from pathlib import Path

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from omegaconf import open_dict

from diffusae.cli import config_files, configs
from diffusae.errors import UserError


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """The package as if it were installed in `folder`."""
    package = folder / "diffusae"
    (package / "cli").mkdir(parents=True)
    monkeypatch.setattr(configs, "__file__", str(package / "cli" / "configs.py"))
    return package


def conf(folder: Path) -> Path:
    (folder / "conf").mkdir(parents=True)
    (folder / "conf" / "base.yaml").write_text("name: x\n")
    return folder / "conf"


def test_a_users_own_conf_beside_an_installed_package_is_not_taken_for_ours(monkeypatch, tmp_path):
    package = installed(monkeypatch, tmp_path / "project" / "deps")
    conf(tmp_path / "project")
    with pytest.raises(UserError, match=r"configuration is missing .*install the package again"):
        configs.config_directory()
    ours = conf(package)
    assert configs.config_directory() == ours


def test_in_a_checkout_it_lies_beside_the_sources(monkeypatch, tmp_path):
    installed(monkeypatch, tmp_path / "src")
    (tmp_path / "conf").mkdir()
    with pytest.raises(UserError, match="is missing"):
        configs.config_directory()
    (tmp_path / "conf" / "base.yaml").write_text("name: x\n")
    assert configs.config_directory() == tmp_path / "conf"


def test_every_file_is_read_once_and_no_composition_changes_another(monkeypatch):
    read: list[str] = []
    load = FileConfigSource.load_config

    def noted(self, config_path):
        read.append(config_path)
        return load(self, config_path)

    monkeypatch.setattr(FileConfigSource, "load_config", noted)
    config_files._read.cache_clear()
    config_files.search_own_options()
    first = configs.Composer("train").compose(["sae=topk"])
    assert sorted(read) == sorted(set(read))
    assert any(name.startswith("sae/topk") for name in read)
    read.clear()
    with open_dict(first):
        first.sae.k = -5
        first.trainer.pop("steps")
    second = configs.Composer("train").compose(["sae=topk"])
    assert read == []
    assert second.sae.k > 0
    assert "steps" in second.trainer
