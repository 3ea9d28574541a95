"""Coalitions of at most 31 variables drawn, mixed and fitted row by row: loops that numba compiles, for the CPU.

A small network passes a row in a tenth of a microsecond; operations of torch, which go over all rows once for each of
their steps, take longer than that for everything around it.
"""

import math
from typing import Any

import numpy as np

from xai_lightning.functional.compiled import kept, loops

#: Systems of equations that are solved side by side.
LANES = 8

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_FOLDS = np.uint64(30), np.uint64(27), np.uint64(31)
_SIGN, _DIGITS = np.int32(31), 21
_LOW = 64 - _DIGITS


@loops
def _mixed(word: Any) -> Any:
    word = (word ^ (word >> _FOLDS[0])) * _MIX[0]
    word = (word ^ (word >> _FOLDS[1])) * _MIX[1]
    return word ^ (word >> _FOLDS[2])


@kept
def draw_shapley(seeds: Any, limits: Any, first: Any, many: Any, subsets: Any, words: Any) -> None:
    """Coalitions of sizes that follow KernelSHAP's weights, after all variables and none; a word for each.

    Args:
        seeds: int64[N].
        limits: int64[V - 2], where the next size begins, in units of 2^-21.
        first: int64[V - 1], where the coalitions of each size begin.
        many: int64[V - 1], how many these are.
        subsets: int32[2^V - 2], all but all and none, by size.
        words: int32[N, S], to be overwritten.
    """
    for i in range(words.shape[0]):
        state = np.uint64(seeds[i])
        for j in range(2, words.shape[1]):
            state += _GOLDEN
            word = _mixed(state)
            chance, size = np.int64(word >> np.uint64(_LOW)), 0
            for k in range(limits.shape[0]):
                size += chance >= limits[k]
            place = np.int64(word & np.uint64((1 << _LOW) - 1)) * many[size] >> _LOW
            words[i, j] = subsets[first[size] + place]


@kept
def draw_even(seeds: Any, inside: Any, words: Any) -> None:
    """Coalitions in which each variable is present with probability one half.

    Args:
        seeds: int64[N].
        inside: the bits of all variables.
        words: int32[N, S], to be overwritten.
    """
    for i in range(words.shape[0]):
        state = np.uint64(seeds[i])
        for j in range(words.shape[1]):
            state += _GOLDEN
            words[i, j] = np.int32(_mixed(state) & np.uint64(inside))


@kept
def mix(x: Any, b: Any, shift: Any, words: Any, difference: Any, rows: Any) -> None:
    """Inputs of which each coalition keeps some variables, and has the baseline's other ones: bit for bit.

    Args:
        x: int32[N, W], the bits of the inputs.
        b: int32[N, W], of the baselines.
        shift: int32[W], by which the bit of each number's variable is shifted to the sign.
        words: int32[N, S].
        difference: int32[W], to be overwritten.
        rows: int32[N * S, W], to be overwritten.
    """
    drawn, width = words.shape[1], x.shape[1]
    for i in range(words.shape[0]):
        base = b[i]
        for c in range(width):
            difference[c] = x[i, c] ^ base[c]
        # two at a time: what is left over after the registers' width is done one by one, side by side
        for j in range(0, drawn - 1, 2):
            row, next_row, word, next_word = rows[i * drawn + j], rows[i * drawn + j + 1], words[i, j], words[i, j + 1]
            for c in range(width):
                row[c] = _chosen(word, shift[c], difference[c], base[c])
                next_row[c] = _chosen(next_word, shift[c], difference[c], base[c])
        if drawn % 2:
            row, word = rows[(i + 1) * drawn - 1], words[i, drawn - 1]
            for c in range(width):
                row[c] = _chosen(word, shift[c], difference[c], base[c])


@loops
def _chosen(word: Any, shift: Any, difference: Any, base: Any) -> Any:
    # numba would widen what is shifted to 64 bits, with another sign
    return base ^ (difference & np.int32(np.int32(word << shift) >> _SIGN))


@kept
def exchange(rows: Any, x: Any, b: Any, columns: Any, first: Any, back: Any, off: Any) -> None:
    """Put one variable of each copy of the samples back, and take another one from the baseline.

    Args:
        rows: int32[K, N, W], to be written to.
        x: int32[N, W], the bits of the samples.
        b: int32[N, W], of the baselines.
        columns: int64[W], by variable.
        first: int64[V + 1], where the columns of each begin.
        back: int64[K'], the variables to be put back, of the first copies.
        off: int64[K"], likewise those to be taken.
    """
    for k in range(max(len(back), len(off))):
        restored = columns[first[back[k]] : first[back[k] + 1]] if k < len(back) else columns[:0]
        taken = columns[first[off[k]] : first[off[k] + 1]] if k < len(off) else columns[:0]
        for i in range(len(x)):
            for c in restored:
                rows[k, i, c] = x[i, c]
            for c in taken:
                rows[k, i, c] = b[i, c]


@kept
def add_products(x: Any, b: Any, mask: Any, sums: Any) -> None:
    """Add up x * x, x * b and b * b of each variable.

    Args:
        x: float32[N, W].
        b: float32[N, W].
        mask: int64[W], the variable of each number.
        sums: float64[N, V, 3], to be added to.
    """
    width = x.shape[1]
    for i in range(x.shape[0]):
        own, across, other = 0.0, 0.0, 0.0
        for c in range(width):
            one, base = np.float64(x[i, c]), np.float64(b[i, c])
            own += one * one
            across += one * base
            other += base * base
            # numbers of one variable mostly stand side by side
            if c + 1 == width or mask[c + 1] != mask[c]:
                into = sums[i, mask[c]]
                into[0] += own
                into[1] += across
                into[2] += other
                own, across, other = 0.0, 0.0, 0.0


@kept
def nearness(words: Any, products: Any, shortest: Any, room: Any, exponents: Any) -> None:
    """Exponents of LIME's weights: minus half the squared cosine distance to the sample.

    Args:
        words: int32[N, S].
        products: float64[N, V, 3], sums of x * x, x * b and b * b.
        shortest: below which no product of lengths is.
        room: float64[2, S], to be overwritten.
        exponents: float64[N, S], to be overwritten.
    """
    drawn = words.shape[1]
    for i in range(words.shape[0]):
        room[:] = 0.0
        whole = 0.0
        for v in range(products.shape[1]):
            own, across, other = products[i, v, 0], products[i, v, 1], products[i, v, 2]
            whole += own
            for j in range(drawn):
                present = np.float64((words[i, j] >> v) & 1)
                # no difference of the two, in which a small one would be lost
                absent = 1 - present
                room[0, j] += present * own + absent * across
                room[1, j] += present * own + absent * other
        for j in range(drawn):
            distance = 1 - room[0, j] / max(math.sqrt(whole) * math.sqrt(room[1, j]), shortest)
            exponents[i, j] = -distance * distance / 2


@kept
def fit(words: Any, values: Any, weights: Any, least: Any, found: Any, sound: Any) -> None:
    """Weighted least squares with an intercept, by the normal equations.

    Args:
        words: int32[N, S].
        values: float64[N, S].
        weights: float64[N or 1, S].
        least: the least ratio of the extremes of a factor's diagonal.
        found: float64[N, V], to be overwritten.
        sound: bool[N], to be overwritten: whether the equations determine what was found.
    """
    samples, number = found.shape
    design, gram = np.zeros((number + 2, words.shape[1])), np.zeros((number, number, LANES))
    moment, sums, room = np.zeros((number, LANES)), np.zeros(number), np.zeros(LANES)
    for start in range(0, samples, LANES):
        end = min(start + LANES, samples)
        for i in range(start, end):
            _add_up(words[i], values[i], weights[i % len(weights)], design, sums, gram, moment, i - start)
        _solve(gram, moment, room)
        for i in range(start, end):
            lowest = highest = gram[0, 0, i - start]
            for v in range(number):
                found[i, v] = moment[v, i - start]
                lowest, highest = min(lowest, gram[v, v, i - start]), max(highest, gram[v, v, i - start])
            # the diagonal is that of the inverse
            sound[i] = np.isfinite(found[i].sum()) and lowest > least * highest


@loops
def _add_up(words: Any, values: Any, weights: Any, design: Any, sums: Any, gram: Any, moment: Any, lane: Any) -> None:
    drawn, number = len(words), len(sums)
    target, weighted = design[number], design[number + 1]
    total, mean = 0.0, 0.0
    for j in range(drawn):
        total += weights[j]
        mean += weights[j] * values[j]
    for j in range(drawn):
        target[j] = values[j] - mean / total
    for v in range(number):
        added, moved = 0.0, 0.0
        for j in range(drawn):
            present = np.float64((words[j] >> v) & 1)
            design[v, j] = present
            weighted[j] = weights[j] * present
            added += weighted[j]
            moved += weighted[j] * target[j]
        sums[v], moment[v, lane] = added, moved
        for other in range(v):
            both = 0.0
            for j in range(drawn):
                both += weighted[j] * design[other, j]
            gram[v, other, lane] = both - added * sums[other] / total
        gram[v, v, lane] = added - added * added / total


@loops
def _solve(gram: Any, moment: Any, room: Any) -> None:
    """By Cholesky's factor, of which the reciprocal diagonal is kept."""
    number = len(moment)
    for a in range(number):
        for c in range(a + 1):
            room[:] = gram[a, c]
            for k in range(c):
                _subtract(room, gram[a, k], gram[c, k])
            for lane in range(LANES):
                gram[a, c, lane] = 1 / math.sqrt(room[lane]) if a == c else room[lane] * gram[c, c, lane]
    for a in range(number):
        for k in range(a):
            _subtract(moment[a], gram[a, k], moment[k])
        moment[a] *= gram[a, a]
    for a in range(number - 1, -1, -1):
        for k in range(a + 1, number):
            _subtract(moment[a], gram[k, a], moment[k])
        moment[a] *= gram[a, a]


@loops
def _subtract(into: Any, one: Any, other: Any) -> None:
    for lane in range(LANES):
        into[lane] -= one[lane] * other[lane]
