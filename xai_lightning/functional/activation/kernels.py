"""All sums over a block in one pass: loops compiled by numba, for float32 blocks on the CPU.

Runs of at most 1024 numbers of one unit are summed in float32 over many SIMD lanes; the sums of runs are added in
float64. Extremes are found by comparing integers of the same order, among which non-finite values are outermost.
"""

from typing import Any

import numpy as np
from numba import carray, float32

from xai_lightning.functional.activation.table import (
    ADDED,
    FAR,
    HOYER,
    MAGNITUDE,
    MAXIMUM,
    MINIMUM,
    NOT_FINITE,
    POSITIVES,
    S1,
    S2,
    S3,
    S4,
    SATURATED,
    TREVES,
    UNFIT,
    VECTORS,
    ZEROS,
)
from xai_lightning.functional.compiled import kept, loops
from xai_lightning.functional.threads import pointing_to

# indices into ``want``
_HIGHER, _HISTOGRAM, _SPARSITY, _LIMITS, _LOW, _HIGH, _MOST, _SMALLEST, _LARGEST = range(9)
#: Shapes of scratch memory: packed runs of float32, and two sums per position; histogram bins of each lane.
ROOM, BINS = (18, 1040), (8, 512)

_RUN, _TILE, _PITCH, _LANES = 1024, 16, 1040, 8
_LONG, _VECTOR = 512, 64
_MANTISSA, _SIGN_AND_EXPONENT, _NEGATIVE = np.int32(23), np.int32(511), 256
_LOWEST, _HIGHEST, _MIDDLE = 127 - 16, 127 + 15, 32
_ALL_BUT_SIGN, _SIGN, _NOUGHT, _ZERO = np.int32(0x7FFFFFFF), np.int32(31), np.int32(0), np.float32(0)
_FIRST, _LAST = np.int32(2**31 - 1), np.int32(-(2**31))

_numbers_at = pointing_to(float32)


@kept
def add_block(
    x: Any, shift: Any, want: Any, anyway: Any, sums: Any, histogram: Any, found: Any, bins: Any, room: Any
) -> Any:
    """Add a block, or leave the sums unchanged.

    Args:
        x: float32[A, U, R].
        shift: float32[U].
        want: float64[9]: flags for higher powers, the histogram, sparsity and saturation; the low and high limit; the
            largest squared distance of a mean from the shift, in variances; the range of magnitudes for float32.
        anyway: Whether to add the block even if it is far from the shift.
        sums: float64[U + 1, 9], updated in place.
        histogram: int64[65], updated in place.
        found: float64[U + 1, 9], overwritten with the sums of this block.
        bins: int32[8, 512], scratch memory.
        room: float32[18, 1040], scratch memory.

    Returns:
        The outcome: ``ADDED``, ``NOT_FINITE``, ``FAR`` or ``UNFIT``.
    """
    found[:] = 0
    found[:, MINIMUM], found[:, MAXIMUM] = _FIRST, _LAST
    if want[_HISTOGRAM]:
        bins[:] = 0
    _sum_up(x, shift, want, found, bins, room)
    outcome = _judge(found, x.shape[0] * x.shape[2], want, anyway, room[0])
    if outcome == ADDED:
        for u in range(found.shape[0]):
            for i in range(MINIMUM):
                sums[u, i] += found[u, i]
            sums[u, MINIMUM] = min(sums[u, MINIMUM], found[u, MINIMUM])
            sums[u, MAXIMUM] = max(sums[u, MAXIMUM], found[u, MAXIMUM])
        if want[_HISTOGRAM]:
            _fold(bins, histogram)
    return outcome


@kept
def add_block_at(address: Any, rows: Any, units: Any, width: Any, *more: Any) -> Any:
    """:func:`add_block` for a block at a memory address: making an array of a tensor takes as long as a small block.

    Args:
        address: Address of float32[A, U, R].
        rows: A.
        units: U.
        width: R.
        more: The arguments of :func:`add_block` after the block.

    Returns:
        The outcome.
    """
    return add_block(carray(_numbers_at(address), (rows, units, width)), *more)


@loops
def _sum_up(x: Any, shift: Any, want: Any, found: Any, bins: Any, room: Any) -> None:
    rows, units, width = x.shape
    flat, packed, two = x.reshape(x.size), room[:_TILE].reshape(_TILE * _PITCH), room[_TILE:]
    many, tile = _rows_per_run(width), max(1, _TILE // width)
    numbers = flat if many == 1 else packed
    keys = numbers.view(np.int32)
    for a in range(0, rows, many):
        last = min(rows, a + many)
        for begin in range(0, width, _RUN):
            places = (last - a) * (min(width, begin + _RUN) - begin)
            for u in range(units):
                if many > 1 and u % tile == 0:
                    _pack(flat, width, units, a, last, u, packed)
                start = (a * units + u) * width + begin if many == 1 else u % tile * _PITCH
                _add_run(numbers, keys, start, places, shift[u], found, u)
                if want[_HIGHER]:
                    _add_higher(numbers, start, places, shift[u], found, u)
                if want[_HISTOGRAM]:
                    _count(keys, start, places, bins)
                if want[_SPARSITY]:
                    _widen(numbers, start, places, two, u == 0)
                if want[_LIMITS]:
                    found[units, SATURATED] += _beyond(numbers, start, places, want[_LOW], want[_HIGH])
            if want[_SPARSITY] and units > 1:
                _add_sparsity(two, places, units, found)


@loops
def _judge(found: Any, count: Any, want: Any, anyway: Any, room: Any) -> Any:
    """Turn extremes back into numbers, and decide whether the sums of the block may be added."""
    keys, units = room.view(np.int32), found.shape[0] - 1
    found[units, MINIMUM], found[units, MAXIMUM] = np.inf, -np.inf
    for u in range(units):
        for i in range(MINIMUM, MAXIMUM + 1):
            key = np.int32(found[u, i])
            keys[i] = key ^ ((key >> _SIGN) & _ALL_BUT_SIGN)
            found[u, i] = room[i]
            if not np.isfinite(room[i]):
                return NOT_FINITE
        found[units, MINIMUM] = min(found[units, MINIMUM], found[u, MINIMUM])
        found[units, MAXIMUM] = max(found[units, MAXIMUM], found[u, MAXIMUM])
    largest = max(-found[units, MINIMUM], found[units, MAXIMUM])
    if not (want[_SMALLEST] < largest < want[_LARGEST] or found[units, MINIMUM] == found[units, MAXIMUM] == 0):
        return UNFIT
    share = (1 + want[_MOST]) / (want[_MOST] * count)
    for u in range(units):
        if not anyway and found[u, S2] < share * found[u, S1] * found[u, S1]:
            return FAR
    return ADDED


@loops
def _fold(bins: Any, histogram: Any) -> None:
    for lane in range(_LANES):
        for exponent in range(_NEGATIVE):
            away = min(exponent, _HIGHEST) - _LOWEST + 1
            if away <= 0:
                histogram[_MIDDLE] += bins[lane, exponent] + bins[lane, exponent + _NEGATIVE]
            else:
                histogram[_MIDDLE + away] += bins[lane, exponent]
                histogram[_MIDDLE - away] += bins[lane, exponent + _NEGATIVE]


@loops
def _rows_per_run(width: Any) -> Any:
    if width >= _LONG:
        return 1
    many, whole = _RUN // width, 1
    while whole * width % _VECTOR:
        whole += 1
    return many if many < whole else many // whole * whole


@loops
def _pack(flat: Any, width: Any, units: Any, first: Any, last: Any, unit: Any, packed: Any) -> None:
    """Make the numbers of each unit contiguous."""
    many = min(max(1, _TILE // width), units - unit)
    for a in range(last - first):
        start = ((first + a) * units + unit) * width
        row, into = flat[start : start + many * width], packed[a * width :]
        if width == 1:
            for u in range(many):
                into[u * _PITCH] = row[u]
        else:
            for u in range(many):
                for r in range(width):
                    into[u * _PITCH + r] = row[u * width + r]


@loops
def _add_run(numbers: Any, keys: Any, start: Any, places: Any, shift: Any, into: Any, unit: Any) -> None:
    # the remainder that fills no register is added one by one, to a separate sum, which rounds less
    stop = start + places // _VECTOR * _VECTOR
    for _ in range(2):
        run, of_run = numbers[start:stop], keys[start:stop]
        s1 = s2 = size = _ZERO
        zeros = positives = _NOUGHT
        low, high = _FIRST, _LAST
        for i in range(len(run)):
            v, key = run[i], of_run[i]
            d = v - shift
            s1 += d
            s2 += d * d
            size += abs(v)
            # numba would widen each of these to 64 bits, and half as many would fit a register
            zeros = np.int32(zeros + np.int32(v == _ZERO))
            positives = np.int32(positives + np.int32(v > _ZERO))
            key = np.int32(key ^ np.int32(np.int32(key >> _SIGN) & _ALL_BUT_SIGN))
            low, high = np.int32(min(low, key)), np.int32(max(high, key))
        into[unit, S1] += s1
        into[unit, S2] += s2
        into[unit, MAGNITUDE] += size
        into[unit, ZEROS] += zeros
        into[unit, POSITIVES] += positives
        into[unit, MINIMUM], into[unit, MAXIMUM] = min(into[unit, MINIMUM], low), max(into[unit, MAXIMUM], high)
        start, places, stop = stop, start + places - stop, start + places


@loops
def _add_higher(numbers: Any, start: Any, places: Any, shift: Any, into: Any, unit: Any) -> None:
    stop = start + places // _VECTOR * _VECTOR
    for _ in range(2):
        run = numbers[start:stop]
        s3 = s4 = _ZERO
        for i in range(len(run)):
            d = run[i] - shift
            square = d * d
            s3 += square * d
            s4 += square * square
        into[unit, S3] += s3
        into[unit, S4] += s4
        start, places, stop = stop, start + places - stop, start + places


@loops
def _count(keys: Any, start: Any, places: Any, bins: Any) -> None:
    """Count exponents, neighbours in separate bins: in a layer that is mostly 0, they would wait for each other."""
    run, whole = keys[start : start + places], places // _LANES * _LANES
    for i in range(0, whole, _LANES):
        for lane in range(_LANES):
            bins[lane, (run[i + lane] >> _MANTISSA) & _SIGN_AND_EXPONENT] += 1
    for i in range(whole, places):
        bins[0, (run[i] >> _MANTISSA) & _SIGN_AND_EXPONENT] += 1


@loops
def _widen(numbers: Any, start: Any, places: Any, two: Any, first: Any) -> None:
    """Add the absolute values and squares of a unit to the sums over units at each position."""
    if first:
        two[:, :places] = _ZERO
    run = numbers[start : start + places]
    for i in range(places):
        two[0, i] += abs(run[i])
        two[1, i] += run[i] * run[i]


@loops
def _beyond(numbers: Any, start: Any, places: Any, low: Any, high: Any) -> Any:
    found = _NOUGHT
    run = numbers[start : start + places]
    for i in range(places):
        found = np.int32(found + np.int32((run[i] <= low) | (run[i] >= high)))
    return found


@loops
def _add_sparsity(two: Any, places: Any, units: Any, into: Any) -> None:
    root = np.sqrt(np.float64(units))
    vectors, hoyer, treves = 0, 0.0, 0.0
    for i in range(places):
        if two[1, i] > 0:
            ratio = np.float64(two[0, i]) * np.float64(two[0, i]) / np.float64(two[1, i])
            vectors += 1
            hoyer += (root - np.sqrt(ratio)) / (root - 1)
            treves += (1 - ratio / units) / (1 - 1 / units)
    into[units, VECTORS] += vectors
    into[units, HOYER] += hoyer
    into[units, TREVES] += treves
