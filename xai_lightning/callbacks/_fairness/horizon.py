"""How many validations a ``fit`` will make."""

import math

from xai_lightning._lightning import GradientAccumulationScheduler, Trainer
from xai_lightning.callbacks._trainer import callbacks_of


def planned_validations(trainer: Trainer) -> int | None:
    """An upper limit for the number of validations of this ``fit``, resumed ones included; None if there is no limit.

    It is known once the training loader is, from ``on_train_start`` on. Early stopping only lowers the number. There is
    no limit if validations are triggered by the clock, or loaders are reloaded and may grow.
    """
    by_clock = getattr(trainer, "_val_check_time_interval", None) is not None
    if by_clock or trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        return None
    limit = min(_by_epochs(trainer), _by_steps(trainer))
    return max(1, int(limit)) if math.isfinite(limit) else None


def _per_epoch(trainer: Trainer) -> float:
    """Number of validations in an epoch that has any; infinite if the epoch's length is unknown."""
    batches, check = float(trainer.num_training_batches), float(trainer.val_check_batch or math.inf)
    if math.isinf(check):
        return 1.0
    return batches // check if math.isfinite(batches) else math.inf


def _by_epochs(trainer: Trainer) -> float:
    epochs = trainer.max_epochs
    if epochs is None or epochs < 0:
        return math.inf
    if trainer.check_val_every_n_epoch is None:
        return epochs * float(trainer.num_training_batches) // float(trainer.val_check_batch or math.inf)
    return epochs // trainer.check_val_every_n_epoch * _per_epoch(trainer)


def _by_steps(trainer: Trainer) -> float:
    if trainer.max_steps < 0 or math.isinf(trainer.num_training_batches):
        return math.inf
    scheduled = any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks_of(trainer))
    # then the number of batches per step may change, or be up to the module
    if scheduled or not trainer.lightning_module.automatic_optimization:
        return math.inf
    # an upper limit for the number of batches; an epoch that the last step cuts short counts as a whole one
    batches = trainer.max_steps * trainer.accumulate_grad_batches
    if trainer.check_val_every_n_epoch is None:
        return float(batches // (trainer.val_check_batch or math.inf))
    epochs = math.ceil(batches / trainer.num_training_batches) // trainer.check_val_every_n_epoch
    return epochs * _per_epoch(trainer)
