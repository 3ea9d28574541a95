"""Slow twins of the fairness functions: one sample, pair and limit at a time, in float64, from the definitions."""

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from statistics import NormalDist

Limits = tuple[float, float]
Count = tuple[int, int]


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Root of a function that is at least 0 at ``low`` and at most 0 at ``high``, by bisection."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) >= 0 else (low, middle)
    return (low + high) / 2


def wilson(count: Count, error: float) -> Limits:
    """Wilson 1927: the proportions at which the score test just does not reject."""
    successes, total = count
    z, p = NormalDist().inv_cdf(1 - error), successes / total

    def accepted(theta: float) -> float:
        return z * math.sqrt(theta * (1 - theta) / total) - abs(p - theta)

    lower = 0.0 if successes == 0 else root(lambda theta: -accepted(theta), 0, p)
    upper = 1.0 if successes == total else root(accepted, p, 1)
    return lower, upper


def newcombe(a: Count, b: Count, error: float) -> Limits:
    """Newcombe 1998, method 10."""
    (low_a, high_a), (low_b, high_b) = wilson(a, error), wilson(b, error)
    p, q = a[0] / a[1], b[0] / b[1]
    return p - q - math.hypot(p - low_a, high_b - q), p - q + math.hypot(high_a - p, q - low_b)


def mover_ratio(a: Count, b: Count, error: float) -> Limits:
    """Donner and Zou 2012: the ratios r at which a limit of p_a - r p_b is 0."""
    (low_a, high_a), (low_b, high_b) = wilson(a, error), wilson(b, error)
    p, q = a[0] / a[1], b[0] / b[1]
    far = 1e9
    lower = root(lambda r: p - r * q - math.hypot(p - low_a, r * (high_b - q)), 0, far)
    upper = root(lambda r: p - r * q + math.hypot(high_a - p, r * (q - low_b)), 0, far)
    return lower, upper if q else math.inf


def counts(
    predictions: Sequence[int], targets: Sequence[int], groups: Sequence[int], classes: int, n_groups: int
) -> list:
    """Samples per group, actual and predicted class."""
    cells = [[[0] * classes for _ in range(classes)] for _ in range(n_groups)]
    for predicted, actual, group in zip(predictions, targets, groups, strict=True):
        cells[group][actual][predicted] += 1
    return cells


def rate(name: str, square: list) -> Count:
    """Successes and trials of a rate within one group, of its actual x predicted counts; class 1 is favourable."""
    (tn, fp), (fn, tp) = square
    return {
        "selection_rate": (tp + fp, tp + fp + fn + tn),
        "true_positive_rate": (tp, tp + fn),
        "false_positive_rate": (fp, fp + tn),
        "false_negative_rate": (fn, tp + fn),
        "true_negative_rate": (tn, fp + tn),
        "positive_predictive_value": (tp, tp + fp),
        "negative_predictive_value": (tn, tn + fn),
        "false_omission_rate": (fn, tn + fn),
        "false_discovery_rate": (fp, tp + fp),
        "accuracy": (tp + tn, tp + fp + fn + tn),
        "base_rate": (tp + fn, tp + fp + fn + tn),
        "false_negative_share": (fn, fn + fp),
    }[name]


def rates(name: str, square: list) -> list[Count]:
    """All counts of a rate within one group: one of the favourable class, or one per class or pair of classes."""
    total, classes = sum(map(sum, square)), range(len(square))
    actual, predicted = [sum(row) for row in square], [sum(row[c] for row in square) for c in classes]
    if name == "class_selection_rate":
        return [(predicted[c], total) for c in classes]
    if name == "class_recall":
        return [(square[c][c], actual[c]) for c in classes]
    if name == "class_false_positive_rate":
        return [(predicted[c] - square[c][c], total - actual[c]) for c in classes]
    if name == "class_confusion":
        return [(square[y][c], actual[y]) for y in classes for c in classes]
    return [rate(name, square)]


def estimate(rates: Sequence[Sequence[Count]], aggregation: str, error: float, level: float) -> tuple[float, ...]:
    """Value, lower, upper and bound of a metric, of the counts [rate][group]."""
    if any(total == 0 for group in rates for _, total in group) or (
        len(rates[0]) < 2 and aggregation not in ("worst", "largest")
    ):
        return (math.nan,) * 4
    value = VALUES[aggregation](rates)
    if math.isnan(value):
        return (math.nan,) * 4
    watched = [clip(limit(rates, level / 2)) for limit in LIMITS[aggregation]]
    low = aggregation in ("difference", "difference_to_overall", "largest")
    return value, *watched, clip(LIMITS[aggregation][low](rates, error))


def clip(limit: float) -> float:
    return min(max(limit, 0.0), 1.0)


def gap(rates: Sequence[Sequence[Count]]) -> float:
    return max(p[0] / p[1] - q[0] / q[1] for group in rates for p, q in permutations(group, 2))


def gap_upper(rates: Sequence[Sequence[Count]], error: float) -> float:
    return max(newcombe(p, q, error)[1] for group in rates for p, q in permutations(group, 2))


def gap_lower(rates: Sequence[Sequence[Count]], error: float) -> float:
    each = error / sum(len(list(permutations(group, 2))) for group in rates)
    return max(newcombe(p, q, each)[0] for group in rates for p, q in permutations(group, 2))


def quotient(rates: Sequence[Sequence[Count]]) -> float:
    shares = [[p[0] / p[1] for p in group] for group in rates]
    return math.nan if any(max(group) == 0 for group in shares) else min(min(group) / max(group) for group in shares)


def quotient_lower(rates: Sequence[Sequence[Count]], error: float) -> float:
    return min(mover_ratio(p, q, error)[0] for group in rates for p, q in permutations(group, 2))


def quotient_upper(rates: Sequence[Sequence[Count]], error: float) -> float:
    each = error / sum(len(list(permutations(group, 2))) for group in rates)
    return min(mover_ratio(p, q, each)[1] for group in rates for p, q in permutations(group, 2))


def smallest(rates: Sequence[Sequence[Count]]) -> float:
    return min(p[0] / p[1] for group in rates for p in group)


def smallest_lower(rates: Sequence[Sequence[Count]], error: float) -> float:
    return min(wilson(p, error)[0] for group in rates for p in group)


def smallest_upper(rates: Sequence[Sequence[Count]], error: float) -> float:
    single = error / (2 * len(rates) * len(rates[0]))
    return min(wilson(p, single)[1] for group in rates for p in group)


def largest(rates: Sequence[Sequence[Count]]) -> float:
    return max(p[0] / p[1] for group in rates for p in group)


def largest_lower(rates: Sequence[Sequence[Count]], error: float) -> float:
    single = error / (2 * len(rates) * len(rates[0]))
    return max(wilson(p, single)[0] for group in rates for p in group)


def largest_upper(rates: Sequence[Sequence[Count]], error: float) -> float:
    return max(wilson(p, error)[1] for group in rates for p in group)


def with_rest(rates: Sequence[Sequence[Count]]) -> list[tuple[Count, Count, float]]:
    """Each group, all others together, and the share of the others in the trials."""
    found = []
    for group in rates:
        s, n = sum(p[0] for p in group), sum(p[1] for p in group)
        found += [(p, (s - p[0], n - p[1]), (n - p[1]) / n) for p in group]
    return found


def far(rates: Sequence[Sequence[Count]]) -> float:
    return max(abs(p[0] / p[1] - (p[0] + q[0]) / (p[1] + q[1])) for p, q, _ in with_rest(rates))


def far_upper(rates: Sequence[Sequence[Count]], error: float) -> float:
    return max(left * max(newcombe(p, q, error)[1], newcombe(q, p, error)[1]) for p, q, left in with_rest(rates))


def far_lower(rates: Sequence[Sequence[Count]], error: float) -> float:
    e = error / (4 * len(rates) * len(rates[0]))
    pairs = [(wilson(p, e), wilson(q, e), left) for p, q, left in with_rest(rates)]
    return max(left * max(low[0] - high[1], high[0] - low[1]) for low, high, left in pairs)


def share(p: Count, q: Count) -> float:
    overall = (p[0] + q[0]) / (p[1] + q[1])
    return math.nan if overall == 0 else p[0] / p[1] / overall


def shares(rates: Sequence[Sequence[Count]]) -> float:
    found = [share(p, q) for p, q, _ in with_rest(rates)]
    return math.nan if any(map(math.isnan, found)) else min(min(r, 1 / r if r else math.inf) for r in found)


def to_overall(ratio: float, left: float) -> float:
    """A group's rate over that of all, of its ratio to the others."""
    return 0.0 if ratio == 0 else 1 / (1 - left + (left / ratio if ratio != math.inf else 0))


def shares_lower(rates: Sequence[Sequence[Count]], error: float) -> float:
    found = []
    for p, q, left in with_rest(rates):
        low, high = (to_overall(r, left) for r in mover_ratio(p, q, error))
        found.append(min(low, 1 / high if high else math.inf))
    return min(found)


def shares_upper(rates: Sequence[Sequence[Count]], error: float) -> float:
    e, found = error / (4 * len(rates) * len(rates[0])), []
    for p, q, left in with_rest(rates):
        (low_p, high_p), (low_q, high_q) = wilson(p, e), wilson(q, e)
        low, high = to_overall(low_p / high_q, left), to_overall(high_p / low_q if low_q else math.inf, left)
        found.append(min(high, 1 / low if low else math.inf))
    return min(found)


VALUES = {
    "difference": gap,
    "ratio": quotient,
    "worst": smallest,
    "largest": largest,
    "difference_to_overall": far,
    "ratio_to_overall": shares,
}
LIMITS = {
    "difference": (gap_lower, gap_upper),
    "ratio": (quotient_lower, quotient_upper),
    "worst": (smallest_lower, smallest_upper),
    "largest": (largest_lower, largest_upper),
    "difference_to_overall": (far_lower, far_upper),
    "ratio_to_overall": (shares_lower, shares_upper),
}
