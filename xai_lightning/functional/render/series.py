"""Time series as curves over a band of their attribution."""

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
# small enough for text to be legible in TensorBoard, whose cards are 350 pixels wide, or 220 high
_WIDTH, _EDGE, _BESIDE, _TITLE, _STRIP, _GAP, _LINE = 560, 8, 12, 34, 8, 5, 14
_HEIGHTS = {1: 104, 2: 52, 3: 34, 4: 26}
_NARROW, _WIDE, _SIZE = 24, 110, 9


class _Layout(NamedTuple):
    """The layout in pixels from the upper left corner: up to two series side by side, channels below each other.

    Args:
        left: left edge of the first bands, beside the names of the channels.
        series: number of series.
        channels: number of channels of each.
    """

    left: int
    series: int
    channels: int

    @property
    def abreast(self) -> int:
        """Number of series side by side."""
        return min(2, self.series)

    @property
    def rows(self) -> int:
        """Number of rows of series."""
        return -(-self.series // self.abreast)

    @property
    def width(self) -> int:
        """Of a band."""
        return (_WIDTH - _EDGE - self.left - _BESIDE * (self.abreast - 1)) // self.abreast

    @property
    def height(self) -> int:
        """Of a band."""
        return _HEIGHTS[self.channels]

    @property
    def block(self) -> int:
        """Height of one series with its title."""
        return _TITLE + self.channels * (self.height + _STRIP + _GAP) + _GAP

    def corner(self, number: int, channel: int = 0) -> tuple[int, int]:
        """Left and top of a band of one series."""
        row, column = divmod(number, self.abreast)
        down = row * self.block + _TITLE + channel * (self.height + _STRIP + _GAP)
        return self.left + column * (self.width + _BESIDE), down


def _leading(reference: Tensor) -> list[int]:
    """The channels with the largest attribution, in their own order."""
    order = reference.abs().nan_to_num().sum(dim=(0, 2)).argsort(descending=True, stable=True)
    found: list[int] = order[:MOST_CHANNELS].sort().values.tolist()
    return found


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
    """Curves of some channels over a band coloured by attribution, with a strip of the reference below it.

    The channels of a series are below each other, so that one time is one column; up to two series are side by side.

    Args:
        series: float[N, C, T], or None, which keeps them out of the picture.
        now: float[N, C, B], attribution of B segments of time.
        reference: float[N, C, B], attribution at the reference.
        channels: name of each channel.
        titles: title of each series; lines after the first are joined into one.
        scale: absolute value of full colour; larger values saturate.
        note: unit of the scale.

    Returns:
        uint8[H, W, 3], 560 pixels wide, with the first 4 series and the 4 channels of the largest attribution at the
        reference.

    Raises:
        ValueError: if shapes or lengths do not match, or the scale is not positive and finite.

    Example:
        >>> maps = torch.zeros(1, 1, 4)
        >>> series_bands(None, maps, maps, channels=["x"], titles=["label 0"], scale=1.0).shape[1:]
        (560, 3)
    """
    check_count("`now`, `reference` and `titles`", (len(now), len(reference), len(titles)))
    check_count("`channels` and those of `now`", (len(channels), now.shape[1]))
    check_scale(scale)
    shown = _leading(reference)
    names = fitted([channels[channel] for channel in shown], _WIDE, _SIZE, shown)
    left = _EDGE + max(_NARROW, *(round(breadth(name, _SIZE)) + 6 for name in names))
    layout = _Layout(left, min(MOST_SERIES, len(now)), len(shown))
    lines = wrapped(_legend(now, reference, scale, note), _WIDTH - 2 * _EDGE, _SIZE)
    height = layout.rows * layout.block + 4 + _LINE * len(lines)
    canvas = _painted(height, layout, now[:, shown], reference[:, shown], scale)
    curves = []
    for number, (place, channel) in product(range(layout.series), enumerate(shown)):
        x, y = layout.corner(number, place)
        if series is not None:
            curves.append(_curve(series[number, channel], x, height - y, layout))
    with style.context("default"):
        figure = Figure(inches(_WIDTH, height))
        figure.figimage(canvas.numpy(), origin="upper")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(0, height), frame_on=False, zorder=5)
        axes.set_axis_off()
        axes.add_collection(LineCollection(curves, colors=INK, linewidths=1.1))
        _label(figure, layout, names, titles)
        for number, line in enumerate(lines):
            y = layout.rows * layout.block + _LINE * number + _LINE // 2
            write(figure, line, _EDGE, y, "left", size=_SIZE, ink=FAINT)
        return pixels(figure)


def _legend(now: Tensor, reference: Tensor, scale: float, note: str) -> str:
    words = f"band: attribution now; strip below it: at the reference; full colour is {scale:.3g} {note}".rstrip()
    words += "; red: for the explained output, blue: against it"
    return words + ("" if (now.isfinite() & reference.isfinite()).all() else "; grey: not finite")


def _label(figure: Figure, layout: _Layout, channels: Sequence[str], titles: Sequence[str]) -> None:
    """Write the titles above the series, and the names of the channels beside the bands."""
    for number in range(layout.series):
        x, y = layout.corner(number)
        first, *rest = titles[number].splitlines() or [""]
        for line, up in ((first, _TITLE - 9), (", ".join(rest), 10)):
            write(figure, fitted([line], layout.width, _SIZE)[0] if line else "", x, y - up, "left", size=_SIZE)
    for row, (place, channel) in product(range(layout.rows), enumerate(channels)):
        y = layout.corner(row * layout.abreast, place)[1] + layout.height // 2
        write(figure, channel, _EDGE, y, "left", size=_SIZE, ink=FAINT)


def _painted(height: int, layout: _Layout, now: Tensor, reference: Tensor, scale: float) -> Tensor:
    """A white canvas ``uint8[height, W, 3]`` with the bands, and the strips of the reference below them."""
    canvas = torch.full((height, _WIDTH, 3), 255, dtype=torch.uint8, device="cpu")
    for number, place in product(range(layout.series), range(layout.channels)):
        x, y = layout.corner(number, place)
        for values, top, high in ((now, y, layout.height), (reference, y + layout.height + 2, _STRIP - 2)):
            canvas[top : top + high, x : x + layout.width] = _band(values[number, place], high, layout.width, scale)
    return canvas


def _band(values: Tensor, height: int, width: int, scale: float) -> Tensor:
    """Colours ``uint8[height, width, 3]`` of the segments of time."""
    place = torch.arange(width, device="cpu") * len(values) // width
    return coloured(values.detach().double().cpu()[place][None, :, None], scale).expand(height, width, 3)


def _curve(values: Tensor, x: int, top: float, layout: _Layout) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Points of a curve within its panel, with a gap where values are not finite."""
    series = values.detach().double().cpu()
    series = series.masked_fill(~series.isfinite(), torch.nan)
    known = series[series.isfinite()]
    low, span = (float(known.min()), float(known.max() - known.min()) or 1.0) if len(known) else (0.0, 1.0)
    across = x + (torch.arange(len(series), device="cpu") + 0.5) / len(series) * layout.width
    up = top - layout.height + 4 + (series - low) / span * (layout.height - 8)
    return np.stack([across.numpy(), up.numpy()], axis=1)
