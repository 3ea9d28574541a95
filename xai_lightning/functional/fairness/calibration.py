"""Calibration per group: whether scores are the probabilities that they claim to be."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.means import Means, means
from xai_lightning.functional.fairness.scores import Scored

MASS_BINS = 10
"""Number of bins of equal mass from which the calibration error is computed."""


class Reliability(NamedTuple):
    """Scores and outcomes in bins, each [..., G, bins].

    Attributes:
        score: Mean score, NaN in an empty bin.
        observed: Share of positives, NaN in an empty bin.
        number: Number of samples.
    """

    score: Tensor
    observed: Tensor
    number: Tensor


def calibration_in_the_large(scored: Scored) -> Means:
    r"""Mean score minus the share of positives.

    .. math:: \frac1n\sum_i (p_i - y_i)

    0 means that the expected number of positives equals the actual one; above 0, the group's risk is overstated: the
    sign is opposite to that of :func:`mean_residual`. It does not show errors that cancel between low and high scores.
    Unlike the expected calibration error, it is unbiased in small groups.

    Args:
        scored: Scores of all groups.

    Returns:
        Means of :math:`p - y` in [-1, 1], each float64[..., G]. Bootstrap replicates are exact up to the spread of the
        scores within a bin.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.75, 0.5, 0.25, 0.5]), torch.tensor([1, 1, 0, 0])
        >>> means = calibration_in_the_large(scored(score_counts(scores, targets, torch.zeros(4).long(), n_groups=1)))
        >>> float(means.value), float(means.number)
        (0.0, 4.0)

    References:
        D. R. Cox, Two further applications of a model for binary regression, Biometrika 45, 1958.
    """
    number, scores, positives = (part.sum(dim=-1) for part in _cells(scored))
    value = (scores - positives) / number
    return means(value, _squared_errors(scored) - number * value.square(), number)


def calibration_error_squared(scored: Scored, bins: int = MASS_BINS) -> Tensor:
    r"""Mean squared difference of score and outcome over bins of equal mass, minus the contribution of chance.

    .. math:: \sum_m \frac{n_m}{n}\left[(\bar p_m - \bar y_m)^2 - \frac{\bar y_m(1 - \bar y_m)}{n_m - 1}\right]

    Its expectation for calibrated scores is 0 whatever the size of the group, minus the variance of the scores within a
    bin over :math:`n_m - 1`, which is small; so it can be negative. It does not show in which direction the scores err,
    nor errors that cancel within a bin.

    Bins are merged from the grid of scores, at most one per two samples; a bin that still holds a single sample (equal
    scores are never split) is left out.

    Args:
        scored: Scores of all groups.
        bins: Number of bins, at least 1.

    Returns:
        float64[..., G], squared probabilities; NaN below two samples.

    Raises:
        ValueError: If ``bins`` is below 1.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.full([4], 0.5), torch.tensor([1, 1, 0, 0])
        >>> cells = scored(score_counts(scores, targets, torch.zeros(4).long(), n_groups=1))
        >>> round(float(calibration_error_squared(cells)), 6)
        -0.083333

    References:
        A. Kumar, P. Liang, T. Ma, Verified uncertainty calibration, Advances in Neural Information Processing
        Systems, 2019, section 4.
    """
    number, scores, positives = _equal_mass(scored, bins)
    share = positives / number
    error = (scores - positives).square() / number.square() - share * (1 - share) / (number - 1)
    usable = number >= 2
    weight = torch.where(usable, number, 0)
    return torch.where(usable, number * error, 0).sum(dim=-1) / weight.sum(dim=-1)


def expected_calibration_error(scored: Scored, bins: int = 15, norm: Literal["l1", "l2", "max"] = "l1") -> Tensor:
    r"""Mean absolute difference of score and outcome over bins of equal width, as other libraries report it.

    .. math:: \sum_m \frac{n_m}{n}\,|\bar p_m - \bar y_m|

    0 means that score and outcome agree in each bin, which no finite sample reaches: calibrated scores show .21 with 30
    samples and .07 with 300, so a gap between a small and a large group is no evidence of miscalibration. Use
    :func:`calibration_in_the_large` or :func:`calibration_error_squared` to compare groups.

    Args:
        scored: Scores of all groups.
        bins: Number of bins, at least 1; a bin of the grid belongs to the one that holds its centre.
        norm: ``l1`` for the mean difference, ``l2`` for the root mean squared difference, ``max`` for the largest.

    Returns:
        float64[..., G], probabilities; NaN without samples.

    Raises:
        ValueError: If ``bins`` is below 1 or ``norm`` is unknown.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.25, 0.25, 0.55, 0.75, 0.75]), torch.tensor([0, 0, 1, 1, 1])
        >>> cells = scored(score_counts(scores, targets, torch.zeros(5).long(), n_groups=1))
        >>> [round(float(expected_calibration_error(cells, bins=2, norm=norm)), 4) for norm in ("l1", "l2", "max")]
        [0.29, 0.2918, 0.3167]

    References:
        M. P. Naeini, G. F. Cooper, M. Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning, AAAI
        Conference on Artificial Intelligence, 2015.
    """
    _check_bins(bins)
    grid = scored.numbers.shape[-1]
    index = (2 * torch.arange(grid, device=scored.numbers.device) + 1) * bins // (2 * grid)
    number, scores, positives = _gathered(scored, index, bins)
    weight = number / number.sum(dim=-1, keepdim=True)
    gap = torch.where(number == 0, 0, (scores - positives).abs() / number)
    if norm == "l1":
        return (weight * gap).sum(dim=-1)
    if norm == "l2":
        return (weight * gap.square()).sum(dim=-1).sqrt()
    if norm == "max":
        return torch.where(weight.isnan(), weight, gap).amax(dim=-1)
    raise ValueError(f"norm must be 'l1', 'l2' or 'max', got {norm!r}")


def kolmogorov_calibration_error(scored: Scored) -> Tensor:
    r"""Largest cumulative difference of scores and outcomes, sorted by score; it needs no bins.

    .. math:: \max_k \Big|\frac1n\sum_{i \le k} (p_{(i)} - y_{(i)})\Big|

    0 means that up to every score as many positives are expected as there are, which no finite sample reaches: like the
    expected calibration error, it is larger in small groups. It is at least the absolute
    :func:`calibration_in_the_large`. Sums are compared at the edges of the grid's bins, which never split ties.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G], probabilities; NaN without samples.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.25, 0.75]), torch.tensor([0, 1])
        >>> cells = scored(score_counts(scores, targets, torch.zeros(2).long(), n_groups=1))
        >>> kolmogorov_calibration_error(cells).tolist()
        [0.125]

    References:
        K. Gupta, A. Rahimi, T. Ajanthan, T. Mensink, C. Sminchisescu, R. Hartley, Calibration of neural networks
        using splines, International Conference on Learning Representations, 2021.
    """
    number, scores, positives = _cells(scored)
    return (scores - positives).cumsum(dim=-1).abs().amax(dim=-1) / number.sum(dim=-1)


def brier(scored: Scored) -> Tensor:
    r"""Mean squared difference of score and outcome.

    .. math:: \frac1n\sum_i (p_i - y_i)^2

    0 means that every score is certain and right. It mixes calibration with the predictability of outcomes: groups
    whose shares of positives differ have different values under the same model, see :func:`brier_skill`.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G], in [0, 1]; NaN without samples.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.5, 1.0]), torch.tensor([0, 1])
        >>> brier(scored(score_counts(scores, targets, torch.zeros(2).long(), n_groups=1))).tolist()
        [0.125]

    References:
        G. W. Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78, 1950.
    """
    return _squared_errors(scored) / scored.numbers.sum(dim=(-2, -1))


def brier_skill(scored: Scored) -> Tensor:
    r"""Share of the squared error of the constant score :math:`\bar y` that the scores remove.

    .. math:: 1 - \frac{\frac1n\sum_i (p_i - y_i)^2}{\bar y(1 - \bar y)}

    1 means that every score is certain and right, 0 that scores are no better than the group's share of positives, and
    values below 0 that they are worse. It does not show for which outcomes the errors occur.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G], at most 1; NaN without positives or without negatives.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.5, 1.0]), torch.tensor([0, 1])
        >>> brier_skill(scored(score_counts(scores, targets, torch.zeros(2).long(), n_groups=1))).tolist()
        [0.5]

    References:
        A. H. Murphy, A new vector partition of the probability score, Journal of Applied Meteorology 12, 1973.
    """
    negatives, positives = scored.numbers.double().sum(dim=-1).unbind(dim=-1)
    uncertainty = negatives * positives / (negatives + positives).square()
    return torch.where(uncertainty > 0, 1 - brier(scored) / uncertainty, torch.nan)


def reliability(scored: Scored, bins: int = MASS_BINS) -> Reliability:
    """Mean score and share of positives in bins of equal mass, in ascending order of the score.

    Points on the diagonal mean calibrated scores; the share of n samples deviates by up to about 1 / (2 sqrt(n)) by
    chance alone. The bins are those of :func:`calibration_error_squared`.

    Args:
        scored: Scores of all groups.
        bins: Number of bins, at least 1; small groups fill fewer, and the others are empty.

    Returns:
        Score, observed share and number, each float64[..., G, bins].

    Raises:
        ValueError: If ``bins`` is below 1.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.25, 0.25, 0.75, 0.75]), torch.tensor([0, 1, 1, 1])
        >>> points = reliability(scored(score_counts(scores, targets, torch.zeros(4).long(), n_groups=1)), bins=2)
        >>> points.score.tolist(), points.observed.tolist()
        ([[0.25, 0.75]], [[0.5, 1.0]])
    """
    number, scores, positives = _equal_mass(scored, bins)
    return Reliability(scores / number, positives / number, number)


def _cells(scored: Scored) -> tuple[Tensor, Tensor, Tensor]:
    """Number of samples, sum of scores and number of positives per bin of the grid, each float64[..., G, B]."""
    numbers = scored.numbers.double()
    return numbers.sum(dim=-2), (numbers * scored.means).sum(dim=-2), numbers[..., 1, :]


def _squared_errors(scored: Scored) -> Tensor:
    """Sum of the squared differences of score and outcome, float64[..., G]."""
    numbers = scored.numbers.double()
    positives = numbers[..., 1, :]
    return (numbers * scored.squares).sum(dim=(-2, -1)) + (positives * (1 - 2 * scored.means[:, 1])).sum(dim=-1)


def _equal_mass(scored: Scored, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number, sum of scores and positives of bins of equal mass; each cell goes to the bin that holds its middle."""
    _check_bins(bins)
    number = scored.numbers.double().sum(dim=-2)
    total = number.sum(dim=-1, keepdim=True)
    # at least two samples per bin: the sampling variance of one is unknown
    used = torch.div(total, 2, rounding_mode="floor").clamp(1, bins)
    middle = (number.cumsum(dim=-1) - number / 2) * used / total.clamp_min(1)
    return _gathered(scored, torch.minimum(middle.long(), used.long() - 1), bins)


def _gathered(scored: Scored, index: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of :func:`_cells` over the bins ``index`` [..., G, B] or [B], each [..., G, bins]."""
    number, scores, positives = (
        cells.new_zeros(*cells.shape[:-1], bins).scatter_add_(-1, index.expand_as(cells), cells)
        for cells in _cells(scored)
    )
    return number, scores, positives


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins!r}")
