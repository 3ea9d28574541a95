"""Compiled loops that torch's own threads share.

Torch's threads busy-wait for their next work, so that threads of another library would find no core free. And what a
core writes is still in its cache when torch goes on.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic
from torch import Tensor

from xai_lightning.functional.compiled import kept_callback, loops

# layout of a table: parts, turns (iterations), threads, address of the function that returns a thread's number, and
# offset of the counters; then each tensor's address and shape; last, a counter per thread of the parts of its share
# that were taken
_PARTS, _TURNS, _THREADS, _TELLS, _TAKEN, _HEAD, _EACH = 0, 1, 2, 3, 4, 5, 4
# more parts than threads, so that others take over those of a late thread
_PARTS_EACH = 4

_KINDS = {
    types.boolean: torch.bool,
    types.int32: torch.int32,
    types.int64: torch.int64,
    types.float32: torch.float32,
    types.float64: torch.float64,
}


def pointing_to(kind: Any) -> Any:
    """Intrinsic that casts an address to a pointer to numbers of this type."""
    pointer: Any = types.CPointer(kind)

    def pointing(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
            return builder.inttoptr(values[0], context.get_value_type(pointer))

        return pointer(address), generate

    return intrinsic(pointing)


def _counting(_: Any, table: Any, place: Any) -> Any:
    """Atomically add one to a number of the table, and return what it was."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        one = context.get_constant(types.int64, 1)
        # the weakest ordering suffices: no number is returned twice, and no other write depends on it
        return builder.atomic_rmw("add", builder.gep(values[0], [values[1]]), one, "monotonic")

    return types.int64(table, types.int64), generate


_take: Any = intrinsic(_counting)


def _numbering(_: Any, address: Any) -> Any:
    """The number of this thread, returned by the function at an address."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        tells = ir.FunctionType(ir.IntType(32), ()).as_pointer()
        return builder.call(builder.inttoptr(values[0], tells), ())

    return types.int32(types.int64), generate


_number: Any = intrinsic(_numbering)


@loops
def parts(table: Any) -> Any:
    """Yield begin and end of each part of the turns that no other thread took, beginning with this thread's own share.

    Torch assigns shares to its threads in the same order, so that a core reads what it wrote. Where cores have their
    own caches, a small network's passes took an eighth less time than when parts went to whichever thread was free.
    """
    many, turns, threads = table[_PARTS], table[_TURNS], table[_THREADS]
    own = _number(table[_TELLS]) if table[_TELLS] else 0
    for i in range(threads):
        share = (own + i) % threads
        first, beyond = many * share // threads, many * (share + 1) // threads
        part = first + _take(table, table[_TAKEN] + share)
        while part < beyond:
            yield turns * part // many, turns * (part + 1) // many
            part = first + _take(table, table[_TAKEN] + share)


def reader(kind: Any, dimensions: int) -> Any:
    """A compiled function that returns a table's tensor, by its position, as an array of 1 to 3 dimensions."""
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
as_int_rows, as_flag_rows = (reader(kind, 2) for kind in (types.int64, types.boolean))
as_double_cube = reader(types.float64, 3)


class Shared:
    """A loop that is split into parts.

    Args:
        loop: takes begin and end of a part, then arrays.
        readers: one for each array.
        work: takes a table, and calls the loop for each of its `parts`.
    """

    def __init__(self, loop: Any, readers: tuple[Any, ...], work: Callable[[Any], None]) -> None:
        self.loop, self.work = loop, kept_callback(types.void(types.CPointer(types.int64)))(work)
        self._reads = [reader.reads for reader in readers]

    def on(self, *tensors: Tensor) -> "Bound":
        """Bind the loop to contiguous CPU tensors of the types and dimensions that it reads.

        Raises:
            ValueError: for any others, since their memory would be misread.
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
    """A loop bound to the tensors that it works on, which are kept alive.

    Args:
        shared: the loop.
        tensors: of at most three dimensions.
    """

    def __init__(self, shared: Shared, tensors: tuple[Tensor, ...]) -> None:
        self.shared, self.tensors = shared, tensors
        self._places: list[int] = []
        for tensor in tensors:
            # as many entries whatever the dimensions, so that a tensor is found by its position alone
            self._places += (tensor.data_ptr(), *tensor.shape, 0, 0)[:_EACH]

    def __call__(self, turns: int) -> None:
        """Run so many turns of the loop."""
        team, threads = in_threads(), torch.get_num_threads()
        if team is None or min(threads, turns) == 1:
            self.shared.work.ctypes(self._table(turns, 1, None))
        else:
            team.run(self.shared.work.address, self._table(turns, threads, team.number), threads, 0)

    def _table(self, turns: int, threads: int, number: int | None) -> Any:
        taken = _HEAD + len(self._places)
        head = min(turns, _PARTS_EACH * threads), turns, threads, number or 0, taken
        return (ctypes.c_int64 * (taken + threads))(*head, *self._places)


def shared(loop: Any, *readers: Any) -> Callable[[Callable[[Any], None]], Shared]:
    """Decorator: from a function that calls ``loop`` for each part of a table, make one that takes tensors."""
    return lambda work: Shared(loop, readers, work)


class Team(NamedTuple):
    """OpenMP functions of the threads that torch uses.

    Args:
        run: calls a function from each of so many threads.
        number: address of the function that returns the calling thread's number.
    """

    run: Callable[[int, Any, int, int], None]
    number: int | None


@cache
def in_threads() -> Team | None:
    """The functions by which torch runs its threads; None where it was built without these."""
    # in the linker's order: first among the symbols that the whole process sees
    for place in () if os.name == "nt" else (None, torch._C.__file__):
        seen = ctypes.CDLL(place)
        run, number = (getattr(seen, name, None) for name in ("GOMP_parallel", "omp_get_thread_num"))
        if run is not None and number is not None:
            run.argtypes, run.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
            return Team(run, ctypes.cast(number, ctypes.c_void_p).value)
    return None
