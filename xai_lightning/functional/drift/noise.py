"""Drift separated from the noise of a stochastic method, by two independent explanations at each of two times."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.drift.maps import ZERO_MAP
from xai_lightning.functional.drift.measures import cosine
from xai_lightning.functional.drift.summaries import Interval, bootstrap
from xai_lightning.functional.precision import exact

RELIABLE = 0.1


def noise_floor(first: Tensor, second: Tensor) -> float:
    """95th percentile of the cosine distance between two explanations of the same model with different seeds.

    The drift of a sample that moved by less cannot be told from the method's noise.

    Args:
        first: float[N, D], canonical maps.
        second: float[N, D], canonical maps of the same samples with independent seeds.

    Returns:
        A distance in [0, 2], 0 for a deterministic method; NaN without a finite pair.

    Example:
        >>> noise_floor(Tensor([[1.0, 0.0]]), Tensor([[1.0, 0.0]]))
        0.0
    """
    distances = cosine(first, second)
    distances = distances[~distances.isnan()]
    return float(distances.quantile(0.95)) if len(distances) else math.nan


class Denoised(NamedTuple):
    """Drift without the part that noise adds.

    Args:
        squared: unbiased squared distance in units of the squared size of the reference; 0 on average without drift, so
            it can be negative; 1 means a change as large as the reference itself. NaN if the reference has no size.
        cosine: cosine distance corrected for the noise of both maps. Both are NaN if the method is too noisy to tell.
        reliability: mean cosine of two explanations of the same model, the smaller of then and now; 1 without noise.
    """

    squared: Interval
    cosine: Interval
    reliability: float


def denoised(
    now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor], *, repeats: int = 1000, seed: int = 0
) -> Denoised:
    r"""Drift between two models, estimated from two independent explanations of each.

    .. math:: \frac{\overline{\langle n_1 - t_1, n_2 - t_2 \rangle}}{\overline{\langle t_1, t_2 \rangle}},\qquad
        1 - \frac{\overline{\cos(n_1, t_2)} + \overline{\cos(n_2, t_1)}}
        {2 \sqrt{\overline{\cos(n_1, n_2)}\;\overline{\cos(t_1, t_2)}}}

    Both are ratios of means over samples, never means of ratios, which are unstable. Intervals come from a bootstrap
    over samples.

    Args:
        now: two float[N, D], canonical maps with independent seeds.
        then: two float[N, D], likewise, of the same samples at the reference.
        repeats: number of bootstrap samples.
        seed: seed of the private generator.

    Returns:
        Both estimates, with the reliability; NaN where nothing is finite, or the reliability is below 0.1, since sizes
        are then noise themselves.

    References:
        A. Walther et al., Reliability of dissimilarity measures for multi-voxel pattern analysis, NeuroImage 137, 2016.
        C. Spearman, The proof and measurement of association between two things, American Journal of Psychology 15,
        1904.
    """
    n1, n2, t1, t2 = (exact(maps.detach()) for maps in (*now, *then))
    finite = (n1.isfinite() & n2.isfinite() & t1.isfinite() & t2.isfinite()).all(1)
    n1, n2, t1, t2 = (maps[finite] for maps in (n1, n2, t1, t2))
    apart, size = ((n1 - t1) * (n2 - t2)).sum(1), (t1 * t2).sum(1)
    across = (_cosines(n1, t2) + _cosines(n2, t1)) / 2
    within_now, within_then = _cosines(n1, n2), _cosines(t1, t2)

    def squared(index: Tensor) -> Tensor:
        unit = size[index].mean(1)
        return torch.where(unit > 0, apart[index].mean(1) / unit, math.nan)

    def distance(index: Tensor) -> Tensor:
        noise = within_now[index].mean(1) * within_then[index].mean(1)
        # a resample without any reliability gives infinity, which `bootstrap` leaves out
        corrected: Tensor = 1 - across[index].mean(1) / noise.clamp(min=0).sqrt()
        return corrected

    count = len(apart)
    reliability = min(float(within_now.mean()), float(within_then.mean())) if count else math.nan
    # not "<": NaN is not reliable either
    if not reliability >= RELIABLE:
        unknown = Interval(math.nan, math.nan, math.nan)
        return Denoised(unknown, unknown, reliability)
    found, corrected = (bootstrap(part, count, repeats=repeats, seed=seed) for part in (squared, distance))
    return Denoised(found, corrected, reliability)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Signed cosine of each pair; 1 for two zero maps, 0 for a zero map and any other."""
    no_a, no_b = a.abs().sum(1) <= ZERO_MAP, b.abs().sum(1) <= ZERO_MAP
    found = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    conventional: Tensor = found.masked_fill(no_a ^ no_b, 0.0).masked_fill(no_a & no_b, 1.0)
    return conventional
