"""Histograms over training as ridges, one behind the other."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import FAINT, Picture, check_count, inches, pixels, write
from xai_lightning.functional.render.layers import evenly
from xai_lightning.functional.render.names import module_names
from xai_lightning.functional.render.sheets import fitted
from xai_lightning.functional.render.ticks import round_places

MOST_PANELS, MOST_RIDGES = 6, 16
_PANEL, _TALL, _LEFT, _TOP, _GAP, _AXIS, _FOOT = 262, 236, 40, 58, 24, 30, 24
_OVERLAP = 2.4
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def histogram_ridges(
    counts: Tensor,
    names: Sequence[str],
    numbers: Sequence[int],
    *,
    bucket_limits: Sequence[float],
    title: str,
) -> Picture:
    """A panel per layer with a ridge per validation: from the first (dark, at the back) to the last (bright, in front).

    Bins are drawn equally wide, whatever they span, so that with bins of powers of two the scale is logarithmic on both
    sides of 0. Heights are square roots of the shares of one validation's values, so that rare values are visible
    beside a large bin of zeros; they have one scale per panel. Empty bins at both ends are left out.

    Args:
        counts: int64[M, T, B], number of values in B bins, of M layers at T validations.
        names: names of the layers.
        numbers: numbers of the validations.
        bucket_limits: upper limit of each bin, in ascending order.
        title: title of the picture.

    Returns:
        uint8[H, W, 3], at most 900 pixels wide and 700 high; of more than 6 layers or 16 validations, evenly chosen
        ones, and the first and the last. Labels are round numbers at equal distances.

    Raises:
        ValueError: if shapes or lengths do not match.

    Example:
        >>> import torch
        >>> counts = torch.tensor([[[1, 4, 1], [0, 2, 4]]])
        >>> histogram_ridges(counts, ["fc"], [1, 2], bucket_limits=[-1.0, 1.0, 9.0], title="activations").shape[2]
        3
    """
    if counts.dim() != 3:
        raise ValueError(f"`counts` must be int64[M, T, B], got shape {tuple(counts.shape)}.")
    check_count("Layers of `counts` and `names`", (counts.shape[0], len(names)))
    check_count("Validations of `counts` and `numbers`", (counts.shape[1], len(numbers)))
    check_count("Bins of `counts` and `bucket_limits`", (counts.shape[2], len(bucket_limits)))
    panels, ridges = evenly(len(names), MOST_PANELS), sorted({0, *_even(numbers), len(numbers) - 1})
    shown = counts.detach().double().cpu()[panels][:, ridges]
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    width = max(_LEFT + across * (_PANEL + _GAP), 420)
    height = _TOP + down * (_TALL + _AXIS + _GAP) + _FOOT
    with style.context("default"):
        figure = Figure(inches(width, height), facecolor="white")
        write(figure, fitted([title], width - 16, 11)[0], 8, 16, "left", size=11)
        for place, name in enumerate(module_names([names[panel] for panel in panels], _PANEL - 8, 9)):
            x, y = _LEFT + place % across * (_PANEL + _GAP), _TOP + place // across * (_TALL + _AXIS + _GAP)
            box = (x / width, 1 - (y + _TALL) / height, _PANEL / width, _TALL / height)
            _panel(figure.add_axes(box), shown[place], bucket_limits)
            write(figure, name, x + _PANEL / 2, y - 10, "center", size=9)
            if not shown[place].any():
                write(figure, "no values observed", x + _PANEL / 2, y + _TALL / 2, "center", size=9, ink=FAINT)
            if place % across == 0:
                _number(figure, [str(numbers[i]) if i in _even(numbers) else "" for i in ridges], x, y)
        notes = [f"{len(panels)} of {len(names)} layers shown"] if len(panels) < len(names) else []
        notes += [f"{len(ridges)} of {len(numbers)} validations shown"] if len(ridges) < len(numbers) else []
        rows = "first validation at the back, last in front; height: √share"
        write(figure, fitted(["; ".join([rows, *notes])], width - 16, 8)[0], 8, height - 11, "left", size=8, ink=FAINT)
        return pixels(figure)


def _even(numbers: Sequence[int]) -> list[int]:
    """Validations at equal distances, which are labelled; the first and the last are drawn in any case."""
    return list(range(len(numbers))) if len(numbers) <= MOST_RIDGES else round_places(numbers, MOST_RIDGES - 2)


def _base(place: int, count: int) -> float:
    """Height of a ridge's baseline; ridges are 1 apart, the last at 0."""
    return float(count - 1 - place)


def _panel(axes: Axes, counts: Tensor, bucket_limits: Sequence[float]) -> None:
    ridges = len(counts)
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).sqrt()
    used = counts.sum(0).nonzero().flatten()
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, counts.shape[1] - 1)
    heights = (shares / shares.max().clamp(min=1e-12) * _OVERLAP).numpy()
    colours = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.95, ridges))
    edges = np.arange(counts.shape[1] + 1, dtype=np.float64)
    for place in range(ridges):
        base = _base(place, ridges)
        line = base + heights[place]
        axes.hlines(base, first, last + 1, color="#dcdcdc", linewidth=0.8, zorder=place + 1)
        axes.stairs(line, edges, baseline=base, fill=True, facecolor=colours[place], zorder=place + 1)
        axes.stairs(line, edges, baseline=base, color="#ffffff", linewidth=0.8, zorder=place + 1)
    axes.set(xlim=(first, last + 1), ylim=(-0.2, ridges - 1 + _OVERLAP * 1.05), yticks=[])
    ticks = [place + 1 for place in _inner(first, last)]
    axes.set_xticks(ticks, labels=[_power(bucket_limits[tick - 1]) for tick in ticks], fontsize=8, color=FAINT)
    axes.tick_params(axis="x", length=2, color=FAINT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _inner(first: int, last: int) -> list[int]:
    """Bins whose upper limits are labelled."""
    return [first + place for place in evenly(last - first, 5)] if last > first else [first]


def _power(limit: float) -> str:
    """The label of a limit; large and small powers of two are written as powers."""
    mantissa, exponent = math.frexp(abs(limit))
    if mantissa == 0.5 and abs(exponent - 1) > 4:
        return f"{'−' * (limit < 0)}2{str(exponent - 1).translate(_RAISED)}"
    return f"{limit:.3g}".replace("-", "−")


def _number(figure: Figure, labels: Sequence[str], x: float, y: float) -> None:
    ridges = len(labels)
    span = ridges - 1 + _OVERLAP * 1.05 + 0.2
    for place, label in enumerate(labels):
        down = y + _TALL * (1 - (_base(place, ridges) + 0.2) / span)
        write(figure, label, x - 5, down - 3, "right", size=7.5, ink=FAINT)
