"""How far the newest value of a series lies above what the earlier values predict."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import mul
from statistics import NormalDist
from typing import NamedTuple

from xai_lightning.functional.student import student

CORRELATIONS = (0.0, 0.3, 0.6, 0.9)
FALLS = (0.0, 0.5, 1.0)
"""Negated exponents of time in the falling curves; 0 stands for its logarithm."""
PRIOR_VARIANCE = 100.0
"""Prior variance of a slope, in variances of its estimate."""
LEAST_DEVIATION, CLIP = 1e-3, 1e-16


class Forecast(NamedTuple):
    """The prediction of the newest value by one model of the series.

    Args:
        deviation: estimated standard deviation of the noise.
        known: the factor of the model's likelihood that does not depend on the deviation, prior weight included.
        below: predicted probability of a smaller value.
    """

    deviation: float
    known: float
    below: float


def score(value: float, recent: Sequence[float], moments: Sequence[float]) -> float:
    r"""How far ``value`` lies above its prediction from ``recent``, as a normal score; 1 in 44 values exceeds 2.

    .. math:: y_t = \mu + \beta \, g(m_t) + u_t, \qquad u_t = \phi \, u_{t-1} + e_t

    Values keep a level, :math:`\beta = 0`, or fall, :math:`\beta < 0`, with :math:`g(m)` one of :math:`\log m`,
    :math:`-m^{-1/2}` and :math:`-1/m`: as a power of time, or steeply at first and then towards a floor. Each of these
    models, with an autocorrelation :math:`\phi` of the noise of 0, 0.3, 0.6 or 0.9, predicts the next value by
    Student's distribution, since the level, the slope and the deviation of :math:`e` are estimated. The predictions are
    averaged, weighted by the models' likelihoods given ``recent``, so that no model has to be chosen from few values. A
    priori a level weighs as much as all falls together, and the deviation of a slope is ten times that of its estimate.

    Args:
        value: the newest value.
        recent: the values before it, oldest first; at least 2.
        moments: when each was seen, above 0 and increasing; the last one is that of ``value``.

    Returns:
        The score; 0 is as predicted.

    Example:
        >>> round(score(3.0, [-1.0, 0.5, 1.0, -0.5, 0.0, -1.0, 1.0, 0.0], range(1, 10)), 2)
        2.41

    References:
        A. Zellner, An introduction to Bayesian inference in econometrics, 1971; on assessing prior distributions and
        Bayesian regression analysis with g-prior distributions, 1986.
        D. M. Hawkins, Self-starting cusum charts for location and scale, The Statistician 36, 1987.
    """
    curves = [[math.log(m) if fall == 0 else -(m**-fall) for m in moments] for fall in FALLS]
    fits = [fit for phi in CORRELATIONS for fit in _forecasts(phi, [*recent, value], curves)]
    least, freedom = min(fit.deviation for fit in fits), len(recent) - 1
    # likelihoods, integrated over levels, slopes and deviations, up to a common factor
    likelihoods = [fit.known * (least / fit.deviation) ** freedom for fit in fits]
    average = sum(each * fit.below for each, fit in zip(likelihoods, fits, strict=True)) / sum(likelihoods)
    return NormalDist().inv_cdf(min(max(average, CLIP), 1 - CLIP))


def _forecasts(phi: float, values: Sequence[float], curves: Sequence[Sequence[float]]) -> Iterator[Forecast]:
    """Forecasts by a level, and by each curve along which the values fall, of the last value."""
    freedom = len(values) - 2
    level = _innovations(phi, [1.0] * len(values))
    size = _product(level, level)
    rest = _without(level, _innovations(phi, values))
    squares, spread, known = _product(rest, rest), 1 + level[-1] ** 2 / size, math.sqrt((1 - phi**2) / size)
    yield _forecast(rest[-1], squares, spread, known, freedom)
    for curve in curves:
        along = _without(level, _innovations(phi, curve))
        length, common = _product(along, along), _product(along, rest)
        if common >= 0:
            continue
        # the least-squares slope, shrunk towards 0 by the prior
        trust = PRIOR_VARIANCE / (1 + PRIOR_VARIANCE)
        slope = trust * common / length
        yield _forecast(
            rest[-1] - slope * along[-1],
            squares - slope * common,
            spread + trust * along[-1] ** 2 / length,
            known / math.sqrt(1 + PRIOR_VARIANCE) / len(curves),
            freedom,
        )


def _forecast(residual: float, squares: float, spread: float, known: float, freedom: int) -> Forecast:
    deviation = max(math.sqrt(max(squares, 0.0) / freedom), LEAST_DEVIATION)
    return Forecast(deviation, known, student(residual / (deviation * math.sqrt(spread)), freedom))


def _innovations(phi: float, values: Sequence[float]) -> list[float]:
    """What is new in each value, where each has the correlation ``phi`` with the one before."""
    return [math.sqrt(1 - phi**2) * values[0], *(after - phi * before for before, after in pairwise(values))]


def _product(one: Sequence[float], other: Sequence[float]) -> float:
    """Dot product over all values but the last, which is the one to predict."""
    found: float = sum(map(mul, one[:-1], other[:-1]))
    return found


def _without(level: Sequence[float], values: Sequence[float]) -> list[float]:
    """Values minus their projection onto the level."""
    part = _product(level, values) / _product(level, level)
    return [value - part * each for value, each in zip(values, level, strict=True)]
