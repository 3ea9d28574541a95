"""The similarity of all pairs of validations, as a picture."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor

from xai_lightning.functional.render.canvas import FAINT, INK, Picture, inches, pixels
from xai_lightning.functional.render.sheets import wrapped
from xai_lightning.functional.render.ticks import round_places


def similarity(matrix: Tensor, numbers: Sequence[int], *, title: str) -> Picture:
    """Similarity of the explanations of all pairs of validations.

    Blocks along the diagonal are phases in which the model's explanations stayed similar.

    Args:
        matrix: float[T, T], from -1 to 1; NaN is white.
        numbers: Numbers of the T validations.
        title: Title of the picture.

    Returns:
        uint8[H, W, 3].

    Raises:
        ValueError: If there is not one row and column for each number.

    Example:
        >>> import torch
        >>> similarity(torch.eye(3), [1, 2, 3], title="similarity").shape[2]
        3
    """
    if matrix.shape != (len(numbers), len(numbers)) or not numbers:
        raise ValueError(f"`matrix` must be float[T, T] for {len(numbers)} numbers, got {tuple(matrix.shape)}.")
    with style.context("default"):
        figure = Figure(inches(560, 500), layout="constrained")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["cividis"].with_extremes(bad="#ffffff")
        low = min(0.0, float(np.nanmin(matrix.numpy(), initial=0.0)))
        shown = axes.imshow(matrix.numpy(), cmap=colours, vmin=low, vmax=1.0, interpolation="nearest")
        count = max(2, min(10, 40 // (len(str(max(numbers))) + 1)))
        places = round_places(numbers, count)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(places, labels=[str(numbers[place]) for place in places])
        axes.tick_params(labelsize=10, labelcolor=FAINT, length=0)
        axes.set(xlabel="validation" + "; white: unknown" * bool(matrix.isnan().any()), ylabel="validation")
        bar = figure.colorbar(shown, shrink=0.85)
        bar.set_label("mean cosine similarity", color=INK)
        bar.outline.set_visible(False)
        figure.suptitle("\n".join(wrapped(title, 540, 12)), fontsize=12, color=INK, x=0.01, ha="left", parse_math=False)
        return pixels(figure)
