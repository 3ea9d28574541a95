"""Distances that need the positions of a map's cells, for images only."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from xai_lightning.functional.drift.measures import _conventional, _pair
from xai_lightning.functional.precision import exact

Grid = tuple[int, int]
RANGE = 2.0


def centre_of_mass(current: Tensor, reference: Tensor, grid: Grid) -> Tensor:
    r"""How far the centre of the absolute attribution moved, in diagonals of the image.

    0 means the same centre, 1 a move from one corner to the opposite one. It does not see mass that spreads evenly.

    Args:
        current: float[N, D], canonical maps of images, row by row.
        reference: float[N, D], canonical maps of the same samples.
        grid: rows and columns, whose product is D.

    Returns:
        float64[N] in [0, 1]; NaN where a map is not finite.

    Raises:
        ValueError: If the shapes differ, or the grid does not fit.

    Example:
        >>> centre_of_mass(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 1.0]]), (2, 2))
        tensor([1.], dtype=torch.float64)

    References:
        A. Ghorbani, A. Abid, J. Zou, Interpretation of neural networks is fragile, AAAI 2019.
    """
    a, b = _fitting(current, reference, grid)
    rows, columns = grid
    place = torch.cartesian_prod(*(torch.arange(side, device=a.device) for side in grid)).to(a).reshape(-1, 2)
    # an image of one cell has no diagonal, and its centre cannot move
    diagonal = math.hypot(rows - 1, columns - 1) or 1.0
    centres = [(m.abs() / m.abs().sum(1, keepdim=True)) @ place for m in (a, b)]
    return _conventional((centres[0] - centres[1]).norm(dim=1) / diagonal, a, b)


def ssim(current: Tensor, reference: Tensor, grid: Grid) -> Tensor:
    """Change of structure: one minus the structural similarity of signed maps, each scaled by its largest |value|.

    0 means maps that are equal up to scale, 1 no common structure. Where both maps are flat they count as equal, so it
    is small for sparse maps; a flip of every sign, which reverses means and structure alike, is partly missed (see
    `cosine`).

    Args:
        current: float[N, D], canonical maps of images, row by row.
        reference: float[N, D], canonical maps of the same samples.
        grid: rows and columns, whose product is D.

    Returns:
        float64[N] in [0, 2]; NaN where a map is not finite.

    Raises:
        ValueError: If the shapes differ, or the grid does not fit.

    Example:
        >>> ssim(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[2.0, 0, 0, 0]]), (2, 2))
        tensor([0.], dtype=torch.float64)

    References:
        Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, Image quality assessment: from error visibility to
        structural similarity, IEEE Transactions on Image Processing 13, 2004.
    """
    a, b = _fitting(current, reference, grid)
    scaled = [(m / m.abs().amax(1, keepdim=True)).reshape(-1, 1, *grid) for m in (a, b)]
    return _conventional((1 - structural_similarity(scaled[0], scaled[1])).clamp(0.0, 2.0), a, b)


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity over windows of at most 7 x 7 cells, for values between -1 and 1.

    Args:
        a: float64[N, 1, H, W].
        b: float64[N, 1, H, W].

    Returns:
        float64[N] in [-1, 1]; exactly 1 for equal maps.

    Example:
        >>> structural_similarity(torch.full((1, 1, 8, 8), 0.5), torch.ones(1, 1, 8, 8))
        tensor([0.8001], dtype=torch.float64)
    """
    a, b = exact(a), exact(b)
    window = (min(7, a.shape[2]), min(7, a.shape[3]))
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2

    def mean(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, window, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).flatten(1).mean(1)


IMAGE_MEASURES: dict[str, Callable[[Tensor, Tensor, Grid], Tensor]] = {"centre_of_mass": centre_of_mass, "ssim": ssim}


def _fitting(current: Tensor, reference: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    if current.dim() == 2 and grid[0] * grid[1] != current.shape[1]:
        raise ValueError(f"`grid` must have {current.shape[1]} cells, got {grid}.")
    return _pair(current, reference)
