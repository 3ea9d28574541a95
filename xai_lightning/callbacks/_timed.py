"""A monitor that knows which part of a training it takes, and can leave out validations to keep it small."""

from typing import Any

from typing_extensions import override

from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks._clock import Clock
from xai_lightning.callbacks._monitor import Monitor


class TimedMonitor(Monitor):
    """Counts the time of everything that it does in evaluations, drawing and writing included.

    Args:
        kind: see `Monitor`.
        identity: likewise.
        most: share of the time that it may take; None: any.
        common: further arguments of `Monitor`.
    """

    def __init__(self, kind: str, identity: dict[str, object], most: float | None, **common: Any) -> None:
        super().__init__(kind, identity, **common)
        self._clock = Clock(most)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._clock.begin(self._number)

    @override
    def _start(self, trainer: Trainer) -> None:
        with self._clock.inside():
            super()._start(trainer)

    @override
    def _batch_start(self, pl_module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        with self._clock.inside():
            super()._batch_start(pl_module, batch, dataloader_idx)

    @override
    def _batch_end(
        self, trainer: Trainer, pl_module: LightningModule, seen: tuple[Any, Any], dataloader_idx: int
    ) -> None:
        with self._clock.inside():
            super()._batch_end(trainer, pl_module, seen, dataloader_idx)

    @override
    def _epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self._clock.inside():
            super()._epoch_end(trainer, pl_module)

    @override
    def _end(self, trainer: Trainer) -> None:
        with self._clock.inside():
            super()._end(trainer)
