"""The decision whether a checkpoint may be kept: limits and metrics in, verdict out."""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Literal, NamedTuple

Kind = Literal["at_most", "at_least", "above", "finite"]


class Limit(NamedTuple):
    """A limit that one metric must keep.

    Attributes:
        name: Name under which the metric is logged.
        kind: ``at_most`` and ``at_least`` allow the threshold itself, ``above`` does not; ``finite`` only requires a
            finite number from this validation.
        threshold: In the unit of the metric; not used by ``finite``.
    """

    name: str
    kind: Kind
    threshold: float


class Check(NamedTuple):
    """One limit, checked against one metric.

    Attributes:
        name: Name of the metric.
        kind: Kind of the limit.
        threshold: Threshold of the limit.
        value: The metric; None if it is missing.
        passed: Whether the limit holds.
        reason: Why, in words.
        violation: How far the metric is beyond the threshold, in its unit: 0 if the limit holds, ``inf`` if the metric
            is unknown.
    """

    name: str
    kind: Kind
    threshold: float
    value: float | None
    passed: bool
    reason: str
    violation: float

    @property
    def relative(self) -> float:
        """The violation relative to the threshold's size, to compare metrics; in the metric's unit if that is 0."""
        size = abs(self.threshold) if math.isfinite(self.threshold) else 0.0
        return self.violation / (size or 1.0)


class Verdict(NamedTuple):
    """The decision and the checks it rests on.

    Attributes:
        open: Whether every limit holds.
        checks: One check per limit, in the order of the limits.
        reason: Why, in words; names every limit that does not hold.
    """

    open: bool
    checks: tuple[Check, ...]
    reason: str

    @property
    def violation(self) -> float:
        """The largest violation of any limit: 0 if the gate is open, ``inf`` if a metric is unknown."""
        return max(check.violation for check in self.checks)

    @property
    def relative(self) -> float:
        r"""The largest relative violation, :math:`\max_j (B_j - \tau_j)^+ / |\tau_j|`: 0 if the gate is open.

        It ranks candidates that did not pass; a small value does not mean that little is wrong.

        References:
            K. Deb, An efficient constraint handling method for genetic algorithms, Computer Methods in Applied
            Mechanics and Engineering 186, 2000.
        """
        return max(check.relative for check in self.checks)


class Outlook(NamedTuple):
    """Whether the data suffice for a limit, whatever the model: the sample-size report of one limit.

    Attributes:
        name: Name of the metric.
        group: The group with the smallest denominator.
        of: What that denominator counts, in the plural, such as ``positives``.
        smallest: The count in that group.
        needed: Count per group from which the limit holds if the estimated gap is 0; None if no count suffices.
        can_open: Whether the limit can hold with the present counts.
        sentence: The same in words, without a full stop.
    """

    name: str
    group: str
    of: str
    smallest: int
    needed: int | None
    can_open: bool
    sentence: str


def limits(
    at_most: Mapping[str, float] | None = None, at_least: Mapping[str, float] | None = None
) -> tuple[Limit, ...]:
    """Limits from two mappings of metric names to thresholds.

    Args:
        at_most: Thresholds that a metric may reach but not exceed, for metrics where small is good.
        at_least: Thresholds that a metric must reach, for metrics where large is good.

    Returns:
        The limits of ``at_most``, then those of ``at_least``, in the order of the mappings.

    Raises:
        ValueError: If there is no limit at all, a threshold is not finite, a name is empty, or the two limits of one
            name contradict each other.
        TypeError: If an argument is not a mapping, a name not a string, or a threshold not a real number.

    Example:
        >>> limits(at_most={"val_loss": 0.7}, at_least={"val_acc": 0.8})
        (Limit(name='val_loss', kind='at_most', threshold=0.7), Limit(name='val_acc', kind='at_least', threshold=0.8))
    """
    found = (*_read("at_most", at_most), *_read("at_least", at_least))
    if not found:
        raise ValueError(
            f"a gate without limits keeps every checkpoint, got at_most={at_most!r} and at_least={at_least!r}; "
            "name at least one metric, such as at_least={'val_acc': 0.8}"
        )
    highest = {limit.name: limit.threshold for limit in found if limit.kind == "at_most"}
    for limit in found:
        if limit.kind == "at_least" and limit.threshold > highest.get(limit.name, math.inf):
            raise ValueError(
                f"at_least[{limit.name!r}] must not exceed at_most[{limit.name!r}], "
                f"got {limit.threshold:g} and {highest[limit.name]:g}"
            )
    return found


def decide(
    limits: Sequence[Limit],
    metrics: Mapping[str, float],
    fresh: Container[str],
    lacks: Mapping[str, str] | None = None,
) -> Verdict:
    """Whether all limits hold for the metrics of one validation.

    The gate is open if every limit holds. A metric that is missing, stale (of an earlier validation), NaN or
    infinite keeps it closed: an unknown value does not pass. An open gate shows that the limits hold, not that the
    model is fair or useful beyond them.

    Args:
        limits: At least one limit.
        metrics: Metrics by the name they are logged under.
        fresh: Names of the metrics that this validation logged.
        lacks: Why a metric is NaN, in words, by its name, where that is known.

    Returns:
        The verdict, with one check per limit.

    Raises:
        ValueError: If there are no limits.

    Example:
        >>> gate = (Limit("val_loss", "at_most", 0.5), Limit("val_acc", "at_least", 0.8))
        >>> decide(gate, {"val_loss": 0.75, "val_acc": 0.9}, fresh={"val_loss", "val_acc"}).reason
        'val_loss 0.75 exceeds 0.5 by 0.25'
        >>> decide(gate, {"val_loss": 0.25, "val_acc": 0.9}, fresh={"val_loss"}).reason
        'val_acc is stale: this validation did not log it'
        >>> decide(gate[1:], {"val_acc": float("nan")}, {"val_acc"}, lacks={"val_acc": "no row of it"}).reason
        'val_acc is NaN: no row of it'
    """
    if not limits:
        raise ValueError(f"limits must hold at least one limit, got {limits!r}")
    known = lacks or {}
    checks = tuple(
        _check(limit, metrics.get(limit.name), limit.name in fresh, known.get(limit.name, "")) for limit in limits
    )
    failures = [check.reason for check in checks if not check.passed]
    holds = "the only limit holds" if len(checks) == 1 else f"all {len(checks)} limits hold"
    return Verdict(not failures, checks, "; ".join(failures) or holds)


class _Comparison(NamedTuple):
    """One kind of limit: how far a value is beyond the threshold (it fails above 0), and the words for both cases."""

    excess: Callable[[float, float], float]
    holds: str
    fails: str


_COMPARISONS: Mapping[Kind, _Comparison] = MappingProxyType(
    {
        "at_most": _Comparison(lambda value, threshold: value - threshold, "is at most {}", "exceeds {} by {}"),
        "at_least": _Comparison(
            lambda value, threshold: threshold - value, "is at least {}", "falls short of {} by {}"
        ),
        "above": _Comparison(
            # A tie violates a strict limit, by the smallest step there is.
            lambda value, threshold: threshold - value or math.ulp(threshold),
            "is above {}",
            "must be above {}, short by {}",
        ),
        "finite": _Comparison(lambda value, threshold: 0.0, "is a finite number", ""),
    }
)


def _check(limit: Limit, value: float | None, fresh: bool, lack: str) -> Check:
    unknown = _unknown(value, fresh, lack)
    if value is None or unknown:
        return Check(*limit, value, passed=False, reason=f"{limit.name} {unknown}", violation=math.inf)
    comparison = _COMPARISONS[limit.kind]
    excess = comparison.excess(value, limit.threshold)
    words = (comparison.fails if excess > 0 else comparison.holds).format(f"{limit.threshold:g}", _shown(excess))
    return Check(*limit, value, excess <= 0, f"{limit.name} {_shown(value)} {words}", max(excess, 0.0))


def _shown(value: float) -> str:
    """Rounded to four decimals where that is precise enough, else to four significant digits."""
    return f"{round(value, 4):g}" if abs(value) >= 1e-2 else f"{value:.4g}"


def _unknown(value: float | None, fresh: bool, lack: str) -> str:
    """Why a metric cannot be compared with a threshold; empty if it can."""
    if value is None:
        return "is missing: it was never logged"
    if not fresh:  # Lightning keeps the values of earlier validations in `callback_metrics`.
        return "is stale: this validation did not log it"
    if math.isnan(value):
        return f"is NaN: {lack or 'undefined, or not computed'}"
    return "" if math.isfinite(value) else f"is {value}: not finite"


def _read(kind: Literal["at_most", "at_least"], thresholds: Mapping[str, float] | None) -> tuple[Limit, ...]:
    if thresholds is None:
        return ()
    if not isinstance(thresholds, Mapping):
        raise TypeError(f"{kind} must map names of metrics to thresholds, got {thresholds!r}")
    return tuple(Limit(_name(kind, name), kind, _threshold(kind, name, value)) for name, value in thresholds.items())


def _name(kind: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{kind} must be keyed by names of metrics, got {name!r}")
    if not name.strip():
        raise ValueError(f"{kind} must be keyed by names of metrics, got the empty name {name!r}")
    return name


def _threshold(kind: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{kind}[{name!r}] must be a real number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{kind}[{name!r}] must be finite, got {value!r}")
    return float(value)
