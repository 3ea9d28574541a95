"""Runs the user's own validation step on other rows, without leaving a trace."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from xai_lightning._lightning import LightningModule, Trainer, is_param_in_hook_signature
from xai_lightning.callbacks._fairness.counting import Counting
from xai_lightning.callbacks._guard import Hooks, explaining
from xai_lightning.callbacks._progress import step


class Rehearsed(NamedTuple):
    """One batch and the step's result.

    Args:
        batch: the batch, on the device of the module.
        outputs: what the step returned.
    """

    batch: Any
    outputs: Any


def rehearsed(
    trainer: Trainer, pl_module: LightningModule, loader: Any, counting: Counting, *, dataloader_idx: int = 0
) -> Iterator[Rehearsed]:
    """The batches of ``loader``, each after a ``validation_step`` in evaluation mode that logs nothing.

    The step sees batches as in a validation: moved to the device, after the module's hooks for batches.

    Args:
        trainer: the trainer.
        pl_module: the module; afterwards it is as before, including its own metrics.
        loader: the rows.
        counting: listens to the network.
        dataloader_idx: index of the validation loader in whose place the rows are used.
    """
    hooks = Hooks(while_explaining=True)
    for number, batch in enumerate(loader):
        with explaining(pl_module, precision=trainer.precision_plugin.val_step_context()), torch.no_grad():
            converted = trainer.precision_plugin.convert_input(batch)
            prepared = pl_module._on_before_batch_transfer(converted, dataloader_idx=dataloader_idx)
            moved = trainer.strategy.batch_to_device(prepared, dataloader_idx=dataloader_idx)
            # outside its loops Lightning refuses self.log; `explaining` puts the attributes back
            vars(pl_module).update(log=_mute, log_dict=_mute)
            counting.listen(hooks, pl_module, moved)
            try:
                outputs = pl_module.validation_step(*_arguments(pl_module, moved, number, dataloader_idx))
            finally:
                hooks.remove()
        yield Rehearsed(moved, outputs)
        step()


def _arguments(pl_module: LightningModule, batch: Any, number: int, dataloader_idx: int) -> tuple[Any, ...]:
    """Arguments of the step, which may omit the indices of the batch and the loader, as Lightning allows."""
    takes_number = is_param_in_hook_signature(pl_module.validation_step, "batch_idx", min_args=2)
    takes_loader = is_param_in_hook_signature(pl_module.validation_step, "dataloader_idx", min_args=3)
    return (batch, *[number] * takes_number, *[dataloader_idx] * takes_loader)


def _mute(*_: Any, **__: Any) -> None:
    return None
