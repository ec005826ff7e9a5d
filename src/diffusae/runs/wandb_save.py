"""Saving charts, workspaces and reports with W&B. Errors and timeouts give only a warning."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Savable(Protocol):
    """A workspace or a report of wandb-workspaces."""

    @property
    def url(self) -> str: ...

    def save(self) -> Any: ...


def save_online(
    build: Callable[[str], Mapping[str, Savable]],
    *,
    entity: str | None,
    chart: Mapping[str, Any],
    timeout_s: float,
) -> dict[str, str] | None:
    """Save a custom chart and the objects that `build` makes for the entity (None: the key's own).

    Returns {name: address}, or None, with a warning, if W&B refuses or takes over `timeout_s`.
    """
    urls: dict[str, str] = {}
    failure: list[Exception] = []

    def save() -> None:
        try:
            owner = entity or _own_entity()
            _keep_chart(owner, chart)
            for name, item in build(owner).items():
                item.save()
                urls[name] = item.url
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=save, name="wandb-save", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive() or failure:
        reason = f"{failure[0]!r}" if failure else f"no answer after {timeout_s:g} s"
        logger.warning("W&B did not save the dashboard: %s", reason)
        return None
    return urls


def _own_entity() -> str:
    import wandb

    return str(wandb.Api().default_entity)


def _keep_chart(entity: str, chart: Mapping[str, Any]) -> None:
    """Create the custom chart, unless it exists."""
    import wandb

    try:
        wandb.Api().create_custom_chart(
            entity=entity,
            name=chart["name"],
            display_name=chart["name"],
            spec_type="vega2",
            access="private",
            spec=dict(chart["spec"]),
        )
    except Exception as error:
        logger.info("the custom chart %s/%s was not created: %s", entity, chart["name"], error)
