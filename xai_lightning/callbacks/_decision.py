"""What a gate asks of a Trainer before it decides."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from xai_lightning import tags
from xai_lightning._lightning import MisconfigurationException, Trainer
from xai_lightning.callbacks._evidence import is_fairness
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._trainer import callbacks_of
from xai_lightning.functional.fairness import METRICS
from xai_lightning.functional.gate import Limit
from xai_lightning.functional.tables import choose


def monitors(trainer: Trainer) -> list[Monitor]:
    """The monitors among the Trainer's callbacks."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, Monitor)]


def check_can_decide(trainer: Trainer, dirpath: object) -> None:
    """Refuse a Trainer under which no decision could be made, or no evidence be written.

    Raises:
        MisconfigurationException: says which, and what to change.
    """
    if not trainer.enable_validation:
        raise MisconfigurationException(
            "GatedCheckpoint decides at validations, and this Trainer makes none: it needs a validation_step, a "
            f"validation loader, and limit_val_batches above 0 (it is {trainer.limit_val_batches})"
        )
    if "://" in str(dirpath):
        raise MisconfigurationException(f"GatedCheckpoint needs a folder on a local disk; got dirpath={dirpath!r}")
    plugin = type(trainer.strategy.checkpoint_io).__name__
    if plugin == "AsyncCheckpointIO":
        raise MisconfigurationException(
            f"GatedCheckpoint hashes each file once it is written; {plugin} writes it later. Use another plugin."
        )


def check_directions(limits: Sequence[Limit]) -> None:
    """Refuse a fairness limit on the wrong side, which would keep the least fair model (trap 86).

    Raises:
        ValueError: if a metric of which high values are good has an ``at_most``, or the reverse.
    """
    for limit in limits:
        parts = limit.name.split("/")
        metric = METRICS.get(parts[-2]) if is_fairness(limit.name) else None
        right = "at_most" if metric is None or metric.best == "low" else "at_least"
        if metric is not None and limit.kind != right:
            raise ValueError(
                f"{limit.kind}[{limit.name!r}]: {metric.best} values of {parts[-2]} are good (ideal {metric.ideal:g}), "
                f"so its limit belongs into {right}; got {limit.threshold:g}"
            )


def refuse(**options: object) -> None:
    """Refuse options of ``ModelCheckpoint`` under which files would be written that no gate has decided on.

    Raises:
        ValueError: if one is given.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"GatedCheckpoint refuses {name}={value!r}: it decides at the end of each validation, where the "
                "metrics are made, and stamps whole checkpoints"
            )


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
        limits.append(Limit(monitor, "finite", math.nan))
    if utility_floor:
        for prefix in _fairness_prefixes(given):
            chance = metrics.get(prefix + tags.balanced_accuracy("chance"), math.inf)
            limits.append(Limit(prefix + tags.balanced_accuracy("bound"), "above", chance))
    return limits


def _fairness_prefixes(limits: Sequence[Limit]) -> list[str]:
    """What stands before ``fairness/`` in the limits' names: the names of monitors, each with a slash, or nothing."""
    return list(dict.fromkeys(limit.name.partition("fairness/")[0] for limit in limits if is_fairness(limit.name)))


def promised_delta(trainer: Trainer, limits: Sequence[Limit]) -> float | None:
    """The largest error that a monitor with one of the fairness bounds may spend; None if one bound is nobody's."""
    deltas = []
    for limit in limits:
        if is_fairness(limit.name):
            owners = [monitor for monitor in monitors(trainer) if limit.name in monitor.full_names()]
            deltas.append(getattr(owners[0], "delta", None) if owners else None)
    known = [delta for delta in deltas if delta is not None]
    return max(known) if known and len(known) == len(deltas) else None


def evidence_of(trainer: Trainer) -> list[dict[str, Any]]:
    """What the monitors stamp into a checkpoint."""
    return [found for found in (monitor.evidence() for monitor in monitors(trainer)) if found]
