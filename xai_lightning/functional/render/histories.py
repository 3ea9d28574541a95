"""The limits of a gate and the values compared with them, over the validations of a run."""

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from xai_lightning.functional.gate import Kind

WORDS = MappingProxyType({"at_most": "at most", "at_least": "at least", "above": "above"})
"""Kinds of limits that have a threshold, in words."""


class LimitHistory(NamedTuple):
    """One limit of a gate, over V validations.

    Attributes:
        name: Metric that the gate compares.
        kind: Kind of the limit.
        threshold: Threshold in the unit of the metric; not used for ``finite``.
        bound: Value that the gate compared, float[V]; NaN where it was missing or stale.
        value: The underlying estimate, float[V], if known.
        lower: Lower limit of the estimate, float[V], if known.
        upper: Upper limit of the estimate, float[V], if known.
    """

    name: str
    kind: Kind
    threshold: float
    bound: Sequence[float]
    value: Sequence[float] | None = None
    lower: Sequence[float] | None = None
    upper: Sequence[float] | None = None


class Course:
    """One limit at the displayed validations."""

    def __init__(self, limit: LimitHistory, kept: Sequence[int]) -> None:
        self.name, self.kind, self.threshold = limit.name, limit.kind, float(limit.threshold)
        unknown = [math.nan] * len(limit.bound)
        self.bound, self.value, self.lower, self.upper = (
            np.array([unknown[i] if x is None or x[i] is None else x[i] for i in kept], dtype=np.float64)
            for x in (limit.bound, limit.value, limit.lower, limit.upper)
        )

    @property
    def upwards(self) -> bool:
        """Whether the forbidden side is above."""
        return self.kind in ("at_most", "finite")

    def holds(self, place: int) -> bool:
        """Whether the bound meets the limit; an unknown bound does not."""
        bound = float(self.bound[place])
        if not math.isfinite(bound) or self.kind == "finite":
            return math.isfinite(bound)
        if self.kind == "above":
            return bound > self.threshold
        return bound <= self.threshold if self.kind == "at_most" else bound >= self.threshold

    def words(self) -> str:
        """The limit, in words."""
        return f"{WORDS[self.kind]} {self.threshold:g}" if self.kind in WORDS else "any finite number"

    def scale(self) -> tuple[float, float]:
        """Lowest and highest value of the axis, chosen so that a few extreme values do not flatten the rest."""
        series = np.concatenate([self.bound, self.value, self.lower, self.upper])
        finite = series[np.isfinite(series) & (np.abs(series) < 1e100)]
        centre = self.threshold if self.kind in WORDS else float(np.median(finite)) if len(finite) else 0.0
        reach = 4 * float(np.quantile(np.abs(finite - centre), 0.75)) if len(finite) else 0.0
        near = [*finite[np.abs(finite - centre) <= reach].tolist(), centre]
        low, high = min(near), max(near)
        margin = 0.12 * (high - low) or 0.1 * abs(centre) or 1.0
        return low - margin, high + margin
