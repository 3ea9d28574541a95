"""Which part of the time explanations take, and which validations are left out to keep it small."""

import math
import time


class Clock:
    """Measures between explained validations of one process.

    Args:
        most: share of the time that explaining may take, over the run so far; None: any.
    """

    def __init__(self, most: float | None = None) -> None:
        self._most = most
        self._mark = time.perf_counter()
        self._next = self._last = 0
        self._spent = self._total = 0.0
        self.told: dict[str, float] = {}

    @property
    def limited(self) -> bool:
        """Whether validations are left out."""
        return self._most is not None

    def begin(self, number: int) -> None:
        """The training begins now, or goes on after validation ``number``."""
        self._mark, self._spent, self._total = time.perf_counter(), 0.0, 0.0
        self._next = self._last = number

    def elapsed(self) -> float:
        """Seconds since the last explained validation, or since the beginning."""
        return time.perf_counter() - self._mark

    def due(self, number: int) -> bool:
        """Whether validation ``number`` may be explained."""
        return number >= self._next

    def note(self, number: int, seconds: float, elapsed: float) -> None:
        """Validation ``number`` was explained: plan the next one, so that its own cost fits into the share as well.

        Args:
            number: of the validation.
            seconds: that explaining it took, and drawing the one before.
            elapsed: since the one explained before.
        """
        passed, self._last = max(1, number - self._last), number
        self._mark = time.perf_counter()
        self._spent, self._total = self._spent + seconds, self._total + elapsed
        if self._most is None:
            return
        # what a validation takes without explaining, training before it included
        other = max((elapsed - seconds) / passed, 1e-9)
        wanted = (self._spent + seconds) / self._most - self._total - seconds
        self._next = number + min(max(1, math.ceil(wanted / other)), 2**31)
        share = self._spent / self._total if self._total > 0 else math.nan
        self.told = {"time_share": share, "left_out": float(passed - 1)}
