"""Distances between explanations of the same samples: 0 is unchanged, and exactly 0 for equal maps.

A *map* is one sample's attribution in canonical form (:func:`pool`). A measure ``fn(current, reference) -> distances``
sees one kind of change: of direction, mass, ranking or size. To add one, give it a row in :data:`MEASURES`.

All follow one convention. A map whose absolute values sum to at most 1e-12 is a *zero map*. Two zero maps are at
distance 0; a zero map and any other share nothing (distance 1; NaN for the magnitude and the effective features, which
a zero map does not have). A map with a non-finite value has distance NaN, which :func:`summarise` drops and counts;
nothing is imputed.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from xai_lightning.functional.drift.maps import ZERO_MAP
from xai_lightning.functional.precision import exact

RANKED_STEP = 1e-5


def cosine(current: Tensor, reference: Tensor) -> Tensor:
    r"""Change of direction: one minus the cosine of two signed maps, :math:`\|a / \|a\| - b / \|b\|\|^2 / 2`.

    0 means the same direction, 1 a right angle (the chance level), 2 the opposite. The largest features dominate it,
    and it does not see a change of size. Equal maps give exactly 0, where ``1 - cosine_similarity`` leaves 6e-7.

    Args:
        current: float[N, D], canonical maps.
        reference: float[N, D], canonical maps of the same samples.

    Returns:
        float64[N] in [0, 2]; NaN where a map is not finite.

    Raises:
        ValueError: If the shapes differ or are not [N, D].

    Example:
        >>> cosine(torch.tensor([[3.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 2.0], [-1.0, 0.0]]))
        tensor([1., 2.], dtype=torch.float64)
    """
    a, b = _pair(current, reference)
    apart = a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)
    return _conventional(apart.square().sum(1).div(2).clamp(max=2.0), a, b)


def weighted_jaccard(current: Tensor, reference: Tensor) -> Tensor:
    r"""Mass that moved: one minus the signed Ruzicka similarity of maps scaled to an absolute sum of 1.

    .. math:: 1 - \frac{\sum_j \min(|a_j|, |b_j|)\,[a_j b_j > 0]}{\sum_j \max(|a_j|, |b_j|)}

    0 means that every feature kept its share and sign, 1 that none kept any share with the same sign. It sees neither a
    change of size nor how far mass moved within an image.

    Args:
        current: float[N, D], canonical maps.
        reference: float[N, D], canonical maps of the same samples.

    Returns:
        float64[N] in [0, 1]; NaN where a map is not finite.

    Raises:
        ValueError: If the shapes differ or are not [N, D].

    Example:
        >>> weighted_jaccard(torch.tensor([[0.5, -0.3, 0.2]]), torch.tensor([[0.4, 0.4, 0.2]]))
        tensor([0.4545], dtype=torch.float64)

    References:
        M. Ruzicka, Anwendung mathematisch-statistischer Methoden in der Geobotanik, Biologia (Bratislava) 13, 1958.
    """
    a, b = _pair(current, reference)
    p, q = (maps.abs() / maps.abs().sum(1, keepdim=True) for maps in (a, b))
    shared = torch.minimum(p, q).where(a.sign() == b.sign(), 0.0)
    return _conventional(1.0 - shared.sum(1) / torch.maximum(p, q).sum(1), a, b)


def top_k(current: Tensor, reference: Tensor, *, present: Tensor | None = None) -> Tensor:
    r"""Change of ranking: one minus the chance-corrected overlap of the k features with the largest absolute values.

    .. math:: 1 - \frac{o - k/D}{1 - k/D},\quad o = \frac1k \sum_j \min(w_j, v_j),\quad
        k = \min(\max(5, \lceil D/10 \rceil), \lfloor D/2 \rfloor)

    The memberships w and v are 1 above the k-th largest value and shared evenly among features that tie with it, in
    steps of 1e-5 of the map's maximum. 0 means the same k features, 1 as much overlap as expected by chance. It sees
    neither signs nor the order within the top k, and it is noise on maps without clear leaders.

    Args:
        current: float[N, D], canonical maps.
        reference: float[N, D], canonical maps of the same samples.
        present: bool[N, D], which features a sample has (texts are padded); their number is the formula's D. None: all.

    Returns:
        float64[N] in [0, 1/(1 - k/D)], at most 2; NaN where a map is not finite, and where D < 2.

    Raises:
        ValueError: If the shapes differ or are not [N, D].

    Example:
        >>> top_k(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[4.0, 1.0, 2.0, 3.0]]))  # k = 2
        tensor([1.], dtype=torch.float64)

    References:
        S. Krishna et al., The disagreement problem in explainable machine learning, arXiv 2202.01602, section 3.
    """
    a, b = _pair(current, reference)
    here = torch.ones_like(a, dtype=torch.bool) if present is None else present
    features = here.sum(1).double()
    k = torch.minimum((features / 10).ceil().clamp(min=5), (features / 2).floor())
    moved = (_membership(a, k, here) - _membership(b, k, here)).abs().sum(1) / 2
    return _conventional(moved / k / (1 - k / features), a, b).masked_fill(k == 0, math.nan)


def magnitude(current: Tensor, reference: Tensor) -> Tensor:
    r"""Change of size: absolute log ratio of the absolute sums, :math:`|\log(\|a\|_1 / \|b\|_1)|`.

    0 means the same size, log 2 = 0.69 twice or half of it. What the map shows does not matter, and maps grow in any
    training, whether it generalises or not, so that a large value alone is no cause for alarm.

    Args:
        current: float[N, D], canonical maps.
        reference: float[N, D], canonical maps of the same samples.

    Returns:
        float64[N], at least 0; NaN where a map is not finite, or exactly one of the two is a zero map.

    Raises:
        ValueError: If the shapes differ or are not [N, D].

    Example:
        >>> magnitude(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]]))
        tensor([0.6931], dtype=torch.float64)
    """
    a, b = _pair(current, reference)
    return _conventional((a.abs().sum(1).log() - b.abs().sum(1).log()).abs(), a, b, against_zero=math.nan)


def jensen_shannon(current: Tensor, reference: Tensor) -> Tensor:
    r"""Change of location: Jensen-Shannon divergence of the shares of absolute attribution, in bits.

    .. math:: \tfrac12 \sum_j p_j \log_2 \frac{p_j}{m_j} + \tfrac12 \sum_j q_j \log_2 \frac{q_j}{m_j},\quad
        p = \frac{|a|}{\|a\|_1},\ q = \frac{|b|}{\|b\|_1},\ m = \frac{p + q}2

    0 means equal shares, 1 that no feature has a share in both. It sees neither signs nor a change of size.

    Args:
        current: float[N, D], canonical maps.
        reference: float[N, D], canonical maps of the same samples.

    Returns:
        float64[N] in [0, 1]; NaN where a map is not finite.

    Raises:
        ValueError: If the shapes differ or are not [N, D].

    Example:
        >>> jensen_shannon(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, -0.5]]))
        tensor([0.3113], dtype=torch.float64)

    References:
        J. Lin, Divergence measures based on the Shannon entropy, IEEE Transactions on Information Theory 37, 1991.
    """
    a, b = _pair(current, reference)
    p, q = (maps.abs() / maps.abs().sum(1, keepdim=True) for maps in (a, b))
    middle = (p + q) / 2
    nats = [(torch.special.xlogy(x, x) - torch.special.xlogy(x, middle)).sum(1) for x in (p, q)]
    return _conventional(((nats[0] + nats[1]) / (2 * math.log(2))).clamp(0.0, 1.0), a, b)


def effective_number(maps: Tensor) -> Tensor:
    r"""How many features a map effectively spreads over: :math:`2^H` of the shares of absolute attribution, in bits.

    1 means a single feature, D that all weigh the same. It falls in most trainings, whether they generalise or not.

    Args:
        maps: float[N, D], canonical maps.

    Returns:
        float64[N] in [1, D]; NaN for zero maps and for maps that are not finite.

    Example:
        >>> effective_number(torch.tensor([[0.5, -0.25, 0.25]]))
        tensor([2.8284], dtype=torch.float64)
    """
    sizes = exact(maps.detach()).abs()
    shares = sizes / sizes.sum(1, keepdim=True)
    found = torch.exp2(-torch.special.xlogy(shares, shares).sum(1) / math.log(2))
    return found.masked_fill(sizes.sum(1) <= ZERO_MAP, math.nan)


def effective_features(current: Tensor, reference: Tensor) -> Tensor:
    r"""Change of concentration: :math:`|\log_2 (2^{H(a)} / 2^{H(b)})|`, the difference of entropies in bits.

    0 means a spread over as many features, 1 over twice or half as many. Which features they are does not matter, and
    maps narrow in any training, so that a large value alone is no cause for alarm.

    Args:
        current: float[N, D], canonical maps.
        reference: float[N, D], canonical maps of the same samples.

    Returns:
        float64[N] in [0, log2 D]; NaN where a map is not finite, or exactly one of the two is a zero map.

    Raises:
        ValueError: If the shapes differ or are not [N, D].

    Example:
        >>> effective_features(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.], dtype=torch.float64)
    """
    a, b = _pair(current, reference)
    apart = (effective_number(a).log2() - effective_number(b).log2()).abs()
    return _conventional(apart, a, b, against_zero=math.nan)


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine,
    "weighted_jaccard": weighted_jaccard,
    "top_k": top_k,
    "magnitude": magnitude,
    "jensen_shannon": jensen_shannon,
    "effective_features": effective_features,
}


def _pair(current: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    if current.dim() != 2 or current.shape != reference.shape:
        got = f"{tuple(current.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"`current` and `reference` must be float[N, D] of equal shape (see `pool`), got {got}.")
    if current.is_complex() or reference.is_complex():
        raise ValueError(f"`current` and `reference` must be real, got {current.dtype} and {reference.dtype}.")
    return exact(current.detach()), exact(reference.detach())


def _conventional(distances: Tensor, a: Tensor, b: Tensor, against_zero: float = 1.0) -> Tensor:
    no_a, no_b = a.abs().sum(1) <= ZERO_MAP, b.abs().sum(1) <= ZERO_MAP
    distances = distances.masked_fill(no_a ^ no_b, against_zero).masked_fill(no_a & no_b, 0.0)
    # last, since the convention for zero maps also overwrote the distance of a non-finite map to a zero map
    return distances.masked_fill(~(a.isfinite() & b.isfinite()).all(1), math.nan)


def _membership(maps: Tensor, k: Tensor, here: Tensor) -> Tensor:
    """Membership, from 0 to 1, of each feature among the ``k`` (``[N]``) largest of those that are ``here``."""
    # rounding errors, which differ between batches and ranks, must not order features; absent ones lie below 0
    steps = (maps.abs() / maps.abs().amax(1, keepdim=True) / RANKED_STEP).round().masked_fill(~here, -1)
    last = steps.sort(dim=1, descending=True).values.gather(1, (k[:, None].long() - 1).clamp(min=0))
    above, tied = (steps > last).double(), (steps == last).double()
    return above + tied * (k[:, None] - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
