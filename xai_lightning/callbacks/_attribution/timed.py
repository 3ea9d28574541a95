"""A monitor that measures its share of the training's time, and can skip validations to limit it."""

from typing import Any

from typing_extensions import override

from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks._attribution.clock import Clock
from xai_lightning.callbacks._monitor import Monitor


class TimedMonitor(Monitor):
    """Measures the time of everything that it does in evaluations, drawing and writing included.

    Args:
        kind: see `Monitor`.
        identity: likewise.
        most: largest share of the time that it may take; None: no limit.
        common: further arguments of `Monitor`.
    """

    def __init__(self, kind: str, identity: dict[str, object], most: float | None, **common: Any) -> None:
        super().__init__(kind, identity, **common)
        self._clock = Clock(most, self._watch)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._clock.begin(self._number)
