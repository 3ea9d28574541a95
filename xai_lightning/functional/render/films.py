"""Attribution maps over the validations of a run, in one picture."""

from collections.abc import Sequence

import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import (
    Picture,
    check_count,
    check_scale,
    coloured,
    inches,
    pixels,
    write,
)
from xai_lightning.functional.render.sheets import wrapped
from xai_lightning.functional.render.titles import lined, margin

MOST_FRAMES, MOST_SAMPLES = 12, 6
_TOP, _TILE, _GAP, _LINE = 30, 62, 4, 14


def filmstrip(maps: Tensor, numbers: Sequence[int], *, labels: Sequence[str], scale: float, note: str = "") -> Picture:
    """One row per sample and one column per validation, to see when the model's attributions changed.

    Args:
        maps: float[T, S, H, W], maps of S samples at T validations.
        numbers: numbers of the T validations.
        labels: one text per sample.
        scale: absolute value of full colour; larger values saturate.
        note: unit of the scale.

    Returns:
        uint8[H, W, 3]; of more than 12 validations, evenly chosen ones including the first and the last; of more than
        6 samples, the first 6.

    Raises:
        ValueError: if the shapes do not fit, or the scale is not positive and finite.

    Example:
        >>> filmstrip(torch.zeros(3, 2, 4, 4), [1, 2, 3], labels=["a", "b"], scale=1.0).shape[2]
        3
    """
    if maps.dim() != 4:
        raise ValueError(f"`maps` must be float[T, S, H, W], got {tuple(maps.shape)}.")
    check_count("`maps` and `numbers`", (len(maps), len(numbers)))
    check_count("samples and `labels`", (maps.shape[1], len(labels)))
    check_scale(scale)
    count = min(MOST_FRAMES, len(numbers))
    frames = sorted({round(i * (len(numbers) - 1) / max(1, count - 1)) for i in range(count)})
    shown = maps[frames][:, :MOST_SAMPLES].detach().double().cpu()
    tiles = torch.nn.functional.interpolate(shown, (_TILE, _TILE), mode="nearest-exact")
    rows = shown.shape[1]
    left = margin(labels[:rows])
    width = left + len(frames) * (_TILE + _GAP) + 8
    legend = f"red: for the explained output, blue: against it; full colour is {scale:.3g} {note}".rstrip()
    legend += "" if shown.isfinite().all() else "; grey: left out, since not finite or incomplete"
    lines = wrapped(legend, width - 12, 8)
    below = _TOP + rows * (_TILE + _GAP) + 16
    height = below + _LINE * len(lines)
    canvas = torch.full((height, width, 3), 255, dtype=torch.uint8, device="cpu")
    for column in range(len(frames)):
        for row in range(rows):
            y, x = _TOP + row * (_TILE + _GAP), left + column * (_TILE + _GAP)
            canvas[y : y + _TILE, x : x + _TILE] = coloured(tiles[column, row][..., None], scale)
    with style.context("default"):
        figure = Figure(inches(width, height))
        figure.figimage(canvas.numpy(), origin="upper")
        write(figure, "validation", left - 10, 15, "right")
        for column, frame in enumerate(frames):
            write(figure, str(numbers[frame]), left + column * (_TILE + _GAP) + _TILE / 2, 15, "center")
        for row in range(rows):
            write(figure, lined(labels[row]), 6, _TOP + row * (_TILE + _GAP) + _TILE / 2, "left", size=8)
        for number, line in enumerate(lines):
            write(figure, line, 6, below + _LINE * number, "left", size=8)
        return pixels(figure)
