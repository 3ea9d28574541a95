"""What a run attained: the Pareto front of the monitored value and the violation of the limits."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple


class Point(NamedTuple):
    """One validation, reduced to its quality and its violation of the limits.

    Attributes:
        value: The monitored value.
        violation: The largest relative violation of a limit, at least 0.
        look: Number of the validation, counted from 1.
        epoch: Its epoch.
    """

    value: float
    violation: float
    look: int
    epoch: int


def extended(
    archive: Sequence[Point], new: Point, mode: Literal["min", "max"] = "min", *, size: int = 10
) -> tuple[Point, ...]:
    """The non-dominated points of ``archive`` and ``new``, at most ``size`` of them.

    A point is dominated if another is at least as good in both numbers and better in one. Of equal points, the earlier
    one stays. Beyond ``size``, the point in the densest region is dropped: the one with the smallest crowding distance.
    The two ends always stay. An archive shows what was attainable, not that any of it may be kept: the gate decides.

    Args:
        archive: Earlier points, none of which dominates another.
        new: Another point; a non-finite one changes nothing.
        mode: Whether a small or a large value is good.
        size: The maximum number of points to return, at least 2.

    Returns:
        The points from the best value to the worst.

    Raises:
        ValueError: If ``size`` is below 2, or ``mode`` unknown.

    Example:
        >>> archive = extended((), Point(0.9, 0.0, look=1, epoch=0))
        >>> archive = extended(archive, Point(0.5, 0.25, look=2, epoch=1))
        >>> [point.look for point in extended(archive, Point(0.95, 0.1, look=3, epoch=2))]
        [2, 1]

    References:
        K. Deb, A. Pratap, S. Agarwal, T. Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II,
        IEEE Transactions on Evolutionary Computation 6, 2002, section III.B.
    """
    if size < 2:
        raise ValueError(f"size must be at least 2, so that both ends are kept; got {size}")
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max'; got {mode!r}")
    if not (math.isfinite(new.value) and math.isfinite(new.violation)):
        return tuple(archive)
    sign = 1 if mode == "min" else -1
    if any(_costs(old, sign) == _costs(new, sign) or _dominates(old, new, sign) for old in archive):
        return tuple(archive)
    front = sorted([new, *(old for old in archive if not _dominates(new, old, sign))], key=lambda p: sign * p.value)
    while len(front) > size:
        front.pop(_densest(front))
    return tuple(front)


def _costs(point: Point, sign: int) -> tuple[float, float]:
    return sign * point.value, point.violation


def _dominates(a: Point, b: Point, sign: int) -> bool:
    ours, theirs = _costs(a, sign), _costs(b, sign)
    return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))


def _densest(front: Sequence[Point]) -> int:
    """Position of the inner point whose neighbours are closest to each other, relative to the extent of the front."""
    width, height = (abs(front[-1][axis] - front[0][axis]) for axis in (0, 1))
    pairs = zip(front, front[2:], strict=False)
    spans = [abs(b.value - a.value) / width + abs(b.violation - a.violation) / height for a, b in pairs]
    return 1 + spans.index(min(spans))
