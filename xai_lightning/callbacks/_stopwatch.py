"""How much of the time a callback takes."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar


class Lap(NamedTuple):
    """One lap of a stopwatch.

    Args:
        seconds: inside the callback.
        time_share: of all seconds of the lap; 0 of a lap that took none.
    """

    seconds: float
    time_share: float


class Stopwatch:
    """Measures what runs within it, on the main thread, from lap to lap.

    It is entered once for each hook; what a hook enters again on its way (a forward pass with hooks of the same
    callback) counts once.
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
        """Seconds inside so far, at ``time.perf_counter() == now``."""
        return self._total + (now - self._entered if self._depth else 0.0)

    def begin(self) -> None:
        """A lap begins now."""
        self._began = time.perf_counter()
        self._before = self.inside(self._began)

    def lap(self) -> Lap:
        """The lap that ends now; the next one begins."""
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
    """A hook of a callback that runs within the callback's stopwatch."""

    @wraps(hook)
    def within(self: Owner, /, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        with self._watch:
            return hook(self, *args, **kwargs)

    return within
