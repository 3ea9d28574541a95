"""Average attribution maps of images, and their uncertainty."""

from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import FAINT, INK, Picture, check_scale, inches, pixels
from xai_lightning.functional.render.sheets import wrapped


def average_map(mean: Tensor, half_width: Tensor, *, scale: float, title: str) -> Picture:
    """The mean absolute attribution at each position, and half the width of its interval, on one colour scale.

    A position that is as bright on the right as on the left is not known to matter.

    Args:
        mean: float[H, W], at least 0, in units of the explained scalar; NaN is white.
        half_width: float[H, W], likewise.
        scale: Value of full colour, positive; larger values saturate.
        title: Title of the picture.

    Returns:
        uint8[H, W, 3], 640 pixels wide.

    Raises:
        ValueError: If the shapes differ, or the scale is not positive and finite.

    Example:
        >>> import torch
        >>> average_map(torch.ones(4, 4), torch.zeros(4, 4), scale=1.0, title="mean").shape
        (330, 640, 3)
    """
    if mean.dim() != 2 or mean.shape != half_width.shape:
        got = f"{tuple(mean.shape)} and {tuple(half_width.shape)}"
        raise ValueError(f"`mean` and `half_width` must be float[H, W] of equal shape, got {got}.")
    check_scale(scale)
    with style.context("default"):
        figure = Figure(inches(640, 330), layout="constrained", facecolor="white")
        panels = figure.subplots(1, 2)
        for axes, name in zip(panels, ("mean", "half-width of its 95 % interval"), strict=True):
            axes.set_facecolor("#ffffff")
            axes.set_title(name, fontsize=11, color=INK)
            axes.set(xticks=[], yticks=[])
        colours: Any = {"cmap": "cividis", "vmin": 0.0, "vmax": scale, "interpolation": "nearest"}
        panels[0].imshow(mean.numpy(), **colours)
        bar = figure.colorbar(panels[1].imshow(half_width.numpy(), **colours), ax=list(panels), shrink=0.85)
        bar.ax.tick_params(labelsize=10, labelcolor=FAINT, length=0)
        bar.outline.set_visible(False)
        figure.suptitle("\n".join(wrapped(title, 620, 12)), fontsize=12, color=INK, x=0.01, ha="left", parse_math=False)
        return pixels(figure)
