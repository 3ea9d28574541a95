"""Summaries of many samples in a few numbers, with their sampling error."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DRAWN_AT_ONCE = 2**20


class Summary(NamedTuple):
    """The distances of a probe's samples, in a few numbers.

    Attributes:
        mean: Mean over samples.
        lower: Lower limit of the mean's two-sided interval, by a bootstrap over samples.
        upper: Upper limit.
        median: Median over samples.
        p90: 90th percentile over samples.
        dropped: How many distances were NaN, and were left out.
    """

    mean: float
    lower: float
    upper: float
    median: float
    p90: float
    dropped: int


def summarise(distances: Tensor, *, repeats: int = 1000, level: float = 0.05, seed: int = 0) -> Summary:
    """Mean of the distances with its percentile-bootstrap interval, median and 90th percentile.

    The bootstrap has a private generator, so that equal distances give equal limits. The interval covers other samples
    like these, not other seeds of the explanation or the training. Below about 20 samples it is too narrow.

    Args:
        distances: float[N], one per sample of the probe; NaN if undefined.
        repeats: Number of bootstrap samples, at least 1.
        level: Error probability of the two-sided interval, in (0, 1).
        seed: Seed of the private generator.

    Returns:
        The summary over defined distances; all zeros give exactly 0, no defined distance gives NaN.

    Raises:
        ValueError: If ``distances`` is not one-dimensional or is complex, or ``repeats`` or ``level`` is out of range.

    Example:
        >>> summarise(torch.tensor([0.0, 0.0, math.nan]))
        Summary(mean=0.0, lower=0.0, upper=0.0, median=0.0, p90=0.0, dropped=1)

    References:
        B. Efron and R. J. Tibshirani, An introduction to the bootstrap, Chapman and Hall 1993, chapter 13.
    """
    if distances.dim() != 1 or repeats < 1 or not 0 < level < 1:
        got = f"shape {tuple(distances.shape)}, repeats={repeats} and level={level}"
        raise ValueError(f"`distances` must be float[N], `repeats` at least 1 and `level` in (0, 1), got {got}.")
    if distances.is_complex():
        raise ValueError(f"distances must be real, got {distances.dtype}")
    defined = distances[~distances.isnan()].detach().cpu().double()
    dropped = distances.numel() - defined.numel()
    if defined.numel() == 0:
        return Summary(math.nan, math.nan, math.nan, math.nan, math.nan, dropped)
    means = _resampled_means(defined, repeats, torch.Generator().manual_seed(seed))
    lower, upper = means.quantile(means.new_tensor([level / 2, 1 - level / 2])).tolist()
    median, p90 = defined.quantile(defined.new_tensor([0.5, 0.9])).tolist()
    return Summary(defined.mean().item(), lower, upper, median, p90, dropped)


class Interval(NamedTuple):
    """An estimate and its interval.

    Attributes:
        value: The estimate.
        lower: Lower limit of its two-sided 95 % interval.
        upper: Upper limit.
    """

    value: float
    lower: float
    upper: float


def bootstrap(statistic: Callable[[Tensor], Tensor], count: int, *, repeats: int = 1000, seed: int = 0) -> Interval:
    """Percentile-bootstrap interval of a statistic of ``count`` samples.

    Args:
        statistic: ``fn(index int64[R, N]) -> float64[R]``: the statistic of each resample, from its sample indices.
        count: number of samples N.
        repeats: number of resamples.
        seed: seed of the private generator.

    Returns:
        The statistic of the samples themselves, and its limits; NaN without samples.

    Example:
        >>> bootstrap(lambda index: index.double().mean(1) * 0 + 2.0, 4)
        Interval(value=2.0, lower=2.0, upper=2.0)
    """
    if count == 0:
        return Interval(math.nan, math.nan, math.nan)
    value = float(statistic(torch.arange(count, device="cpu")[None])[0])
    # in blocks, so that memory does not grow with the number of samples
    generator, block = torch.Generator().manual_seed(seed), max(1, DRAWN_AT_ONCE // count)
    sizes = [min(block, repeats - start) for start in range(0, repeats, block)]
    found = torch.cat(
        [statistic(torch.randint(count, (size, count), generator=generator, device="cpu")) for size in sizes]
    )
    # a resample may lack what the statistic needs, such as a whole group
    found = found[found.isfinite()]
    if not len(found):
        return Interval(value, math.nan, math.nan)
    lower, upper = found.double().quantile(found.new_tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, lower, upper)


def global_importance(maps: Tensor) -> Tensor:
    """Importance of each feature: mean absolute attribution over samples.

    It says how much a feature moves the explained scalar on these samples, not in which direction, nor what would
    happen without it.

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
    r"""Share of some features in the total attribution: a ratio of sums, so that large attributions count more.

    .. math:: \sum_i \sum_{j \in \text{columns}} |v_{ij}| \Big/ \sum_i \sum_j |v_{ij}|

    0 means that the features move nothing *directly*. Others may stand in for them: a small share of a sensitive
    variable does not show that its groups are treated alike.

    Args:
        maps: float[N, D], attributions in units of the explained scalar; those that are not finite are left out.
        columns: Indices of features; an index that is repeated counts once.

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


def _resampled_means(values: Tensor, repeats: int, generator: torch.Generator) -> Tensor:
    block = max(1, DRAWN_AT_ONCE // len(values))
    sizes = [(min(block, repeats - start), len(values)) for start in range(0, repeats, block)]
    # drawn on the CPU: generators of other devices would give other limits
    draws = (torch.randint(len(values), size, generator=generator, device="cpu") for size in sizes)
    return torch.cat([values[draw.to(values.device)].mean(1) for draw in draws])


def _finite(maps: Tensor) -> Tensor:
    return maps[maps.isfinite().flatten(1).all(1)].detach().cpu().double()
