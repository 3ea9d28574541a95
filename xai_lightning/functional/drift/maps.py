"""Canonical form of explanations."""

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact

CELLS, NEGLIGIBLE, ZERO_MAP = 14, 1e-6, 1e-12


def pool(maps: Tensor) -> Tensor:
    r"""Canonical form of attributions, in which explanations are compared.

    An image's channels are summed and its pixels averaged over at most 14 x 14 cells (which overlap by a pixel where
    14 does not divide the side); any other shape is merely flattened. Then values with :math:`|v| < 10^{-6} \max |v|`
    of their sample become 0, since rounding errors must not be ranked. The overall size is kept.

    Args:
        maps: float[N, C, H, W] (images), float[N, D] (tables) or float[N, ...], in units of the explained scalar.

    Returns:
        float64[N, D]; non-finite values stay where they are.

    Raises:
        ValueError: If the samples have no dimension, or no features.

    Example:
        >>> pool(torch.tensor([[1.0, -2.0, 1e-9]]))
        tensor([[ 1., -2.,  0.]], dtype=torch.float64)
    """
    if maps.dim() < 2 or 0 in maps.shape[1:]:
        raise ValueError(f"`maps` must be float[N, D] or float[N, C, H, W], not empty, got shape {tuple(maps.shape)}.")
    values = exact(maps.detach())
    if values.dim() == 4:
        cells = (min(values.shape[2], CELLS), min(values.shape[3], CELLS))
        values = torch.nn.functional.adaptive_avg_pool2d(values.sum(1, keepdim=True), cells)
    values = values.flatten(1)
    return values.masked_fill(values.abs() < NEGLIGIBLE * values.abs().amax(1, keepdim=True), 0.0)


def normalised(maps: Tensor) -> Tensor:
    """Maps scaled so that the absolute values of each add up to 1. Maps of zeros stay as they are.

    Args:
        maps: float[N, ...].

    Returns:
        Like ``maps``; one NaN makes the whole map NaN, an infinity becomes NaN and the finite values beside it 0.

    Example:
        >>> normalised(torch.tensor([[3.0, -1.0], [0.0, 0.0]]))
        tensor([[ 0.7500, -0.2500],
                [ 0.0000,  0.0000]])
    """
    sizes = maps.abs().flatten(1).sum(1).clamp(min=ZERO_MAP)
    return maps / sizes.reshape(-1, *[1] * (maps.dim() - 1))
