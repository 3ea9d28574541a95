"""Which part of the time explanations take, and which validations are left out to keep it small."""

import math
import time


class Clock:
    """Measures between explained validations of one process."""

    def __init__(self) -> None:
        self._mark = time.perf_counter()
        self._next = 0

    def begin(self) -> None:
        """The training begins now."""
        self._mark = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the last explained validation, or since the beginning."""
        return time.perf_counter() - self._mark

    def due(self, number: int) -> bool:
        """Whether validation ``number`` may be explained."""
        return number >= self._next

    def note(self, number: int, seconds: float, elapsed: float, most: float | None) -> None:
        """Validation ``number`` was explained: plan the next one.

        Args:
            number: of the validation.
            seconds: that explaining it took.
            elapsed: since the one explained before.
            most: share of the time that explaining may take; None: any.
        """
        passed = max(1, number - self._next + 1) if self._next else 1
        self._mark = time.perf_counter()
        # what a validation takes without explaining, training before it included
        other = max((elapsed - seconds) / passed, 1e-9)
        pause = 1 if most is None else max(1, math.ceil(seconds * (1 - most) / (most * other)))
        self._next = number + min(pause, 2**31)
