"""Which part of the time explanations take, and which validations are left out to keep it small."""

import math
import time
from collections.abc import Sequence

from xai_lightning.callbacks._stopwatch import Stopwatch


class Clock:
    """Measures between explained validations of one process.

    Args:
        most: share of the time that explaining may take, over the run so far; None: any.
        watch: the monitor's.
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
        """Whether validations are left out."""
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
        """What a resumed run has to know; nothing where nothing is left out."""
        if not self.limited:
            return []
        # validations left out since the last explained one took their time too
        seconds, elapsed = self.read()
        return [self._spent + seconds, self._total + elapsed, float(self._next), float(self._last)]

    def load(self, state: Sequence[float]) -> None:
        """Take up a `state`."""
        if self.limited and len(state):
            self._spent, self._total, self._next, self._last = *state[:2], int(state[2]), int(state[3])
            self._resumed = True

    def _restart(self) -> None:
        self._mark = time.perf_counter()
        self._inside = self._watch.inside(self._mark)

    def read(self) -> tuple[float, float]:
        """Seconds inside the monitor, and in all, since the last explained validation, or since the beginning."""
        now = time.perf_counter()
        return self._watch.inside(now) - self._inside, now - self._mark

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
        # of this process: the time that another one took is in the total only
        passed, left_out = max(1, number - self._since), number - self._last - 1
        self._since = self._last = number
        self._restart()
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
        self.told = {"time_share_so_far": share, "left_out": float(left_out)}
