"""Which part of the time explanations take, and which validations are left out to keep it small."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Clock:
    """Measures between explained validations of one process.

    Args:
        most: share of the time that explaining may take, over the run so far; None: any.
    """

    def __init__(self, most: float | None = None) -> None:
        self._most = most
        self._mark = time.perf_counter()
        self._next = self._last = 0
        self._spent = self._total = self._inside = 0.0
        self._entered: float | None = None
        self._resumed = False
        self.told: dict[str, float] = {}

    @property
    def limited(self) -> bool:
        """Whether validations are left out."""
        return self._most is not None

    def begin(self, number: int) -> None:
        """The training begins now, or goes on after validation ``number``."""
        self._mark, self._inside = time.perf_counter(), 0.0
        if not self._resumed:
            self._spent, self._total = 0.0, 0.0
            self._next = self._last = number
        self._resumed = False

    def state(self) -> list[float]:
        """What a resumed run has to know; nothing where nothing is left out."""
        return [self._spent, self._total, float(self._next), float(self._last)] if self.limited else []

    def load(self, state: Sequence[float]) -> None:
        """Take up a `state`."""
        if self.limited and len(state):
            self._spent, self._total, self._next, self._last = *state[:2], int(state[2]), int(state[3])
            self._resumed = True

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What runs within is the monitor's own."""
        self._entered = time.perf_counter()
        try:
            yield
        finally:
            self._inside, self._entered = self._taken(), None

    def _taken(self) -> float:
        return self._inside + (0.0 if self._entered is None else time.perf_counter() - self._entered)

    def read(self) -> tuple[float, float]:
        """Seconds inside the monitor, and in all, since the last explained validation, or since the beginning."""
        return self._taken(), time.perf_counter() - self._mark

    def due(self, number: int) -> bool:
        """Whether validation ``number`` may be explained."""
        return number >= self._next

    def note(self, number: int, seconds: float, elapsed: float) -> None:
        """Validation ``number`` was explained: plan the next one, so that its own cost fits into the share as well.

        Args:
            number: of the validation.
            seconds: inside the monitor; what was drawn of the validation explained before belongs to it.
            elapsed: in all.
        """
        passed, self._last = max(1, number - self._last), number
        self._mark, self._inside = time.perf_counter(), 0.0
        self._entered = None if self._entered is None else self._mark
        self._spent, self._total = self._spent + seconds, self._total + elapsed
        if self._most is None:
            return
        # what a validation takes without explaining, training before it included
        other = max((elapsed - seconds) / passed, 1e-9)
        # still to come are drawing this one, and explaining and drawing the next
        coming = 2 * seconds
        wanted = (self._spent + coming) / self._most - self._total - coming
        self._next = number + min(max(1, math.ceil(wanted / other)), 2**31)
        share = self._spent / self._total if self._total > 0 else math.nan
        self.told = {"time_share": share, "left_out": float(passed - 1)}
