"""What each monitor fills in of the life that all share."""

from collections.abc import Mapping
from typing import Any

from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks._evaluation import EvaluationHooks
from xai_lightning.callbacks._record import Look, Record
from xai_lightning.callbacks._trainer import Stage


class Observer(EvaluationHooks):
    """Does nothing at each moment of an evaluation, in the order of the methods below."""

    shares_out = False
    """Whether ranks exchange what each is to do before `_close`, where all of them foresee their last batch."""

    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the settings against the trainer and the module, in ``setup``."""

    def _open(self, trainer: Trainer, look: Look) -> None:
        """Begin an evaluation: forget what the last one accumulated."""

    def _before(self, pl_module: LightningModule, batch: Any) -> None:
        """Before the user's step: add hooks."""

    def _after(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """After the user's step, hooks gone: add up."""

    def _share_out(self, trainer: Trainer) -> None:
        """After the last batch, before `_close`: exchange with the other ranks what each is to do, as in `_gather`."""

    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last batch, inside the validation loop: local work."""

    def _sit_out(self, pl_module: LightningModule) -> None:
        """Instead of `_close` on a rank that has failed before, for which others must not wait."""

    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Exchange with the other ranks: fixed shapes, never inside a ``try`` (trap 45)."""

    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        """The record from what was gathered; equal on all ranks."""
        return Record()

    def _memory(self) -> Any:
        """Before `_gather` and `_conclude`: what they add to of what later validations are compared with."""

    def _go_back(self, state: Any) -> None:
        """After these failed, here or on another rank: ranks remember what `_memory` gave, so that they stay equal."""

    def logged_names(self, stage: Stage = "fit") -> tuple[list[str], list[str]]:
        """Names that go through ``self.log``, and names that go to the loggers directly, as far as known by now."""
        return [], []

    def evidence(self) -> dict[str, Any]:
        """What a gate stamps into a checkpoint beside its verdict; plain types only."""
        return {}

    def _save(self) -> dict[str, Any]:
        return {}

    def _load(self, state: Mapping[str, Any]) -> None:
        """Take up the state of `_save`."""

    def _forgo(self) -> None:
        """Go on without the state of an earlier run, which could not be saved."""
