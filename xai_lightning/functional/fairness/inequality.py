"""Indices of inequality between samples and between groups, from counts; leading dimensions are kept."""

import math

import torch
from torch import Tensor

from xai_lightning.functional.fairness.counts import per_class


def generalized_entropy(counts: Tensor, alpha: float = 2.0) -> Tensor:
    r"""How unequally the benefit of the predictions is distributed over all samples.

    With the benefit :math:`b_i = \hat y_i - y_i + 1`, 0 for a false negative, 2 for a false positive and 1 for a
    correct prediction, and its mean :math:`\mu`:

    .. math:: \frac{1}{n\alpha(\alpha-1)} \sum_i \left[(b_i/\mu)^\alpha - 1\right], \quad
        \alpha = 1: \frac1n \sum_i \frac{b_i}{\mu} \ln\frac{b_i}{\mu}, \quad
        \alpha = 0: -\frac1n \sum_i \ln\frac{b_i}{\mu}

    0 means that all samples have the same benefit, which includes the case that all are wrong in the same direction. It
    does not show who has the benefit, and with alpha = 2 it may *fall* when accuracy falls (if :math:`\mu > 5/3`), so
    it is unsuitable for a limit. For alpha = 0, AIF360's code divides by :math:`\mu` once more: 0.042475 for the
    benefits 1, 1, 1, 2, 2, 1, where this formula, which is that of its documentation, gives 0.056633.

    Args:
        counts: int64[..., G, 2, 2], indexed [group, actual, predicted], or sums of weights of that shape; class 1 is
            the favourable one.
        alpha: Weight of large benefits, finite: 2 (half the squared coefficient of variation), 1 (Theil index) or 0
            (mean log deviation), or another.

    Returns:
        float64[...], at least 0; infinite for alpha of at most 0 if a benefit is 0; NaN if there are no samples, or
        all benefits are 0.

    Raises:
        ValueError: If ``counts`` has another layout, or ``alpha`` is not finite.

    Example:
        >>> import torch
        >>> counts = torch.tensor([[[2, 2], [0, 2]]])
        >>> [round(float(generalized_entropy(counts, alpha)), 6) for alpha in (2, 1, 0)]
        [0.0625, 0.058892, 0.056633]

    References:
        T. Speicher, H. Heidari, N. Grgic-Hlaca, K. P. Gummadi, A. Singla, A. Weller, M. B. Zafar, A unified approach to
        quantifying algorithmic unfairness: measuring individual and group unfairness via inequality indices, KDD 2018.
        A. F. Shorrocks, The class of additively decomposable inequality measures, Econometrica 48, 1980.
    """
    numbers = _benefits(counts).sum(dim=-2)
    benefit = torch.arange(3, dtype=torch.float64, device=counts.device).expand(numbers.shape)
    return _entropy(benefit, numbers, alpha)


def between_group_entropy(counts: Tensor, alpha: float = 2.0) -> Tensor:
    r"""The part of :func:`generalized_entropy` between groups: each benefit is replaced by its group's mean.

    0 means that the groups have the same mean benefit, that is, the same balance of false positives and false
    negatives; it does not show how many of either there are. The rest of the whole index is inequality within groups.

    Args:
        counts: int64[..., G, 2, 2], indexed [group, actual, predicted], or sums of weights of that shape; class 1 is
            the favourable one.
        alpha: As for :func:`generalized_entropy`.

    Returns:
        float64[...], at least 0 and at most the whole index; infinite for alpha of at most 0 if a group's mean is 0;
        NaN if a group has no samples, there are fewer than two groups, or all benefits are 0.

    Raises:
        ValueError: If ``counts`` has another layout, or ``alpha`` is not finite.

    Example:
        >>> import torch
        >>> counts = torch.tensor([[[2, 2], [0, 2]], [[3, 0], [1, 2]]])
        >>> round(float(between_group_entropy(counts)), 6)
        0.026627

    References:
        T. Speicher, H. Heidari, N. Grgic-Hlaca, K. P. Gummadi, A. Singla, A. Weller, M. B. Zafar, A unified approach to
        quantifying algorithmic unfairness: measuring individual and group unfairness via inequality indices, KDD 2018.
    """
    numbers = _benefits(counts)
    sizes = numbers.sum(dim=-1)
    means = (numbers[..., 1] + 2 * numbers[..., 2]) / sizes
    return _of_groups(_entropy(means, sizes, alpha), sizes)


def differential_fairness(counts: Tensor, concentration: float = 1.0) -> Tensor:
    r"""The largest log ratio, over classes and pairs of groups, of the rates at which a class is predicted.

    .. math:: \varepsilon = \max_{a,b,y} |\ln \hat P(y|a) - \ln \hat P(y|b)|, \quad
        \hat P(y|a) = \frac{N_{ay} + c/K}{N_a + c}

    0 means that all groups have the same distribution of predictions. Like every measure of predictions alone, it
    ignores the targets; and the rarest class dominates it, where a ratio rests on few samples. The concentration c
    shrinks all shares towards 1/K: small groups look more alike than they are.

    Args:
        counts: int64[..., G, K, K] or int64[..., G, K, 3], as made by
            :func:`~xai_lightning.functional.fairness.count`.
        concentration: c, the number of pseudo-samples added to each group, spread evenly over the classes; above 0.
            AIF360's ``smoothed_edf`` uses 1.

    Returns:
        float64[...], at least 0; NaN if a group has no samples, or there are fewer than two.

    Raises:
        ValueError: If ``counts`` has another layout, or ``concentration`` is not positive.

    Example:
        >>> import torch
        >>> counts = torch.tensor([[[5, 3], [1, 3]], [[6, 2], [3, 1]]])
        >>> round(float(differential_fairness(counts)), 4)
        0.619

    References:
        J. R. Foulds, R. Islam, K. N. Keya, S. Pan, An intersectional definition of fairness, International Conference
        on Data Engineering, 2020.
    """
    if not 0 < concentration < math.inf:
        raise ValueError(f"concentration must be a positive number of pseudo-samples, got {concentration!r}")
    predicted = per_class(counts)[1].double()
    sizes = predicted.sum(dim=-1)
    shares = (predicted + concentration / predicted.shape[-1]) / (sizes[..., None] + concentration)
    logs = shares.log()
    return _of_groups((logs.amax(dim=-2) - logs.amin(dim=-2)).amax(dim=-1), sizes)


def kearns(successes: Tensor, totals: Tensor, n: Tensor | int) -> Tensor:
    r"""The largest gap between a group's rate and the overall rate, each weighted by the share of samples concerned.

    .. math:: \gamma = \max_g \frac{N_g}{n} \left|\frac{\sum_h S_h}{\sum_h N_h} - \frac{S_g}{N_g}\right|

    0 means that every group has the overall rate. The weight keeps small groups from being flagged for noise, but for
    the same reason makes harm to a minority invisible: a gap of 5 points in the false positive rate of 8 of 7,214
    people gives 0.00006. Read it beside the unweighted gap, never instead.

    Args:
        successes: int64[..., G], counts in 0..totals, such as false positives.
        totals: int64[..., G], denominators of the rate, such as negatives; the groups are disjoint.
        n: Number of all samples, int64[...], at least the sum of ``totals``.

    Returns:
        float64[...], a fraction in [0, 1]; NaN if a group has no denominator, or there are fewer than two groups.

    Example:
        >>> import torch
        >>> round(float(kearns(torch.tensor([3, 1279]), torch.tensor([8, 3955]), 7214)), 6)
        5.7e-05

    References:
        M. Kearns, S. Neel, A. Roth, Z. S. Wu, Preventing fairness gerrymandering: auditing and learning for subgroup
        fairness, International Conference on Machine Learning, 2018.
    """
    hits, sizes = successes.double(), totals.double()
    overall = hits.sum(dim=-1, keepdim=True) / sizes.sum(dim=-1, keepdim=True)
    everybody = torch.as_tensor(n, dtype=torch.float64, device=sizes.device)[..., None]
    return _of_groups((sizes / everybody * (overall - hits / sizes).abs()).amax(dim=-1), sizes)


def debiased_spread(successes: Tensor, totals: Tensor) -> Tensor:
    r"""Standard deviation of the true rates over the groups, corrected for sampling noise.

    .. math:: \sqrt{\max\left(0, \frac{1}{G-1}\sum_g (\hat p_g - \bar p)^2
        - \frac1G \sum_g \frac{\hat p_g(1 - \hat p_g)}{N_g - 1}\right)}

    0 means that the rates differ no more than those of samples from equal groups. Even where all groups are equal, the
    largest gap and the plain standard deviation grow with the number of groups and shrink with their sizes; the square
    of this does not, before it is clamped at 0. It does not show which group is the worst.

    Args:
        successes: int64[..., G], counts in 0..totals.
        totals: int64[..., G], number of independent trials.

    Returns:
        float64[...], a fraction in [0, 1]; NaN if a group has fewer than two trials, or there are fewer than two
        groups.

    Example:
        >>> import torch
        >>> round(float(debiased_spread(torch.tensor([30, 50, 70]), torch.tensor([100, 100, 100]))), 4)
        0.1943

    References:
        K. Lum, Y. Zhang, A. Bower, De-biasing "bias" measurement, Fairness, Accountability, and Transparency, 2022.
    """
    sizes = totals.double()
    rates = successes.double() / sizes
    centre = rates.mean(dim=-1, keepdim=True)
    # the spread of a single group is undefined, not 0
    spread = (rates - centre).square().sum(dim=-1) / (rates.shape[-1] - 1 or math.nan)
    # with one trial the sampling variance is 0/0, and its NaN propagates
    noise = (rates * (1 - rates) / (sizes - 1)).mean(dim=-1)
    return (spread - noise).clamp(min=0).sqrt()


def _benefits(counts: Tensor) -> Tensor:
    """Numbers of samples with the benefit 0, 1 and 2, float64[..., G, 3]."""
    if counts.ndim < 3 or counts.shape[-2:] != (2, 2):
        raise ValueError(f"counts must end in [G, 2, 2], of two classes, got shape {list(counts.shape)}")
    (tn, fp), (fn, tp) = (row.unbind(-1) for row in counts.double().unbind(-2))
    return torch.stack([fn, tp + tn, fp], dim=-1)


def _entropy(benefit: Tensor, numbers: Tensor, alpha: float) -> Tensor:
    """The index for ``numbers`` [..., B] of samples with each ``benefit`` [..., B]."""
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be finite, got {alpha!r}")
    total = numbers.sum(dim=-1)
    mean = (benefit * numbers).sum(dim=-1) / total
    relative = benefit / mean[..., None]
    if alpha == 0:
        terms = -relative.log()
    elif alpha == 1:
        terms = torch.xlogy(relative, relative)
    else:
        terms = (relative**alpha - 1) / (alpha * (alpha - 1))
    # a benefit that no sample has contributes 0, even if its term is infinite; but 0/0 must stay NaN
    terms = torch.where((numbers == 0) & ~relative.isnan(), 0.0, numbers * terms)
    return (terms.sum(dim=-1) / total).clamp(min=0)


def _of_groups(values: Tensor, sizes: Tensor) -> Tensor:
    """``values`` [...], NaN where a group of ``sizes`` [..., G] is empty, or there are fewer than two groups."""
    undefined = (sizes == 0).any(dim=-1) | (sizes.shape[-1] < 2)
    return values.masked_fill(undefined, math.nan)
