"""Coalitions of at most 31 variables, drawn and mixed row by row: loops that numba compiles, for the CPU.

A small network processes a row in a tenth of a microsecond. Torch operations, which go over all rows once for each
step, take longer than that for everything around it. Each loop goes over a range of samples; the functions called from
Python run it in parts, see `threads`.
"""

from typing import Any

import numpy as np

from xai_lightning.functional.attribution.fit_kernels import add_products, fit, nearness
from xai_lightning.functional.compiled import loops
from xai_lightning.functional.threads import as_flag_rows, as_flags, as_ints, as_word_rows, as_words, parts, shared

__all__ = ["add_products", "draw_even", "draw_shapley", "effective", "fit", "leave_out", "mix", "nearness"]

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


@loops
def _draw_shapley(
    begin: Any, end: Any, seeds: Any, drawn: Any, limits: Any, first: Any, many: Any, subsets: Any, words: Any
) -> None:
    """Draw coalitions whose sizes follow KernelSHAP's weights; a word for each.

    Arrays:
        seeds: int64[N].
        drawn: int64[3], the place of the first draw, the number of draws, and 2 if each is followed by its complement.
        limits: int64[number of sizes - 1], where the odds of the next size begin, in units of 2^-21.
        first: int64[number of sizes], where the subsets of each size begin.
        many: int64[number of sizes], how many subsets of each size there are.
        subsets: int32[...], the subsets of these sizes, in order.
        words: int32[N, S], the coalition of all variables first; those to be drawn are overwritten.
    """
    start, count, step = drawn[0], drawn[1], drawn[2]
    random, places = np.empty(count, np.uint64), np.empty(count, np.int64)
    for i in range(begin, end):
        for j in range(count):
            random[j] = _mixed(np.uint64(seeds[i]) + _GOLDEN * np.uint64(j + 1))
        for j in range(count):
            chance, size = np.int64(random[j] >> np.uint64(_LOW)), 0
            for k in range(limits.shape[0]):
                size += chance >= limits[k]
            places[j] = first[size] + (np.int64(random[j] & np.uint64((1 << _LOW) - 1)) * many[size] >> _LOW)
        # a separate loop, since it cannot be vectorised
        for j in range(count):
            words[i, start + step * j] = subsets[places[j]]
        for j in range(start + 1, start + 2 * count if step == 2 else 0, 2):
            words[i, j] = words[i, 0] ^ words[i, j - 1]


@shared(_draw_shapley, as_ints, as_ints, as_ints, as_ints, as_ints, as_words, as_word_rows)
def draw_shapley(t: Any) -> None:
    """See `_draw_shapley`."""
    seeds, drawn, limits, first, many = as_ints(t, 0), as_ints(t, 1), as_ints(t, 2), as_ints(t, 3), as_ints(t, 4)
    for begin, end in parts(t):
        _draw_shapley(begin, end, seeds, drawn, limits, first, many, as_words(t, 5), as_word_rows(t, 6))


@loops
def _draw_even(begin: Any, end: Any, seeds: Any, paired: Any, inside: Any, words: Any) -> None:
    """Draw coalitions in which each variable is present with probability one half.

    Arrays:
        seeds: int64[N].
        paired: int64[1], 1 if each draw is followed by its complement, else 0.
        inside: int64[1], the bits of all variables.
        words: int32[N, S], to be overwritten.
    """
    drawn, whole = words.shape[1], np.int32(inside[0])
    for i in range(begin, end):
        state = np.uint64(seeds[i])
        for j in range(0, drawn, 1 + paired[0]):
            state += _GOLDEN
            words[i, j] = np.int32(_mixed(state) & np.uint64(inside[0]))
        for j in range(1, drawn if paired[0] else 0, 2):
            words[i, j] = whole ^ words[i, j - 1]


@shared(_draw_even, as_ints, as_ints, as_ints, as_word_rows)
def draw_even(t: Any) -> None:
    """See `_draw_even`."""
    for begin, end in parts(t):
        _draw_even(begin, end, as_ints(t, 0), as_ints(t, 1), as_ints(t, 2), as_word_rows(t, 3))


@loops
def _chosen(word: Any, shift: Any, difference: Any, base: Any) -> Any:
    # numba would widen the shifted word to 64 bits, with another sign
    return base ^ (difference & np.int32(np.int32(word << shift) >> _SIGN))


@loops
def _mix(begin: Any, end: Any, first: Any, x: Any, b: Any, shift: Any, words: Any, rows: Any) -> None:
    """Inputs with the variables of each coalition, and the baseline's numbers for the others, bit for bit.

    Arrays:
        first: int64[1], the sample of the first rows.
        x: int32[N, W], the bits of the inputs.
        b: int32[N or 1, W], the bits of the baselines.
        shift: int32[W], by which the bit of each number's variable is shifted to the sign.
        words: int32[N, S], the coalitions.
        rows: int32[at least N' * S, W], to be overwritten.
    """
    drawn, width = words.shape[1], x.shape[1]
    difference = np.empty(width, np.int32)
    for i in range(begin, end):
        sample, own = first[0] + i, rows[i * drawn : (i + 1) * drawn]
        base = b[sample % len(b)]
        for c in range(width):
            difference[c] = x[sample, c] ^ base[c]
        # two rows at a time: numbers left over after the vector width are processed singly, those of both rows together
        for j in range(0, drawn - 1, 2):
            row, next_row, word, next_word = own[j], own[j + 1], words[sample, j], words[sample, j + 1]
            for c in range(width):
                row[c] = _chosen(word, shift[c], difference[c], base[c])
                next_row[c] = _chosen(next_word, shift[c], difference[c], base[c])
        if drawn % 2:
            row, word = own[drawn - 1], words[sample, drawn - 1]
            for c in range(width):
                row[c] = _chosen(word, shift[c], difference[c], base[c])


@shared(_mix, as_ints, as_word_rows, as_word_rows, as_words, as_word_rows, as_word_rows)
def mix(t: Any) -> None:
    """See `_mix`."""
    first, x, b, shift, words, rows = (
        as_ints(t, 0),
        as_word_rows(t, 1),
        as_word_rows(t, 2),
        as_words(t, 3),
        as_word_rows(t, 4),
        as_word_rows(t, 5),
    )
    for begin, end in parts(t):
        _mix(begin, end, first, x, b, shift, words, rows)


@loops
def _effective(begin: Any, end: Any, x: Any, b: Any, owner: Any, has: Any, found: Any) -> None:
    """Which variables have numbers that differ from the baseline's, bit for bit.

    Arrays:
        x: int32[N, W], the bits of the inputs.
        b: int32[N or 1, W], the bits of the baselines.
        owner: int32[W], the variable of each number.
        has: bool[V], which variables have numbers at all.
        found: bool[N, V], to be overwritten.
    """
    width = len(owner)
    for i in range(begin, end):
        base, own = b[i % len(b)], x[i]
        alike = 0
        for c in range(width):
            alike += own[c] == base[c]
        for v in range(len(has)):
            found[i, v] = has[v] and alike == 0
        # a separate loop, since it cannot be vectorised
        for c in range(width if alike else 0):
            found[i, owner[c]] |= own[c] != base[c]


@shared(_effective, as_word_rows, as_word_rows, as_words, as_flags, as_flag_rows)
def effective(t: Any) -> None:
    """See `_effective`."""
    for begin, end in parts(t):
        _effective(
            begin, end, as_word_rows(t, 0), as_word_rows(t, 1), as_words(t, 2), as_flags(t, 3), as_flag_rows(t, 4)
        )


@loops
def _exchanged(number: Any, other: Any, owner: Any, variable: Any) -> Any:
    return number ^ ((number ^ other) & np.int32(-np.int32(owner == variable)))


@loops
def _leave_out(
    begin: Any, end: Any, first: Any, samples: Any, variables: Any, x: Any, b: Any, owner: Any, rows: Any
) -> None:
    """Inputs in which one variable has the baseline's numbers.

    Arrays:
        first: int64[1], which of all forms the first row holds.
        samples: int64[F], the sample of each form.
        variables: int64[F], the variable that it lacks.
        x: int32[N, W], the bits of the inputs.
        b: int32[N or 1, W], the bits of the baselines.
        owner: int32[W], the variable of each number.
        rows: int32[R, W], to be overwritten, with room for all rows of one call.
    """
    width = len(owner)
    for i in range(begin, end):
        sample, variable = samples[first[0] + i], np.int32(variables[first[0] + i])
        own, base, row = x[sample], b[sample % len(b)], rows[i]
        for c in range(width):
            row[c] = _exchanged(own[c], base[c], owner[c], variable)


@shared(_leave_out, as_ints, as_ints, as_ints, as_word_rows, as_word_rows, as_words, as_word_rows)
def leave_out(t: Any) -> None:
    """See `_leave_out`."""
    first, samples, variables = as_ints(t, 0), as_ints(t, 1), as_ints(t, 2)
    x, b, owner, rows = as_word_rows(t, 3), as_word_rows(t, 4), as_words(t, 5), as_word_rows(t, 6)
    for begin, end in parts(t):
        _leave_out(begin, end, first, samples, variables, x, b, owner, rows)
