"""Compiled loops that the threads of torch share.

These wait busily for their next work: threads of another library would find no core free. And what is written by a core
lies near it when torch goes on.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from numba import carray, types
from numba.extending import intrinsic
from torch import Tensor

from xai_lightning.functional.compiled import kept_callback, loops

# a table: parts that were taken, of how many, and turns of the loop; then of each tensor where it is, and its shape
_TAKEN, _PARTS, _TURNS, _HEAD, _EACH = 0, 1, 2, 3, 4
# more parts than threads: one that comes late takes fewer
_PARTS_EACH = 4

_KINDS = {
    types.boolean: torch.bool,
    types.int32: torch.int32,
    types.int64: torch.int64,
    types.float32: torch.float32,
    types.float64: torch.float64,
}


def pointing_to(kind: Any) -> Any:
    """What makes an address one of numbers of this type; what was compiled elsewhere does not see a change here."""
    pointer: Any = types.CPointer(kind)

    def pointing(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
            return builder.inttoptr(values[0], context.get_value_type(pointer))

        return pointer(address), generate

    return intrinsic(pointing)


def _counting(_: Any, table: Any) -> Any:
    """Add one to the table's first number, as other threads do, and tell what it was."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        one = context.get_constant(types.int64, 1)
        return builder.atomic_rmw("add", values[0], one, "monotonic")

    return types.int64(table), generate


_take: Any = intrinsic(_counting)


@loops
def parts(table: Any) -> Any:
    """Begin and end of each part of the turns that no other thread takes."""
    part, many, turns = _take(table), table[_PARTS], table[_TURNS]
    while part < many:
        yield turns * part // many, turns * (part + 1) // many
        part = _take(table)


def reader(kind: Any, dimensions: int) -> Any:
    """What gives a tensor of a table, by its place, as an array of 1 to 3 dimensions."""
    pointer = pointing_to(kind)

    def row(table: Any, place: Any) -> Any:
        at = _HEAD + _EACH * place
        return carray(pointer(table[at]), table[at + 1])

    def matrix(table: Any, place: Any) -> Any:
        at = _HEAD + _EACH * place
        return carray(pointer(table[at]), (table[at + 1], table[at + 2]))

    def cube(table: Any, place: Any) -> Any:
        at = _HEAD + _EACH * place
        return carray(pointer(table[at]), (table[at + 1], table[at + 2], table[at + 3]))

    found = loops((row, matrix, cube)[dimensions - 1])
    found.reads = _KINDS[kind], dimensions
    return found


as_words, as_ints, as_flags, as_doubles = (
    reader(kind, 1) for kind in (types.int32, types.int64, types.boolean, types.float64)
)
as_word_rows, as_float_rows, as_double_rows = (reader(kind, 2) for kind in (types.int32, types.float32, types.float64))
as_int_rows = reader(types.int64, 2)
as_double_cube = reader(types.float64, 3)


class Shared:
    """A loop that is cut into parts.

    Args:
        loop: is given begin and end of a part, and arrays.
        readers: of each of these.
        work: is given a table, and calls the loop for each of its `parts`.
    """

    def __init__(self, loop: Any, readers: tuple[Any, ...], work: Callable[[Any], None]) -> None:
        self.loop, self.work = loop, kept_callback(types.void(types.CPointer(types.int64)))(work)
        self._reads = [reader.reads for reader in readers]

    def on(self, *tensors: Tensor) -> "Bound":
        """The loop on contiguous tensors on the CPU, of the types that it reads.

        Raises:
            ValueError: of any others, for what is at their address would be read in their place.
        """
        for tensor, reads in zip(tensors, self._reads, strict=True):
            plain = type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.is_contiguous()
            if not plain or (tensor.dtype, tensor.ndim) != reads:
                raise ValueError(
                    f"{self.loop.__name__} reads contiguous {reads[0]} of {reads[1]} dimensions in the CPU's memory; "
                    f"got {type(tensor).__name__} of {tensor.dtype}, {list(tensor.shape)} on {tensor.device}"
                )
        return Bound(self, tensors)


class Bound:
    """A loop with the tensors that it works on, which are kept.

    Args:
        shared: the loop.
        tensors: of at most three dimensions.
    """

    def __init__(self, shared: Shared, tensors: tuple[Tensor, ...]) -> None:
        self.shared, self.tensors = shared, tensors
        table = [0] * _HEAD
        for tensor in tensors:
            table += (tensor.data_ptr(), *tensor.shape, 0, 0)[:_EACH]
        self._table = (ctypes.c_int64 * len(table))(*table)

    def __call__(self, turns: int) -> None:
        """Go through so many turns."""
        threads, team = torch.get_num_threads(), in_threads()
        self._table[:_HEAD] = [0, min(turns, _PARTS_EACH * threads), turns]
        if team is None or min(threads, turns) == 1:
            self.shared.work.ctypes(self._table)
        else:
            team(self.shared.work.address, self._table, threads, 0)


def shared(loop: Any, *readers: Any) -> Callable[[Callable[[Any], None]], Shared]:
    """Makes what calls a loop for each part of a table, which it has read by these, one that takes tensors."""
    return lambda work: Shared(loop, readers, work)


@cache
def in_threads() -> Any:
    """What torch calls to have a function called by each of its threads; None where it was built in another way."""
    # as the linker looks for it: first in what all of the process can see
    for place in () if os.name == "nt" else (None, torch._C.__file__):
        found = getattr(ctypes.CDLL(place), "GOMP_parallel", None)
        if found is not None:
            found.argtypes, found.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
            return found
    return None
