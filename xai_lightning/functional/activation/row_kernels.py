"""Loops compiled by numba that draw and copy rows of float32 on the CPU, given their memory address.

Making an array of a tensor takes as long as such a loop. Callers check the dtype, device and layout of the memory at an
address.
"""

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from xai_lightning.functional.compiled import kept
from xai_lightning.functional.threads import pointing_to

#: Length of the runs of adjacent numbers by which a row is drawn; a constant, so that a run is read at once.
RUN = 16
# number of rows to prefetch ahead: most batches are too large for the cache
_AHEAD = 12


def _asked_for(_: Any, address: Any) -> Any:
    """Prefetch the memory at an address, which may lie beyond the end of an array, without waiting for it."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        ask = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        known = builder.module.declare_intrinsic("llvm.prefetch", [byte], ask)
        to_read, to_keep, data = (number(x) for x in (0, 3, 1))
        builder.call(known, [builder.inttoptr(values[0], byte), to_read, to_keep, data])
        return context.get_dummy_value()

    return types.void(address), generate


_words_at = pointing_to(types.int32)
_ask_for: Any = intrinsic(_asked_for)


@kept
def draw_rows(address: Any, rows: Any, width: Any, starts: Any, weights: Any, numbers: Any, drawn: Any) -> Any:
    """Find the rows whose hash, of some of their numbers in wrapping arithmetic, reaches a threshold.

    Args:
        address: Address of int32[rows, width].
        rows: Number of rows.
        width: Numbers per row.
        starts: int64[G], where runs of 16 of these numbers begin in a row.
        weights: int64[G, 16], weights of the numbers of each run.
        numbers: int64[3]: offset added to the weighted sum, multiplier of the folded sum, and threshold.
        drawn: int64[at least rows], whose beginning is overwritten with the indices of the rows found.

    Returns:
        The number of rows found.
    """
    words = carray(_words_at(address), rows * width)
    first, golden, least = numbers
    start = found = 0
    for row in range(rows):
        ahead = address + 4 * (start + _AHEAD * width)
        for i in range(len(starts)):
            _ask_for(ahead + 4 * starts[i])
        total = first
        for i in range(len(starts)):
            at, own = start + starts[i], weights[i]
            run = words[at : at + RUN]
            for j in range(RUN):
                total += run[j] * own[j]
        drawn[found] = row
        found += (total ^ (total >> 32)) * golden >= least
        start += width
    return found


@kept
def copy_rows(address: Any, rows: Any, width: Any, which: Any, count: Any, room: Any, to: Any) -> None:
    """Copy rows into consecutive memory.

    Args:
        address: Address of int32[rows, width].
        rows: Number of rows.
        width: Numbers per row.
        which: int64[at least count], indices of rows.
        count: Number of rows to copy.
        room: int32 array of any length that fits them, to be overwritten.
        to: Offset in ``room`` of the first copied number.
    """
    words = carray(_words_at(address), rows * width)
    for i in range(count):
        start = which[i] * width
        for j in range(width):
            room[to + j] = words[start + j]
        to += width
