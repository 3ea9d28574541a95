"""The limits of a gate over the validations of a run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.ticker import MaxNLocator

from xai_lightning.functional.render.canvas import FAINT, INK, Picture
from xai_lightning.functional.render.histories import WORDS, Course, LimitHistory
from xai_lightning.functional.render.sheets import (
    BAND,
    FORBIDDEN,
    GRID,
    STAR,
    THRESHOLD,
    VALUE,
    Point,
    Sheet,
    breadth,
    fitted,
    listed,
)

MOST_LIMITS, MOST_VALIDATIONS = 8, 128
_LEFT, _RIGHT, _TOP, _HEAD, _PLOT, _EDGE, _AXIS, _FOOT = 62, 20, 34, 24, 118, 9, 28, 27
_Series = npt.NDArray[np.float64]


def gate_timeline(
    steps: Sequence[int],
    limits: Sequence[LimitHistory],
    *,
    opened: Sequence[bool],
    best: int | None = None,
    title: str = "gate",
) -> Picture:
    """A panel per limit: its bound over steps, marked with the decisions of the gate.

    Filled circles are validations at which the gate was open, hollow circles those at which it was closed: orange if
    closed by this limit, grey if by another. The star is the validation whose checkpoint is kept as best. The orange
    line is the threshold, and the shaded side is forbidden; the blue line is the estimate, within the band of its
    interval. Infinite or off-scale bounds are triangles at the edge, undefined bounds are crosses at the forbidden
    edge. An open gate means that the limits held, not that the model is fair.

    Args:
        steps: int[V], step of each validation.
        limits: The limits. Of more than 8, 8 are shown, preferably those that the last validation broke; a note names
            the others.
        opened: bool[V], whether the gate was open.
        best: Step of the checkpoint that is kept as best, if any.
        title: Title of the picture.

    Returns:
        uint8[H, W, 3], at most 920 pixels wide and 850 high. Of more than 128 validations, at most 128 are shown,
        including the first, the last and the best.

    Raises:
        ValueError: If there are no validations or no limits, or their lengths do not match.

    Example:
        >>> limit = LimitHistory("gap/bound", "at_most", 0.1, bound=[0.3, 0.08])
        >>> gate_timeline([10, 20], [limit], opened=[False, True], best=20).shape
        (249, 640, 3)
    """
    _check(steps, limits, opened)
    kept = _thinned(steps, best)
    courses = [Course(limit, kept) for limit in limits]
    # if not all fit, the limits broken now matter most
    broken = sorted(range(len(limits)), key=lambda place: courses[place].holds(-1))
    shown, hidden = sorted(broken[:MOST_LIMITS]), sorted(broken[MOST_LIMITS:])
    columns = 1 if len(shown) <= 4 else 2
    width, height = (640, 460)[columns - 1], _HEAD + _PLOT + 2 * _EDGE + _AXIS
    notes = [f"{len(kept)} of {len(steps)} validations shown"] * (len(kept) < len(steps))
    notes += [_named([courses[place] for place in hidden], width * columns - 100)] * bool(hidden)
    with style.context("default"):
        sheet = Sheet(columns * width, _TOP + -(-len(shown) // columns) * height + _FOOT + 17 * len(notes))
        sheet.text(fitted([title], sheet.width - 16, 11)[0], 8, 17, size=11)
        decisions = _Decisions([steps[i] for i in kept], [bool(opened[i]) for i in kept], best)
        for cell, place in enumerate(shown):
            corner = (cell % columns * width, _TOP + cell // columns * height)
            _Panel(sheet, corner, width, decisions).draw(courses[place])
        for line, note in enumerate(notes):
            sheet.text(note, 8, sheet.height - 30 - 17 * line, size=9)
        _legend(sheet)
        return sheet.picture()


class _Decisions(NamedTuple):
    steps: list[int]
    opened: list[bool]
    best: int | None


class _Panel:
    """The panel of one limit."""

    def __init__(self, sheet: Sheet, corner: Point, width: int, decisions: _Decisions) -> None:
        self.sheet, self.decisions = sheet, decisions
        self.left, self.right = corner[0] + _LEFT, corner[0] + width - _RIGHT
        self.top = corner[1] + _HEAD + _EDGE
        self.bottom = self.top + _PLOT
        steps = np.array(decisions.steps, dtype=np.float64)
        span = float(steps.max() - steps.min())
        share = (steps - steps.min()) / span if span else np.full(len(steps), 0.5)
        self.across = self.left + 8 + share * (self.right - self.left - 16)

    def draw(self, course: Course) -> None:
        self.low, self.high = course.scale()
        words = course.words()
        self.sheet.text(words, self.right, self.top - _EDGE - 12, "right", size=10, ink=THRESHOLD)
        room = self.right - self.left + 40 - 9 * len(words)
        self.sheet.text(fitted([course.name], room, 10)[0], self.left - 50, self.top - _EDGE - 12, size=10)
        self._ground(course)
        self._axes()
        self._lines(course)
        self._marks(course)

    def up(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.bottom - min(max(share, 0.0), 1.0) * _PLOT

    def _ground(self, course: Course) -> None:
        if course.kind in WORDS:
            y = round(self.up(course.threshold))
            ends = (self.top - _EDGE, y) if course.upwards else (y, self.bottom + _EDGE)
            self.sheet.boxes([(self.left, ends[0], self.right, ends[1])], FORBIDDEN)
        for start, stop in _runs(~np.isnan(course.lower) & ~np.isnan(course.upper)):
            pair = [self._course(x, start, stop) for x in (course.lower, course.upper)]
            self.sheet.area([*pair[0], *reversed(pair[1])], BAND)

    def _axes(self) -> None:
        ticks = [
            x
            for x in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
            if self.low <= x <= self.high
        ]
        for tick in ticks:
            y = round(self.up(tick)) + 0.5
            self.sheet.lines([[(self.left, y), (self.right, y)]], GRID)
            self.sheet.text(f"{tick:.4g}", self.left - 6, y, "right", size=9, ink=FAINT)
        floor = self.bottom + _EDGE + 0.5
        self.sheet.lines([[(self.left, floor), (self.right, floor)]], FAINT)
        middle, (first, *_, last) = (self.left + self.right) / 2, [*self.decisions.steps, self.decisions.steps[-1]]
        if first == last:
            self.sheet.text(f"step {first:,}", middle, floor + 11, "center", size=9, ink=FAINT)
            return
        for words, x, side in (
            (f"{first:,}", self.left, "left"),
            ("step", middle, "center"),
            (f"{last:,}", self.right, "right"),
        ):
            self.sheet.text(words, x, floor + 11, side, size=9, ink=FAINT)

    def _lines(self, course: Course) -> None:
        if course.kind in WORDS:
            y = round(self.up(course.threshold)) + 0.5
            self.sheet.lines([[(self.left, y), (self.right, y)]], THRESHOLD, 2)
        for series, ink, width in ((course.value, VALUE, 1.6), (course.bound, INK, 1.2)):
            parts = [self._course(series, start, stop) for start, stop in _runs(np.isfinite(series))]
            self.sheet.lines(parts, ink, width)

    def _course(self, series: _Series, start: int, stop: int) -> list[Point]:
        """Points of a segment; a single point becomes a short line."""
        points = [(float(self.across[i]), self.up(float(series[i]))) for i in range(start, stop)]
        return points if len(points) > 1 else [(points[0][0] + side, points[0][1]) for side in (-5, 5)]

    def _marks(self, course: Course) -> None:
        size = 8 if len(self.across) <= 50 else 5.5
        groups: dict[tuple[str, str, str], list[Point]] = {}
        for place, opened in enumerate(self.decisions.opened):
            ink = INK if opened else FAINT if course.holds(place) else THRESHOLD
            shape, y = self._mark(course, float(course.bound[place]))
            groups.setdefault((shape, ink, ink if opened else "#ffffff"), []).append((self.across[place], y))
        for (shape, ink, fill), points in sorted(groups.items()):
            self.sheet.marks(points, shape, size, ink=ink, fill=fill)
        if self.decisions.best in self.decisions.steps:
            place = len(self.decisions.steps) - 1 - self.decisions.steps[::-1].index(self.decisions.best)
            y = self._mark(course, float(course.bound[place]))[1]
            _star(self.sheet, self.across[place], y)

    def _mark(self, course: Course, bound: float) -> tuple[str, float]:
        """Shape and vertical position of a mark."""
        above, below = self.top - 3, self.bottom + 3
        if math.isnan(bound):
            return "x", above if course.upwards else below
        if self.low <= bound <= self.high:
            return "o", self.up(bound)
        return ("^", above) if bound > self.high else ("v", below)


def _runs(known: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Starts and stops of contiguous known segments."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _check(steps: Sequence[int], limits: Sequence[LimitHistory], opened: Sequence[bool]) -> None:
    if not limits or not steps:
        raise ValueError(f"`steps` and `limits` must not be empty, got {len(steps)} and {len(limits)}.")
    if len(opened) != len(steps):
        raise ValueError(f"`opened` must have one entry for each of {len(steps)} steps, got {len(opened)}.")
    for limit in limits:
        lengths = [len(x) for x in (limit.bound, limit.value, limit.lower, limit.upper) if x is not None]
        if set(lengths) != {len(steps)}:
            raise ValueError(f"{limit.name!r} must have one entry for each of {len(steps)} steps, got {lengths}.")


def _thinned(steps: Sequence[int], best: int | None) -> list[int]:
    """Indices of the displayed validations, in the order of their steps."""
    order = sorted(range(len(steps)), key=steps.__getitem__)
    if len(order) <= MOST_VALIDATIONS:
        return order
    # the best validation is always shown
    star = [rank for rank, place in enumerate(order) if steps[place] == best][-1:]
    even = np.linspace(0, len(order) - 1, MOST_VALIDATIONS - len(star)).round().astype(int).tolist()
    return [order[rank] for rank in sorted({*even, *star})]


def _named(hidden: Sequence[Course], room: float) -> str:
    names = [course.name + ("" if course.holds(-1) else " (violated)") for course in hidden]
    return f"not shown: {listed(names, room, 9)}"


def _star(sheet: Sheet, x: float, y: float) -> None:
    sheet.marks([(x, y)], "*", 20, ink="#ffffff", fill="#ffffff")
    sheet.marks([(x, y)], "*", 15, ink=STAR, fill=STAR)


def _legend(sheet: Sheet) -> None:
    y, x = sheet.height - 12, 52.0
    sheet.text("bound:", 8, y, size=8, ink=FAINT)
    entries = (
        ("o", INK, INK, "open"),
        ("o", THRESHOLD, "#ffffff", "closed by this limit"),
        ("o", FAINT, "#ffffff", "by another"),
        ("*", STAR, STAR, "best"),
        ("^", THRESHOLD, "#ffffff", "off scale"),
        ("x", THRESHOLD, "#ffffff", "undefined"),
    )
    for shape, ink, fill, words in entries:
        sheet.marks([(x + 4, y)], shape, 12 if shape == "*" else 8, ink=ink, fill=fill)
        sheet.text(words, x + 12, y, size=8, ink=FAINT)
        x += 24 + breadth(words, 8)
    sheet.lines([[(x, y + 0.5), (x + 14, y + 0.5)]], VALUE, 2)
    sheet.text("estimate", x + 18, y, size=8, ink=FAINT)
