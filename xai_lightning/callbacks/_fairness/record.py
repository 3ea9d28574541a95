"""What a FairnessMonitor logs about one validation."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.callbacks._fairness.asked import Asked
from xai_lightning.callbacks._fairness.individual import Gathered, Individuals
from xai_lightning.callbacks._fairness.subjects import Subject
from xai_lightning.callbacks._fairness.tally import Tally
from xai_lightning.callbacks._progress import step
from xai_lightning.callbacks._record import Record
from xai_lightning.functional import fairness, intervals
from xai_lightning.functional.fairness import RATES, Floor, Metric
from xai_lightning.functional.render import GroupRate, calibration, group_rates
from xai_lightning.sinks import Picture

PICTURED = ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy")
UTILITY_PARTS = ("value", "bound", "chance")
MISSING_SHARE = "missing_share"


Estimates = dict[str, dict[str, dict[str, float | None]]]
"""Value, lower, upper and bound by subject and metric; numbers that are not finite are None."""


class Conclusion(NamedTuple):
    """All results from one tally.

    Args:
        record: the numbers to log.
        estimates: the estimates to stamp into checkpoints.
    """

    record: Record
    estimates: Estimates


def metrics_of(asked: Asked, strata: bool) -> list[str]:
    """The metrics of a subject; within strata, only those computed from counts."""
    return [name for name, metric in asked.metrics.items() if not strata or metric.needs == "counts"]


def shared_names(asked: Asked, subjects: Iterable[str], attributes: Iterable[str]) -> list[str]:
    """Names of the metrics, and of the shares of samples without a group."""
    found = [
        tags.fairness(subject, metric, part)
        for subject in subjects
        for metric in metrics_of(asked, "|" in subject)
        for part in tags.ESTIMATE_PARTS
    ]
    return found + [tags.count(attribute, MISSING_SHARE) for attribute in attributes]


def direct_names(asked: Asked, subjects: Sequence[Subject]) -> list[str]:
    """Names of rates and counts per group."""
    plain = [subject for subject in subjects if subject.rows]
    found = [tags.rate(s.name, rate, group) for s in plain for rate in asked.rates for group in s.groups]
    return found + [tags.count(s.name, row) for s in plain for row in s.rows]


def conclude(asked: Asked, tally: Tally, subjects: Sequence[Subject], positive: int, error: float) -> Conclusion:
    """Metrics, rates and counts of all subjects."""
    record, estimates = Record(), {}
    for subject in subjects:
        evidence = cache(partial(tally.evidence, name=subject.counted, index=subject.index, positive=positive))
        estimates[subject.name] = _add_metrics(record, asked, subject, tally, evidence, error)
        if subject.rows:
            _add_rates(record, asked, subject, evidence)
            _add_counts(record, subject, tally)
    return Conclusion(record, estimates)


def _add_metrics(
    record: Record, asked: Asked, subject: Subject, tally: Tally, evidence: Callable[[str], Any], error: float
) -> dict[str, dict[str, float | None]]:
    stamped: dict[str, dict[str, float | None]] = {}
    strata = asked.strata if subject.strata else "worst" if tally.labels else None
    for name in metrics_of(asked, subject.strata):
        parts = asked.estimate(name, evidence(asked.metrics[name].needs), error, strata=strata)
        for part, value in parts.items():
            # a prediction that is not finite was not counted, and could have been either decision
            number = math.nan if tally.nonfinite else value
            record.shared[tags.fairness(subject.name, name, part)] = number
            stamped.setdefault(name, {})[part] = number if math.isfinite(number) else None
        step()
    return stamped


def _add_rates(record: Record, asked: Asked, subject: Subject, evidence: Callable[[str], Any]) -> None:
    for rate in asked.rates:
        metric = Metric((rate,), "largest")
        values = metric.measure(evidence(metric.needs)).value
        # for several labels, their mean: one curve per group and label would be too many
        per_group = values.reshape(-1, values.shape[-1]).nanmean(dim=0) if values.ndim > 2 else values[0]
        pairs = zip(subject.groups, per_group.tolist(), strict=True)
        record.direct |= {tags.rate(subject.name, rate, group): value for group, value in pairs}


def _add_counts(record: Record, subject: Subject, tally: Tally) -> None:
    sizes = tally.sizes(subject.counted)
    pairs = zip(subject.rows, sizes.tolist(), strict=True)
    record.direct |= {tags.count(subject.name, row): float(number) for row, number in pairs}
    named = int(sizes[: len(subject.groups)].sum())
    total = int(sizes.sum())
    record.shared[tags.count(subject.name, MISSING_SHARE)] = (total - named) / total if total else math.nan


def undefined(asked: Asked, tally: Tally, subjects: Sequence[Subject], positive: int) -> int:
    """Number of rates without a denominator, over the groups of all attributes."""
    return sum(_undefined(asked, tally, subject, positive) for subject in subjects if subject.rows)


def _undefined(asked: Asked, tally: Tally, subject: Subject, positive: int) -> int:
    kinds = {metric.needs for metric in asked.metrics.values()}
    return sum(
        fairness.undefined(
            tally.evidence(kind, subject.counted, subject.index, positive),
            [metric for metric in asked.metrics.values() if metric.needs == kind],
        )
        for kind in kinds
    )


def charts(asked: Asked, subjects: Iterable[str]) -> dict[str, dict[str, tuple[str, str, str]]]:
    """Margin charts by subject and metric: the names of value, lower and upper."""
    return {
        subject: {
            name: tuple(tags.fairness(subject, name, part) for part in ("value", "lower", "upper"))  # type: ignore[misc]
            for name in metrics_of(asked, "|" in subject)
        }
        for subject in subjects
    }


# --- utility


def utility_measure(numbers: bool) -> str:
    """The measure to which a gate's utility floor applies."""
    return "r2" if numbers else "balanced_accuracy"


def utility(tally: Tally, name: str, error: float, *, exact: bool) -> tuple[Floor, float]:
    """The utility of the model over all samples, and the utility of a constant prediction."""
    if name in tally.residuals:
        return fairness.determination(tally.residuals[name], error), 0.0
    counts = tally.counts[name].sum(dim=0)
    if not tally.labels:
        return fairness.balanced_accuracy(counts, error, exact=exact), 1 / tally.n_classes
    # labels share their samples: a mean of limits that share the error holds whatever the dependence between labels
    each = fairness.balanced_accuracy(counts, error / tally.labels, exact=exact)
    return Floor(each.value.mean(), each.bound.mean()), 0.5


def add_utility(record: Record, tally: Tally, name: str, error: float, *, exact: bool) -> None:
    """Add the utility to the record: NaN if a prediction was not finite."""
    floor, chance = utility(tally, name, error, exact=exact)
    value, bound = (math.nan if tally.nonfinite else float(part) for part in floor)
    measure = utility_measure(name in tally.residuals)
    for part, number in zip(UTILITY_PARTS, (value, bound, chance), strict=True):
        record.shared[tags.utility(measure, part)] = number


# --- individual fairness


def add_individuals(record: Record, individuals: Individuals, gathered: Gathered, error: float) -> None:
    """Add flips and consistency."""
    shared = individuals.names()[0]
    numbers = individuals.conclude(gathered, error)
    record.shared |= {name: numbers[name] for name in shared}
    record.direct |= {name: number for name, number in numbers.items() if name not in shared}


# --- pictures


def add_pictures(record: Record, tally: Tally, subjects: Sequence[Subject], positive: int) -> None:
    """Add pictures of the rates per group with intervals, and of the calibration per group."""
    for subject in subjects:
        if subject.rows and subject.counted in tally.counts and not tally.labels:
            confusion = tally.evidence("counts", subject.counted, subject.index, positive)
            record.pictures[tags.fairness_picture(subject.name, "rates")] = partial(_draw_rates, subject, confusion)
        if subject.rows and subject.counted in tally.scores:
            cells = tally.evidence("scores", subject.counted, subject.index, positive)
            record.pictures[tags.fairness_picture(subject.name, "calibration")] = partial(_draw_scores, subject, cells)


def _draw_rates(subject: Subject, confusion: fairness.Confusion) -> Picture:
    drawn = [_group_rate(name, confusion) for name in PICTURED]
    return group_rates(subject.groups, drawn, title=f"{subject.name}: rates per group, 95 % intervals")


def _group_rate(name: str, confusion: fairness.Confusion) -> GroupRate:
    of = Metric((name,), "largest").measure(confusion)
    limits = of.limits(0.025, exact=False) or intervals.Interval(of.value, of.value)
    numbers = RATES[name].denominator(confusion)
    overall = float(RATES[name].numerator(confusion).sum() / numbers.sum())
    value, lower, upper = (part[0].tolist() for part in (of.value, *limits))
    return GroupRate(name.replace("_", " "), value, lower, upper, numbers.tolist(), overall)


def _draw_scores(subject: Subject, cells: fairness.Scored) -> Picture:
    curves = fairness.reliability(cells)
    histogram: Tensor = cells.numbers.sum(dim=-2)
    parts = torch.stack(histogram.chunk(32, dim=-1), dim=-2).sum(dim=-1)
    title = f"{subject.name}: calibration per group"
    return calibration(subject.groups, *curves, title=title, scores=parts)
