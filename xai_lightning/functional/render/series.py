"""Series as curves over a band of their attribution."""

from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import (
    DIVERGING,
    FAINT,
    INK,
    Picture,
    check_count,
    check_scale,
    inches,
    pixels,
    short,
)

MOST_SERIES, MOST_CHANNELS = 4, 4


def series_bands(
    series: Tensor | None,
    now: Tensor,
    reference: Tensor,
    *,
    channels: Sequence[str],
    titles: Sequence[str],
    scale: float,
) -> Picture:
    """Curves of some channels over a band that is coloured by attribution; beneath it, a band of the reference.

    The channels with the largest attribution at the reference are shown, so that pictures can be flipped through.

    Args:
        series: float[N, C, T], or None, which keeps them out of the picture.
        now: float[N, C, B], attribution of B stretches of time.
        reference: float[N, C, B], likewise at the reference.
        channels: name of each channel.
        titles: one line for each series.
        scale: the largest absolute value that is told apart.

    Returns:
        uint8[H, W, 3]; of more than 4 series or channels 4 are shown.

    Raises:
        ValueError: if the numbers do not fit, or the scale is not positive and finite.

    Example:
        >>> import torch
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
    with style.context("default"):
        figure = Figure(inches(240 * len(shown) + 40, 150 * rows + 40), layout="constrained")
        panels = figure.subplots(rows, len(shown), squeeze=False)
        for row in range(rows):
            for column, channel in enumerate(shown):
                axes: Axes = panels[row][column]
                curve = None if series is None else series[row, channel].detach().double().cpu().numpy()
                now_band, then_band = (m[row, channel].detach().double().cpu().numpy() for m in (now, reference))
                _panel(axes, curve, now_band, then_band, scale)
                if row == 0:
                    axes.set_title(short(channels[channel], 24), fontsize=10, color=INK, parse_math=False)
                if column == 0:
                    lines = "\n".join(short(line, 22) for line in titles[row].splitlines()[:2])
                    axes.set_ylabel(lines, fontsize=8, color=INK, parse_math=False)
        note = f"band: attribution now, strip below: at the reference; full colour is {scale:.3g}"
        figure.supxlabel(note, fontsize=8.5, color=FAINT, parse_math=False)
        return pixels(figure)


def _panel(
    axes: Axes,
    curve: "np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None",
    now: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    reference: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    scale: float,
) -> None:
    length = len(now) if curve is None else len(curve)
    finite = np.zeros(2) if curve is None else curve[np.isfinite(curve)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = 0.08 * (high - low) or 1.0
    low, high = low - margin, high + margin
    strip = low - 0.16 * (high - low)
    for band, below, above in ((now, low, high), (reference, strip, low - 0.03 * (high - low))):
        masked = np.ma.masked_invalid(band[None])
        place = (0, length, below, above)
        axes.imshow(
            masked, cmap=DIVERGING, vmin=-scale, vmax=scale, extent=place, aspect="auto", interpolation="nearest"
        )
    if curve is not None:
        axes.plot(np.arange(length) + 0.5, curve, color=INK, linewidth=1.1)
    axes.set(xlim=(0, length), ylim=(strip, high), yticks=[])
    axes.tick_params(labelsize=8, labelcolor=FAINT, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
