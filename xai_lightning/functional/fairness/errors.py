"""Mean predictions and errors of numeric predictions, per group."""

import torch
from torch import Tensor

from xai_lightning.functional.fairness.floats import value_centres
from xai_lightning.functional.fairness.means import Means, means
from xai_lightning.functional.fairness.regression import Residuals


def mean_prediction(sums: Residuals, origin: float = 0.0) -> Means:
    """Mean prediction.

    Equal values mean equal predictions on average; whether that is fair depends on the targets. It does not show how
    predictions are spread.

    Args:
        sums: Sums of all samples.
        origin: The origin of the sums.

    Returns:
        Means in the unit of the targets, each float64[G].

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.regression import residual_sums
        >>> sums = residual_sums(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([0, 0]), n_groups=1)
        >>> [float(part) for part in mean_prediction(sums)]
        [1.5, 0.5, 2.0]

    References:
        T. Calders, A. Karim, F. Kamiran, W. Ali, X. Zhang, Controlling attribute effect in linear regression, IEEE
        International Conference on Data Mining, 2013.
    """
    found = _around(sums.predictions, sums.prediction_sums, value_centres(sums.predictions.device))
    return found._replace(value=found.value + origin)


def mean_residual(sums: Residuals) -> Means:
    r"""Mean residual: target minus prediction.

    .. math:: \frac1n\sum_i (y_i - \hat y_i)

    0 means right on average, above 0 that predictions for the group are too low: the sign is opposite to that of
    :func:`calibration_in_the_large`. It does not show the size of single errors.

    Args:
        sums: Sums of all samples.

    Returns:
        Means in the unit of the targets, each float64[G].

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.regression import residual_sums
        >>> sums = residual_sums(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([0, 0]), n_groups=1)
        >>> [float(part) for part in mean_residual(sums)]
        [-1.5, 0.5, 2.0]

    References:
        T. Calders, A. Karim, F. Kamiran, W. Ali, X. Zhang, Controlling attribute effect in linear regression, IEEE
        International Conference on Data Mining, 2013.
    """
    return _around(sums.residuals, sums.residual_sums, value_centres(sums.residuals.device))


def absolute_error(sums: Residuals) -> Means:
    """Mean absolute residual.

    0 means that every prediction is exact. It does not show the direction of the errors.

    Args:
        sums: Sums of all samples.

    Returns:
        Means in the unit of the targets, each float64[G].

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.regression import residual_sums
        >>> sums = residual_sums(torch.tensor([1.0, -2.0]), torch.zeros(2), torch.tensor([0, 0]), n_groups=1)
        >>> [float(part) for part in absolute_error(sums)]
        [1.5, 0.5, 2.0]
    """
    centres = value_centres(sums.residuals.device)
    side = centres.sign()
    # no bin holds both signs, so the sign of a whole bin can be flipped
    flipped = torch.stack([sums.residual_sums[0] * side, sums.residual_sums[1]])
    return _around(sums.residuals, flipped, centres.abs())


def squared_error(sums: Residuals) -> Means:
    """Mean squared residual.

    0 means that every prediction is exact. Few large errors outweigh many small ones.

    Args:
        sums: Sums of all samples.

    Returns:
        Means in the squared unit of the targets, each float64[G].

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.regression import residual_sums
        >>> sums = residual_sums(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([0, 0]), n_groups=1)
        >>> [float(part) for part in squared_error(sums)]
        [2.5, 4.5, 2.0]
    """
    residual = mean_residual(sums)
    number = residual.number
    spread = torch.where(number < 2, 0, residual.variance * (number - 1) / number)
    value = residual.value.square() + spread
    return means(value, sums.fourth_powers - number * value.square(), number)


def root_squared_error(sums: Residuals) -> Means:
    """Square root of the mean squared residual, with its variance by the delta method.

    0 means that every prediction is exact. Few large errors outweigh many small ones.

    Args:
        sums: Sums of all samples.

    Returns:
        Roots in the unit of the targets, and the variance of one sample's contribution, each float64[G].

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.regression import residual_sums
        >>> sums = residual_sums(torch.tensor([1.0, 7.0]), torch.zeros(2), torch.tensor([0, 0]), n_groups=1)
        >>> [float(part) for part in root_squared_error(sums)]
        [5.0, 11.52, 2.0]
    """
    squared = squared_error(sums)
    # If all errors are 0, the variance is 0, not 0/0.
    steepness = 4 * squared.value.clamp_min(torch.finfo(torch.float64).tiny)
    return Means(squared.value.sqrt(), squared.variance / steepness, squared.number)


def _around(numbers: Tensor, moments: Tensor, middles: Tensor) -> Means:
    """Means of values, from their sums of distances and squared distances to the middles of their bins."""
    number = numbers.double()
    total = number.sum(dim=-1)
    centre = (number * middles).sum(dim=-1) / total.clamp_min(1)
    centre = centre + moments[0].sum(dim=-1) / total.clamp_min(1)
    away = middles - centre[:, None]
    squares = moments[1] + 2 * away * moments[0] + number * away.square()
    return means(centre, squares.sum(dim=-1), total)
