"""What a run attained: the points that no other point beats in both the monitored value and the limits."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple


class Point(NamedTuple):
    """One validation, as far as a choice between quality and limits is concerned.

    Attributes:
        value: The monitored value.
        violation: The largest relative violation of a limit, at least 0.
        look: Number of the validation, from 1.
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

    A point is dominated if another is at least as good in both numbers and better in one. Of equal points the earlier
    stays. Beyond ``size``, the point in the densest place goes: the one with the smallest crowding distance. The two
    ends always stay. An archive says what could be had, not that any of it may be kept: that is the gate's decision.

    Args:
        archive: Earlier points, none of which dominates another.
        new: A further point; one that is not finite changes nothing.
        mode: Whether a small or a large value is good.
        size: The most points to return, at least 2.

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
        raise ValueError(f"size must be at least 2, to hold both ends; got {size}")
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
    """Position of the inner point whose neighbours are nearest to each other, in parts of the whole front."""
    width, height = (abs(front[-1][axis] - front[0][axis]) for axis in (0, 1))
    pairs = zip(front, front[2:], strict=False)
    spans = [abs(b.value - a.value) / width + abs(b.violation - a.violation) / height for a, b in pairs]
    return 1 + spans.index(min(spans))
