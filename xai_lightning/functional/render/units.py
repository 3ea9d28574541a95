"""The samples that activate single units most."""

import math
from collections.abc import Sequence

import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import FAINT, UNDEFINED, Picture, check_count, inches, pixels, write
from xai_lightning.functional.render.sheets import fitted

MOST_UNITS, MOST_SAMPLES = 7, 8
_TILE, _GAP, _LEFT, _TOP, _ROW, _FOOT = 66, 8, 210, 36, 90, 22


def unit_samples(
    thumbnails: Tensor | None,
    units: Sequence[str],
    values: Tensor,
    *,
    notes: Sequence[str] = (),
    title: str,
    note: str = "",
) -> Picture:
    """A row per unit: the samples that activate it most, the strongest first, with its activation below each.

    What these samples have in common suggests what a unit responds to; it does not show that the unit means that, and
    only that.

    Args:
        thumbnails: uint8[V, S, H, W, 3] or uint8[V, S, H, W], pictures of S samples for each of V units; None keeps
            inputs out of the picture.
        units: names of the units.
        values: float[V, S], activations.
        notes: one short text per unit, such as its selectivity; none by default.
        title: title of the picture.
        note: explanation of the values.

    Returns:
        uint8[H, W, 3], at most 900 pixels wide and 700 high, with the first 7 units and the first 8 samples of each.

    Raises:
        ValueError: if shapes or lengths do not match.
        TypeError: if thumbnails are not uint8.

    Example:
        >>> unit_samples(torch.zeros(1, 2, 8, 8, dtype=torch.uint8), ["fc:3"], torch.ones(1, 2), title="units").shape[2]
        3
    """
    if values.dim() != 2 or 0 in values.shape:
        raise ValueError(f"`values` must be float[V, S], not empty, got shape {tuple(values.shape)}.")
    check_count("Units of `values`, `units` and `notes`", (len(values), len(units), len(notes or units)))
    rows, columns = min(MOST_UNITS, len(units)), min(MOST_SAMPLES, values.shape[1])
    tiles = _tiles(thumbnails, values.shape)
    width = max(_LEFT + columns * (_TILE + _GAP) + 8, 420)
    height = _TOP + rows * _ROW + _FOOT
    canvas = torch.full((height, width, 3), 255, dtype=torch.uint8, device="cpu")
    with style.context("default"):
        figure = Figure(inches(width, height))
        for row in range(rows):
            for column in range(columns):
                y, x = _TOP + row * _ROW, _LEFT + column * (_TILE + _GAP)
                _place(canvas, None if tiles is None else tiles[row, column], y, x)
                text = f"{float(values[row, column]):.3g}"
                write(figure, text, x + _TILE / 2, y + _TILE + 8, "center", size=8, ink=FAINT)
                if tiles is None:
                    write(figure, "not logged", x + _TILE / 2, y + _TILE / 2, "center", size=8, ink="#ffffff")
        figure.figimage(canvas.numpy(), origin="upper", zorder=-1)
        write(figure, fitted([title], width - 16, 11)[0], 8, 16, "left", size=11)
        for row, name in enumerate(fitted(units[:rows], _LEFT - 20, 9)):
            middle = _TOP + row * _ROW + _TILE / 2
            write(figure, name, 8, middle - 8 * bool(notes), "left", size=9)
            if notes:
                write(figure, fitted([notes[row]], _LEFT - 20, 8)[0], 8, middle + 9, "left", size=8, ink=FAINT)
        if note:
            write(figure, fitted([note], width - 16, 8)[0], 8, height - 11, "left", size=8, ink=FAINT)
        return pixels(figure)


def _tiles(thumbnails: Tensor | None, shape: torch.Size) -> Tensor | None:
    """Thumbnails as ``uint8[V, S, H, W, 3]``, validated."""
    if thumbnails is None:
        return None
    if thumbnails.dtype != torch.uint8:
        raise TypeError(f"`thumbnails` must be uint8, got {thumbnails.dtype}.")
    images = thumbnails.detach().cpu()
    images = images[..., None].expand(*images.shape, 3) if images.dim() == 4 else images
    if images.dim() != 5 or images.shape[:2] != shape or images.shape[4] != 3 or 0 in images.shape:
        got = tuple(thumbnails.shape)
        raise ValueError(f"`thumbnails` must be uint8[{shape[0]}, {shape[1]}, H, W, 3] or without the 3, got {got}.")
    return images


def _place(canvas: Tensor, image: Tensor | None, y: int, x: int) -> None:
    """Paint one tile, scaled to fit into a square and centred in it."""
    if image is None:
        canvas[y : y + _TILE, x : x + _TILE] = torch.tensor(UNDEFINED, dtype=torch.uint8, device="cpu")
        return
    high, wide = image.shape[:2]
    zoom = _TILE / max(high, wide)
    size = (max(1, round(high * zoom)), max(1, round(wide * zoom)))
    pixels_ = image.permute(2, 0, 1)[None].double()
    # shrinking averages, enlarging repeats
    smaller = torch.nn.functional.adaptive_avg_pool2d(pixels_, (min(high, size[0]), min(wide, size[1])))
    fitted = torch.nn.functional.interpolate(smaller, size, mode="nearest-exact")[0].permute(1, 2, 0)
    top, left = y + math.floor((_TILE - size[0]) / 2), x + math.floor((_TILE - size[1]) / 2)
    canvas[top : top + size[0], left : left + size[1]] = fitted.round().to(torch.uint8)
