"""The metrics that there are, by name. A metric's module is imported when the metric is asked for:
most of them import torch.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from diffusae import plugins
from diffusae.errors import UserError, unknown

if TYPE_CHECKING:
    from diffusae.metrics.metric import Metric

GROUP = "diffusae.metrics"
"""The group of entry points, each of which names a `Metric`."""

_HERE = {
    "composition": "composition:METRIC",
    "reconstruction": "reconstruction:METRIC",
    "cohesion": "cohesion:METRIC",
    "latents": "latents:METRIC",
    "faithfulness": "faithfulness:METRIC",
    "spatial": "spatial_intervention:METRIC",
    "global": "global_intervention:METRIC",
    "global_together": "global_intervention:TOGETHER",
    "purity": "purity:METRIC",
    "knowledge": "knowledge:METRIC",
    "steering": "text_steering:METRIC",
    "erasure": "erasure:METRIC",
    "times": "times:METRIC",
    "decisions": "decisions:METRIC",
    "truth": "truth:METRIC",
}
"""To add a metric to this package: one line here, its module beside this one, and its YAML file."""

COUNTED = frozenset({"spatial", "global", "global_together", "decisions"})
"""Those of this package that count the pictures they make (`Metric.made`), so that `plan` imports
no other.
"""

_metrics: dict[str, Metric[Any] | EntryPoint] = {
    name: EntryPoint(name, f"diffusae.metrics.{value}", GROUP) for name, value in _HERE.items()
}


def names() -> tuple[str, ...]:
    """Of all metrics, in the order in which they are listed; nothing is imported."""
    return tuple(_known())


def metric(name: str) -> Metric[Any]:
    """The metric of this name.

    Raises:
        UserError: there is none, and those that there are; or its entry point names no metric.
    """
    from diffusae.metrics.metric import Metric

    if name not in _known():
        raise unknown("metric", name, _metrics)
    made = _metrics[name]
    if isinstance(made, EntryPoint):
        loaded = made.load()
        if not isinstance(loaded, Metric) or loaded.name != name:
            raise UserError(f"{made.value} is not a Metric called {name!r}; name one that is")
        made = _metrics[name] = loaded
    return made


def may_count(name: str) -> bool:
    """Whether a metric of this name may count the pictures it makes. Nothing is imported."""
    return name in COUNTED or (name not in _HERE and name in _known())


def metrics() -> list[Metric[Any]]:
    """All metrics; imports their modules."""
    return [metric(name) for name in _known()]


def _known() -> dict[str, Metric[Any] | EntryPoint]:
    """All metrics, with those of the user's own packages."""
    for part in plugins.parts("metrics"):
        if part.name in _HERE:
            raise UserError(
                f"the plug-in {part.package} has a metric {part.name!r}, which is built in; give it"
                " another name"
            )
        _metrics.setdefault(part.name, part)
    return _metrics


def register(added: Metric[Any] | EntryPoint) -> None:
    """Add a metric, or an entry point that names one, such as a plug-in's.

    Raises:
        UserError: there is another metric of this name.
    """
    known = _metrics.setdefault(added.name, added)
    if type(known) is not type(added) or known != added:
        raise UserError(f"there are two metrics called {added.name!r}; give one another name")
