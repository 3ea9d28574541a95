"""Series as curves over a band of their attribution."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

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
from xai_lightning.functional.render.sheets import breadth, fitted, wrapped

MOST_SERIES, MOST_CHANNELS = 4, 4
# narrow, so that words can be read in a card of TensorBoard, which is 350 pixels wide
_WIDTH, _EDGE, _TITLE, _STRIP, _GAP, _LINE = 480, 8, 24, 10, 6, 15
_HEIGHTS = {1: 84, 2: 60, 3: 48, 4: 40}
_NARROW, _WIDE, _SIZE, _SMALL = 40, 130, 10, 9


class _Layout(NamedTuple):
    """Where things are, in pixels from the upper left corner.

    Args:
        left: of the bands, beside the names of the channels.
        channels: how many are beneath each other.
        height: of a band.
    """

    left: int
    channels: int
    height: int

    @property
    def width(self) -> int:
        """Of a band."""
        return _WIDTH - _EDGE - self.left

    @property
    def block(self) -> int:
        """Height of one series with its title."""
        return _TITLE + self.channels * (self.height + _STRIP + _GAP) + _GAP

    def band(self, row: int, channel: int) -> int:
        """Top of a band."""
        return row * self.block + _TITLE + channel * (self.height + _STRIP + _GAP)


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

    The channels of a series lie beneath each other, so that what happens at one time stands in one column.

    Args:
        series: float[N, C, T], or None, which keeps them out of the picture.
        now: float[N, C, B], attribution of B stretches of time.
        reference: float[N, C, B], likewise at the reference.
        channels: name of each channel.
        titles: of each series; of several lines one is made.
        scale: the largest absolute value that is told apart.
        note: what the numbers are.

    Returns:
        uint8[H, W, 3], 480 pixels wide; of more than 4 series the first, of more than 4 channels those that lead at
        the reference.

    Raises:
        ValueError: if the numbers do not fit, or the scale is not positive and finite.

    Example:
        >>> maps = torch.zeros(1, 1, 4)
        >>> series_bands(None, maps, maps, channels=["x"], titles=["label 0"], scale=1.0).shape[1:]
        (480, 3)
    """
    check_count("`now`, `reference` and `titles`", (len(now), len(reference), len(titles)))
    check_count("`channels` and those of `now`", (len(channels), now.shape[1]))
    check_scale(scale)
    order = reference.abs().nan_to_num().sum(dim=(0, 2)).argsort(descending=True, stable=True)
    shown = order[:MOST_CHANNELS].sort().values.tolist()
    names = fitted([channels[channel] for channel in shown], _WIDE, _SMALL, shown)
    left = _EDGE + max(_NARROW, *(round(breadth(name, _SMALL)) + 8 for name in names))
    layout, rows = _Layout(left, len(shown), _HEIGHTS[len(shown)]), min(MOST_SERIES, len(now))
    lines = wrapped(_legend(now, reference, scale, note), _WIDTH - 2 * _EDGE, _SMALL)
    height = rows * layout.block + 10 + _LINE * len(lines)
    canvas = torch.full((height, _WIDTH, 3), 255, dtype=torch.uint8)
    curves = []
    for row, (place, channel) in product(range(rows), enumerate(shown)):
        y, across = layout.band(row, place), slice(left, left + layout.width)
        canvas[y : y + layout.height, across] = _band(now[row, channel], layout.height, layout.width, scale)
        strip = y + layout.height + 2
        canvas[strip : strip + _STRIP - 2, across] = _band(reference[row, channel], _STRIP - 2, layout.width, scale)
        if series is not None:
            curves.append(_curve(series[row, channel], layout, height - y))
    with style.context("default"):
        figure = Figure(inches(_WIDTH, height))
        figure.figimage(canvas.numpy(), origin="upper")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(0, height), frame_on=False, zorder=5)
        axes.set_axis_off()
        axes.add_collection(LineCollection(curves, colors=INK, linewidths=1.1))
        _label(figure, layout, names, titles[:rows])
        for number, line in enumerate(lines):
            write(figure, line, _EDGE, rows * layout.block + _LINE * (number + 0.5), "left", size=_SMALL, ink=FAINT)
        return pixels(figure)


def _legend(now: Tensor, reference: Tensor, scale: float, note: str) -> str:
    words = f"band: attribution now; strip below it: at the reference; full colour is {scale:.3g} {note}".rstrip()
    words += "; red speaks for what is explained, blue against it"
    return words + ("" if (now.isfinite() & reference.isfinite()).all() else "; grey: not finite")


def _label(figure: Figure, layout: _Layout, channels: Sequence[str], titles: Sequence[str]) -> None:
    """Write the titles above the series, and the names of the channels beside the bands."""
    for row, title in enumerate(titles):
        line = fitted([", ".join(title.splitlines())], _WIDTH - 2 * _EDGE, _SIZE)[0]
        write(figure, line, _EDGE, row * layout.block + _TITLE / 2 + 1, "left", size=_SIZE)
        for place, channel in enumerate(channels):
            y = layout.band(row, place) + layout.height / 2
            write(figure, channel, _EDGE, y, "left", size=_SMALL, ink=FAINT)


def _band(values: Tensor, height: int, width: int, scale: float) -> Tensor:
    """Colours ``uint8[height, width, 3]`` of stretches of time."""
    place = torch.arange(width) * len(values) // width
    return coloured(values.detach().double().cpu()[place][None, :, None], scale).expand(height, width, 3)


def _curve(values: Tensor, layout: _Layout, top: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Points of a curve within its panel, with a gap where values are not finite."""
    series = values.detach().double().cpu()
    series = series.masked_fill(~series.isfinite(), torch.nan)
    known = series[series.isfinite()]
    low, span = (float(known.min()), float(known.max() - known.min()) or 1.0) if len(known) else (0.0, 1.0)
    across = layout.left + (torch.arange(len(series)) + 0.5) / len(series) * layout.width
    up = top - layout.height + 5 + (series - low) / span * (layout.height - 10)
    return np.stack([across.numpy(), up.numpy()], axis=1)
