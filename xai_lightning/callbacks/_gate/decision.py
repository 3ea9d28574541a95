"""What a gate asks of a Trainer before it decides."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from xai_lightning import tags
from xai_lightning._lightning import MisconfigurationException, Trainer, rank_zero_warn
from xai_lightning.callbacks._gate.evidence import Coverage, is_fairness
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._sharded import refuse_tensor_parallel, unseen
from xai_lightning.callbacks._trainer import callbacks_of
from xai_lightning.functional.fairness import METRICS
from xai_lightning.functional.gate import Limit, Outlook
from xai_lightning.functional.tables import choose


def monitors(trainer: Trainer) -> list[Monitor]:
    """The monitors among the Trainer's callbacks."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, Monitor)]


def check_can_decide(trainer: Trainer, dirpath: object) -> None:
    """Refuse a Trainer under which no decision could be made or no evidence written.

    Raises:
        MisconfigurationException: says why, and what to change.
    """
    check_one_file(trainer)
    if not trainer.enable_validation:
        raise MisconfigurationException(
            "GatedCheckpoint decides at validations, but this Trainer runs none: it needs a validation_step, a "
            f"validation loader, and limit_val_batches above 0 (it is {trainer.limit_val_batches})"
        )
    if "://" in str(dirpath):
        raise MisconfigurationException(f"GatedCheckpoint needs a folder on a local disk; got dirpath={dirpath!r}")
    plugin: Any = trainer.strategy.checkpoint_io
    while plugin is not None:
        # by name, since a plugin may wrap another and come from either distribution
        if any(kind.__name__ == "AsyncCheckpointIO" for kind in type(plugin).__mro__):
            raise MisconfigurationException(
                f"GatedCheckpoint hashes each file as soon as it is saved, but {type(plugin).__name__} writes it "
                "later; leave the plugin out, or use one that returns only when the file is written"
            )
        plugin = getattr(plugin, "checkpoint_io", None)


def check_one_file(trainer: Trainer) -> None:
    """Refuse strategies that spread a checkpoint over several files, or with which the gate was never run.

    Raises:
        MisconfigurationException: says what to use instead.
    """
    refuse_tensor_parallel(trainer)
    use = "ModelParallelStrategy(save_distributed_checkpoint=False) with fully_shard in configure_model"
    name = unseen(trainer)
    if name:
        raise MisconfigurationException(
            f"GatedCheckpoint is not supported with {name}, under which it has never been run; use {use}, or "
            "ModelCheckpoint"
        )
    if getattr(trainer.strategy, "_save_distributed_checkpoint", False):
        raise MisconfigurationException(
            "GatedCheckpoint stamps and hashes a single file, but this strategy saves a folder with one file per rank "
            f"(save_distributed_checkpoint=True); use {use}"
        )


def check_directions(limits: Sequence[Limit]) -> None:
    """Refuse a limit on the wrong side of a fairness metric or a utility, which would keep the worst model (trap 86).

    Raises:
        ValueError: if a metric whose high values are good has an ``at_most``, or the reverse.
    """
    for limit in limits:
        best = _best(limit.name)
        right = "at_most" if best == "low" else "at_least"
        if best is not None and limit.kind != right:
            raise ValueError(
                f"{limit.kind}[{limit.name!r}]: {best} values of {limit.name.split('/')[-2]} are good, so its limit "
                f"belongs in {right}; got {limit.threshold:g}"
            )


def warn_of_conflicts(limits: Sequence[Limit]) -> None:
    """Warn of limits that cannot both be narrow if groups differ in their base rates (Chouldechova 2017; trap 87)."""
    found: dict[str, dict[str, str]] = {}
    for limit in limits:
        parts = limit.name.split("/")
        metric = METRICS.get(parts[-2]) if is_fairness(limit.name) else None
        rates = set() if metric is None else {rate for rate in metric.rates if isinstance(rate, str)}
        kinds = {"use": rates & _PREDICTIVE, "errors": rates & _ERRORS}
        found.setdefault("/".join(parts[:-2]), {}).update({kind: limit.name for kind, of in kinds.items() if of})
    for names in found.values():
        if len(names) == 2:
            rank_zero_warn(
                f"{names['use']} and {names['errors']} cannot both be near their ideal if base rates differ between "
                "groups, unless there are hardly any errors; leave one out, or choose wide limits"
            )


_PREDICTIVE = frozenset(
    ("positive_predictive_value", "negative_predictive_value", "false_discovery_rate", "false_omission_rate")
)
_ERRORS = frozenset(("true_positive_rate", "false_positive_rate", "false_negative_rate", "true_negative_rate"))


def check_monitor(monitor: str | None, mode: str) -> None:
    """Refuse a mode that would keep the worst of the checkpoints that pass (trap 86).

    Raises:
        ValueError: if ``monitor`` is a fairness metric or a utility, and ``mode`` looks for its worst value.
        TypeError: if ``monitor`` is not a name.
    """
    given: object = monitor
    if not isinstance(given, str | None):
        raise TypeError(f"monitor must be the name of a metric, or None; got {given!r}")
    best = None if monitor is None else _best(monitor)
    right = {"low": "min", "high": "max", None: mode}[best]
    if mode != right:
        raise ValueError(
            f"{best} values of monitor={monitor!r} are good, so it needs mode={right!r}; got mode={mode!r}"
        )


def _best(name: str) -> Literal["low", "high"] | None:
    """Which values of a fairness metric or a utility are good; None if the name does not tell."""
    parts = name.split("/")
    if is_fairness(name):
        return METRICS[parts[-2]].best if parts[-2] in METRICS else None
    return "high" if len(parts) >= 3 and parts[-3] == "utility" and parts[-1] in ("value", "bound") else None


def refuse(**options: object) -> None:
    """Refuse options of ``ModelCheckpoint`` under which files would be written that no gate has decided on.

    Raises:
        ValueError: if one is given.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"GatedCheckpoint refuses {name}={value!r}: it decides at the end of each validation, where the "
                f"metrics are computed, and stamps whole checkpoints; leave {name} out"
            )


def check_names(trainer: Trainer, wanted: Sequence[str]) -> None:
    """Refuse a name that nothing logs: neither the module so far, nor any monitor at any validation.

    Raises:
        MisconfigurationException: names the nearest, and lists what is logged.
    """
    known: set[str] = set(trainer.callback_metrics)
    drawn: set[str] = set()
    for monitor in monitors(trainer):
        shared, direct = ({tags.within(monitor.name, name) for name in names} for names in monitor.logged_names())
        known, drawn = known | shared, drawn | direct
    for name in wanted:
        if name in drawn - known:
            raise MisconfigurationException(
                f"GatedCheckpoint: {name!r} is logged for viewing only, not to callback_metrics; limit a metric that "
                "is computed from it"
            )
        try:
            choose("metric", name, sorted(known))
        except ValueError as error:
            message = f"GatedCheckpoint: nothing logs {name!r} in a validation. {error}"
            raise MisconfigurationException(message) from error


def owner_of(trainer: Trainer, name: str) -> Monitor | None:
    """The monitor that logs ``name``."""
    return next((monitor for monitor in monitors(trainer) if name in monitor.full_names()), None)


def logged_by_monitors(trainer: Trainer) -> set[str]:
    """Every name that a monitor logs, with its prefix."""
    return {name for monitor in monitors(trainer) for name in monitor.full_names()}


def all_limits(
    given: Sequence[Limit],
    monitor: str | None,
    metrics: Mapping[str, float],
    *,
    utility_floor: bool,
    logged: Collection[str] = (),
) -> list[Limit]:
    """The given limits, one that the monitored value is finite, and the utility floors of fairness limits.

    Args:
        given: the user's limits.
        monitor: name of the monitored value.
        metrics: what was logged; the chance levels are read from it.
        utility_floor: whether fairness limits need a model that is better than chance.
        logged: names that monitors log; a floor is on each ``utility/<measure>/bound`` among them.
    """
    limits = list(given)
    if monitor is not None:
        limits.append(Limit(monitor, "finite", math.nan))
    if utility_floor:
        for prefix in _fairness_prefixes(given):
            limits += [_floor(prefix, measure, metrics) for measure in _utilities(prefix, logged)]
    return limits


def _floor(prefix: str, measure: str, metrics: Mapping[str, float]) -> Limit:
    chance = metrics.get(prefix + tags.utility(measure, "chance"), math.inf)
    return Limit(prefix + tags.utility(measure, "bound"), "above", chance)


def _utilities(prefix: str, logged: Collection[str]) -> list[str]:
    """Measures of utility that are logged with the metrics below ``prefix``; if there are none, the expected one."""
    pattern = re.compile(re.escape(prefix) + tags.utility("([^/]+)", "bound"))
    found = sorted(match[1] for match in map(pattern.fullmatch, logged) if match)
    return found or ["balanced_accuracy"]


def _fairness_prefixes(limits: Sequence[Limit]) -> list[str]:
    """What precedes ``fairness/`` in the limits' names: the name of a monitor and a slash, or nothing."""
    return list(dict.fromkeys(limit.name.partition("fairness/")[0] for limit in limits if is_fairness(limit.name)))


def coverage(trainer: Trainer, limits: Sequence[Limit]) -> Coverage:
    """Which limits are on a ``/bound`` of a monitor that accounts for an error, and the largest such error."""
    names = dict.fromkeys(limit.name for limit in limits)
    owners = {name: owner_of(trainer, name) for name in names if name.endswith("/bound")}
    deltas = {name: getattr(owner, "delta", None) for name, owner in owners.items()}
    known = {name: float(delta) for name, delta in deltas.items() if delta is not None}
    return Coverage(tuple(known), tuple(name for name in names if name not in known), max(known.values(), default=None))


def restarted(trainer: Trainer, names: Sequence[str], look: int) -> list[str]:
    """Owners of the limits ``names`` whose error accounts cover fewer validations than ``look``."""
    owners = {id(owner): owner for owner in (owner_of(trainer, name) for name in names)}
    return [type(owner).__name__ for owner in owners.values() if getattr(owner, "looks", look) < look]


def outlooks(trainer: Trainer, limits: Sequence[Limit]) -> list[Outlook]:
    """What the owners of the limits say about their sample sizes; those that know nothing are left out."""
    found = []
    for limit in limits:
        owner = owner_of(trainer, limit.name)
        try:
            outlook = owner.outlook(limit.name, limit.kind, limit.threshold) if owner is not None else None
        except Exception as error:  # noqa: BLE001 - a report that fails is no reason to lose a training
            rank_zero_warn(f"{type(owner).__name__} could not report on the sample size of {limit.name}: {error!r}")
            continue
        found += [outlook] if outlook is not None else []
    return found


def lacks(trainer: Trainer, limits: Sequence[Limit]) -> dict[str, str]:
    """Which rows the limited metrics lack to be defined, by name, as far as their owners know."""
    owners = {limit.name: owner_of(trainer, limit.name) for limit in limits}
    found = {name: owner.lack(name) for name, owner in owners.items() if owner is not None}
    return {name: lack for name, lack in found.items() if lack}


class Sizes(NamedTuple):
    """Whether the rows suffice for the gate to open at all.

    Args:
        opens: whether they do.
        numbers: what is logged about it, by name.
        sentence: the same in words.
    """

    opens: bool
    numbers: dict[str, float]
    sentence: str


def sizes(trainer: Trainer, limits: Sequence[Limit], *, utility_floor: bool) -> Sizes | None:
    """Whether the rows suffice for the given limits and their utility floors; None if no monitor knows."""
    found = outlooks(trainer, limits)
    logged = logged_by_monitors(trainer)
    wanted = all_limits(limits, None, {}, utility_floor=utility_floor, logged=logged)
    lacking = lacks(trainer, [limit for limit in wanted if limit.name not in {outlook.name for outlook in found}])
    if not found and not lacking:
        return None
    opens = all(outlook.can_open for outlook in found) and not lacking
    numbers = {tags.xai("gate", "can_open"): float(opens)}
    for outlook in found:
        parts = {"smallest": outlook.smallest, "needed": math.nan if outlook.needed is None else outlook.needed}
        numbers |= {tags.sample_size(outlook.name, part): float(number) for part, number in parts.items()}
    told = [outlook.sentence for outlook in found]
    told += [f"{name}: {lack}, so the gate cannot open" for name, lack in lacking.items()]
    return Sizes(opens, numbers, f"Sample sizes: {'; '.join(told)}.")


def evidence_of(trainer: Trainer) -> list[dict[str, Any]]:
    """What the monitors stamp into a checkpoint."""
    return [found for found in (monitor.evidence() for monitor in monitors(trainer)) if found]
