"""How well scores rank positives above negatives, within groups and between them."""

import torch
from torch import Tensor

from xai_lightning.functional.fairness.distances import BLIND
from xai_lightning.functional.fairness.ranking.pairs import classes, of_pairs, won
from xai_lightning.functional.fairness.scores import Scored, mixed_bins


def auc(scored: Scored) -> Tensor:
    r"""Share of pairs of a positive and a negative of one group in which the positive has the higher score.

    .. math:: P(S^+_a > S^-_a) + \tfrac12 P(S^+_a = S^-_a)

    1 is a perfect ranking within the group; random scores reach 1/2. It does not show whether the scores are comparable
    between groups (see :func:`xauc`), nor whether they are probabilities. Scores in the same bin count as equal, so the
    error is at most half the share of pairs that fall into one bin.

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
    negatives, positives = classes(scored)
    return won(positives, negatives)


def xauc(scored: Scored) -> Tensor:
    r"""Share of pairs of a positive of group a and a negative of group b in which the positive has the higher score.

    .. math:: P(S^+_a > S^-_b) + \tfrac12 P(S^+_a = S^-_b)

    Equal values for (a, b) and (b, a) mean that neither group's positives are ranked below the other's negatives more
    often. It does not show whether the ranking is good: random scores give equal values. Its diagonal is :func:`auc`.

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
    return of_pairs(scored, won)


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
    negatives, positives = classes(scored)
    return won(_others(positives), negatives)


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
    negatives, positives = classes(scored)
    return won(positives, _others(negatives))


def unresolved_pairs(scored: Scored) -> Tensor:
    """Pairs of groups in which too many positives and negatives share a bin without being equal.

    Within a bin it is unknown which of them is higher, so that a good ranking would look random: for an outcome as rare
    as one in a thousand, all scores may lie in the first bin. Too many means that they could change the share of pairs
    by more than :data:`~xai_lightning.functional.fairness.distances.BLIND`, and by more than sampling does anyway.

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
    return of_pairs(sampled, blind)


def _others(numbers: Tensor) -> Tensor:
    return numbers.sum(dim=-2, keepdim=True) - numbers
