"""Rates of the groups of one attribute, with their intervals and denominators."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import style
from torch import Tensor

from xai_lightning.functional.intervals import wilson
from xai_lightning.functional.render.canvas import FAINT, INK, Picture
from xai_lightning.functional.render.sheets import (
    GRID,
    STRIPES,
    THRESHOLD,
    VALUE,
    Point,
    Points,
    Sheet,
    counted,
    fitted,
    listed,
)

MOST_GROUPS, MOST_RATES = 20, 8
_ERROR = 0.025
_WIDTH, _LEFT, _NUMBER, _GAP = 660, 170, 62, 16
_TOP, _HEAD, _ROW, _AXIS, _FOOT = 34, 24, 20, 30, 22


class GroupRate(NamedTuple):
    """One rate for every group of an attribute.

    Attributes:
        name: Name of the rate.
        value: Fractions in [0, 1], float[G]; NaN where there is no evidence.
        lower: Lower limits, float[G]; NaN if unknown.
        upper: Upper limits, float[G]; NaN if unknown.
        number: Samples in the denominator, [G].
        overall: The rate of all samples; NaN if unknown.
    """

    name: str
    value: Sequence[float]
    lower: Sequence[float]
    upper: Sequence[float]
    number: Sequence[float]
    overall: float


def counted_rate(name: str, successes: Tensor, totals: Tensor) -> GroupRate:
    """A rate from its counts, with 95 % Wilson intervals; overall is the rate of all groups together.

    Args:
        name: Name of the rate.
        successes: int64[G], counts in 0..totals.
        totals: int64[G], counts; where one is 0, the rate is undefined.

    Returns:
        The rate of every group.

    Raises:
        ValueError: If a count is negative or above its total.
        TypeError: If counts are not integers.

    Example:
        >>> import torch
        >>> found = counted_rate("accuracy", torch.tensor([3, 0]), torch.tensor([4, 0]))
        >>> found.value, found.overall
        ([0.75, nan], 0.75)
    """
    limits = wilson(successes, totals, _ERROR)
    value = successes.double() / totals.double()
    overall = float(successes.sum().double() / totals.sum().double())
    return GroupRate(name, value.tolist(), limits.lower.tolist(), limits.upper.tolist(), totals.tolist(), overall)


def group_rates(groups: Sequence[str], rates: Sequence[GroupRate], *, title: str) -> Picture:
    """A panel per rate with a row per group: the rate as a dot, its interval as a line, and its denominator.

    Every axis ranges from 0 to 1, so that successive pictures are comparable; the orange line is the rate of all
    samples. A group without evidence is labelled so, and has no dot. Overlapping intervals do not show that rates are
    equal; the bound of the metric tells how far apart they may be.

    Of more than 20 groups, those with the lowest and highest value of each rate are shown, since they make the gaps,
    then those farthest from the overall rate, in the given order. Of more than 8 rates, the first 8 are shown. A note
    tells what is left out.

    Args:
        groups: G names; long names are shortened in the middle.
        rates: The rates of those groups.
        title: Title of the picture, such as the attribute.

    Returns:
        uint8[H, W, 3], 660 pixels wide, and at most 1,889 high.

    Raises:
        ValueError: If there is no group or no rate, or a rate does not have one value for each group.

    Example:
        >>> import torch
        >>> rate = counted_rate("accuracy", torch.tensor([3, 5]), torch.tensor([4, 9]))
        >>> group_rates(["Female", "Male"], [rate], title="sex").shape
        (150, 660, 3)
    """
    _check(groups, rates)
    shown = _extreme(rates, len(groups))
    columns, notes = min(len(rates), 2), _left_out(rates, shown, len(groups))
    band = _HEAD + len(shown) * _ROW + _AXIS
    bands = -(-min(len(rates), MOST_RATES) // columns)
    with style.context("default"):
        sheet = Sheet(_WIDTH, _TOP + bands * band + _FOOT + 17 * bool(notes))
        names = fitted([groups[place] for place in shown], _LEFT - 16, 10, [place + 1 for place in shown])
        sheet.text(fitted([title], _WIDTH - 16, 11)[0], 8, 17, size=11)
        for place, rate in enumerate(rates[:MOST_RATES]):
            row, column = divmod(place, columns)
            if column == 0:
                _rows(sheet, names, _TOP + row * band + _HEAD)
            _Panel(sheet, columns, column, _TOP + row * band + _HEAD).draw(rate, shown)
        sheet.text(notes, 8, sheet.height - 30, size=9)
        legend = "dot: rate; bar: 95 % interval; orange line: overall; n: samples in the denominator"
        sheet.text(legend, 8, sheet.height - 12, size=8, ink=FAINT)
        return sheet.picture()


def _check(groups: Sequence[str], rates: Sequence[GroupRate]) -> None:
    if not groups or not rates:
        raise ValueError(f"`groups` and `rates` must not be empty, got {len(groups)} and {len(rates)}.")
    for rate in rates:
        lengths = [len(part) for part in (rate.value, rate.lower, rate.upper, rate.number)]
        if set(lengths) != {len(groups)}:
            raise ValueError(f"{rate.name!r} must have one value for each of {len(groups)} groups, got {lengths}.")


def _known(rate: GroupRate, place: int) -> bool:
    return math.isfinite(rate.value[place]) and rate.number[place] > 0


def _extreme(rates: Sequence[GroupRate], count: int) -> list[int]:
    """Indices of the groups that are shown."""
    if count <= MOST_GROUPS:
        return list(range(count))
    ends: list[int] = []
    far = [0.0] * count
    for rate in rates[:MOST_RATES]:
        known = [place for place in range(count) if _known(rate, place)]
        ends += [choose(known, key=rate.value.__getitem__) for choose in (min, max) if known]
        for place in known:
            gap = abs(rate.value[place] - rate.overall)
            far[place] = max(far[place], gap if math.isfinite(gap) else 0.0)
    ranked = sorted(range(count), key=lambda place: -far[place])
    # the groups that make the gaps are always shown
    return sorted(list(dict.fromkeys(ends + ranked))[:MOST_GROUPS])


def _rows(sheet: Sheet, names: Sequence[str], top: float) -> None:
    stripes = [(4, top + row * _ROW, _WIDTH - 4, top + (row + 1) * _ROW) for row in range(0, len(names), 2)]
    sheet.boxes(stripes, STRIPES[0])
    for row, name in enumerate(names):
        sheet.text(name, 8, top + (row + 0.5) * _ROW, size=10)


class _Panel:
    """The panel of one rate: its axis from 0 to 1, with the denominators beside it."""

    def __init__(self, sheet: Sheet, columns: int, column: int, top: float) -> None:
        across = (_WIDTH - _LEFT) / columns
        self.sheet, self.top, self.left = sheet, top, round(_LEFT + column * across)
        self.width, self.number = round(across - _NUMBER - _GAP), round(_LEFT + (column + 1) * across - _GAP)

    def draw(self, rate: GroupRate, shown: Sequence[int]) -> None:
        bottom = self.top + len(shown) * _ROW
        self.sheet.text(fitted([rate.name], self.width + _NUMBER - 20, 10)[0], self.left, self.top - 13, size=10)
        self.sheet.text("n", self.number, self.top - 13, "right", size=9, ink=FAINT)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            x = self._across(share)
            self.sheet.lines([[(x, self.top), (x, bottom + 3)]], GRID)
            if share in (0.0, 0.5, 1.0):
                self.sheet.text(f"{share:g}", x, bottom + 11, "center", size=9, ink=FAINT)
        if math.isfinite(rate.overall):
            x = self._across(rate.overall)
            self.sheet.lines([[(x, self.top), (x, bottom)]], THRESHOLD, 1.5)
        self._groups(rate, shown)

    def _across(self, share: float) -> float:
        return self.left + round(min(max(share, 0.0), 1.0) * self.width) + 0.5

    def _groups(self, rate: GroupRate, shown: Sequence[int]) -> None:
        dots: list[Point] = []
        whiskers: list[Points] = []
        for row, place in enumerate(shown):
            y = self.top + (row + 0.5) * _ROW
            self.sheet.text(counted(rate.number[place]), self.number, y, "right", size=9, ink=FAINT)
            if not _known(rate, place):
                middle = self.left + self.width / 2
                self.sheet.boxes([(middle - 42, y - 8, middle + 42, y + 8)], STRIPES[row % 2])
                self.sheet.text("no evidence", middle, y, "center", size=9)
                continue
            dots.append((self._across(rate.value[place]), y))
            if math.isfinite(rate.lower[place]) and math.isfinite(rate.upper[place]):
                low, high = self._across(rate.lower[place]), self._across(rate.upper[place])
                whiskers += [[(low, y), (high, y)], [(low, y - 3), (low, y + 3)], [(high, y - 3), (high, y + 3)]]
        self.sheet.lines(whiskers, INK, 1.4)
        self.sheet.marks(dots, "o", 8, ink=VALUE, fill=VALUE)


def _left_out(rates: Sequence[GroupRate], shown: Sequence[int], count: int) -> str:
    hidden = sorted(set(range(count)) - set(shown))
    unknown = sum(not any(_known(rate, place) for rate in rates) for place in hidden)
    notes = [f"… and {len(hidden)} more groups, closer to overall"] * bool(hidden)
    notes += [f"{unknown} of them without evidence"] * bool(unknown)
    others = [rate.name for rate in rates[MOST_RATES:]]
    left_out = [f"rates not shown: {listed(others, 220, 9)}"] * bool(others)
    return "; ".join([*[", ".join(notes)] * bool(notes), *left_out])
