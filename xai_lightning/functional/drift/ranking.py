"""Agreement of two rankings of features by global importance."""

import math

import torch
from torch import Tensor

from xai_lightning.functional.drift.measures import RANKED_STEP


def ndcg(current: Tensor, reference: Tensor) -> float:
    r"""Normalised discounted cumulative gain of the current ranking, with the reference importances as gains.

    .. math:: \sum_i \frac{a(f'_i)}{\log_2 (i + 1)} \Big/ \sum_i \frac{a(f_i)}{\log_2 (i + 1)}

    1 means the same order. It is not symmetric, ignores signs, and its lowest value depends on how skewed the
    importances are (1 if they are all equal), so that no threshold means the same everywhere: see `ndcg_adjusted`.

    Args:
        current: float[D], current importances, which give the order, in steps of 1e-5 of the largest; the gain of tied
            features is averaged over their possible orders.
        reference: float[D], importances at the reference, at least 0.

    Returns:
        A number in (0, 1]; NaN if the reference is all 0, or a value is not finite.

    Raises:
        ValueError: If the shapes differ or are not [D].

    Example:
        >>> round(ndcg(torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.7, 0.5, 0.05])), 4)
        0.6876

    References:
        K. Jarvelin, J. Kekalainen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20, 2002.
    """
    if current.dim() != 1 or current.shape != reference.shape:
        got = f"{tuple(current.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"`current` and `reference` must be float[D] of equal shape, got {got}.")
    now, gains = current.detach().cpu().double(), reference.detach().cpu().double()
    if not (now.isfinite().all() and gains.isfinite().all()) or float(gains.sum()) <= 0:
        return math.nan
    # the same gains summed in another order may differ by a rounding error
    return min(1.0, _gained(now, gains) / _gained(gains, gains))


def ndcg_adjusted(current: Tensor, reference: Tensor) -> float:
    """`ndcg` on a scale where 1 is the same order and 0 the average over random orders.

    Args:
        current: float[D], as in `ndcg`.
        reference: float[D], likewise.

    Returns:
        At most 1, negative if worse than random; NaN where all orders score nearly the same.

    Example:
        >>> ndcg_adjusted(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.7, 0.5, 0.05]))
        1.0
    """
    found, gains = ndcg(current, reference), reference.detach().cpu().double()
    if math.isnan(found):
        return math.nan
    random = float(gains.mean() * _discounts(len(gains)).sum()) / _gained(gains, gains)
    return (found - random) / (1 - random) if 1 - random >= 1e-6 else math.nan


def _gained(importance: Tensor, gains: Tensor) -> float:
    """Discounted gain in the order of ``importance``, averaged over the possible orders of tied features."""
    # all 0: everything ties, without a division by 0
    steps = (importance / importance.abs().max().clamp(min=1e-300) / RANKED_STEP).round()
    order = steps.argsort(descending=True, stable=True)
    _, tie = torch.unique_consecutive(steps[order], return_inverse=True)
    numbers = tie.bincount().double()
    average = torch.zeros_like(numbers).index_add_(0, tie, gains[order]) / numbers
    return float((average[tie] * _discounts(len(gains))).sum())


def _discounts(count: int) -> Tensor:
    return 1 / torch.arange(2, count + 2, dtype=torch.float64, device="cpu").log2()
