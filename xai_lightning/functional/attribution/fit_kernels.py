"""Linear models of coalitions, weighted and fitted sample by sample: loops like those of :mod:`.kernels`."""

import math
from typing import Any

import numpy as np

from xai_lightning.functional.compiled import loops
from xai_lightning.functional.threads import (
    as_double_cube,
    as_double_rows,
    as_doubles,
    as_flags,
    as_float_rows,
    as_ints,
    as_word_rows,
    parts,
    shared,
)

#: How many systems of equations are solved side by side.
LANES = 8


@loops
def _add_products(begin: Any, end: Any, x: Any, b: Any, mask: Any, sums: Any) -> None:
    """Add up x * x, x * b and b * b of each variable.

    Arrays:
        x: float32[N, W].
        b: float32[N or 1, W].
        mask: int64[W], the variable of each number.
        sums: float64[N, V, 3], to be added to.
    """
    width = x.shape[1]
    for i in range(begin, end):
        own, across, other = 0.0, 0.0, 0.0
        for c in range(width):
            one, base = np.float64(x[i, c]), np.float64(b[i % len(b), c])
            own += one * one
            across += one * base
            other += base * base
            # the numbers of one variable are mostly adjacent
            if c + 1 == width or mask[c + 1] != mask[c]:
                into = sums[i, mask[c]]
                into[0] += own
                into[1] += across
                into[2] += other
                own, across, other = 0.0, 0.0, 0.0


@shared(_add_products, as_float_rows, as_float_rows, as_ints, as_double_cube)
def add_products(t: Any) -> None:
    """See `_add_products`."""
    for begin, end in parts(t):
        _add_products(begin, end, as_float_rows(t, 0), as_float_rows(t, 1), as_ints(t, 2), as_double_cube(t, 3))


@loops
def _nearness(begin: Any, end: Any, words: Any, products: Any, shortest: Any, exponents: Any) -> None:
    """Exponents of LIME's weights: minus half the squared cosine distance to the sample.

    Arrays:
        words: int32[N, S].
        products: float64[N, V, 3], sums of x * x, x * b and b * b.
        shortest: float64[1], the lower bound of products of lengths.
        exponents: float64[N, S], to be overwritten.
    """
    drawn = words.shape[1]
    room = np.empty((2, drawn))
    for i in range(begin, end):
        room[:] = 0.0
        whole = 0.0
        for v in range(products.shape[1]):
            own, across, other = products[i, v, 0], products[i, v, 1], products[i, v, 2]
            whole += own
            for j in range(drawn):
                present = np.float64((words[i, j] >> v) & 1)
                # added up separately: in a difference of the two a small one would be lost
                absent = 1 - present
                room[0, j] += present * own + absent * across
                room[1, j] += present * own + absent * other
        for j in range(drawn):
            distance = 1 - room[0, j] / max(math.sqrt(whole) * math.sqrt(room[1, j]), shortest[0])
            exponents[i, j] = -distance * distance / 2


@shared(_nearness, as_word_rows, as_double_cube, as_doubles, as_double_rows)
def nearness(t: Any) -> None:
    """See `_nearness`."""
    for begin, end in parts(t):
        _nearness(begin, end, as_word_rows(t, 0), as_double_cube(t, 1), as_doubles(t, 2), as_double_rows(t, 3))


@loops
def _subtract(into: Any, one: Any, other: Any) -> None:
    for lane in range(LANES):
        into[lane] -= one[lane] * other[lane]


@loops
def _scale(numbers: Any, by: Any) -> None:
    for lane in range(LANES):
        numbers[lane] *= by[lane]


@loops
def _solve(gram: Any, moment: Any) -> None:
    """Solve by a Cholesky factor, whose diagonal is kept as reciprocals."""
    number = len(moment)
    for k in range(number):
        for lane in range(LANES):
            # if not positive definite, NaN or infinite from here on, which `_fit` reports as not sound
            gram[k, k, lane] = 1 / math.sqrt(gram[k, k, lane])
        for a in range(k + 1, number):
            _scale(gram[a, k], gram[k, k])
        for a in range(k + 1, number):
            for c in range(k + 1, a + 1):
                _subtract(gram[a, c], gram[a, k], gram[c, k])
    for k in range(number):
        _scale(moment[k], gram[k, k])
        for a in range(k + 1, number):
            _subtract(moment[a], gram[a, k], moment[k])
    for k in range(number - 1, -1, -1):
        _scale(moment[k], gram[k, k])
        for a in range(k):
            _subtract(moment[a], gram[k, a], moment[k])


@loops
def _add_up(words: Any, values: Any, weights: Any, room: Any, gram: Any, moment: Any, lane: Any) -> None:
    """Form the normal equations of one sample."""
    design, target, sums = room
    drawn, number, weighted = len(words), len(sums), design[len(sums)]
    total, mean = 0.0, 0.0
    for j in range(drawn):
        total += weights[j]
        mean += weights[j] * values[j]
    for j in range(drawn):
        # centred, here and in the products below: the intercept drops out of the equations
        target[j] = weights[j] * (values[j] - mean / total)
    for v in range(number):
        added, moved = 0.0, 0.0
        for j in range(drawn):
            design[v, j] = (words[j] >> v) & 1
            weighted[j] = weights[j] * design[v, j]
            added += weighted[j]
            moved += target[j] * design[v, j]
        sums[v], moment[v, lane], share = added, moved, added / total
        for other in range(v):
            both = 0.0
            for j in range(drawn):
                both += weighted[j] * design[other, j]
            gram[v, other, lane] = both - share * sums[other]
        gram[v, v, lane] = added - share * added


@loops
def _fit(begin: Any, end: Any, words: Any, values: Any, weights: Any, least: Any, found: Any, sound: Any) -> None:
    """Weighted least squares with an intercept, by the normal equations.

    Arrays:
        words: int32[N, S].
        values: float64[N, S].
        weights: float64[N or 1, S].
        least: float64[1], the smallest ratio of the extremes of a factor's diagonal that counts as determined.
        found: float64[N, V], to be overwritten.
        sound: bool[N], to be overwritten: whether the equations determine the solution.
    """
    number, drawn = found.shape[1], words.shape[1]
    room = np.zeros((number + 1, drawn)), np.zeros(drawn), np.zeros(number)
    gram, moment = np.zeros((number, number, LANES)), np.zeros((number, LANES))
    for start in range(begin, end, LANES):
        last = min(start + LANES, end)
        for i in range(start, last):
            _add_up(words[i], values[i], weights[i % len(weights)], room, gram, moment, i - start)
        # lanes beyond the last sample hold remains of earlier ones, which are never read
        _solve(gram, moment)
        for i in range(start, last):
            lowest = highest = gram[0, 0, i - start]
            for v in range(number):
                found[i, v] = moment[v, i - start]
                lowest, highest = min(lowest, gram[v, v, i - start]), max(highest, gram[v, v, i - start])
            # the diagonal holds reciprocals, whose extremes have the same ratio
            sound[i] = np.isfinite(found[i].sum()) and lowest > least[0] * highest


@shared(_fit, as_word_rows, as_double_rows, as_double_rows, as_doubles, as_double_rows, as_flags)
def fit(t: Any) -> None:
    """See `_fit`."""
    words, values, weights, least = as_word_rows(t, 0), as_double_rows(t, 1), as_double_rows(t, 2), as_doubles(t, 3)
    for begin, end in parts(t):
        _fit(begin, end, words, values, weights, least, as_double_rows(t, 4), as_flags(t, 5))
