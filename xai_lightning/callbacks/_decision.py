"""What a gate asks of a Trainer before it decides."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from xai_lightning import tags
from xai_lightning._lightning import MisconfigurationException, Trainer
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.functional.gate import Limit
from xai_lightning.functional.tables import choose


def monitors(trainer: Trainer) -> list[Monitor]:
    """The monitors among the Trainer's callbacks."""
    return [callback for callback in trainer.callbacks if isinstance(callback, Monitor)]  # type: ignore[attr-defined]


def check_names(trainer: Trainer, wanted: Sequence[str]) -> None:
    """Refuse a name that nobody logs: neither the module so far, nor any monitor at any validation.

    Raises:
        MisconfigurationException: names the nearest, and lists what is logged.
    """
    known = set(trainer.callback_metrics)
    for monitor in monitors(trainer):
        known |= {tags.within(monitor.name, name) for name in monitor.logged_names()[0]}
    for name in wanted:
        try:
            choose("metric", name, sorted(known))
        except ValueError as error:
            message = f"GatedCheckpoint: nobody logs {name!r} in a validation. {error}"
            raise MisconfigurationException(message) from error


def all_limits(
    given: Sequence[Limit], monitor: str | None, metrics: Mapping[str, float], *, utility_floor: bool
) -> list[Limit]:
    """The limits given, that the monitored value exists, and the utility floors of fairness limits."""
    limits = list(given)
    if monitor is not None:
        limits.append(Limit(monitor, "at_most", math.inf))
    if utility_floor:
        for prefix in _fairness_prefixes(given):
            chance = metrics.get(prefix + tags.balanced_accuracy("chance"), math.inf)
            limits.append(Limit(prefix + tags.balanced_accuracy("bound"), "above", chance))
    return limits


def _fairness_prefixes(limits: Sequence[Limit]) -> list[str]:
    """What stands before ``fairness/`` in the limits' names: the names of monitors, each with a slash, or nothing."""
    found = [limit.name.partition("fairness/")[0] for limit in limits if "fairness/" in f"/{limit.name}"]
    return list(dict.fromkeys(found))


def evidence_of(trainer: Trainer) -> list[dict[str, Any]]:
    """What the monitors stamp into a checkpoint."""
    return [found for found in (monitor.evidence() for monitor in monitors(trainer)) if found]
