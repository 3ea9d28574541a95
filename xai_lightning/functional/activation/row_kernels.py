"""Rows of float32 on the CPU that are drawn and copied: loops that numba compiles, and which take addresses.

To make an array of a tensor takes as long as such a loop. Who calls them has looked at the type, the device and the
layout of what lies at an address.
"""

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from xai_lightning.functional.compiled import kept
from xai_lightning.functional.threads import pointing_to

#: How many numbers stand side by side by which a row is drawn: known when it is compiled, they are read together.
RUN = 16
# so many rows ahead, memory is asked for what rows are drawn by: a batch is mostly too large to be near
_AHEAD = 12


def _asked_for(_: Any, address: Any) -> Any:
    """Ask the memory for what is at an address, or lies beyond the end, and do not wait for it."""

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
    """Which rows have a hash, of some numbers of each in wrapping arithmetic, that reaches a number.

    Args:
        address: of int32[rows, width].
        rows: How many there are.
        width: Numbers in each.
        starts: int64[G], where runs of 16 of these begin.
        weights: int64[G, 16], of each run.
        numbers: int64[3]: what is added to their weighted sum, by what that is multiplied, and what it is to reach.
        drawn: int64[at least rows], of which the beginning is overwritten with the rows' indices.

    Returns:
        How many these are.
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
    """Copy some rows one after the other.

    Args:
        address: of int32[rows, width].
        rows: How many there are.
        width: Numbers in each.
        which: int64[at least count], indices of rows.
        count: How many of these to copy.
        room: int32[many], to be overwritten.
        to: From where on.
    """
    words = carray(_words_at(address), rows * width)
    for i in range(count):
        start = which[i] * width
        for j in range(width):
            room[to + j] = words[start + j]
        to += width
