"""Lightning's validation and test hooks, which a monitor treats alike."""

from collections.abc import Callable
from typing import Any

from typing_extensions import override

from xai_lightning._lightning import Callback, LightningModule, OneHome, Trainer
from xai_lightning.callbacks._stopwatch import Stopwatch, timed


class EvaluationHooks(OneHome, Callback):
    """Routes the validation and test hooks to the same methods, and times them."""

    def __init__(self) -> None:
        super().__init__()
        self._watch = Stopwatch()

    def _start(self, trainer: Trainer) -> None:
        """An evaluation begins."""

    def _batch_start(self, pl_module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        """The user's step is about to run."""

    def _batch_end(
        self, trainer: Trainer, pl_module: LightningModule, seen: tuple[Any, Any], dataloader_idx: int
    ) -> None:
        """The user's step is done; ``seen`` is its output and its batch."""

    def _epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All batches are done; ``self.log`` is allowed here (trap 41)."""

    def _end(self, trainer: Trainer) -> None:
        """Lightning's own metrics of this evaluation are final."""

    def _after_training(self, trainer: Trainer) -> None:
        """The training is over."""

    def _run(self, trainer: Trainer, moment: Callable[..., None], *args: Any) -> None:
        """Call one of the methods above."""
        moment(*args)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run(trainer, self._after_training, trainer)

    @override
    @timed
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run(trainer, self._start, trainer)

    @override
    @timed
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run(trainer, self._start, trainer)

    @override
    @timed
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._run(trainer, self._batch_start, pl_module, batch, dataloader_idx)

    on_test_batch_start = on_validation_batch_start

    @override
    @timed
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._run(trainer, self._batch_end, trainer, pl_module, (outputs, batch), dataloader_idx)

    on_test_batch_end = on_validation_batch_end

    @override
    @timed
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run(trainer, self._epoch_end, trainer, pl_module)

    @override
    @timed
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run(trainer, self._epoch_end, trainer, pl_module)

    @override
    @timed
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run(trainer, self._end, trainer)

    @override
    @timed
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run(trainer, self._end, trainer)
