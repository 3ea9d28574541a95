"""Measures the time that a callback takes."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar


class Lap(NamedTuple):
    """One lap of a stopwatch.

    Args:
        seconds: seconds spent inside the callback.
        time_share: these as a share of the lap's total seconds; 0 if the lap took no time.
    """

    seconds: float
    time_share: float


class Stopwatch:
    """Measures the time spent within it, on the main thread, from lap to lap.

    It is entered once per hook. Nested entries, such as those of the same callback's hooks in a forward pass, count
    once.
    """

    def __init__(self) -> None:
        self._total, self._entered, self._depth = 0.0, 0.0, 0
        self.begin()

    def __enter__(self) -> None:
        if self._depth == 0:
            self._entered = time.perf_counter()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._total += time.perf_counter() - self._entered

    def inside(self, now: float) -> float:
        """Total seconds spent inside, at ``time.perf_counter() == now``."""
        return self._total + (now - self._entered if self._depth else 0.0)

    def begin(self) -> None:
        """Begin a lap now."""
        self._began = time.perf_counter()
        self._before = self.inside(self._began)

    def lap(self) -> Lap:
        """End the current lap, return it, and begin the next."""
        began, before = self._began, self._before
        self.begin()
        seconds, elapsed = self._before - before, self._began - began
        return Lap(seconds, seconds / elapsed if elapsed > 0 else 0.0)


class _Timed(Protocol):
    _watch: Stopwatch


Owner = TypeVar("Owner", bound=_Timed)
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def timed(hook: Callable[Concatenate[Owner, Given], Answer]) -> Callable[Concatenate[Owner, Given], Answer]:
    """Run a callback's hook within the callback's stopwatch."""

    @wraps(hook)
    def within(self: Owner, /, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        with self._watch:
            return hook(self, *args, **kwargs)

    return within
