"""The share of the time that explanations take, and which validations are skipped to limit it."""

import math
import time
from collections.abc import Sequence

from xai_lightning.callbacks._stopwatch import Stopwatch


class Clock:
    """Measures the time between explained validations of one process.

    Args:
        most: the largest share of the run's time so far that explaining may take; None: no limit.
        watch: the monitor's stopwatch.
    """

    def __init__(self, most: float | None, watch: Stopwatch) -> None:
        self._most, self._watch = most, watch
        self._restart()
        self._next = self._last = self._since = 0
        self._spent = self._total = 0.0
        self._resumed = False
        self.told: dict[str, float] = {}

    @property
    def limited(self) -> bool:
        """Whether validations may be skipped."""
        return self._most is not None

    def begin(self, number: int) -> None:
        """The training begins now, or goes on after validation ``number``."""
        self._restart()
        self._since = number
        if not self._resumed:
            self._spent, self._total = 0.0, 0.0
            self._next = self._last = number
        self._resumed = False

    def state(self) -> list[float]:
        """What a resumed run needs to know; empty without a limit."""
        if not self.limited:
            return []
        # validations skipped since the last explained one took time too
        seconds, elapsed = self.read()
        return [self._spent + seconds, self._total + elapsed, float(self._next), float(self._last)]

    def load(self, state: Sequence[float]) -> None:
        """Restore a `state`."""
        if self.limited and len(state):
            self._spent, self._total, self._next, self._last = *state[:2], int(state[2]), int(state[3])
            self._resumed = True

    def _restart(self) -> None:
        self._mark = time.perf_counter()
        self._inside = self._watch.inside(self._mark)

    def read(self) -> tuple[float, float]:
        """Seconds inside the monitor, and in total, since the last explained validation, or since the start."""
        now = time.perf_counter()
        return self._watch.inside(now) - self._inside, now - self._mark

    def due(self, number: int) -> bool:
        """Whether validation ``number`` may be explained."""
        return number >= self._next

    def note(self, number: int, seconds: float, elapsed: float) -> None:
        """Record that validation ``number`` was explained, and plan the next one so that its cost fits the share too.

        Args:
            number: number of the validation.
            seconds: time inside the monitor, including the drawing of the previously explained validation.
            elapsed: time in total.
        """
        # validations of this process: the time of an earlier one is in the total only
        passed, left_out = max(1, number - self._since), number - self._last - 1
        self._since = self._last = number
        self._restart()
        self._spent, self._total = self._spent + seconds, self._total + elapsed
        if self._most is None:
            return
        # the time per validation without explaining, including the training before it
        other = max((elapsed - seconds) / passed, 1e-9)
        # still to come are drawing this one, and explaining and drawing the next
        coming = 2 * seconds
        wanted = (self._spent + coming) / self._most - self._total - coming
        self._next = number + min(max(1, math.ceil(wanted / other)), 2**31)
        share = self._spent / self._total if self._total > 0 else math.nan
        self.told = {"time_share_so_far": share, "left_out": float(left_out)}
