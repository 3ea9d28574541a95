"""Series as curves over a band of their attribution."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from matplotlib import style
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import (
    FAINT,
    INK,
    Picture,
    check_count,
    check_scale,
    coloured,
    inches,
    pixels,
    write,
)
from xai_lightning.functional.render.sheets import fitted, wrapped
from xai_lightning.functional.render.titles import lined, margin

MOST_SERIES, MOST_CHANNELS = 4, 4
_TOP, _WIDTH, _HEIGHT, _STRIP, _GAP, _LINE = 28, 200, 96, 16, 10, 14


def series_bands(
    series: Tensor | None,
    now: Tensor,
    reference: Tensor,
    *,
    channels: Sequence[str],
    titles: Sequence[str],
    scale: float,
    note: str = "",
) -> Picture:
    """Curves of some channels over a band that is coloured by attribution; beneath it, a band of the reference.

    Args:
        series: float[N, C, T], or None, which keeps them out of the picture.
        now: float[N, C, B], attribution of B stretches of time.
        reference: float[N, C, B], likewise at the reference.
        channels: name of each channel.
        titles: one line for each series.
        scale: the largest absolute value that is told apart.
        note: what the numbers are.

    Returns:
        uint8[H, W, 3]; of more than 4 series the first, of more than 4 channels those that lead at the reference.

    Raises:
        ValueError: if the numbers do not fit, or the scale is not positive and finite.

    Example:
        >>> maps = torch.zeros(1, 1, 4)
        >>> series_bands(None, maps, maps, channels=["x"], titles=["label 0"], scale=1.0).shape[2]
        3
    """
    check_count("`now`, `reference` and `titles`", (len(now), len(reference), len(titles)))
    check_count("`channels` and those of `now`", (len(channels), now.shape[1]))
    check_scale(scale)
    order = reference.abs().nan_to_num().sum(dim=(0, 2)).argsort(descending=True, stable=True)
    shown = order[:MOST_CHANNELS].sort().values.tolist()
    rows = min(MOST_SERIES, len(now))
    left = margin(titles[:rows])
    width = _x(left, len(shown))
    legend = f"band: attribution now; strip below it: at the reference; full colour is {scale:.3g} {note}".rstrip()
    legend += "; red speaks for what is explained, blue against it"
    legend += "" if (now.isfinite() & reference.isfinite()).all() else "; grey: not finite"
    lines = wrapped(legend, width - 12, 8)
    height = _y(rows) + 12 + _LINE * len(lines)
    canvas = torch.full((height, width, 3), 255, dtype=torch.uint8)
    curves = []
    for row, (column, channel) in product(range(rows), enumerate(shown)):
        y, x = _y(row), _x(left, column)
        canvas[y : y + _HEIGHT, x : x + _WIDTH] = _band(now[row, channel], _HEIGHT, scale)
        strip = y + _HEIGHT + 3
        canvas[strip : strip + _STRIP - 3, x : x + _WIDTH] = _band(reference[row, channel], _STRIP - 3, scale)
        if series is not None:
            curves.append(_curve(series[row, channel], x, height - y))
    with style.context("default"):
        figure = Figure(inches(width, height))
        figure.figimage(canvas.numpy(), origin="upper")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), frame_on=False, zorder=5)
        axes.set_axis_off()
        axes.add_collection(LineCollection(curves, colors=INK, linewidths=1.1))
        _label(figure, left, fitted([channels[channel] for channel in shown], _WIDTH, 10, shown), titles[:rows])
        for number, line in enumerate(lines):
            write(figure, line, 6, _y(rows) + _LINE * (number + 1), "left", size=8, ink=FAINT)
        return pixels(figure)


def _y(row: int) -> int:
    return _TOP + row * (_HEIGHT + _STRIP + _GAP)


def _x(left: int, column: int) -> int:
    return left + column * (_WIDTH + _GAP)


def _label(figure: Figure, left: int, channels: Sequence[str], titles: Sequence[str]) -> None:
    """Write the names of the columns above, and the titles of the rows beside."""
    for column, channel in enumerate(channels):
        write(figure, channel, _x(left, column) + _WIDTH / 2, 14, "center", size=10)
    for row, title in enumerate(titles):
        write(figure, lined(title), 6, _y(row) + _HEIGHT / 2, "left", size=8)


def _band(values: Tensor, height: int, scale: float) -> Tensor:
    """Colours ``uint8[height, width, 3]`` of stretches of time."""
    place = torch.arange(_WIDTH) * len(values) // _WIDTH
    return coloured(values.detach().double().cpu()[place][None, :, None], scale).expand(height, _WIDTH, 3)


def _curve(values: Tensor, x: float, top: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Points of a curve within its panel, with a gap where values are not finite."""
    series = values.detach().double().cpu()
    series = series.masked_fill(~series.isfinite(), torch.nan)
    known = series[series.isfinite()]
    low, span = (float(known.min()), float(known.max() - known.min()) or 1.0) if len(known) else (0.0, 1.0)
    across = x + (torch.arange(len(series)) + 0.5) / len(series) * _WIDTH
    up = top - _HEIGHT + 6 + (series - low) / span * (_HEIGHT - 12)
    return np.stack([across.numpy(), up.numpy()], axis=1)
