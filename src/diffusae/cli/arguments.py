"""The command line of one stage: flags anywhere between the overrides, and every override checked
before a stage is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusae.cli.configs import Composer
from diffusae.cli.quoting import TEXTS, for_shell, no_text, swept, text_override, unreadable
from diffusae.errors import UserError, together, unknown
from diffusae.study.names import name_fault, name_faults

OPEN = ("metrics_at.", "metric_settings.")
"""Parts of `run`'s configuration whose entries are the names of metrics, and so none is written."""


@dataclass(frozen=True)
class CommandLine:
    """What follows the stage: overrides, and Hydra's flags in the order in which they were given.
    `help` and `shows` (--cfg, --info) run nothing.
    """

    overrides: tuple[str, ...]
    flags: tuple[str, ...]
    help: bool
    shows: bool
    multirun: bool
    config_dir: str | None
    config_name: str | None

    @classmethod
    def parse(cls, arguments: Sequence[str], *, bare: str | None = None) -> CommandLine:
        """Read what follows the stage.

        Args:
            bare: the setting that one word without `=` stands for; None: such a word is refused.

        Raises:
            UserError: flags that there are not, or that would do harm; several bare words.
        """
        from hydra._internal.utils import get_args_parser

        parser: argparse.ArgumentParser = get_args_parser()
        parser.error = _refuse
        flagged = parser.parse_intermixed_args(list(arguments))
        if flagged.config_path is not None:
            raise UserError(
                "--config-path would take the place of diffusae's own configs; --config-dir DIR"
                " adds yours"
            )
        if flagged.experimental_rerun is not None:
            raise UserError(
                "--experimental-rerun reads a pickle, which diffusae never does; leave it out"
            )
        rest, flags = list(flagged.overrides), []
        for argument in arguments:
            if rest and argument == rest[0]:
                rest.pop(0)
            else:
                flags.append(argument)
        sweeps = flagged.multirun or any(
            text == "hydra.mode=MULTIRUN" for text in flagged.overrides
        )
        if bare and not any(override.startswith(f"{bare}=") for override in flagged.overrides):
            flagged.overrides = _with_bare_word(flagged.overrides, bare)
        return cls(
            tuple(map(_opened, flagged.overrides)),
            tuple(flags),
            help=flagged.help,
            shows=bool(flagged.cfg or flagged.info),
            multirun=sweeps,
            config_dir=flagged.config_dir,
            config_name=flagged.config_name,
        )

    def plugins(self) -> list[str]:
        """The packages that `plugins=[...]` names; a text that cannot be read is refused later."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        packages: list[str] = []
        for text in self.overrides:
            if text.startswith("plugins="):
                with suppress(HydraException):
                    value = OverridesParser.create().parse_override(text).value()
                    packages += [str(name) for name in (value if isinstance(value, list) else [])]
        return packages

    def checked(self, stage: str) -> DictConfig:
        """The configuration of the first job; `UserError` for every override that cannot be."""
        composer = Composer(stage, config_dir=self.config_dir, config_name=self.config_name)
        overrides = _parsed(composer, self.overrides)
        if not self.multirun:
            together(
                swept(override.input_line) for override in overrides if override.is_sweep_override()
            )
        search = [
            override.input_line
            for override in overrides
            if override.key_or_group == "hydra.searchpath"
        ]
        choices = [override for override in overrides if _is_group(composer, override, search)]
        together(_choice_faults(composer, choices, search))
        together(_text_faults(overrides))
        try:
            cfg = composer.compose([_first(override) for override in overrides])
        except HydraException:
            known = _composed(
                composer, stage, [*search, *(_first(override) for override in choices)]
            )
            together(
                _unknown(known, [override for override in overrides if override not in choices])
            )
            raise
        if cfg.get("stage", stage) != stage:
            raise UserError(
                f"-cn {self.config_name} is the configuration of `diffusae {cfg.stage}`; use that"
                " command"
            )
        together([*_references(cfg, overrides), *name_faults(cfg)])
        return cfg


def _with_bare_word(overrides: Sequence[str], setting: str) -> list[str]:
    """The one word without `=` as a text of this setting; `UserError` for several such words."""
    words = [word for word in overrides if "=" not in word and word[:1] not in ("+", "~")]
    if len(words) > 1:
        text = " ".join(words)
        raise UserError(
            f"{text!r} is {len(words)} words, and one text is taken; quote it:\n  {for_shell(text)}"
        )
    return [text_override(setting, word) if word in words else word for word in overrides]


def _opened(override: str) -> str:
    """An override of a part that takes the name of any metric, as Hydra wants it: with `++`."""
    bare = override.lstrip("+")
    return f"++{bare}" if bare.startswith(OPEN) else override


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; `diffusae STAGE --help` says what there is")


def _parsed(composer: Composer, overrides: Sequence[str]) -> list[Any]:
    parser, overrides_read, faults = composer.parser(), [], []
    for index, text in enumerate(overrides):
        try:
            overrides_read.append(parser.parse_override(text))
        except HydraException:
            faults.append(unreadable(overrides, index))
    together(_once(faults))
    return overrides_read


def _once(faults: Sequence[str]) -> list[str]:
    """Faults with different remedies: words of one text that was not quoted have the same."""
    return list({fault.rpartition("\n")[2]: fault for fault in reversed(faults)}.values())[::-1]


def _first(override: Any) -> str:
    """The override, or the first value of a sweep."""
    if not override.is_sweep_override():
        return override.input_line
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def _chosen(override: Any) -> list[str]:
    """The options that an override of a group names."""
    if override.is_delete():
        return []
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    value = override.value()
    return [
        str(text) for text in (value if isinstance(value, list) else [value]) if text is not None
    ]


def _is_group(composer: Composer, override: Any, search: Sequence[str]) -> bool:
    return "." not in override.key_or_group and bool(
        composer.options(override.key_or_group, search)
    )


def _choice_faults(
    composer: Composer, choices: Sequence[Any], search: Sequence[str]
) -> Iterator[str]:
    for override in choices:
        for chosen in _chosen(override):
            group, _, name = f"{override.key_or_group}/{chosen.removesuffix('.yaml')}".rpartition(
                "/"
            )
            known = composer.options(group, search)
            if name not in known:
                yield str(unknown(f"option of {group}:", chosen, known))


def _composed(composer: Composer, stage: str, overrides: Sequence[str]) -> DictConfig:
    try:
        return composer.compose(overrides)
    except ConfigCompositionException as error:
        _, group_named, rest = str(error).partition("Could not override '")
        group = rest.partition("'")[0].partition("@")[0]
        if not group_named or not composer.options(group):
            raise
        raise UserError(
            f"the group {group!r} is not among the defaults of `diffusae {stage}`; leave it out, or"
            f" add it with +{group}=..."
        ) from error


def _unknown(cfg: DictConfig, values: Sequence[Any]) -> Iterator[str]:
    for override in values:
        added = override.is_add() or override.is_force_add()
        if not added and (fault := unknown_setting(cfg, override.key_or_group)):
            yield fault


def _text_faults(overrides: Sequence[Any]) -> Iterator[str]:
    """What is said of texts that read as something else, and of names that are swept over."""
    for override in overrides:
        key = override.key_or_group
        if override.is_sweep_override():
            if key == "name":
                named = [
                    name_fault(key, value, nested=True)
                    for value in override.sweep_string_iterator()
                ]
                yield from filter(None, named)
        elif key in TEXTS and not isinstance(value := override.value(), str | None):
            yield no_text(override.input_line, value)


def _references(cfg: DictConfig, overrides: Sequence[Any]) -> Iterator[str]:
    """What is said of texts in which `${...}` names no setting."""
    for override in overrides:
        if override.key_or_group in TEXTS:
            try:
                OmegaConf.select(cfg, override.key_or_group)
            except OmegaConfBaseException:
                yield no_text(override.input_line, None)


def unknown_setting(cfg: DictConfig, dotted: str) -> str | None:
    """What is said of a setting that the configuration does not have, with the names that it has
    there; None where it is one.
    """
    node: Any = cfg
    parts = dotted.replace("/", ".").split(".")
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        if not isinstance(node, DictConfig) or node._is_interpolation():
            return None  # a list, or what another setting says
        if node._is_none() or part not in node.keys():  # noqa: SIM118  (`in` leaves out what is still to be given)
            names = sorted(str(key) for key in node if key not in ("hydra", "stage"))
            close = get_close_matches(part, names)
            # The closest that has the rest of the path: `sea.k` means `sae.k`, not `stream.k`
            close.sort(key=lambda name: not _has(node, [name, *parts[depth + 1 :]]))
            close = close or (_elsewhere(cfg, part) if len(parts) == 1 else [])
            hint = ".".join([*parts[:depth], close[0], *parts[depth + 1 :]]) if close else ""
            where = f"under {above}" if above else "at the top"
            message = f"unknown setting {dotted!r}; valid names {where}: {', '.join(names)}."
            return f"{message} Did you mean {hint!r}?" if hint else message
        node = node._get_node(part)
    return None


def _has(node: Any, parts: Sequence[str]) -> bool:
    """Whether a configuration has a setting at this path."""
    for part in parts:
        if not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118
            return False
        node = node._get_node(part)
    return True


def _elsewhere(cfg: DictConfig, name: str) -> list[str]:
    """The settings of this very name one level down."""
    inner = [(str(key), cfg._get_node(key)) for key in cfg if key != "hydra"]
    return [
        f"{key}.{name}"
        for key, node in inner
        if isinstance(node, DictConfig) and name in node.keys()  # noqa: SIM118  (`in` leaves out what is still to be given)
    ]
