"""The table of aggregations of a quantity over groups."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import Tensor

from xai_lightning.functional.fairness.comparisons import (
    difference,
    difference_limits,
    gap,
    largest,
    largest_limits,
    magnitude,
    magnitude_limits,
    mean_difference,
    none,
    ratio,
    ratio_limits,
    ratio_to_overall,
    ratio_to_overall_limits,
    same,
    share,
    size,
    size_weighted,
    spread,
    to_overall,
    to_overall_limits,
    total_variation,
    whole,
    worst,
    worst_limits,
)
from xai_lightning.functional.fairness.groupwise import Groupwise
from xai_lightning.functional.intervals import Interval

Limits = Callable[[Groupwise, float, bool], Interval | None]


class Aggregation(NamedTuple):
    """How one metric is computed from a quantity of all groups.

    Attributes:
        value: Maps values [..., R, G] to the metric, float64[...]; NaN if any value is.
        limits: Maps the quantity, the one-sided error of each limit (above 0) and whether limits must be exact to the
            limits of the metric, float64[...], which may exceed the natural range; None if there is no closed form.
        best: Whether low or high values are good.
        groups: Number of groups below which the metric is undefined.
        reach: Maps the natural range of the quantity to that of the metric.
        ideal: Value if all groups are alike; None if that is the quantity's own ideal.
        formula: Formula in plain text; ``{0}`` stands for the quantity.
        hides: What the metric does not show: parts of a sentence, separated by semicolons.
    """

    value: Callable[[Groupwise], Tensor]
    limits: Limits
    best: Literal["low", "high"]
    groups: int
    reach: Callable[[float, float], tuple[float, float]]
    ideal: float | None
    formula: str
    hides: str


AGGREGATIONS: Mapping[str, Aggregation] = MappingProxyType(
    {
        "difference": Aggregation(
            difference,
            difference_limits,
            best="low",
            groups=2,
            reach=gap,
            ideal=0.0,
            formula="max_a {0}_a - min_b {0}_b",
            hides="which groups differ; how the groups between these extremes fare",
        ),
        "ratio": Aggregation(
            ratio,
            ratio_limits,
            best="high",
            groups=2,
            reach=share,
            ideal=1.0,
            formula="min_a {0}_a / max_b {0}_b",
            hides="which groups differ; how large the values are (0.1 % against 0.2 % reads like 40 % against 80 %)",
        ),
        "difference_to_overall": Aggregation(
            to_overall,
            to_overall_limits,
            best="low",
            groups=2,
            reach=gap,
            ideal=0.0,
            formula="max_a |{0}_a - {0}|",
            hides="which group differs; the deviation of a group that forms most of the data",
        ),
        "ratio_to_overall": Aggregation(
            ratio_to_overall,
            ratio_to_overall_limits,
            best="high",
            groups=2,
            reach=share,
            ideal=1.0,
            formula="min_a min({0}_a / {0}, {0} / {0}_a)",
            hides="which group differs; how large the values are; the deviation of a group that forms most of the data",
        ),
        "worst": Aggregation(
            worst,
            worst_limits,
            best="high",
            groups=1,
            reach=same,
            ideal=None,
            formula="min_a {0}_a",
            hides="which group it is; how the others fare",
        ),
        "largest": Aggregation(
            largest,
            largest_limits,
            best="low",
            groups=1,
            reach=same,
            ideal=None,
            formula="max_a {0}_a",
            hides="which group it is; how the others fare",
        ),
        "largest_magnitude": Aggregation(
            magnitude,
            magnitude_limits,
            best="low",
            groups=1,
            reach=size,
            ideal=0.0,
            formula="max_a |{0}_a|",
            hides="which group it is; in which direction it errs; how the others fare",
        ),
        "mean_difference": Aggregation(
            mean_difference,
            none,
            best="low",
            groups=2,
            reach=gap,
            ideal=0.0,
            formula="max_a {0}_a - min_b {0}_b",
            hides="which groups differ; a large gap in one rate beside a small gap in another",
        ),
        "total_variation": Aggregation(
            total_variation,
            none,
            best="low",
            groups=2,
            reach=share,
            ideal=0.0,
            formula="max_{{a,b}} 1/2 sum_k |{0}_a - {0}_b|",
            hides="which groups and classes differ",
        ),
        "size_weighted": Aggregation(
            size_weighted,
            none,
            best="low",
            groups=2,
            reach=gap,
            ideal=0.0,
            formula="max_a (n_a / N) |{0}_a - {0}|",
            hides="which group differs; harm to a small group (its small weight hides it)",
        ),
        "spread": Aggregation(
            spread,
            none,
            best="low",
            groups=2,
            reach=gap,
            ideal=0.0,
            formula="sqrt(max(0, Var_a({0}_a) - mean_a {0}_a (1 - {0}_a) / (n_a - 1)))",
            hides="which groups differ; the largest gap (which is larger)",
        ),
        "whole": Aggregation(
            whole,
            none,
            best="low",
            groups=1,
            reach=same,
            ideal=None,
            formula="{0}",
            hides="which groups are affected",
        ),
    }
)
"""Aggregations by name. To add one, add a row."""
