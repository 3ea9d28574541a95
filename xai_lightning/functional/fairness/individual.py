"""Individual fairness: the effect of another value of the attribute, and whether similar samples are treated alike."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

_DISTANCES_AT_ONCE = 2**20
"""Number of distances per block: fits the caches, and does not affect results."""
_TIED = 1e-12
"""Relative difference up to which squared distances count as equal; their rounding error is about 1e-15."""


class ScoreChange(NamedTuple):
    """Change of each sample's score, each float64[N].

    Attributes:
        signed: Changed score minus original score, averaged over the other values of the attribute.
        absolute: Mean absolute difference.
    """

    signed: Tensor
    absolute: Tensor


def flips(classes: Tensor, flipped: Tensor) -> Tensor:
    """Mask of the samples that would be decided differently with some other value of the sensitive attribute.

    Args:
        classes: int64[N], predicted classes.
        flipped: int64[A, N], predicted classes of the same samples with each other value of the attribute.

    Returns:
        bool[N].

    Raises:
        ValueError: If shapes do not agree, or there is no other value.

    Example:
        >>> import torch
        >>> flips(torch.tensor([0, 1, 1]), torch.tensor([[0, 1, 0], [1, 1, 1]])).tolist()
        [True, False, True]
    """
    _check_pair(classes, flipped)
    return (flipped != classes).any(dim=0)


def flip_rate(classes: Tensor, flipped: Tensor) -> Tensor:
    """Share of samples that would be decided differently with some other value of the sensitive attribute.

    0 means that the attribute itself has no effect on decisions. It shows the direct effect only: a model that is not
    given the attribute has 0 but may infer it from proxies (fairness through unawareness), and features that depend on
    the attribute in the real world stay unchanged.

    Args:
        classes: int64[N], predicted classes.
        flipped: int64[A, N], predicted classes of the same samples with each other value of the attribute.

    Returns:
        float64[], a fraction in [0, 1]; NaN without samples.

    Raises:
        ValueError: If shapes do not agree, or there is no other value.

    Example:
        >>> import torch
        >>> round(float(flip_rate(torch.tensor([0, 1, 1]), torch.tensor([[0, 1, 0], [1, 1, 1]]))), 4)
        0.6667

    References:
        S. Galhotra, Y. Brun, A. Meliou, Fairness testing: testing software for discrimination, ESEC/FSE 2017.
    """
    return flips(classes, flipped).double().mean()


def score_change(scores: Tensor, flipped: Tensor) -> ScoreChange:
    """How much the score of each sample changes with the value of the sensitive attribute.

    0 means no direct effect. Signed changes cancel where the scores of two groups move in opposite directions, so they
    tell who is favoured only within one group; absolute changes do not cancel.

    Args:
        scores: floating [N], probabilities in [0, 1] or other scores.
        flipped: floating [A, N], scores of the same samples with each other value of the attribute.

    Returns:
        Signed and absolute change, each float64[N], in units of the scores.

    Raises:
        ValueError: If shapes do not agree, or there is no other value.

    Example:
        >>> import torch
        >>> change = score_change(torch.tensor([0.5, 0.25]), torch.tensor([[0.75, 0.25], [0.25, 0.5]]))
        >>> change.signed.tolist(), change.absolute.tolist()
        ([0.0, 0.125], [0.25, 0.125])
    """
    _check_pair(scores, flipped)
    changes = flipped.double() - scores.double()
    return ScoreChange(changes.mean(dim=0), changes.abs().mean(dim=0))


def consistency(
    features: Tensor, predictions: Tensor, k: int = 5, *, compat: Literal["aif360"] | None = None
) -> Tensor:
    r"""How similarly a sample and its nearest neighbours are treated.

    .. math:: 1 - \frac1n \sum_i \left|\hat y_i - \frac1k \sum_{j \in \mathrm{kNN}(i)} \hat y_j\right|

    1 means that neighbours are treated alike, which a constant prediction always achieves. It is only as meaningful as
    the distance: features that are proxies of the sensitive attribute move groups apart, and hide that they are treated
    differently. Features are standardised (constant ones drop out), and a sample is not its own neighbour. Samples that
    tie for the last places of a neighbourhood share them equally, so that the value does not depend on the order of the
    rows.

    Args:
        features: Real numbers [N, D], without the sensitive attribute.
        predictions: [N], decisions 0 or 1, or probabilities in [0, 1].
        k: Number of neighbours, at least 1.
        compat: ``aif360`` reproduces that library (except for ties, which it breaks arbitrarily): features are not
            standardised, and each sample is the first of its own k neighbours, which is optimistic.

    Returns:
        float64[], a fraction in [0, 1]; NaN if there are at most k samples, or a number is not finite.

    Raises:
        ValueError: If shapes do not agree, or ``k`` or ``compat`` is none of the above.

    Example:
        >>> import torch
        >>> features, predictions = torch.tensor([[0.0], [1.0], [3.0], [3.5]]), torch.tensor([0, 0, 1, 0])
        >>> float(consistency(features, predictions, k=1)), float(consistency(features, predictions, k=2))
        (0.5, 0.375)

    References:
        R. Zemel, Y. Wu, K. Swersky, T. Pitassi, C. Dwork, Learning fair representations, International Conference on
        Machine Learning, 2013, section 4.
    """
    _check_rows(features, predictions, k, compat)
    x, y = features.double(), predictions.double()
    if len(x) <= k or not (x.isfinite().all() and y.isfinite().all()):
        return torch.tensor(math.nan, dtype=torch.float64, device=y.device)
    # centred in both cases: distances stay the same, and the difference of squares below loses less precision
    x = x - x.mean(dim=0) if compat else _standardised(x)
    size = max(1, _DISTANCES_AT_ONCE // len(x))
    gaps = [
        (y[start : start + size] - _neighbours_mean(x, y, start, start + size, k=k, itself=compat is not None)).abs()
        for start in range(0, len(x), size)
    ]
    return 1 - torch.cat(gaps).mean()


def _neighbours_mean(x: Tensor, y: Tensor, start: int, stop: int, *, k: int, itself: bool) -> Tensor:
    """Mean of ``y`` over the k nearest neighbours of the rows in ``start..stop``."""
    block, norms = x[start:stop], x.square().sum(dim=1)
    distances = torch.addmm(norms, block, x.T, alpha=-2).add_(norms[start:stop, None]).clamp_(min=0)
    # below or above every distance: the sample itself comes first, or is excluded
    distances.diagonal(start).fill_(-math.inf if itself else math.inf)
    edge = distances.topk(k, largest=False).values.amax(dim=1, keepdim=True)
    slack = _TIED * (norms[start:stop, None] + edge.clamp(min=0))
    near, reached = distances < edge - slack, distances <= edge + slack
    sums = torch.stack([mask.double() @ y for mask in (near, reached)])
    n_near, n_reached = near.sum(dim=1), reached.sum(dim=1)
    # tied samples share the remaining places, so that the order of rows does not matter
    shared = (sums[1] - sums[0]) / (n_reached - n_near)
    return (sums[0] + (k - n_near) * shared) / k


def _standardised(x: Tensor) -> Tensor:
    """Columns with mean 0 and standard deviation 1; constant columns (of range 0) are left out."""
    varied = x.amax(dim=0) > x.amin(dim=0)
    x = x[:, varied]
    x = x - x.mean(dim=0)
    return x / x.square().mean(dim=0).sqrt()


def _check_pair(own: Tensor, flipped: Tensor) -> None:
    if own.ndim != 1 or flipped.ndim != 2 or flipped.shape[1:] != own.shape or len(flipped) == 0:
        got = f"{list(own.shape)} and {list(flipped.shape)}"
        raise ValueError(f"expected one value per sample, [N], and at least one flipped value each, [A, N]; got {got}")


def _check_rows(features: Tensor, predictions: Tensor, k: int, compat: str | None) -> None:
    if compat not in (None, "aif360"):
        raise ValueError(f"compat must be 'aif360' or None, got {compat!r}")
    if k < 1:
        raise ValueError(f"k must be a number of neighbours of at least 1, got {k!r}")
    if features.ndim != 2 or predictions.ndim != 1 or len(features) != len(predictions):
        got = f"{list(features.shape)} and {list(predictions.shape)}"
        raise ValueError(f"features must be [N, D] and predictions [N], got {got}")
