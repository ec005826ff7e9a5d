"""Where the configuration lies, what options it offers, and composing it without importing a
stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusae.errors import UserError

ROOT = "base.yaml"
"""The file by which the configuration is known for ours."""


def config_directory() -> Path:
    """Where the configs lie: inside the installed package, or beside the sources in the repository.

    Raises:
        UserError: neither holds them.
    """
    package = Path(__file__).parents[1]
    places = [package / "conf"]
    if (
        package.parent.name == "src"
    ):  # a `conf` beside an installed package would be somebody else's
        places.append(package.parents[1] / "conf")
    for place in places:
        if (place / ROOT).is_file():
            return place
    raise UserError(
        f"diffusae's configuration is missing ({places[0] / ROOT}); install the package again: pip"
        " install --force-reinstall diffusae"
    )


class Composer:
    """Composes one stage's configuration as Hydra will, with the user's own directory of configs
    where there is one.
    """

    def __init__(
        self, stage: str, *, config_dir: str | None = None, config_name: str | None = None
    ) -> None:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra._internal.hydra import Hydra
        from hydra._internal.utils import create_config_search_path

        path = create_config_search_path(str(config_directory()))
        if config_dir is not None:
            folder = Path(config_dir).expanduser().absolute()
            if not folder.is_dir():
                raise UserError(
                    f"--config-dir: there is no directory {folder}; give one that holds configs"
                )
            path.prepend(provider="command-line", path=f"file://{folder}")
        self.root = config_name or stage
        self._loader = ConfigLoaderImpl(config_search_path=path)
        Hydra(task_name=stage, config_loader=self._loader)  # what Hydra's own resolvers need

    def parser(self) -> Any:
        """Hydra's parser of overrides."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        return OverridesParser.create(config_loader=self._loader)

    def groups(self) -> dict[str, list[str]]:
        """Every group of options and what it offers; of Hydra's own, the launchers."""
        names = sorted({*self._loader.list_groups(""), "hydra/launcher"} - {"hydra"})
        return {group: options for group in names if (options := self.options(group))}

    def options(self, group: str, overrides: Sequence[str] = ()) -> list[str]:
        """What a group offers; nothing where it is no group. Private options (`_common`) are parts
        of others.
        """
        from hydra.core.object_type import ObjectType

        names = self._loader.get_group_options(group, ObjectType.CONFIG, self.root, list(overrides))
        return [name for name in names if not name.startswith("_")]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job, Hydra's own part included; it is not resolved."""
        from hydra.types import RunMode

        return self._loader.load_configuration(self.root, list(overrides), run_mode=RunMode.RUN)
