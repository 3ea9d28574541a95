"""The methods that each monitor overrides in the life cycle that all share."""

from collections.abc import Mapping
from typing import Any

from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks._evaluation import EvaluationHooks
from xai_lightning.callbacks._record import Look, Record
from xai_lightning.callbacks._trainer import Stage


class Observer(EvaluationHooks):
    """Does nothing at each moment of an evaluation; the methods below are called in their order here."""

    shares_out = False
    """Whether ranks agree on what each has to do before `_close`, provided that all foresee their last batch."""

    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the settings against the trainer and the module, in ``setup``."""

    def _open(self, trainer: Trainer, look: Look) -> None:
        """At the beginning of an evaluation: forget what the last one accumulated."""

    def _before(self, pl_module: LightningModule, batch: Any) -> None:
        """Before the user's step: add hooks."""

    def _after(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """After the user's step, when hooks are removed: accumulate."""

    def _share_out(self, trainer: Trainer) -> None:
        """After the last batch, before `_close`: agree with the other ranks on what each has to do, as in `_gather`."""

    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last batch, inside the validation loop: local work."""

    def _sit_out(self, pl_module: LightningModule) -> None:
        """Replaces `_close` on a rank that has failed, so that the others do not wait for it."""

    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Exchange data with the other ranks, in fixed shapes and never inside a ``try`` (trap 45)."""

    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        """The record made from the gathered data; equal on all ranks."""
        return Record()

    def _memory(self) -> Any:
        """The part of the history that `_gather` and `_conclude` extend, as it is before them."""

    def _go_back(self, state: Any) -> None:
        """Return to the result of `_memory` if these failed here or on another rank, so that ranks stay equal."""

    def logged_names(self, stage: Stage = "fit") -> tuple[list[str], list[str]]:
        """The names that go through ``self.log`` and those that go to the loggers directly, as far as known by now."""
        return [], []

    def evidence(self) -> dict[str, Any]:
        """What a gate stores in a checkpoint beside its verdict; plain types only."""
        return {}

    def lack(self, name: str) -> str:
        """Which rows the last validation lacked to define the metric ``name``, in words; empty if none are known of."""
        return ""

    def _save(self) -> dict[str, Any]:
        return {}

    def _load(self, state: Mapping[str, Any]) -> None:
        """Load a state from `_save`."""

    def _forgo(self) -> None:
        """Continue without the state of an earlier run, which could not be saved or loaded."""
