"""Distances between explanations of the same samples: 0 is unchanged, and exactly 0 for equal maps.

A *map* is one sample's attribution in canonical form (:func:`pool`). A measure ``fn(current, reference) -> distances``
sees one change in it: of direction, mass, ranking or size. To add one, give it a row in :data:`MEASURES`.

One convention holds for all. A map whose absolute values sum to at most 1e-12 is a *zero map*: two of them are at
distance 0, one and another map share nothing (distance 1; NaN for the magnitude, whose logarithm is infinite). A map
with a value that is not finite has distance NaN: :func:`summarise` drops and counts it, nothing is imputed.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CELLS, DRAWN_AT_ONCE = 14, 2**20
NEGLIGIBLE, RANKED_STEP, ZERO_MAP = 1e-6, 1e-5, 1e-12


def pool(maps: Tensor) -> Tensor:
    r"""Canonical form of attributions: what explanations are compared in.

    Channels of an image are summed and its pixels averaged over at most 14 x 14 cells (which overlap by a pixel where
    14 does not divide the side); any other shape is flattened as it is. Then values with :math:`|v| < 10^{-6} \max |v|`
    of their sample become 0, since rounding errors must not be ranked. The size is kept.

    Args:
        maps: float[N, C, H, W] (images), float[N, D] (tables) or float[N, ...], in units of the explained scalar.

    Returns:
        float64[N, D]; values that are not finite stay where they are.

    Raises:
        ValueError: If a sample has no dimension, or no feature, of its own.

    Example:
        >>> pool(torch.tensor([[1.0, -2.0, 1e-9]]))
        tensor([[ 1., -2.,  0.]], dtype=torch.float64)
    """
    if maps.dim() < 2 or 0 in maps.shape[1:]:
        raise ValueError(f"`maps` must be float[N, D] or float[N, C, H, W], not empty, got shape {tuple(maps.shape)}.")
    values = maps.detach().double()
    if values.dim() == 4:
        cells = (min(values.shape[2], CELLS), min(values.shape[3], CELLS))
        values = torch.nn.functional.adaptive_avg_pool2d(values.sum(1, keepdim=True), cells)
    values = values.flatten(1)
    return values.masked_fill(values.abs() < NEGLIGIBLE * values.abs().amax(1, keepdim=True), 0.0)


def cosine(current: Tensor, reference: Tensor) -> Tensor:
    r"""Change of direction: one minus the cosine of two signed maps, :math:`\|a / \|a\| - b / \|b\|\|^2 / 2`.

    0 means the same direction, 1 a right angle (the chance level), 2 the opposite. The largest features dominate it,
    and a change of size is not seen. Equal maps give exactly 0, where ``1 - cosine_similarity`` leaves 6e-7.

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

    0 means that every feature kept share and sign, 1 that none kept any share under its sign. A change of size is not
    seen, nor how far the mass of a picture moved.

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


def top_k(current: Tensor, reference: Tensor) -> Tensor:
    r"""Change of ranking: one minus the chance-corrected overlap of the k features with the largest absolute values.

    .. math:: 1 - \frac{o - k/D}{1 - k/D},\quad o = \frac1k \sum_j \min(w_j, v_j),\quad
        k = \min(\max(5, \lceil D/10 \rceil), \lfloor D/2 \rfloor)

    The memberships w and v are 1 above the k-th largest value and shared evenly among features that tie with it, in
    steps of 1e-5 of the map's maximum. 0 means the same k features, 1 as many common ones as chance gives. It sees
    neither signs nor the order within the k, and it is noise on maps without clear leaders.

    Args:
        current: float[N, D], canonical maps.
        reference: float[N, D], canonical maps of the same samples.

    Returns:
        float64[N] in [0, 1/(1 - k/D)], at most 2; NaN where a map is not finite, and everywhere if D < 2.

    Raises:
        ValueError: If the shapes differ or are not [N, D].

    Example:
        >>> top_k(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[4.0, 1.0, 2.0, 3.0]]))  # k = 2
        tensor([1.], dtype=torch.float64)

    References:
        S. Krishna et al., The disagreement problem in explainable machine learning, arXiv 2202.01602, section 3.
    """
    a, b = _pair(current, reference)
    count, features = a.shape
    k = min(max(5, math.ceil(features / 10)), features // 2)
    if k == 0:
        return a.new_full((count,), math.nan)
    moved = (_membership(a, k) - _membership(b, k)).abs().sum(1) / 2
    return _conventional(moved / k / (1 - k / features), a, b)


def magnitude(current: Tensor, reference: Tensor) -> Tensor:
    r"""Change of size: absolute log ratio of the absolute sums, :math:`|\log(\|a\|_1 / \|b\|_1)|`.

    0 means the same size, log 2 = 0.69 twice or half of it. What the map shows does not enter, and maps grow in any
    training, whether it generalises or not, so that a large value alone is no alarm.

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
    r"""Change of where the mass lies: Jensen-Shannon divergence of the shares of absolute attribution, in bits.

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


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine,
    "weighted_jaccard": weighted_jaccard,
    "top_k": top_k,
    "magnitude": magnitude,
    "jensen_shannon": jensen_shannon,
}


class Summary(NamedTuple):
    """Distances of a probe in five numbers (mean, its two limits, median, 90th percentile), and how many were NaN."""

    mean: float
    lower: float
    upper: float
    median: float
    p90: float
    dropped: int


def summarise(distances: Tensor, *, repeats: int = 1000, level: float = 0.05, seed: int = 0) -> Summary:
    """Mean of the distances with its percentile-bootstrap interval, median and 90th percentile.

    Drawn by a private generator: equal distances have equal limits. The interval speaks of other samples like these,
    not of other seeds of the explanation or the training. Below about 20 samples it is too narrow.

    Args:
        distances: float[N], one per sample of the probe; NaN is undefined.
        repeats: Number of bootstrap samples, at least 1.
        level: Error probability of the two-sided interval, in (0, 1).
        seed: Seed of the private generator.

    Returns:
        The summary over defined distances; all zeros give exactly 0, no defined distance gives NaN.

    Raises:
        ValueError: If ``distances`` has not one dimension, or ``repeats`` or ``level`` is out of range.

    Example:
        >>> summarise(torch.tensor([0.0, 0.0, math.nan]))
        Summary(mean=0.0, lower=0.0, upper=0.0, median=0.0, p90=0.0, dropped=1)

    References:
        B. Efron and R. J. Tibshirani, An introduction to the bootstrap, Chapman and Hall 1993, chapter 13.
    """
    if distances.dim() != 1 or repeats < 1 or not 0 < level < 1:
        got = f"shape {tuple(distances.shape)}, repeats={repeats} and level={level}"
        raise ValueError(f"`distances` must be float[N], `repeats` at least 1 and `level` in (0, 1), got {got}.")
    defined = distances[~distances.isnan()].detach().double()
    dropped = distances.numel() - defined.numel()
    if defined.numel() == 0:
        return Summary(math.nan, math.nan, math.nan, math.nan, math.nan, dropped)
    means = _resampled_means(defined, repeats, torch.Generator().manual_seed(seed))
    lower, upper = means.quantile(means.new_tensor([level / 2, 1 - level / 2])).tolist()
    median, p90 = defined.quantile(defined.new_tensor([0.5, 0.9])).tolist()
    return Summary(defined.mean().item(), lower, upper, median, p90, dropped)


def global_importance(maps: Tensor) -> Tensor:
    """Importance of each feature: mean absolute attribution over samples.

    It says how much a feature moves the explained scalar on these samples, not which way, nor what would be without it.

    Args:
        maps: float[N, D], attributions in units of the explained scalar; those that are not finite are left out.

    Returns:
        float64[D], at least 0; NaN if no map is finite.

    Example:
        >>> global_importance(torch.tensor([[1.0, -2.0], [3.0, 2.0]]))
        tensor([2., 2.], dtype=torch.float64)
    """
    return _finite(maps).abs().mean(0)


def share(maps: Tensor, columns: Sequence[int]) -> float:
    r"""Share of some features in all attribution: a ratio of sums, so that large attributions count more.

    .. math:: \sum_i \sum_{j \in \text{columns}} |v_{ij}| \Big/ \sum_i \sum_j |v_{ij}|

    0 means that the features move nothing *directly*. Others may stand in for them: a small share of a sensitive
    variable does not show that its groups are treated alike.

    Args:
        maps: float[N, D], attributions in units of the explained scalar; those that are not finite are left out.
        columns: Indices of features; one named twice counts once.

    Returns:
        A fraction in [0, 1]; NaN if every attribution is 0, or none is finite.

    Raises:
        IndexError: If a column does not exist.

    Example:
        >>> share(torch.tensor([[1.0, -2.0, 1.0]]), [1])
        0.5
    """
    importance = _finite(maps).abs().sum(0)
    chosen = torch.zeros_like(importance)
    chosen[list(columns)] = 1.0
    return ((importance * chosen).sum() / importance.sum()).item()


def _pair(current: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    if current.dim() != 2 or current.shape != reference.shape:
        got = f"{tuple(current.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"`current` and `reference` must be float[N, D] of equal shape (see `pool`), got {got}.")
    return current.detach().double(), reference.detach().double()


def _conventional(distances: Tensor, a: Tensor, b: Tensor, against_zero: float = 1.0) -> Tensor:
    no_a, no_b = a.abs().sum(1) <= ZERO_MAP, b.abs().sum(1) <= ZERO_MAP
    distances = distances.masked_fill(no_a ^ no_b, against_zero).masked_fill(no_a & no_b, 0.0)
    return distances.masked_fill(~(a.isfinite() & b.isfinite()).all(1), math.nan)


def _membership(maps: Tensor, k: int) -> Tensor:
    steps = (maps.abs() / maps.abs().amax(1, keepdim=True) / RANKED_STEP).round()
    last = steps.topk(k, dim=1).values[:, -1:]
    above, tied = (steps > last).double(), (steps == last).double()
    return above + tied * (k - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)


def _resampled_means(values: Tensor, repeats: int, generator: torch.Generator) -> Tensor:
    block = max(1, DRAWN_AT_ONCE // len(values))
    sizes = [(min(block, repeats - start), len(values)) for start in range(0, repeats, block)]
    draws = (torch.randint(len(values), size, generator=generator) for size in sizes)
    return torch.cat([values[draw.to(values.device)].mean(1) for draw in draws])


def _finite(maps: Tensor) -> Tensor:
    return maps[maps.isfinite().flatten(1).all(1)].detach().double()
