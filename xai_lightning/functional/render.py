"""Attributions as pictures: ``uint8[H, W, 3]``, so that TensorBoard neither rescales nor clips them (trap 64).

Each has a ``Figure`` of its own, never ``pyplot`` (trap 65), and Matplotlib's default style, whatever the user has set.
Values that are not finite are shown as such and break nothing (trap 32).
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

Picture = npt.NDArray[np.uint8]
MOST_BARS, MOST_ROWS = 40, 8
NEUTRAL, UNDEFINED = (247, 247, 247), (150, 150, 150)
_INK, _FAINT, _PLAIN, _HIGHLIGHTED = "#222222", "#6f6f6f", "#5b8db8", "#e07b39"
_ANCHORS = ["#0b3c7d", "#3f83bf", "#a9cfe5", "#f7f7f7", "#f6b79b", "#d0553f", "#7f0d20"]
_COLOURS = torch.tensor(LinearSegmentedColormap.from_list("", _ANCHORS, N=257)(np.arange(257), bytes=True)[:, :3])
_GREY = torch.tensor(UNDEFINED, dtype=torch.uint8)
_COLUMNS = ("input", "reference", "now", "difference")
_TOP, _BOTTOM, _GAP, _FRAME = 28, 44, 6, 205
_TALLEST, _LARGEST_TILE, _NARROWEST, _LOWEST = 700, 150, 66, 28


def bar_chart(
    names: Sequence[str],
    values: Sequence[float],
    *,
    title: str,
    reference: Sequence[float] | None = None,
    highlight: Collection[str] = (),
) -> Picture:
    """Bars of the importance of each variable, with an outline of what it was at the reference.

    The order depends on the reference alone (largest first; the given order if there is none), so that the pictures of
    successive validations can be flipped through. Of more than 40 variables the highlighted and the largest are shown,
    and a note says so. A long bar says that a variable moves the output, not that it should, nor that this is unfair.

    Args:
        names: The variables.
        values: Their mean absolute attributions, in units of the explained scalar; NaN and infinity are "undefined".
        title: What is shown.
        reference: The values to compare with; NaN has no outline.
        highlight: Variables to draw in another colour (sensitive ones); names that are no variable are ignored.

    Returns:
        uint8[H, W, 3], 560 pixels wide and at most 700 high.

    Raises:
        ValueError: If there is no variable, or not one value for each.

    Example:
        >>> bar_chart(["age", "sex"], [0.4, 0.1], title="importance", highlight={"sex"}).shape[1:]
        (560, 3)
    """
    before = [math.nan] * len(names) if reference is None else reference
    if not 0 < len(names) == len(values) == len(before):
        got = f"{len(names)}, {len(values)} and {len(before)}"
        raise ValueError(f"`names`, `values` and `reference` must have one length above 0, got {got}.")
    every = [
        _Bar(_short(x, 32), _drawable(values[i]), _drawable(before[i]), x in highlight) for i, x in enumerate(names)
    ]
    bars = _chosen(every, by_value=reference is None)
    note = f"\n{len(every) - len(bars)} variables with smaller values are left out" if len(bars) < len(every) else ""
    with style.context("default"):
        figure = Figure(_inches(560, 96 + len(bars) * max(14, min(26, 560 // len(bars)))), layout="constrained")
        axes = figure.add_subplot()
        _draw_bars(axes, bars)
        _label_bars(axes, bars)
        _legend(figure, bars)
        axes.set_title(title + note, fontsize=12, color=_INK, loc="left", parse_math=False)
        return _pixels(figure)


def attribution_grid(inputs: Tensor, reference: Tensor, now: Tensor, *, labels: Sequence[str], scale: float) -> Picture:
    """One row per sample: the input, its attribution at the reference and now, and their difference.

    The three maps share one colour scale: red speaks for what is explained, blue against it. The value 0 has exactly
    the colour ``NEUTRAL``, so that an unchanged map shows an even difference. Larger values than the scale saturate;
    values that are not finite are grey. Inputs are stretched between their own extremes.

    Args:
        inputs: float[N, C, H, W] or float[N, H, W]; 3 channels are shown as colours, others by their mean.
        reference: float[N, C, H, W] (channels are summed) or float[N, H, W], of any resolution.
        now: float, of the shape of ``reference``.
        labels: One text per sample, of one or two short lines.
        scale: The largest absolute value that is told apart (see :func:`colour_scale`), positive.

    Returns:
        uint8[H, W, 3], at most 900 pixels wide and 700 high; only the first 8 samples are shown.

    Raises:
        ValueError: If there is no sample, the shapes do not fit, or the scale is not positive and finite.

    Example:
        >>> maps = torch.zeros(2, 1, 8, 8)
        >>> attribution_grid(maps, maps, maps, labels=["a", "b"], scale=1.0).dtype
        dtype('uint8')
    """
    pictures, then, current = _images(inputs), _images(reference).sum(1, True), _images(now).sum(1, True)
    if len(labels) == 0 or then.shape != current.shape or not len(pictures) == len(then) == len(labels):
        got = f"{tuple(inputs.shape)}, {tuple(reference.shape)} and {tuple(now.shape)} for {len(labels)} labels"
        raise ValueError(f"`inputs`, `reference` and `now` must hold one image per label, got shapes {got}.")
    if not 0 < scale < math.inf:
        raise ValueError(f"`scale` must be positive and finite, got {scale}.")
    grid = _grid(labels[:MOST_ROWS], pictures.shape[2:])
    maps = [_coloured(_resized(x, grid), scale) for x in (then, current, current - then)]
    canvas = _composed(grid, [_stretched(_resized(pictures, grid)), *maps], scale)
    with style.context("default"):
        figure = Figure(_inches(canvas.shape[1], canvas.shape[0]))
        figure.figimage(canvas, origin="upper")
        _caption(figure, grid, scale, strange=not (current - then).isfinite().all())
        return _pixels(figure)


def colour_scale(maps: Tensor) -> float:
    """A colour scale that a few extreme values do not stretch: the 99.5 % percentile of absolute values.

    Take it once, from the maps of the reference, and keep it: only pictures on one scale are comparable.

    Args:
        maps: float[N, C, H, W] (channels are summed) or float[N, H, W].

    Returns:
        The percentile, or the maximum if that is 0; at least 1e-12, which maps that show nothing get.

    Raises:
        ValueError: If ``maps`` has another number of dimensions.

    Example:
        >>> colour_scale(torch.full((1, 8, 8), -0.5))
        0.5
    """
    summed = _images(maps).sum(1)
    sizes = summed[summed.isfinite()].abs().numpy()
    return max(float(np.quantile(sizes, 0.995)) or float(sizes.max()), 1e-12) if sizes.size else 1e-12


class _Bar(NamedTuple):
    name: str
    value: float
    reference: float
    highlighted: bool


class _Grid(NamedTuple):
    labels: list[str]
    left: int
    height: int
    width: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        height, width = max(self.height, _LOWEST), max(self.width, _NARROWEST)
        return _TOP + row * (height + _GAP), self.left + column * (width + _GAP)


def _chosen(bars: Sequence[_Bar], *, by_value: bool) -> list[_Bar]:
    sizes = [bar.value if by_value else bar.reference for bar in bars]
    ranked = sorted(range(len(bars)), key=lambda i: math.inf if math.isnan(sizes[i]) else -sizes[i])
    kept = sorted(ranked, key=lambda i: not bars[i].highlighted)[:MOST_BARS]
    return [bars[i] for i in (sorted(kept) if by_value else ranked) if i in kept]


def _drawable(value: float) -> float:
    return float(value) if abs(value) < 1e100 else math.nan


def _draw_bars(axes: Axes, bars: Sequence[_Bar]) -> None:
    rows, now, before = np.arange(len(bars)), np.array([b.value for b in bars]), np.array([b.reference for b in bars])
    colours = np.array([_HIGHLIGHTED if bar.highlighted else _PLAIN for bar in bars])
    known, compared = np.isfinite(now), np.isfinite(before)
    axes.barh(rows[known], now[known], height=0.6, color=colours[known])
    axes.barh(rows[compared], before[compared], height=0.84, facecolor="none", edgecolor=_INK, linewidth=1.8)
    ends = np.concatenate([[0.0], now[known], before[compared]])
    limit = _rounded_up(1.2 * float(np.abs(ends).max()))
    axes.set(xlim=(-limit if ends.min() < 0 else 0.0, limit), ylim=(len(bars) - 0.4, -0.6), axisbelow=True)


def _label_bars(axes: Axes, bars: Sequence[_Bar]) -> None:
    size = 12 if len(bars) <= 24 else 7.5
    axes.set_yticks(range(len(bars)), labels=[bar.name for bar in bars], fontsize=size, color=_INK, parse_math=False)
    for row, bar in enumerate(bars):
        end = max(0.0 if math.isnan(x) else x for x in (bar.value, bar.reference, 0.0))
        text = "undefined" if math.isnan(bar.value) else f"{bar.value:.3g}"
        place = axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", size=size - 1)
        place.set(color=_FAINT, in_layout=False)
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(axis="x", labelsize=10, labelcolor=_FAINT, length=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _legend(figure: Figure, bars: Sequence[_Bar]) -> None:
    kinds = [Patch(color=_PLAIN, label="now")]
    if any(bar.highlighted for bar in bars):
        kinds.append(Patch(color=_HIGHLIGHTED, label="now, sensitive"))
    if not all(math.isnan(bar.reference) for bar in bars):
        kinds.append(Patch(facecolor="none", edgecolor=_INK, linewidth=1.8, label="reference"))
    if len(kinds) > 1:
        figure.legend(handles=kinds, loc="outside lower right", ncols=3, fontsize=10.5, frameon=False)


def _rounded_up(value: float) -> float:
    # Round limits change seldom from one picture to the next.
    power = 10.0 ** math.floor(math.log10(value)) if value > 1e-100 else 1.0
    return next(step * power for step in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8, 10, 12.5) if step * power >= value)


def _images(x: Tensor) -> Tensor:
    if x.dim() not in (3, 4) or 0 in x.shape[1:]:
        raise ValueError(f"Images must be [N, C, H, W] or [N, H, W], and not empty, got shape {tuple(x.shape)}.")
    return (x if x.dim() == 4 else x.unsqueeze(1)).detach().double().cpu()


def _grid(labels: Sequence[str], size: Sequence[int]) -> _Grid:
    texts = ["\n".join(_short(line, 18) for line in label.splitlines()[:2]) for label in labels]
    longest = max(len(line) for text in texts for line in text.split("\n"))
    tallest = min(_LARGEST_TILE, (_TALLEST - _TOP - _BOTTOM) // len(texts) - _GAP)
    zoom = min(tallest / size[0], _LARGEST_TILE / size[1])
    height, width = (max(1, round(side * zoom)) for side in size)
    return _Grid(texts, 18 + max(30, math.ceil(7.4 * longest)), height, width)


def _resized(images: Tensor, grid: _Grid) -> Tensor:
    shrunk = (min(images.shape[2], grid.height), min(images.shape[3], grid.width))
    # Shrinking averages, so that nothing vanishes between pixels; enlarging repeats, so that cells keep their edges.
    tiles = torch.nn.functional.adaptive_avg_pool2d(images[: len(grid.labels)], shrunk)
    return torch.nn.functional.interpolate(tiles, (grid.height, grid.width), mode="nearest-exact").permute(0, 2, 3, 1)


def _stretched(tiles: Tensor) -> Tensor:
    tiles = tiles if tiles.shape[-1] == 3 else tiles.mean(-1, keepdim=True)
    finite = tiles.isfinite()
    low = tiles.masked_fill(~finite, math.inf).amin((1, 2, 3), keepdim=True)
    high = tiles.masked_fill(~finite, -math.inf).amax((1, 2, 3), keepdim=True)
    bright = ((tiles - low) / (high - low)).nan_to_num(0.5).mul(255).round().clamp(0, 255).to(torch.uint8)
    return bright.expand(*tiles.shape[:3], 3).where(finite.all(-1, keepdim=True), _GREY)


def _coloured(tiles: Tensor, scale: float) -> Tensor:
    positions = (128 + 128 * (tiles / scale).clamp(-1, 1)).nan_to_num(128).round().long()
    return _COLOURS[positions.squeeze(-1)].where(tiles.isfinite(), _GREY)


def _composed(grid: _Grid, columns: Sequence[Tensor], scale: float) -> Picture:
    bottom, right = grid.corner(len(grid.labels), len(columns))
    canvas = torch.full((bottom + _BOTTOM, right + _GAP, 3), 255, dtype=torch.uint8)
    for column, tiles in enumerate(columns):
        for row, tile in enumerate(tiles):
            y, x = grid.corner(row, column)
            canvas[y - 1 : y + grid.height + 1, x - 1 : x + grid.width + 1] = _FRAME
            canvas[y : y + grid.height, x : x + grid.width] = tile
    start, stop = grid.corner(0, 1)[1], right - _GAP
    ramp = torch.linspace(-scale, scale, stop - start, dtype=torch.float64)
    canvas[bottom + 6 : bottom + 16, start:stop] = _coloured(ramp.view(1, 1, -1, 1), scale)[0]
    return canvas.numpy()


def _caption(figure: Figure, grid: _Grid, scale: float, *, strange: bool) -> None:
    bottom, right = grid.corner(len(grid.labels), len(_COLUMNS))
    start, stop, below = grid.corner(0, 1)[1], right - _GAP, bottom + 18
    for column, name in enumerate(_COLUMNS):
        _write(figure, name, grid.corner(0, column)[1] + grid.width / 2, 14, "center")
    for row, label in enumerate(grid.labels):
        _write(figure, label, 8, grid.corner(row, 0)[0] + grid.height / 2, "left")
    for x, value, side in ((start, -scale, "left"), ((start + stop) / 2, 0.0, "center"), (stop, scale, "right")):
        _write(figure, f"{value:+.3g}" if value else "0", x, below + 9, side)
    if strange:
        _write(figure, "grey: not finite", 8, below - 6, "left")


def _write(figure: Figure, text: str, x: float, y: float, side: str) -> None:
    place = (x / figure.bbox.width, 1 - y / figure.bbox.height)
    figure.text(*place, text, ha=side, va="center", size=9, color=_INK, parse_math=False)


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _inches(width: float, height: float) -> tuple[float, float]:
    # At 100 pixels per inch, and half a pixel more, since the canvas rounds down.
    return (width + 0.5) / 100, (height + 0.5) / 100


def _pixels(figure: Figure) -> Picture:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]


def similarity(matrix: Tensor, numbers: Sequence[int], *, title: str) -> Picture:
    """All validations against all: how alike their explanations are.

    Blocks along the diagonal are phases in which the model looked at the same things.

    Args:
        matrix: float[T, T], from -1 to 1; NaN is grey.
        numbers: of the T validations.
        title: What is shown.

    Returns:
        uint8[H, W, 3].

    Raises:
        ValueError: If there is not one row and column for each number.

    Example:
        >>> similarity(torch.eye(3), [1, 2, 3], title="similarity").shape[2]
        3
    """
    if matrix.shape != (len(numbers), len(numbers)) or not numbers:
        raise ValueError(f"`matrix` must be float[T, T] for {len(numbers)} numbers, got {tuple(matrix.shape)}.")
    with style.context("default"):
        figure = Figure(_inches(560, 500), layout="constrained")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["cividis"].with_extremes(bad="#969696")
        low = min(0.0, float(np.nanmin(matrix.numpy(), initial=0.0)))
        shown = axes.imshow(matrix.numpy(), cmap=colours, vmin=low, vmax=1.0, interpolation="nearest")
        places = sorted({round(i * (len(numbers) - 1) / 9) for i in range(10)})
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(places, labels=[str(numbers[place]) for place in places])
        axes.tick_params(labelsize=10, labelcolor=_FAINT, length=0)
        axes.set(xlabel="validation", ylabel="validation")
        bar = figure.colorbar(shown, shrink=0.85)
        bar.set_label("mean cosine similarity", color=_INK)
        bar.outline.set_visible(False)
        axes.set_title(title, fontsize=12, color=_INK, loc="left", parse_math=False)
        return _pixels(figure)
