"""What a gate remembers of its decisions: numbers, never files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from xai_lightning.functional.pareto import Point, extended


@dataclass
class GateMemory:
    """The decisions of one run.

    Args:
        looks: how many decisions there were.
        opened: at how many of them the gate was open.
        closest: of those at which it was closed, the one nearest to passing.
        front: the points that no other beats in both the monitored value and the limits.
        certificate: the record of the certificate; empty until it was made, which happens once.
        sizes: the sample-size report of the first validation, by the name it is logged under.
    """

    looks: int = 0
    opened: int = 0
    closest: dict[str, Any] = field(default_factory=dict)
    front: tuple[Point, ...] = ()
    certificate: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """As plain types."""
        return {**vars(self), "front": self.points()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore from `state`; what an earlier release did not write stays as it is.

        Raises:
            TypeError: if a part of it has another type.
        """
        front = tuple(Point(**point) for point in state.get("front", ()))
        known = {name: value for name, value in state.items() if name in vars(self) and name != "front"}
        for name, value in known.items():
            if type(value) is not type(vars(self)[name]):
                raise TypeError(f"{name} must be of type {type(vars(self)[name]).__name__}; got {value!r}")
        vars(self).update(known, front=front)

    def points(self) -> list[dict[str, Any]]:
        """The front as plain types."""
        return [point._asdict() for point in self.front]

    def add(self, point: Point, mode: Literal["min", "max"], reason: str | None) -> None:
        """Count a decision.

        Args:
            point: what it was about; its value is not finite if nothing is monitored.
            mode: which monitored value is best.
            reason: why the gate was closed; None if it was open.
        """
        self.looks, self.opened = point.look, self.opened + 1
        self.front = extended(self.front, point, mode)
        if reason is not None:
            self.close(point, reason)

    def close(self, point: Point, reason: str) -> None:
        """Turn the decision that was just counted into a no."""
        self.opened -= 1
        if not self.closest or point.violation < self.closest["violation"]:
            self.closest = {"violation": point.violation, "epoch": point.epoch, "reason": reason}

    def nothing_passed(self) -> str:
        """The message for a run in which nothing passed; empty if something did, or if nothing was decided."""
        if self.opened or not self.looks:
            return ""
        looks = f"{self.looks} validation{'s' if self.looks > 1 else ''}"
        return (
            f"No checkpoint passed the gate in {looks}, so there is no best model (last.ckpt is for resuming only). "
            f"Closest was epoch {self.closest['epoch']}: {self.closest['reason']}."
        )
