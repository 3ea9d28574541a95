"""Reliability diagrams: how scores agree with outcomes, within each group."""

import math
from collections.abc import Sequence

from matplotlib import style
from torch import Tensor

from xai_lightning.functional.intervals import wilson
from xai_lightning.functional.render.canvas import FAINT, INK, Picture
from xai_lightning.functional.render.sheets import GRID, STRIP, VALUE, Points, Sheet, counted, fitted

MOST_PANELS = 12
_ERROR = 0.025
_LEFT, _GAP, _TOP, _HEAD, _BELOW, _AXIS = 30, 26, 32, 22, 24, 30


def calibration(
    groups: Sequence[str],
    score: Tensor,
    observed: Tensor,
    number: Tensor,
    *,
    title: str,
    scores: Tensor | None = None,
) -> Picture:
    """A reliability curve for each group: the observed share of bins of equal mass against their mean score.

    On the diagonal scores are calibrated; below it they are too high, above it too low. A bar is the 95 % Wilson
    interval of a bin. The strip below shows the distribution of scores: their histogram, or (without one) a bar at the
    mean score of each bin, whose height is its number of samples. Axes range from 0 to 1, so that successive pictures
    are comparable. Calibrated groups may still differ in every rate, and a curve of few samples shows little.

    Of more than 12 groups, those with the largest mean distance from the diagonal are shown, in the given order.

    Args:
        groups: G names; long names are shortened in the middle.
        score: float[G, B], mean score of each bin, a probability; values outside [0, 1] are drawn at the edge.
        observed: float[G, B], share of positives in each bin.
        number: [G, B], number of samples in each bin; empty bins and bins with a NaN are left out.
        title: Title of the picture, such as the attribute.
        scores: [G, S], counts of scores in S equal parts of [0, 1], if known.

    Returns:
        uint8[H, W, 3], at most 717 pixels wide and 1,108 high.

    Raises:
        ValueError: If there are no groups, or the shapes do not match.

    Example:
        >>> import torch
        >>> score = torch.tensor([[0.2, 0.8], [0.3, 0.7]])
        >>> calibration(["Female", "Male"], score, score, torch.full((2, 2), 50), title="sex").shape
        (424, 670, 3)
    """
    _check(groups, score, observed, number, scores)
    curves = [x.detach().double().cpu() for x in (score, observed, number)]
    shown = _farthest(*curves)
    columns = min(len(shown), 3)
    plot = 280 if columns < 3 else 184
    height, width = _HEAD + plot + _BELOW + _AXIS, plot + _LEFT + _GAP - 1
    with style.context("default"):
        sheet = Sheet(max(columns * width, 500), _TOP + -(-len(shown) // columns) * height + 36)
        sheet.text(fitted([title], sheet.width - 16, 11)[0], 8, 16, size=11)
        names = fitted([groups[place] for place in shown], plot - 70, 10, [place + 1 for place in shown])
        for cell, place in enumerate(shown):
            row, column = divmod(cell, columns)
            panel = _Panel(sheet, column * width + _LEFT, _TOP + row * height + _HEAD, plot)
            panel.frame(names[cell], float(curves[2][place].nan_to_num().sum()))
            panel.curve(*(x[place] for x in curves))
            panel.strip(curves[0][place], curves[2][place], None if scores is None else scores[place])
        hidden = len(groups) - len(shown)
        more = f"… and {hidden} more groups, closer to the diagonal" if hidden else ""
        _legend(sheet, more)
        return sheet.picture()


def _check(groups: Sequence[str], score: Tensor, observed: Tensor, number: Tensor, scores: Tensor | None) -> None:
    shapes = [tuple(x.shape) for x in (score, observed, number)]
    if not groups or len(set(shapes)) != 1 or score.dim() != 2 or len(score) != len(groups):
        raise ValueError(f"`score`, `observed` and `number` must be [{len(groups)} groups, bins], got shapes {shapes}.")
    if scores is not None and (scores.dim() != 2 or len(scores) != len(groups) or scores.shape[1] == 0):
        raise ValueError(f"`scores` must be [{len(groups)} groups, bins], got shape {tuple(scores.shape)}.")


def _farthest(score: Tensor, observed: Tensor, number: Tensor) -> list[int]:
    gaps, weights = (observed - score).abs(), number.nan_to_num(0.0).clamp(min=0)
    known = gaps.isfinite() & (weights > 0)
    mean = (gaps.where(known, 0.0) * weights).sum(dim=1) / weights.where(known, 0.0).sum(dim=1)
    return sorted(mean.nan_to_num(-1.0).argsort(descending=True, stable=True)[:MOST_PANELS].tolist())


class _Panel:
    """The panel of one group."""

    def __init__(self, sheet: Sheet, left: float, top: float, side: int) -> None:
        self.sheet, self.left, self.top, self.side = sheet, left, top, side
        self.floor = top + side + _BELOW

    def frame(self, name: str, samples: float) -> None:
        left, top, right, bottom = self.left, self.top, self.left + self.side, self.top + self.side
        self.sheet.text(name, left, top - 12, size=10)
        self.sheet.text(f"n = {counted(samples)}", right, top - 12, "right", size=9, ink=FAINT)
        for share in (0.0, 0.5, 1.0):
            x, y = self._at(share, share)
            self.sheet.lines([[(x, top), (x, self.floor)], [(left, y), (right, y)]], GRID)
            self.sheet.text(f"{share:g}", x, self.floor + 11, "center", size=9, ink=FAINT)
            self.sheet.text(f"{share:g}", left - 5, y, "right", size=9, ink=FAINT)
        self.sheet.lines([[(left, bottom), (right, top)]], FAINT)

    def curve(self, score: Tensor, observed: Tensor, number: Tensor) -> None:
        known = score.isfinite() & observed.isfinite() & (number > 0)
        if not known.any():
            middle = self._at(0.5, 0.5)
            self.sheet.boxes([(middle[0] - 45, middle[1] - 10, middle[0] + 45, middle[1] + 10)], "#ffffff")
            self.sheet.text("no evidence", *middle, "center", size=10)
            return
        order = score[known].argsort(stable=True)
        score, observed, number = (x[known][order] for x in (score, observed, number))
        totals = number.round().long().clamp(min=1)
        limits = wilson((observed * totals).round().long().clamp(min=0).minimum(totals), totals, _ERROR)
        dots = [self._at(x, y) for x, y in zip(score.tolist(), observed.tolist(), strict=True)]
        bars: list[Points] = []
        for x, low, high in zip(score.tolist(), limits.lower.tolist(), limits.upper.tolist(), strict=True):
            bars.append([self._at(x, low), self._at(x, high)])
        self.sheet.lines(bars, INK, 1.4)
        self.sheet.lines([dots], VALUE, 1.6)
        self.sheet.marks(dots, "o", 7 if len(dots) <= 12 else 5, ink=VALUE, fill=VALUE)

    def strip(self, score: Tensor, number: Tensor, histogram: Tensor | None) -> None:
        heights = (number if histogram is None else histogram.detach().double().cpu()).nan_to_num(0, 0, 0)
        tallest = float(heights.max()) if len(heights) else 0.0
        boxes = []
        for place, share in enumerate((heights / tallest).tolist() if tallest > 0 else []):
            if histogram is not None:
                ends = [self.left + round(self.side * (place + i) / len(histogram)) for i in (0, 1)]
            elif math.isfinite(float(score[place])):
                ends = [self._at(float(score[place]), 0.0)[0] + i for i in (-1.5, 1.5)]
            else:
                continue
            if share > 0:
                boxes.append((ends[0], self.floor - max(1, round(share * (_BELOW - 4))), ends[1], self.floor))
        self.sheet.boxes(boxes, STRIP)
        self.sheet.lines([[(self.left, self.floor + 0.5), (self.left + self.side, self.floor + 0.5)]], FAINT)

    def _at(self, across: float, up: float) -> tuple[float, float]:
        x, y = (round(min(max(share, 0.0), 1.0) * self.side) for share in (across, up))
        return self.left + x + 0.5, self.top + self.side - y + 0.5


def _legend(sheet: Sheet, more: str) -> None:
    legend = "observed share vs. mean score; bar: 95 % interval; below: distribution of scores"
    sheet.text(more, 8, sheet.height - 28, size=9)
    sheet.text(legend, 8, sheet.height - 12, size=8, ink=FAINT)
