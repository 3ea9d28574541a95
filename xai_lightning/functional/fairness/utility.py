"""Utility, to be read beside fairness: a constant predictor treats all groups alike, and is useless."""

from typing import NamedTuple

from torch import Tensor

from xai_lightning.functional.fairness.counts import per_class
from xai_lightning.functional.intervals import clopper_pearson, mover_mean


class Floor(NamedTuple):
    """A measure of utility and its lower limit, float64 scalars.

    Attributes:
        value: Estimate, NaN if undefined.
        bound: Lower limit at the error that may be spent, ``-inf`` if that is 0, NaN if undefined.
    """

    value: Tensor
    bound: Tensor


def balanced_accuracy(counts: Tensor, error: float, *, exact: bool = False) -> Floor:
    r"""Mean recall over the classes, with its lower confidence limit.

    .. math:: \frac1K\sum_k \frac{\text{correct}_k}{\text{actual}_k}

    1 means that every sample is predicted correctly; any constant or random predictor reaches 1/K, whatever the class
    balance. It does not show which class or group bears the errors, nor what an error costs.

    Args:
        counts: int64[..., K, K] or int64[..., K, 3] of all groups together: :func:`count` summed over its first
            dimension.
        error: One-sided error probability of the limit, in [0, 0.5).
        exact: Use the mean of exact limits of the recalls, which share the error, instead of the limit recovered from
            Wilson limits.

    Returns:
        Value and lower limit, float64[...], fractions in [0, 1]; both NaN if a class has no samples. The limit is
        ``-inf`` if ``error`` is 0.

    Raises:
        ValueError: If ``counts`` has another layout, or ``error`` is outside [0, 0.5).

    Example:
        >>> import torch
        >>> value, bound = balanced_accuracy(torch.tensor([[90, 10], [10, 40]]), error=0.05)
        >>> round(float(value), 4), round(float(bound), 4)
        (0.85, 0.7884)

    References:
        K. H. Brodersen, C. S. Ong, K. E. Stephan, J. M. Buhmann, The balanced accuracy and its posterior
        distribution, International Conference on Pattern Recognition, 2010.
    """
    correct, _, actual = per_class(counts)
    value = (correct.double() / actual.double()).mean(dim=-1)
    if exact:
        return Floor(value, clopper_pearson(correct, actual, error / actual.shape[-1]).lower.mean(dim=-1))
    return Floor(value, mover_mean(correct, actual, error).lower)
