"""Slow twins of `xai_lightning.functional.drift`: plain loops over Python floats, written from the definitions."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

Map = Sequence[float]


def pool(image: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    """One image [C][H][W]."""
    height, width = len(image[0]), len(image[0][0])
    plane = [[math.fsum(channel[y][x] for channel in image) for x in range(width)] for y in range(height)]
    cells = [
        math.fsum(plane[y][x] for y in rows for x in columns) / (len(rows) * len(columns))
        for rows in _windows(height)
        for columns in _windows(width)
    ]
    largest = max(abs(cell) for cell in cells)
    return [0.0 if abs(cell) < 1e-6 * largest else cell for cell in cells]


def _windows(side: int) -> list[range]:
    cells = min(side, 14)
    return [range(i * side // cells, -(-(i + 1) * side // cells)) for i in range(cells)]


def cosine(a: Map, b: Map) -> float:
    if (known := _settled(a, b, 1.0)) is not None:
        return known
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return 1.0 - product / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def weighted_jaccard(a: Map, b: Map) -> float:
    if (known := _settled(a, b, 1.0)) is not None:
        return known
    size_a, size_b = math.fsum(map(abs, a)), math.fsum(map(abs, b))
    smaller = larger = 0.0
    for x, y in zip(a, b, strict=True):
        p, q = abs(x) / size_a, abs(y) / size_b
        smaller += min(p, q) if (x > 0) == (y > 0) else 0.0
        larger += max(p, q)
    return 1.0 - smaller / larger


def top_k(a: Map, b: Map) -> float:
    features = len(a)
    k = min(max(5, math.ceil(features / 10)), features // 2)
    if k == 0:
        return math.nan
    if (known := _settled(a, b, 1.0)) is not None:
        return known
    overlap = math.fsum(min(w, v) for w, v in zip(membership(a, k), membership(b, k), strict=True)) / k
    chance = k / features
    return 1.0 - (overlap - chance) / (1.0 - chance)


def membership(values: Map, k: int) -> list[float]:
    largest = max(abs(value) for value in values)
    steps = [round(abs(value) / largest / 1e-5) for value in values]
    return [_place(step, steps, k) for step in steps]


def _place(step: int, steps: list[int], k: int) -> float:
    above = sum(other > step for other in steps)
    ties = sum(other == step for other in steps)
    return min(1.0, max(0.0, (k - above) / ties))


def magnitude(a: Map, b: Map) -> float:
    if (known := _settled(a, b, math.nan)) is not None:
        return known
    return abs(math.log(math.fsum(map(abs, a)) / math.fsum(map(abs, b))))


def jensen_shannon(a: Map, b: Map) -> float:
    """Entropy of the mixture, minus the mean of the two entropies."""
    if (known := _settled(a, b, 1.0)) is not None:
        return known
    size_a, size_b = math.fsum(map(abs, a)), math.fsum(map(abs, b))
    p, q = [abs(x) / size_a for x in a], [abs(y) / size_b for y in b]
    mixed = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return _entropy(mixed) - (_entropy(p) + _entropy(q)) / 2


def effective_features(a: Map, b: Map) -> float:
    """Difference of the two entropies, in bits."""
    if (known := _settled(a, b, math.nan)) is not None:
        return known
    shares = [[abs(x) / math.fsum(map(abs, m)) for x in m] for m in (a, b)]
    return abs(_entropy(shares[0]) - _entropy(shares[1]))


def _entropy(shares: list[float]) -> float:
    return -math.fsum(share * math.log2(share) for share in shares if share > 0)


def _settled(a: Map, b: Map, against_zero: float) -> float | None:
    if not all(map(math.isfinite, [*a, *b])):
        return math.nan
    zero_a, zero_b = (math.fsum(map(abs, values)) <= 1e-12 for values in (a, b))
    return 0.0 if zero_a and zero_b else against_zero if zero_a or zero_b else None


def score(value: float, recent: list[float], moments: list[float]) -> float:
    """Normal score of ``value`` after ``recent``, by the whole covariance of all values together.

    A slope of a curve has a normal prior, which adds the curve's outer product to the covariance of an autoregression
    of order 1; the level's prior and that of the log deviation are flat. The next value then has a distribution of
    Student's, which is averaged over correlations and curves with their marginal likelihoods; curves along which values
    rise are left out.
    """
    n, one, areas, likelihoods = len(recent), np.ones(len(recent)), [], []
    y, m = np.array(recent), np.array(moments, dtype=float)
    apart = np.abs(np.arange(n + 1)[:, None] - np.arange(n + 1))
    for phi in (0.0, 0.3, 0.6, 0.9):
        noise = phi**apart / (1 - phi**2)
        weight = np.linalg.inv(noise[:n, :n])
        apart_from_level = weight - np.outer(weight @ one, weight @ one) / (one @ weight @ one)
        for curve in (None, np.log(m / m[0]), m[0] ** -0.5 - m**-0.5, 1 / m[0] - 1 / m):
            covariance, share = noise, 1.0
            if curve is not None:
                if curve[:n] @ apart_from_level @ y >= 0:
                    continue
                # the prior's variance is a hundred times that of the slope of least squares
                slope = 100 / (curve[:n] @ apart_from_level @ curve[:n])
                covariance, share = noise + slope * np.outer(curve, curve), 1 / 3
            inverse, new = np.linalg.inv(covariance[:n, :n]), covariance[n, :n]
            information = one @ inverse @ one
            mean = one @ inverse @ y / information
            squares = (y - mean) @ inverse @ (y - mean)
            centre = mean + new @ inverse @ (y - mean)
            spread = covariance[n, n] - new @ inverse @ new + (1 - new @ inverse @ one) ** 2 / information
            areas.append(stats.t.cdf(value, n - 1, centre, math.sqrt(squares / (n - 1) * spread)))
            evidence = (np.linalg.det(covariance[:n, :n]) * information) ** -0.5 * squares ** (-(n - 1) / 2)
            likelihoods.append(share * evidence)
    return float(stats.norm.ppf(np.average(areas, weights=likelihoods)))


MEASURES = {
    "cosine": cosine,
    "weighted_jaccard": weighted_jaccard,
    "top_k": top_k,
    "magnitude": magnitude,
    "jensen_shannon": jensen_shannon,
    "effective_features": effective_features,
}
