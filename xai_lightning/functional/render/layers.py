"""Heatmaps of layers: one statistic over the validations of a run, and the similarity of all pairs of layers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import (
    FAINT,
    GREY,
    INK,
    Picture,
    check_count,
    inches,
    pixels,
    write,
)
from xai_lightning.functional.render.names import module_names
from xai_lightning.functional.render.sheets import breadth, fitted
from xai_lightning.functional.render.ticks import round_places

MOST_LAYERS, MOST_COLUMNS, MOST_WRITTEN = 32, 128, 12
_NAME, _TOP, _WIDTH, _BOTTOM, _BAR, _RIGHT, _SIZE = 200, 40, 576, 62, 12, 84, 8
_COLOURS = torch.tensor(matplotlib.colormaps["cividis"](np.arange(256), bytes=True)[:, :3], device="cpu")


def layer_heatmap(
    values: Tensor,
    names: Sequence[str],
    numbers: Sequence[int],
    *,
    limits: tuple[float, float],
    title: str,
    note: str = "",
) -> Picture:
    """One statistic of every layer at every validation, on one colour scale.

    Bright is large. If there are few values, they are written into their cells. Non-finite values are striped; values
    beyond the scale have the colour of its end, and the scale is labelled accordingly.

    Args:
        values: float[M, T], the statistic of M layers at T validations.
        names: names of the layers.
        numbers: numbers of the validations.
        limits: values of the darkest and the brightest colour; keep them constant, so that pictures are comparable.
        title: title of the picture.
        note: explanation of the values.

    Returns:
        uint8[H, W, 3], at most 900 pixels wide and 700 high; of more than 32 layers or 128 validations, evenly chosen
        ones, including the first and the last.

    Raises:
        ValueError: if shapes or lengths do not match, or the limits are not finite and in order.

    Example:
        >>> layer_heatmap(torch.rand(2, 3), ["fc1", "fc2"], [1, 2, 3], limits=(0.0, 1.0), title="std").shape[2]
        3
    """
    if values.dim() != 2:
        raise ValueError(f"`values` must be float[M, T], got shape {tuple(values.shape)}.")
    check_count("Layers of `values` and `names`", (values.shape[0], len(names)))
    check_count("Validations of `values` and `numbers`", (values.shape[1], len(numbers)))
    low, high = limits
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"`limits` must be finite and in order, got {limits}.")
    rows, columns = evenly(len(names), MOST_LAYERS), evenly(len(numbers), MOST_COLUMNS)
    shown = values.detach().double().cpu()[rows][:, columns]
    chart = _Chart(
        shown,
        module_names([names[row] for row in rows], _NAME, _SIZE),
        [numbers[column] for column in columns],
        (low, high),
        _WIDTH // len(columns) * len(columns),
        max(13, min(28, 560 // len(rows))),
    )
    return _drawn(chart, title, "validation", [note, *_left_out(len(rows), len(names))])


def layer_similarity(matrix: Tensor, names: Sequence[str], *, title: str, note: str = "") -> Picture:
    """Similarity of the representations of all pairs of layers, from 0 (dark) to 1 (bright).

    Blocks along the diagonal are consecutive layers with similar representations. Estimates below 0 have the colour of
    0; non-finite values are striped.

    Args:
        matrix: float[M, M], at most 1.
        names: names of the M layers.
        title: title of the picture.
        note: explanation of the values.

    Returns:
        uint8[H, W, 3], at most 900 pixels wide and 700 high; of more than 32 layers, evenly chosen ones.

    Raises:
        ValueError: if there is not one row and column for each name.

    Example:
        >>> layer_similarity(torch.eye(3), ["a", "b", "c"], title="CKA").shape[2]
        3
    """
    if matrix.shape != (len(names), len(names)) or not names:
        raise ValueError(f"`matrix` must be float[M, M] for {len(names)} names, got shape {tuple(matrix.shape)}.")
    places = evenly(len(names), MOST_LAYERS)
    shown = module_names([names[place] for place in places], _NAME - 20, _SIZE)
    side = max(17, min(60, 520 // len(places)))
    chart = _Chart(
        matrix.detach().double().cpu()[places][:, places],
        [f"{name}   {place + 1}" for name, place in zip(shown, places, strict=True)],
        [place + 1 for place in places],
        (0.0, 1.0),
        side * len(places),
        side,
    )
    return _drawn(chart, title, "layer", [note, *_left_out(len(places), len(names))])


class _Chart(NamedTuple):
    """Cells ``float64[R, C]``, names of rows and columns, the scale, the total width and the height of a row."""

    values: Tensor
    rows: list[str]
    columns: list[int]
    limits: tuple[float, float]
    width: int
    row: int

    @property
    def height(self) -> int:
        return self.row * len(self.rows)

    @property
    def column(self) -> int:
        return self.width // len(self.columns)


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices, evenly spaced, including the first and the last.

    Example:
        >>> evenly(7, 3)
        [0, 3, 6]
    """
    return sorted({round(i * (count - 1) / max(1, min(most, count) - 1)) for i in range(min(most, count))})


def _left_out(shown: int, count: int) -> list[str]:
    return [f"{shown} of {count} layers shown"] if shown < count else []


def _luminance(colours: Tensor) -> Tensor:
    linear = (colours.double() / 255) ** 2.2
    return linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64, device="cpu")


def _shades(values: Tensor, limits: tuple[float, float]) -> Tensor:
    """Colours ``uint8[R, C, 3]``."""
    place = ((values - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)
    return _COLOURS[place.nan_to_num(0.0).mul(255).round().long()]


def _cells(chart: _Chart) -> Tensor:
    """The pixels of all cells; non-finite cells are striped, since the colour scale itself contains grey."""
    grown = [chart.row, chart.column]
    colours, unknown = _shades(chart.values, chart.limits), ~chart.values.isfinite()
    for dim, by in enumerate(grown):
        colours, unknown = colours.repeat_interleave(by, dim), unknown.repeat_interleave(by, dim)
    stripes = (torch.arange(chart.height, device="cpu")[:, None] + torch.arange(chart.width, device="cpu")) % 6 < 3
    striped = GREY.where(stripes[..., None], 255).to(torch.uint8)
    return striped.where(unknown[..., None], colours)


def _drawn(chart: _Chart, title: str, axis: str, notes: Sequence[str]) -> Picture:
    with style.context("default"):
        left = math.ceil(max(breadth(name, _SIZE) for name in chart.rows)) + 20
        height = _TOP + max(chart.height, 60) + _BOTTOM
        width = max(left + chart.width + _RIGHT, 420)
        canvas = torch.full((height, width, 3), 255, dtype=torch.uint8, device="cpu")
        canvas[_TOP : _TOP + chart.height, left : left + chart.width] = _cells(chart)
        bar, length = left + chart.width + 14, max(chart.height, 60)
        ramp = torch.linspace(chart.limits[1], chart.limits[0], length, dtype=torch.float64, device="cpu")
        canvas[_TOP : _TOP + length, bar : bar + _BAR] = _shades(ramp[:, None], chart.limits)
        figure = Figure(inches(width, height))
        figure.figimage(canvas.numpy(), origin="upper")
        write(figure, fitted([title], width - 16, 11)[0], 8, 16, "left", size=11)
        _label(figure, chart, left, axis)
        _scale(figure, chart, bar + _BAR + 4, length)
        striped = ["striped: not finite"] if not chart.values.isfinite().all() else []
        line = "; ".join([*filter(None, notes), *striped])
        write(figure, fitted([line], width - 16, 8)[0] if line else "", 8, height - 11, "left", size=8, ink=FAINT)
        return pixels(figure)


def _label(figure: Figure, chart: _Chart, left: int, axis: str) -> None:
    for row, name in enumerate(chart.rows):
        write(figure, name, left - 8, _TOP + (row + 0.5) * chart.row, "right", size=_SIZE)
    # as many labels as have room for their digits
    most = max(1, chart.width // (14 + 7 * len(str(max(chart.columns)))))
    below = _TOP + chart.height
    for place in round_places(chart.columns, min(most, 16)):
        write(figure, str(chart.columns[place]), left + (place + 0.5) * chart.column, below + 11, "center", size=8)
    write(figure, axis, left + chart.width / 2, below + 27, "center", size=9, ink=FAINT)
    if len(chart.columns) <= MOST_WRITTEN and chart.column >= 40:
        _write_values(figure, chart, left)


def _write_values(figure: Figure, chart: _Chart, left: int) -> None:
    bright = _luminance(_shades(chart.values, chart.limits)) >= 0.2
    for row in range(len(chart.rows)):
        for column in range(len(chart.columns)):
            value = float(chart.values[row, column])
            x, y = left + (column + 0.5) * chart.column, _TOP + (row + 0.5) * chart.row
            if math.isfinite(value):
                ink = INK if bright[row, column] else "#ffffff"
                write(figure, _number(value), x, y, "center", size=7.5, ink=ink)


def _number(value: float) -> str:
    """A value in at most six characters."""
    text = f"{value:.2f}" if 0.01 <= abs(value) < 100 else f"{value:.2g}"
    short = text if len(text) <= 6 else f"{value:.0e}"
    return short.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def _scale(figure: Figure, chart: _Chart, x: int, length: int) -> None:
    low, high = chart.limits
    finite = chart.values[chart.values.isfinite()]
    over, under = bool((finite > high).any()), bool((finite < low).any())
    for share, value, beyond in ((0.0, high, "≥ " * over), (0.5, (low + high) / 2, ""), (1.0, low, "≤ " * under)):
        place = _TOP + min(max(share * length, 6), length - 6)
        write(figure, f"{beyond}{value:.3g}", x, place, "left", size=8)
