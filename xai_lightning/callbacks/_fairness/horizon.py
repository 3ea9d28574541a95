"""How many validations a ``fit`` will make."""

import math

from xai_lightning._lightning import GradientAccumulationScheduler, Trainer
from xai_lightning.callbacks._trainer import callbacks_of


def planned_validations(trainer: Trainer) -> int | None:
    """An upper limit of the number of validations of this ``fit``, resumed ones included; None if nothing limits it.

    Known once the training loader is, from ``on_train_start`` on. Early stopping only makes it fewer. Validations by
    the clock, and loaders that are made anew and may grow, have no limit.
    """
    by_clock = getattr(trainer, "_val_check_time_interval", None) is not None
    if by_clock or trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        return None
    limit = min(_by_epochs(trainer), _by_steps(trainer))
    return max(1, int(limit)) if math.isfinite(limit) else None


def _per_epoch(trainer: Trainer) -> float:
    """Validations within an epoch that validates; infinite if its length is unknown."""
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
    # how many batches a step takes may then change, or be up to the module
    if scheduled or not trainer.lightning_module.automatic_optimization:
        return math.inf
    # a step takes at most this many batches; the epoch that the last step cuts short is counted whole
    batches = trainer.max_steps * trainer.accumulate_grad_batches
    if trainer.check_val_every_n_epoch is None:
        return float(batches // (trainer.val_check_batch or math.inf))
    epochs = math.ceil(batches / trainer.num_training_batches) // trainer.check_val_every_n_epoch
    return epochs * _per_epoch(trainer)
