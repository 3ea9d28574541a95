"""The error probability that the bounds of one run share."""

from collections.abc import Mapping
from typing import Any

from xai_lightning._lightning import Trainer, rank_zero_info
from xai_lightning.callbacks._fairness.horizon import planned_validations
from xai_lightning.callbacks._record import Look
from xai_lightning.functional.intervals import allowance


class Spending:
    """Divides ``delta`` among the validations of a ``fit``; a single evaluation elsewhere may spend all of it.

    The horizon is fixed at the first ``fit``; a longer, resumed one divides the unspent part among all remaining
    validations.

    Args:
        delta: error probability of the whole run.
        horizon: number of validations; derived from the Trainer's limits by default.

    Raises:
        ValueError: if ``delta`` or ``horizon`` is outside its range.
    """

    def __init__(self, delta: float, horizon: int | None) -> None:
        allowance(delta, 1, horizon, 0.0)
        self.delta, self._given = delta, horizon
        self.horizon, self.spent, self.error = horizon, 0.0, delta
        self._told = False

    def plan(self, trainer: Trainer, number: int) -> None:
        """Fix the horizon when a ``fit`` begins, after ``number`` validations of earlier ones."""
        planned = self._given or planned_validations(trainer)
        if number == 0:
            self.horizon = planned
        elif self.horizon is not None and planned is not None:
            # never fewer, since error has been spent on the assumption of the longer horizon
            self.horizon = max(self.horizon, planned)

    def spend(self, look: Look) -> None:
        """Set the error that this evaluation may spend."""
        self.error = self.delta
        if look.stage != "fit":
            return
        self.error = allowance(self.delta, look.number, self.horizon, self.spent)
        self.spent += self.error
        if self.error == 0 and not self._told:
            self._told = True
            rank_zero_info(
                f"FairnessMonitor: nothing of delta={self.delta:g} is left at validation {look.number}: it was "
                "divided among the validations planned when the run began, or it is unknown how much they spent. "
                "Bounds are infinite from now on; set horizon=... at the start of a run that may become longer"
            )

    def save(self) -> dict[str, Any]:
        """The state as plain types."""
        return {"spent": self.spent, "horizon": self.horizon}

    def exhaust(self) -> None:
        """Treat all of ``delta`` as spent, because it is unknown how much an earlier run has left."""
        self.spent = self.delta

    def load(self, state: Mapping[str, Any]) -> None:
        """Load what an earlier run has spent; never less than this run has."""
        horizon = state["horizon"]
        if horizon is not None and (type(horizon) is not int or horizon < 1):
            raise ValueError(f"horizon must be None or a number of validations; got {horizon!r}")
        self.spent, self.horizon = max(self.spent, float(state["spent"])), horizon
