"""Coalitions of at most 31 variables drawn, mixed and fitted row by row: loops that numba compiles, for the CPU.

A small network passes a row in a tenth of a microsecond; operations of torch, which go over all rows once for each of
their steps, take longer than that for everything around it. Each loop goes from a sample to another one; what is called
from Python has them done in parts, see `threads`.
"""

import math
from typing import Any

import numpy as np
from numba import types

from xai_lightning.functional.compiled import loops
from xai_lightning.functional.threads import parts, reader, shared

#: Systems of equations that are solved side by side.
LANES = 8

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_FOLDS = np.uint64(30), np.uint64(27), np.uint64(31)
_SIGN, _DIGITS = np.int32(31), 21
_LOW = 64 - _DIGITS

_ints, _words, _doubles, _flags = (reader(kind, 1) for kind in (types.int64, types.int32, types.float64, types.boolean))
_word_rows, _float_rows, _double_rows = (reader(kind, 2) for kind in (types.int32, types.float32, types.float64))
_double_cube = reader(types.float64, 3)


@loops
def _mixed(word: Any) -> Any:
    word = (word ^ (word >> _FOLDS[0])) * _MIX[0]
    word = (word ^ (word >> _FOLDS[1])) * _MIX[1]
    return word ^ (word >> _FOLDS[2])


@loops
def _draw_shapley(
    begin: Any, end: Any, seeds: Any, limits: Any, first: Any, many: Any, subsets: Any, words: Any
) -> None:
    """Coalitions of sizes that follow KernelSHAP's weights, after all variables and none; a word for each.

    Arrays:
        seeds: int64[N].
        limits: int64[V - 2], where the next size begins, in units of 2^-21.
        first: int64[V - 1], where the coalitions of each size begin.
        many: int64[V - 1], how many these are.
        subsets: int32[2^V - 2], all but all and none, by size.
        words: int32[N, S], to be overwritten.
    """
    for i in range(begin, end):
        state = np.uint64(seeds[i])
        for j in range(2, words.shape[1]):
            state += _GOLDEN
            word = _mixed(state)
            chance, size = np.int64(word >> np.uint64(_LOW)), 0
            for k in range(limits.shape[0]):
                size += chance >= limits[k]
            place = np.int64(word & np.uint64((1 << _LOW) - 1)) * many[size] >> _LOW
            words[i, j] = subsets[first[size] + place]


@shared(_draw_shapley)
def draw_shapley(t: Any) -> None:
    """See `_draw_shapley`."""
    for begin, end in parts(t):
        _draw_shapley(begin, end, _ints(t, 0), _ints(t, 1), _ints(t, 2), _ints(t, 3), _words(t, 4), _word_rows(t, 5))


@loops
def _draw_even(begin: Any, end: Any, seeds: Any, inside: Any, words: Any) -> None:
    """Coalitions in which each variable is present with probability one half.

    Arrays:
        seeds: int64[N].
        inside: int64[1], the bits of all variables.
        words: int32[N, S], to be overwritten.
    """
    for i in range(begin, end):
        state = np.uint64(seeds[i])
        for j in range(words.shape[1]):
            state += _GOLDEN
            words[i, j] = np.int32(_mixed(state) & np.uint64(inside[0]))


@shared(_draw_even)
def draw_even(t: Any) -> None:
    """See `_draw_even`."""
    for begin, end in parts(t):
        _draw_even(begin, end, _ints(t, 0), _ints(t, 1), _word_rows(t, 2))


@loops
def _chosen(word: Any, shift: Any, difference: Any, base: Any) -> Any:
    # numba would widen what is shifted to 64 bits, with another sign
    return base ^ (difference & np.int32(np.int32(word << shift) >> _SIGN))


@loops
def _mix(begin: Any, end: Any, first: Any, x: Any, b: Any, shift: Any, words: Any, rows: Any) -> None:
    """Inputs of which each coalition keeps some variables, and has the baseline's other ones: bit for bit.

    Arrays:
        first: int64[1], the sample of which the first rows are.
        x: int32[N, W], the bits of the inputs.
        b: int32[N or 1, W], of the baselines.
        shift: int32[W], by which the bit of each number's variable is shifted to the sign.
        words: int32[N, S].
        rows: int32[at least N' * S, W], to be overwritten.
    """
    drawn, width = words.shape[1], x.shape[1]
    difference = np.empty(width, np.int32)
    for i in range(begin, end):
        sample, own = first[0] + i, rows[i * drawn : (i + 1) * drawn]
        base = b[sample % len(b)]
        for c in range(width):
            difference[c] = x[sample, c] ^ base[c]
        # two at a time: what is left over after the registers' width is done one by one, side by side
        for j in range(0, drawn - 1, 2):
            row, next_row, word, next_word = own[j], own[j + 1], words[sample, j], words[sample, j + 1]
            for c in range(width):
                row[c] = _chosen(word, shift[c], difference[c], base[c])
                next_row[c] = _chosen(next_word, shift[c], difference[c], base[c])
        if drawn % 2:
            row, word = own[drawn - 1], words[sample, drawn - 1]
            for c in range(width):
                row[c] = _chosen(word, shift[c], difference[c], base[c])


@shared(_mix)
def mix(t: Any) -> None:
    """See `_mix`."""
    first, x, b, shift, words, rows = (
        _ints(t, 0),
        _word_rows(t, 1),
        _word_rows(t, 2),
        _words(t, 3),
        _word_rows(t, 4),
        _word_rows(t, 5),
    )
    for begin, end in parts(t):
        _mix(begin, end, first, x, b, shift, words, rows)


@loops
def _exchanged(number: Any, difference: Any, owner: Any, variable: Any) -> Any:
    return number ^ (difference & np.int32(-np.int32(owner == variable)))


@loops
def _leave_out(begin: Any, end: Any, where: Any, x: Any, b: Any, owner: Any, rows: Any) -> None:
    """Inputs of which one variable after the other has the baseline's numbers.

    Arrays:
        where: int64[3], the first sample, the first variable, and how many variables of each sample are left out.
        x: int32[N, W], the bits of the inputs.
        b: int32[N or 1, W], of the baselines.
        owner: int32[W], the variable of each number.
        rows: int32[at least N' * V', W], to be overwritten.
    """
    samples, variables, many = where
    width = len(owner)
    difference = np.empty(width, np.int32)
    for i in range(begin, end):
        sample, base, own = x[samples + i], b[(samples + i) % len(b)], rows[i * many : (i + 1) * many]
        for c in range(width):
            difference[c] = sample[c] ^ base[c]
        for k in range(0, many - 1, 2):
            row, next_row, one = own[k], own[k + 1], np.int32(variables + k)
            other = np.int32(one + 1)
            for c in range(width):
                row[c] = _exchanged(sample[c], difference[c], owner[c], one)
                next_row[c] = _exchanged(sample[c], difference[c], owner[c], other)
        if many % 2:
            row, one = own[many - 1], np.int32(variables + many - 1)
            for c in range(width):
                row[c] = _exchanged(sample[c], difference[c], owner[c], one)


@shared(_leave_out)
def leave_out(t: Any) -> None:
    """See `_leave_out`."""
    for begin, end in parts(t):
        _leave_out(begin, end, _ints(t, 0), _word_rows(t, 1), _word_rows(t, 2), _words(t, 3), _word_rows(t, 4))


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
            # numbers of one variable mostly stand side by side
            if c + 1 == width or mask[c + 1] != mask[c]:
                into = sums[i, mask[c]]
                into[0] += own
                into[1] += across
                into[2] += other
                own, across, other = 0.0, 0.0, 0.0


@shared(_add_products)
def add_products(t: Any) -> None:
    """See `_add_products`."""
    for begin, end in parts(t):
        _add_products(begin, end, _float_rows(t, 0), _float_rows(t, 1), _ints(t, 2), _double_cube(t, 3))


@loops
def _nearness(begin: Any, end: Any, words: Any, products: Any, shortest: Any, exponents: Any) -> None:
    """Exponents of LIME's weights: minus half the squared cosine distance to the sample.

    Arrays:
        words: int32[N, S].
        products: float64[N, V, 3], sums of x * x, x * b and b * b.
        shortest: float64[1], below which no product of lengths is.
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
                # no difference of the two, in which a small one would be lost
                absent = 1 - present
                room[0, j] += present * own + absent * across
                room[1, j] += present * own + absent * other
        for j in range(drawn):
            distance = 1 - room[0, j] / max(math.sqrt(whole) * math.sqrt(room[1, j]), shortest[0])
            exponents[i, j] = -distance * distance / 2


@shared(_nearness)
def nearness(t: Any) -> None:
    """See `_nearness`."""
    for begin, end in parts(t):
        _nearness(begin, end, _word_rows(t, 0), _double_cube(t, 1), _doubles(t, 2), _double_rows(t, 3))


@loops
def _subtract(into: Any, one: Any, other: Any) -> None:
    for lane in range(LANES):
        into[lane] -= one[lane] * other[lane]


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
def _add_up(
    words: Any, values: Any, weights: Any, design: Any, target: Any, sums: Any, gram: Any, moment: Any, lane: Any
) -> None:
    drawn, number = len(words), len(sums)
    weighted, total, mean = design[number], 0.0, 0.0
    for j in range(drawn):
        total += weights[j]
        mean += weights[j] * values[j]
    for j in range(drawn):
        target[j] = values[j] - mean / total
    for v in range(number):
        added, moved = 0.0, 0.0
        for j in range(drawn):
            design[v, j] = (words[j] >> v) & 1
            weighted[j] = weights[j] * design[v, j]
            added += weighted[j]
            moved += weighted[j] * target[j]
        sums[v], moment[v, lane] = added, moved
        for other in range(v):
            # of the type of the weights
            both = weighted[0] * design[other, 0]
            for j in range(1, drawn):
                both += weighted[j] * design[other, j]
            gram[v, other, lane] = both - added * sums[other] / total
        gram[v, v, lane] = added - added * added / total


@loops
def _fit(begin: Any, end: Any, words: Any, values: Any, weights: Any, least: Any, found: Any, sound: Any) -> None:
    """Weighted least squares with an intercept, by the normal equations.

    Arrays:
        words: int32[N, S].
        values: float64[N, S].
        weights: float64[N or 1, S]; or float32 of whole numbers, of which sums up to 2^24 are exact.
        least: float64[1], the least ratio of the extremes of a factor's diagonal.
        found: float64[N, V], to be overwritten.
        sound: bool[N], to be overwritten: whether the equations determine what was found.
    """
    number = found.shape[1]
    design, target = np.zeros((number + 1, words.shape[1]), weights.dtype), np.zeros(words.shape[1])
    gram = np.zeros((number, number, LANES))
    moment, sums, room = np.zeros((number, LANES)), np.zeros(number), np.zeros(LANES)
    for start in range(begin, end, LANES):
        last = min(start + LANES, end)
        for i in range(start, last):
            _add_up(words[i], values[i], weights[i % len(weights)], design, target, sums, gram, moment, i - start)
        _solve(gram, moment, room)
        for i in range(start, last):
            lowest = highest = gram[0, 0, i - start]
            for v in range(number):
                found[i, v] = moment[v, i - start]
                lowest, highest = min(lowest, gram[v, v, i - start]), max(highest, gram[v, v, i - start])
            # the diagonal is that of the inverse
            sound[i] = np.isfinite(found[i].sum()) and lowest > least[0] * highest


@shared(_fit)
def fit(t: Any) -> None:
    """See `_fit`."""
    for begin, end in parts(t):
        _fit(
            begin,
            end,
            _word_rows(t, 0),
            _double_rows(t, 1),
            _double_rows(t, 2),
            _doubles(t, 3),
            _double_rows(t, 4),
            _flags(t, 5),
        )


@shared(_fit)
def fit_whole(t: Any) -> None:
    """See `_fit`; weights are float32."""
    words, values, weights, least = _word_rows(t, 0), _double_rows(t, 1), _float_rows(t, 2), _doubles(t, 3)
    for begin, end in parts(t):
        _fit(begin, end, words, values, weights, least, _double_rows(t, 4), _flags(t, 5))
