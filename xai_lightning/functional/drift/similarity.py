"""Similarity of explanations between all pairs of validations."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from xai_lightning.functional.drift.maps import ZERO_MAP
from xai_lightning.functional.precision import exact

MOST = 128
Item = TypeVar("Item")


def similarity(history: Tensor) -> Tensor:
    """Mean signed cosine between the explanations at each pair of validations.

    Blocks on the diagonal are phases in which the model looked at the same things.

    Args:
        history: float[T, N, D], canonical maps of the same samples at T validations.

    Returns:
        float64[T, T], symmetric, exactly 1 on the diagonal; NaN where no pair is finite.

    Example:
        >>> similarity(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    maps = exact(history.detach())
    valid = maps.isfinite().all(2)
    maps = maps.where(valid[..., None], 0.0)
    sizes = maps.norm(dim=2, keepdim=True)
    empty = (valid & (maps.abs().sum(2) <= ZERO_MAP)).double()
    units = torch.where(sizes > 0, maps / sizes.clamp(min=1e-300), 0.0).flatten(1)
    counts = valid.double() @ valid.double().T
    # two zero maps are equal by convention, but their product is 0
    found = (units @ units.T + empty @ empty.T) / counts
    # squares add up to 1 only up to rounding
    return found.fill_diagonal_(1.0).masked_fill(counts == 0, torch.nan)


def thinned(items: Sequence[Item], most: int = MOST) -> list[Item]:
    """The items if they fit; else every second one and the last, so that memory is bounded (law 7).

    Args:
        items: in chronological order.
        most: how many fit.

    Example:
        >>> thinned([1, 2, 3, 4, 5, 6], most=5)
        [1, 3, 5, 6]
    """
    if len(items) <= most:
        return list(items)
    kept = list(items[::2])
    return kept if len(items) % 2 else [*kept, items[-1]]
