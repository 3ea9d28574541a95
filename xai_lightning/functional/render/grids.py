"""Attribution maps of images, beside the images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import (
    GREY,
    Picture,
    check_scale,
    coloured,
    inches,
    pixels,
    write,
)
from xai_lightning.functional.render.sheets import breadth, fitted

MOST_ROWS = 8
_COLUMNS = ("input", "reference", "now", "difference")
_TOP, _BOTTOM, _GAP, _FRAME = 28, 56, 6, 205
_TALLEST, _LARGEST_TILE, _NARROWEST, _LOWEST, _WIDEST = 700, 150, 66, 40, 237
NO_SCALE = 1e-12
"""The colour scale of maps that are 0 everywhere."""


def attribution_grid(
    inputs: Tensor | None,
    reference: Tensor,
    now: Tensor,
    *,
    labels: Sequence[str],
    scale: float,
    incomplete: Sequence[bool] = (),
    note: str = "",
) -> Picture:
    """One row per sample: the input, its attribution at the reference and now, and their difference.

    The three maps share one colour scale: red is evidence for the explained output, blue evidence against it. The value
    0 has exactly the colour ``NEUTRAL``, so that an unchanged map has a uniform difference. Values beyond the scale
    saturate; non-finite values are grey. Inputs are stretched between their own extremes.

    Args:
        inputs: float[N, C, H, W] or float[N, H, W]; 3 channels are shown as colours, others by their mean. None keeps
            them out of the picture.
        reference: float[N, C, H, W] (channels are summed) or float[N, H, W], of any resolution.
        now: float, of the shape of ``reference``.
        labels: One text per sample, of up to three short lines.
        scale: Absolute value of full colour (see :func:`colour_scale`), positive.
        incomplete: Samples whose attributions do not add up to what they should; they are marked.
        note: Unit of the scale.

    Returns:
        uint8[H, W, 3], at most 900 pixels wide and 700 high; only the first 8 samples are shown.

    Raises:
        ValueError: If there is no sample, the shapes do not fit, or the scale is not positive and finite.

    Example:
        >>> maps = torch.zeros(2, 1, 8, 8)
        >>> attribution_grid(maps, maps, maps, labels=["a", "b"], scale=1.0).dtype
        dtype('uint8')
    """
    then, current = _images(reference).sum(1, True), _images(now).sum(1, True)
    pictures = torch.full_like(then, torch.nan) if inputs is None else _images(inputs)
    if len(labels) == 0 or then.shape != current.shape or not len(pictures) == len(then) == len(labels):
        got = f"{tuple(pictures.shape)}, {tuple(reference.shape)} and {tuple(now.shape)} for {len(labels)} labels"
        raise ValueError(f"`inputs`, `reference` and `now` must hold one image per label, got shapes {got}.")
    check_scale(scale)
    grid = _grid(labels[:MOST_ROWS], pictures.shape[2:])
    maps = [coloured(_resized(x, grid), scale) for x in (then, current, current - then)]
    canvas = _composed(grid, [_stretched(_resized(pictures, grid)), *maps], scale)
    with style.context("default"):
        figure = Figure(inches(canvas.shape[1], canvas.shape[0]))
        figure.figimage(canvas, origin="upper")
        notes = ["grey: not finite"] * (not (current - then).isfinite().all())
        _caption(figure, grid, scale, [*notes, *["! incomplete"] * any(incomplete)])
        start, right = grid.corner(0, 1)[1], grid.corner(0, len(_COLUMNS))[1] - _GAP
        write(figure, note, (start + right) / 2, canvas.shape[0] - 8, "center", size=8)
        _mark(figure, grid, incomplete, hidden=inputs is None)
        return pixels(figure)


def colour_scale(maps: Tensor) -> float:
    """A colour scale that is robust to a few extreme values: the 99.5th percentile of absolute values.

    Compute it once, from the maps of the reference, and keep it: only pictures on one scale are comparable.

    Args:
        maps: float[N, C, H, W] (channels are summed) or float[N, H, W].

    Returns:
        The percentile, or the maximum if that is 0; at least `NO_SCALE`, 1e-12, which maps of 0 get.

    Raises:
        ValueError: If ``maps`` has another number of dimensions, or is complex.

    Example:
        >>> colour_scale(torch.full((1, 8, 8), -0.5))
        0.5
    """
    summed = _images(maps).sum(1)
    sizes = summed[summed.isfinite()].abs().numpy()
    # a few outliers would leave all else pale; but a map that is mostly 0 consists of them
    return max(float(np.quantile(sizes, 0.995)) or float(sizes.max()), NO_SCALE) if sizes.size else NO_SCALE


class _Grid(NamedTuple):
    labels: list[str]
    left: int
    height: int
    width: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        height, width = max(self.height, _LOWEST), max(self.width, _NARROWEST)
        return _TOP + row * (height + _GAP), self.left + column * (width + _GAP)


def _images(x: Tensor) -> Tensor:
    if x.dim() not in (3, 4) or 0 in x.shape[1:]:
        raise ValueError(f"Images must be [N, C, H, W] or [N, H, W], and not empty, got shape {tuple(x.shape)}.")
    if x.is_complex():
        raise ValueError(f"Images must be real, got {x.dtype}.")
    return (x if x.dim() == 4 else x.unsqueeze(1)).detach().double().cpu()


def _grid(labels: Sequence[str], size: Sequence[int]) -> _Grid:
    texts = ["\n".join(_line(line) for line in label.splitlines()[:3]) for label in labels]
    longest = max(breadth(line, 9) for text in texts for line in text.split("\n"))
    tallest = min(_LARGEST_TILE, (_TALLEST - _TOP - _BOTTOM) // len(texts) - _GAP)
    zoom = min(tallest / size[0], _LARGEST_TILE / size[1])
    height, width = (max(1, round(side * zoom)) for side in size)
    return _Grid(texts, 18 + max(30, math.ceil(longest)), height, width)


def _line(text: str) -> str:
    return fitted([text], _WIDEST, 9)[0] if text.strip() else ""


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
    return bright.expand(*tiles.shape[:3], 3).where(finite.all(-1, keepdim=True), GREY)


def _composed(grid: _Grid, columns: Sequence[Tensor], scale: float) -> Picture:
    bottom, right = grid.corner(len(grid.labels), len(columns))
    canvas = torch.full((bottom + _BOTTOM, right + _GAP, 3), 255, dtype=torch.uint8, device="cpu")
    for column, tiles in enumerate(columns):
        for row, tile in enumerate(tiles):
            y, x = grid.corner(row, column)
            canvas[y - 1 : y + grid.height + 1, x - 1 : x + grid.width + 1] = _FRAME
            canvas[y : y + grid.height, x : x + grid.width] = tile
    start, stop = grid.corner(0, 1)[1], right - _GAP
    ramp = torch.linspace(-scale, scale, stop - start, dtype=torch.float64, device="cpu")
    canvas[bottom + 6 : bottom + 16, start:stop] = coloured(ramp.view(1, 1, -1, 1), scale)[0]
    return canvas.numpy()


def _caption(figure: Figure, grid: _Grid, scale: float, notes: Sequence[str]) -> None:
    bottom, right = grid.corner(len(grid.labels), len(_COLUMNS))
    start, stop, below = grid.corner(0, 1)[1], right - _GAP, bottom + 18
    for column, name in enumerate(_COLUMNS):
        write(figure, name, grid.corner(0, column)[1] + grid.width / 2, 14, "center")
    for row, label in enumerate(grid.labels):
        write(figure, label, 8, grid.corner(row, 0)[0] + grid.height / 2, "left")
    for x, value, side in ((start, -scale, "left"), ((start + stop) / 2, 0.0, "center"), (stop, scale, "right")):
        write(figure, f"{value:+.3g}" if value else "0", x, below + 9, side)
    write(figure, "\n".join(notes), 8, below - 2, "left", size=8)


def _mark(figure: Figure, grid: _Grid, incomplete: Sequence[bool], *, hidden: bool) -> None:
    for row, missed in enumerate(list(incomplete)[: len(grid.labels)]):
        y, x = grid.corner(row, 0)
        if missed:
            write(figure, "!", x - 8, y + grid.height / 2, "center", size=13, ink="#b00020")
    for row in range(len(grid.labels) if hidden else 0):
        y, x = grid.corner(row, 0)
        write(figure, "not logged", x + grid.width / 2, y + grid.height / 2, "center", ink="#ffffff")
