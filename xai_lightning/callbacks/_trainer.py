"""Queries of a ``Trainer``: the step, the stage, the last batch, the network, the loaders."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from xai_lightning._lightning import Callback, LightningModule, MisconfigurationException, Trainer, TrainerFn
from xai_lightning.callbacks._compiled import submodule
from xai_lightning.functional.precision import exact_device

T = TypeVar("T")
Stage = Literal["fit", "validate", "test"]


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The Trainer's callbacks, in order."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def stage_of(trainer: Trainer) -> Stage:
    """The stage of this evaluation: part of ``fit``, or ``validate`` or ``test`` on its own."""
    if trainer.testing:
        return "test"
    return "fit" if trainer.state.fn == TrainerFn.FITTING else "validate"


def is_real(trainer: Trainer) -> bool:
    """Whether this validation is part of ``fit`` and not the sanity check."""
    return stage_of(trainer) == "fit" and not trainer.sanity_checking


def is_dry(trainer: Trainer) -> bool:
    """Whether nothing should be written (``fast_dev_run``)."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def log_step(trainer: Trainer, started: Mapping[str, Tensor]) -> int:
    """The step that Lightning gives its own metrics of this validation (trap 54).

    Args:
        trainer: the trainer.
        started: its ``logged_metrics`` when the validation began; a ``step`` that the user has logged since then takes
            precedence, as in Lightning.
    """
    logged = trainer.logged_metrics.get("step")
    if logged is not None and logged is not started.get("step"):
        return int(logged)
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def is_last_batch(trainer: Trainer) -> bool:
    """Whether the batch being handled is the last of this evaluation, over all loaders."""
    return bool(evaluation_loop(trainer).batch_progress.is_last_batch)


def foresees_last_batch(trainer: Trainer) -> bool:
    """Whether this process is certain to handle a batch of this evaluation that it knows to be the last.

    Lightning knows the last batch if it prefetches, as it does for loaders without a length. Otherwise it counts
    batches, and the count is exact if torch or Lightning made them from the rows of a dataset. The length that an
    iterable dataset, or a custom loader or sampler, declares may be a guess.
    """
    fetcher: Any = getattr(evaluation_loop(trainer), "_data_fetcher", None)
    if not getattr(fetcher, "prefetch_batches", 0) or fetcher.done:
        return False
    return fetcher.length is None or all(map(is_counted, loaders_of(trainer)))


def is_counted(loader: Any) -> bool:
    """Whether the length that a loader declares is the number of its batches."""
    rows = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    own = any(getattr(type(loader), name, None) is not getattr(DataLoader, name) for name in ("__iter__", "__len__"))
    if not rows or own or (loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler):
        return False
    # an empty loader ends a `CombinedLoader` that restarts its shorter loaders
    return len(loader) > 0 and type(loader.sampler).__module__.partition(".")[0] in _COUNTING


_COUNTING = ("torch", "lightning", "pytorch_lightning", "lightning_fabric")


def refuse_hidden_batches(pl_module: LightningModule, stage: str, what: str) -> None:
    """Refuse a step that fetches its batches itself.

    Args:
        pl_module: the LightningModule with the step.
        stage: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        what: name of the callback that reads batches, for the message.

    Raises:
        MisconfigurationException: names the step.
    """
    name = {"fit": "validation_step", "validate": "validation_step", "test": "test_step"}.get(stage)
    if name is not None and "dataloader_iter" in inspect.signature(getattr(pl_module, name)).parameters:
        raise MisconfigurationException(
            f"{type(pl_module).__name__}.{name} takes dataloader_iter, so that Lightning passes no batches to "
            f"callbacks, but {what} reads them; let the step take (batch, batch_idx) instead"
        )


def evaluation_loop(trainer: Trainer) -> Any:
    """Lightning's loop over the batches of this evaluation."""
    if stage_of(trainer) == "fit":
        return trainer.fit_loop.epoch_loop.val_loop
    return trainer.test_loop if trainer.testing else trainer.validate_loop


def resolve_network(pl_module: LightningModule, name: str | None) -> nn.Module:
    """The module that maps inputs to outputs.

    By default this is the LightningModule if it overrides ``forward``, else its only child with parameters.

    Raises:
        MisconfigurationException: if ``name`` is not a submodule, or none is given and the choice is not obvious.
    """
    children = [key for key, child in pl_module.named_children() if next(child.parameters(), None) is not None]
    if name is not None:
        found = submodule(pl_module, name)
        if found is None:
            raise MisconfigurationException(
                f"network={name!r} is not a submodule of {type(pl_module).__name__}; its children are "
                f"{', '.join(children)}"
            )
        return found
    if type(pl_module).forward is not LightningModule.forward:
        return pl_module
    if len(children) == 1:
        return pl_module.get_submodule(children[0])
    raise MisconfigurationException(
        f"{type(pl_module).__name__} does not override forward and has {len(children)} children with parameters "
        f"({', '.join(children) or 'none'}); name the network with network=..., or override forward if more than one "
        "of them is needed to get from inputs to outputs"
    )


def everywhere(trainer: Trainer, mine: Tensor) -> Tensor:
    """The tensors of all ranks, ``[ranks, ...]`` on the CPU and equal on all: a collective that every rank must call.

    It is computed as a sum over ranks in which each fills only its own place: that is exact, and every strategy offers
    it, whereas Lightning's ``all_gather`` calls a deprecated torch function.

    Args:
        trainer: the trainer.
        mine: this rank's tensor, of equal shape and dtype on all ranks.
    """
    places = torch.zeros(trainer.world_size, *mine.shape, dtype=mine.dtype, device="cpu")
    places[trainer.global_rank] = mine.cpu()
    return summed(trainer, places, "sum")


def every_object(trainer: Trainer, mine: Any) -> list[Any]:
    """The objects of all ranks, which may be any plain objects; a collective."""
    if trainer.world_size == 1:
        return [mine]
    found: list[Any] = [None] * trainer.world_size
    meet(trainer)
    torch.distributed.all_gather_object(found, mine)
    return found


def summed(trainer: Trainer, mine: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """Sum or maximum over ranks, on the CPU; a collective."""
    root = trainer.strategy.root_device
    sent = mine.clone().to(exact_device(root) if mine.dtype == torch.float64 else root)
    meet(trainer)
    return trainer.strategy.reduce(sent, reduce_op=how).cpu()


class OtherRankError(RuntimeError):
    """Another rank failed, so this one leaves the exchange as well."""

    def __init__(self, reason: str = "another rank failed; its own message says why") -> None:
        super().__init__(reason)


def meet(trainer: Trainer) -> None:
    """Called before each collective: continue only if no rank has failed since the previous one (trap 45).

    Raises:
        OtherRankError: if another rank has failed and calls `stay_away`.
    """
    if trainer.world_size > 1 and not trainer.strategy.reduce_boolean_decision(True, all=True):
        raise OtherRankError


def stay_away(trainer: Trainer) -> None:
    """Tell the other ranks, at their next `meet`, that this one has failed."""
    if trainer.world_size > 1:
        trainer.strategy.reduce_boolean_decision(False, all=True)


def together(trainer: Trainer, exchange: Callable[..., T], *args: Any) -> T:
    """Run ``exchange(*args)``, in which ranks `meet`; a failure on one rank fails on all at the next meeting (trap 45).

    Raises:
        Exception: the failure, on the rank where it occurred.
        OtherRankError: on the other ranks.
    """
    try:
        found = exchange(*args)
    except OtherRankError:
        raise
    except Exception:
        stay_away(trainer)
        raise
    meet(trainer)
    return found


def loaders_of(trainer: Trainer) -> list[Any]:
    """The evaluation loaders, as Lightning prepared them."""
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]


def loader_of(trainer: Trainer, dataloader_idx: int) -> Any:
    """The evaluation loader number ``dataloader_idx``.

    Raises:
        MisconfigurationException: if there is none.
    """
    loaders = loaders_of(trainer)
    if dataloader_idx >= len(loaders):
        raise MisconfigurationException(
            f"dataloader_idx={dataloader_idx} must be below {len(loaders)}, the number of loaders"
        )
    return loaders[dataloader_idx]
