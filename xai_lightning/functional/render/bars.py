"""Importance of variables as bars."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from xai_lightning.functional.render.canvas import FAINT, HIGHLIGHTED, INK, PLAIN, Picture, inches, pixels
from xai_lightning.functional.render.sheets import breadth, fitted, wrapped

MOST_BARS = 40
_ROOM = 300


def bar_chart(
    names: Sequence[str],
    values: Sequence[float],
    *,
    title: str,
    reference: Sequence[float] | None = None,
    highlight: Collection[str] = (),
    highlighted_as: str = "sensitive",
    intervals: Sequence[tuple[float, float]] | None = None,
) -> Picture:
    """Bars of the importance of each variable, with an outline of its importance at the reference.

    The order depends on the reference only (largest first; the given order if there is none), so that the pictures of
    successive validations are comparable. Of more than 40 variables, the highlighted ones and the largest at the
    reference (now, if there is none) are shown, and a note names the largest of the others now. A long bar means that
    a variable affects the output, not that it should, nor that this is unfair.

    Args:
        names: The variables.
        values: Their mean absolute attributions, in units of the explained scalar; NaN and infinity are "undefined".
        title: Title of the picture.
        reference: The values to compare with; NaN has no outline.
        highlight: Variables to draw in another colour; other names are ignored.
        highlighted_as: What the legend calls those.
        intervals: Lower and upper limit of each value; NaN has no whisker.

    Returns:
        uint8[H, W, 3], 560 pixels wide and at most 700 high.

    Raises:
        ValueError: If there are no variables, or not one value for each.

    Example:
        >>> bar_chart(["age", "sex"], [0.4, 0.1], title="importance", highlight={"sex"}).shape[1:]
        (560, 3)
    """
    before = [math.nan] * len(names) if reference is None else reference
    if not 0 < len(names) == len(values) == len(before):
        got = f"{len(names)}, {len(values)} and {len(before)}"
        raise ValueError(f"`names`, `values` and `reference` must have the same length, at least 1; got {got}.")
    limits = [(math.nan, math.nan)] * len(names) if intervals is None else list(intervals)
    every = [
        _Bar(i, x, _drawable(values[i]), _drawable(before[i]), x in highlight, *limits[i]) for i, x in enumerate(names)
    ]
    bars = _chosen(every, by_value=reference is None)
    with style.context("default"):
        lines = wrapped(title, 540, 12)
        note = f"\n{_left_out(every, bars)}" if len(bars) < len(every) else ""
        figure = Figure(
            inches(560, 78 + 18 * len(lines) + len(bars) * max(14, min(26, 560 // len(bars)))), layout="constrained"
        )
        axes = figure.add_subplot()
        _draw_bars(axes, bars)
        _label_bars(axes, bars)
        _legend(figure, bars, highlighted_as)
        figure.suptitle("\n".join(lines) + note, fontsize=12, color=INK, x=0.01, ha="left", parse_math=False)
        return pixels(figure)


class _Bar(NamedTuple):
    number: int
    name: str
    value: float
    reference: float
    highlighted: bool
    lower: float
    upper: float


def _chosen(bars: Sequence[_Bar], *, by_value: bool) -> list[_Bar]:
    sizes = [bar.value if by_value else bar.reference for bar in bars]
    ranked = sorted(range(len(bars)), key=lambda i: math.inf if math.isnan(sizes[i]) else -sizes[i])
    kept = sorted(ranked, key=lambda i: not bars[i].highlighted)[:MOST_BARS]
    return [bars[i] for i in (sorted(kept) if by_value else ranked) if i in kept]


def _left_out(every: Sequence[_Bar], bars: Sequence[_Bar]) -> str:
    rest = [bar for bar in every if bar not in bars]
    known = [bar for bar in rest if not math.isnan(bar.value)]
    if not known:
        return f"{len(rest)} variables not shown"
    largest = max(known, key=lambda bar: bar.value)
    told = f"{len(rest)} not shown, the largest now {largest.value:.3g}: "
    return told + fitted([largest.name], 540 - breadth(told, 12), 12, [largest.number])[0]


def _drawable(value: float) -> float:
    return float(value) if abs(value) < 1e100 else math.nan


def _draw_bars(axes: Axes, bars: Sequence[_Bar]) -> None:
    rows, now, before = np.arange(len(bars)), np.array([b.value for b in bars]), np.array([b.reference for b in bars])
    colours = np.array([HIGHLIGHTED if bar.highlighted else PLAIN for bar in bars])
    known, compared = np.isfinite(now), np.isfinite(before)
    axes.barh(rows[known], now[known], height=0.6, color=colours[known])
    low, high = np.array([b.lower for b in bars]), np.array([b.upper for b in bars])
    sure = known & np.isfinite(low) & np.isfinite(high)
    middle, reach = (low + high)[sure] / 2, np.abs(high - low)[sure] / 2
    axes.errorbar(middle, rows[sure], xerr=reach, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5)
    axes.barh(rows[compared], before[compared], height=0.84, facecolor="none", edgecolor=INK, linewidth=1.8)
    ends = np.concatenate([[0.0], now[known], before[compared], high[sure]])
    limit = _rounded_up(1.2 * float(np.abs(ends).max()))
    axes.set(xlim=(-limit if ends.min() < 0 else 0.0, limit), ylim=(len(bars) - 0.4, -0.6), axisbelow=True)


def _label_bars(axes: Axes, bars: Sequence[_Bar]) -> None:
    size = 12 if len(bars) <= 24 else 7.5
    names = fitted([bar.name for bar in bars], _ROOM, size, [bar.number for bar in bars])
    axes.set_yticks(range(len(bars)), labels=names, fontsize=size, color=INK, parse_math=False)
    for row, bar in enumerate(bars):
        end = max(0.0 if math.isnan(x) else x for x in (bar.value, bar.reference, bar.upper, 0.0))
        text = "undefined" if math.isnan(bar.value) else f"{bar.value:.3g}"
        place = axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", size=size - 1)
        place.set(color=FAINT, in_layout=False)
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(axis="x", labelsize=10, labelcolor=FAINT, length=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _legend(figure: Figure, bars: Sequence[_Bar], highlighted_as: str) -> None:
    kinds = [Patch(color=PLAIN, label="now")]
    if any(bar.highlighted for bar in bars):
        kinds.append(Patch(color=HIGHLIGHTED, label=f"now, {highlighted_as}"))
    if not all(math.isnan(bar.reference) for bar in bars):
        kinds.append(Patch(facecolor="none", edgecolor=INK, linewidth=1.8, label="reference"))
    if len(kinds) > 1:
        figure.legend(handles=kinds, loc="outside lower right", ncols=3, fontsize=10.5, frameon=False)


def _rounded_up(value: float) -> float:
    # Round limits seldom change from one picture to the next.
    power = 10.0 ** math.floor(math.log10(value)) if value > 1e-100 else 1.0
    return next(step * power for step in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8, 10, 12.5) if step * power >= value)
