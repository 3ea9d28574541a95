"""How well scores rank positives above negatives, within groups and between them."""

from collections.abc import Callable

import torch
from torch import Tensor

from xai_lightning.functional.fairness.distances import BLIND
from xai_lightning.functional.fairness.scores import Scored, mixed_bins


def auc(scored: Scored) -> Tensor:
    r"""Share of pairs of a positive and a negative of one group in which the positive has the higher score.

    .. math:: P(S^+_a > S^-_a) + \tfrac12 P(S^+_a = S^-_a)

    1 is a perfect ranking within the group, 1/2 what random scores reach. It does not show whether the scores are
    comparable between groups (see :func:`xauc`) nor whether they are probabilities. Scores of one bin count as equal,
    so it is off by at most half the share of pairs that meet in a bin.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G], fractions in [0, 1]; NaN without positives or without negatives.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.7, 0.3, 0.5, 0.1]), torch.tensor([1, 1, 0, 0])
        >>> auc(scored(score_counts(scores, targets, torch.zeros(4).long(), n_groups=1))).tolist()
        [0.75]

    References:
        J. A. Hanley, B. J. McNeil, The meaning and use of the area under a receiver operating characteristic (ROC)
        curve, Radiology 143, 1982.
    """
    negatives, positives = _classes(scored)
    return _won(positives, negatives)


def auc_variance(scored: Scored) -> Tensor:
    r"""Variance of :func:`auc`, of its structural components.

    .. math:: \frac{s^2_{10}}{n^+} + \frac{s^2_{01}}{n^-}

    with the unbiased variances over the positives of the share of negatives that each beats, and over the negatives
    of the share of positives that beats each. It is 0 where every positive beats every negative, however few there
    are; limits are better formed of :func:`auc_trials`.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G]; NaN below two positives or two negatives.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.7, 0.3, 0.5, 0.1]), torch.tensor([1, 1, 0, 0])
        >>> auc_variance(scored(score_counts(scores, targets, torch.zeros(4).long(), n_groups=1))).tolist()
        [0.125]

    References:
        E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Comparing the areas under two or more correlated receiver
        operating characteristic curves: a nonparametric approach, Biometrics 44, 1988.
    """
    negatives, positives = _classes(scored)
    return _won_variance(positives, negatives)


def xauc(scored: Scored) -> Tensor:
    r"""Share of pairs of a positive of group a and a negative of group b in which the positive has the higher score.

    .. math:: P(S^+_a > S^-_b) + \tfrac12 P(S^+_a = S^-_b)

    Equal values for (a, b) and (b, a) mean that neither group's positives are ranked below the other's negatives more
    often. It does not show whether the ranking is good: random scores have no difference. Its diagonal is :func:`auc`.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G, G] indexed [group of the positive, group of the negative], fractions in [0, 1]; NaN where there
        is no such positive or negative.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores = torch.tensor([0.9, 0.6, 0.4, 0.2, 0.7, 0.3, 0.5, 0.1])
        >>> targets, groups = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> xauc(scored(score_counts(scores, targets, groups, n_groups=2))).tolist()
        [[1.0, 1.0], [0.75, 0.75]]

    References:
        N. Kallus, A. Zhou, The fairness of risk scores beyond classification: bipartite ranking and the xAUC metric,
        Advances in Neural Information Processing Systems, 2019.
    """
    return _of_pairs(scored, _won)


def xauc_variance(scored: Scored) -> Tensor:
    """Variance of :func:`xauc`, as in :func:`auc_variance`.

    The values for (a, b) and (b, a) share no sample if a is not b, so the variances of their difference add up.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G, G] indexed [group of the positive, group of the negative]; NaN below two such positives or
        negatives.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.7, 0.3, 0.5, 0.1]), torch.tensor([1, 1, 0, 0])
        >>> xauc_variance(scored(score_counts(scores, targets, torch.zeros(4).long(), n_groups=1))).tolist()
        [[0.125]]

    References:
        E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Comparing the areas under two or more correlated receiver
        operating characteristic curves: a nonparametric approach, Biometrics 44, 1988.
    """
    return _of_pairs(scored, _won_variance)


def auc_trials(scored: Scored) -> Tensor:
    r"""Number of independent trials whose share of successes has the variance of :func:`auc`.

    .. math:: \frac{A(1 - A)}{\mathrm{Var}(A)}

    and the smaller of the numbers of positives and of negatives where the variance is 0, as in a perfect ranking: no
    ranking of so many has a larger variance. With it, limits of a proportion
    (:func:`~xai_lightning.functional.intervals.wilson_of`) are limits of the AUC that hold near 1 too. Simulated lower
    limits at 95 % hold in .92 to 1 of cases, in .85 with 10 positives, 100 negatives and an AUC of .97; the value less
    1.64 standard errors holds there in .71, and with 5 of each in .36.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G]; NaN below two positives or two negatives.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.7, 0.3, 0.5, 0.1]), torch.tensor([1, 1, 0, 0])
        >>> auc_trials(scored(score_counts(scores, targets, torch.zeros(4).long(), n_groups=1))).tolist()
        [1.5]

    References:
        Z. W. Birnbaum, O. M. Klose, Bounds for the variance of the Mann-Whitney statistic, Annals of Mathematical
        Statistics 28, 1957.
    """
    negatives, positives = _classes(scored)
    return _trials(positives, negatives)


def xauc_trials(scored: Scored) -> Tensor:
    """:func:`auc_trials` of the positives of each group and the negatives of each.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G, G] indexed [group of the positive, group of the negative]; NaN below two such positives or
        negatives.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.7, 0.3, 0.5, 0.1]), torch.tensor([1, 1, 0, 0])
        >>> xauc_trials(scored(score_counts(scores, targets, torch.zeros(4).long(), n_groups=1))).tolist()
        [[1.5]]
    """
    return _of_pairs(scored, _trials)


def bpsn_auc(scored: Scored) -> Tensor:
    """AUC of the positives of all other groups against the negatives of one (background positive, subgroup negative).

    A low value means that negatives of the group are mistaken for positives: its scores are too high. It does not
    show how the group's own positives rank.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G], fractions in [0, 1]; NaN without such positives or negatives, so always with one group.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.9, 0.4, 0.7, 0.5]), torch.tensor([1, 0, 1, 0])
        >>> bpsn_auc(scored(score_counts(scores, targets, torch.tensor([0, 0, 1, 1]), n_groups=2))).tolist()
        [1.0, 1.0]

    References:
        D. Borkan, L. Dixon, J. Sorensen, N. Thain, L. Vasserman, Nuanced metrics for measuring unintended bias with
        real data for text classification, Companion of the World Wide Web Conference, 2019.
    """
    negatives, positives = _classes(scored)
    return _won(_others(positives), negatives)


def bnsp_auc(scored: Scored) -> Tensor:
    """AUC of the positives of one group against the negatives of all others (background negative, subgroup positive).

    A low value means that positives of the group are mistaken for negatives: its scores are too low. It does not show
    how the group's own negatives rank.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G], fractions in [0, 1]; NaN without such positives or negatives, so always with one group.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([0.9, 0.4, 0.3, 0.2]), torch.tensor([1, 0, 1, 0])
        >>> bnsp_auc(scored(score_counts(scores, targets, torch.tensor([0, 0, 1, 1]), n_groups=2))).tolist()
        [1.0, 0.0]

    References:
        D. Borkan, L. Dixon, J. Sorensen, N. Thain, L. Vasserman, Nuanced metrics for measuring unintended bias with
        real data for text classification, Companion of the World Wide Web Conference, 2019.
    """
    negatives, positives = _classes(scored)
    return _won(positives, _others(negatives))


def unresolved_pairs(scored: Scored) -> Tensor:
    """Groups of which too many pairs of a positive and a negative meet in one bin without being equal.

    Which of them is higher is not known, so that a ranking would be taken for chance: of an outcome as rare as one in
    a thousand all scores may lie in the first bin. Too many are those that may move the share of pairs by more than
    :data:`~xai_lightning.functional.fairness.distances.BLIND`, and by more than sampling does anyway.

    Args:
        scored: Scores of all groups.

    Returns:
        bool[..., G, G], indexed as :func:`xauc`.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.scores import score_counts, scored
        >>> scores, targets = torch.tensor([1e-4, 2e-4]).repeat(200), torch.tensor([0, 1]).repeat(200)
        >>> unresolved_pairs(scored(score_counts(scores, targets, torch.zeros(400).long(), n_groups=1))).tolist()
        [[True]]
    """
    met = mixed_bins(scored).double()

    def blind(positives: Tensor, negatives: Tensor) -> Tensor:
        of_each = positives.sum(dim=-1), negatives.sum(dim=-1)
        share = (positives * negatives * met).sum(dim=-1) / (2 * of_each[0] * of_each[1])
        return (share > BLIND) & (share > 0.5 / torch.minimum(*of_each).sqrt())

    sampled = scored if scored.sampled is None else scored._replace(numbers=scored.sampled)
    return _of_pairs(sampled, blind)


def _classes(scored: Scored) -> tuple[Tensor, Tensor]:
    """Numbers of negatives and of positives, each float64[..., G, B]."""
    negatives, positives = scored.numbers.double().unbind(dim=-2)
    return negatives, positives


def _others(numbers: Tensor) -> Tensor:
    return numbers.sum(dim=-2, keepdim=True) - numbers


def _before(numbers: Tensor) -> Tensor:
    """Number of samples below each bin, and half of those in it."""
    return numbers.cumsum(dim=-1) - numbers / 2


def _won(positives: Tensor, negatives: Tensor) -> Tensor:
    # Whole and half numbers throughout, so that a perfect ranking gives exactly 1.
    pairs = positives.sum(dim=-1) * negatives.sum(dim=-1)
    return (positives * _before(negatives)).sum(dim=-1) / pairs


def _won_variance(positives: Tensor, negatives: Tensor) -> Tensor:
    beaten = _before(negatives) / negatives.sum(dim=-1, keepdim=True)
    beating = 1 - _before(positives) / positives.sum(dim=-1, keepdim=True)
    return _mean_variance(beaten, positives) + _mean_variance(beating, negatives)


def _trials(positives: Tensor, negatives: Tensor) -> Tensor:
    value, variance = _won(positives, negatives), _won_variance(positives, negatives)
    fewest = torch.minimum(positives.sum(dim=-1), negatives.sum(dim=-1))
    return torch.where(variance == 0, fewest, value * (1 - value) / variance)


def _mean_variance(values: Tensor, numbers: Tensor) -> Tensor:
    """Variance of the mean of ``values``, of which there are ``numbers``."""
    total = numbers.sum(dim=-1)
    mean = (values * numbers).sum(dim=-1) / total
    squares = ((values - mean[..., None]).square() * numbers).sum(dim=-1)
    return torch.where(total < 2, torch.nan, squares / (total - 1) / total)


def _of_pairs(scored: Scored, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``statistic`` of the positives of each group against the negatives of all; replicates make all pairs large."""
    negatives, positives = _classes(scored)
    groups = range(positives.shape[-2])
    return torch.stack([statistic(positives[..., a : a + 1, :], negatives) for a in groups], dim=-2)
