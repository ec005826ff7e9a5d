"""What the configuration may compute. Resolvers import what they need when they are used, so that
composing is fast.
"""

from __future__ import annotations

import os
from typing import Any

from omegaconf import DictConfig, ListConfig, Node, OmegaConf, read_write


def _shipped_miniature() -> str:
    from diffusae.miniature.shipped import SHIPPED

    return str(SHIPPED)


def _branch_of_prompt(prompt: str) -> str:
    from diffusae.study.given_pictures import branch_of_prompt

    return branch_of_prompt(prompt)


def _by_window(t: float, *values: Any) -> Any:
    from diffusae.interventions.windows import WINDOWS, window_at

    return values[list(WINDOWS.values()).index(window_at(t))]


def home_of(path: str) -> str:
    """A path with the home in the place of `~`; unchanged where there is no home."""
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


def expand_home(cfg: DictConfig | ListConfig) -> None:
    """Put the home in the place of `~` in every setting that begins with `~/`."""
    keys: Any = list(cfg.keys()) if isinstance(cfg, DictConfig) else range(len(cfg))
    for key in keys:
        node = cfg._get_node(key)
        if isinstance(node, DictConfig | ListConfig):
            if not (node._is_none() or node._is_interpolation() or node._is_missing()):
                expand_home(node)
        elif (
            isinstance(node, Node)
            and isinstance(value := node._value(), str)
            and home_of(value) != value
        ):
            with read_write(cfg):
                cfg[key] = home_of(value)


def register_resolvers() -> None:
    """Make them known to OmegaConf; a second time changes nothing."""
    for name, function in {
        "shipped_miniature": _shipped_miniature,
        "branch_of_prompt": _branch_of_prompt,
        "by_window": _by_window,
        "repeated": lambda times, word: " ".join([word] * times),
        "home": home_of,
        "to_target": lambda target: "" if target is None else f"-to-{target}",
    }.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
