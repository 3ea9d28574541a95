"""Support for sharded models: every pass is a collective, so ranks must make their passes in step (trap 23)."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from xai_lightning._lightning import MisconfigurationException, Trainer
from xai_lightning.functional.attribution import Pass

T = TypeVar("T")
Moment = Pass | Literal["size", "waits", "done", "failed"]

MOMENTS: tuple[Moment, ...] = ("outputs", "embedded", "scalars", "gradient", "whole", "size", "waits", "done", "failed")
UNSEEN = ("FSDPStrategy", "DeepSpeedStrategy", "XLAFSDPStrategy")
"""Strategies that shard weights and with which this package has not been run."""


class OutOfStepError(RuntimeError):
    """Another rank failed or is about to make a different pass; raised on all ranks before the pass."""


class BrokenPassError(RuntimeError):
    """A pass through a sharded model failed on this rank while the others wait inside it."""


def is_sharded(trainer: Trainer) -> bool:
    """Whether the strategy shards weights over ranks with ``fully_shard``."""
    return _is(trainer, "ModelParallelStrategy")


def unseen(trainer: Trainer) -> str:
    """The name of the strategy if it is one of `UNSEEN`, else an empty string."""
    return next((name for name in UNSEEN if _is(trainer, name)), "")


def _is(trainer: Trainer, name: str) -> bool:
    # by name: importing the classes needs packages that may not be installed
    return any(kind.__name__ == name for kind in type(trainer.strategy).__mro__)


def refuse_tensor_parallel(trainer: Trainer) -> None:
    """Refuse tensor parallelism, in which several ranks hold parts of the same layers and read the same rows.

    Raises:
        MisconfigurationException: says how many ranks.
    """
    mesh = getattr(trainer.strategy, "_device_mesh", None)
    parts = 1
    if mesh is not None and "tensor_parallel" in (mesh.mesh_dim_names or ()):
        parts = mesh["tensor_parallel"].size()
    if parts > 1:
        raise MisconfigurationException(
            f"xai_lightning counts the rows of all ranks, but with tensor_parallel_size={parts}, {parts} ranks read "
            "the same rows; use ModelParallelStrategy(data_parallel_size=..., tensor_parallel_size=1) with fully_shard"
        )


def refuse_unseen(trainer: Trainer, what: str, instead: str) -> None:
    """Refuse a feature that needs equally many passes on all ranks, under strategies with which it has not been run.

    Args:
        trainer: the trainer.
        what: the requested feature.
        instead: an alternative to recommend besides ``fully_shard``.

    Raises:
        MisconfigurationException: names the strategy.
    """
    name = unseen(trainer)
    if name:
        raise MisconfigurationException(
            f"{what} is not supported with {name}, under which it has never been run; shard the model with "
            "ModelParallelStrategy and torch's fully_shard in configure_model, run trainer.validate on one device "
            f"from a checkpoint, or {instead}"
        )


def refuse_unequal_passes(trainer: Trainer, what: str) -> None:
    """Refuse a feature that makes more passes on one rank than on another.

    Raises:
        MisconfigurationException: says what to do instead.
    """
    refuse_unseen(trainer, what, f"leave {what} out")
    if is_sharded(trainer):
        raise MisconfigurationException(
            f"{what} makes as many passes as each rank's rows need, but the ranks of a sharded model must all make "
            f"the same passes; run trainer.validate on one device from a checkpoint, or leave {what} out"
        )


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds: all of it, unless it is sharded."""
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


def whole(shard: Tensor) -> Tensor:
    """The whole of a sharded tensor; a collective."""
    found: Tensor = shard.full_tensor()  # type: ignore[attr-defined]
    return found


def is_shard(tensor: Tensor) -> bool:
    """Whether other ranks hold other parts of ``tensor``."""
    return hasattr(tensor, "to_local")


def reshard(module: nn.Module) -> None:
    """Free the weights of other ranks that sharded modules hold; the next pass gathers them again."""
    # nothing can be sharded unless this module is loaded
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return
    for child in module.modules():
        if isinstance(child, fsdp.FSDPModule):
            child.reshard()


def reduced(trainer: Trainer, mine: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """Sum or maximum over ranks, on the CPU; a collective for use outside `together` exchanges."""
    # not through the strategy, which waits for all ranks once more before each reduction
    found = mine.to(trainer.strategy.root_device, copy=True)
    torch.distributed.all_reduce(found, getattr(torch.distributed.ReduceOp, how.upper()))
    return found.cpu()


class Steps:
    """Announces each pass to all ranks before it is made, so that no rank waits in a pass that another does not make.

    An announcement is one small collective. All ranks thereby learn of a failure between passes before the next pass,
    which none of them makes. Ranks whose samples need fewer gradients than others wait and make passes on padding.

    Args:
        trainer: the trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._inside = trainer, False

    def together(self, module: nn.Module, action: Callable[[], T]) -> T:
        """The result of ``action``, whose passes are announced here; every rank calls this or `sit_out`.

        Args:
            module: the outermost module.
            action: makes equally many passes on each rank.

        Raises:
            OutOfStepError: if another rank failed or makes other passes.
            BrokenPassError: if a pass failed on this rank, from which the other ranks cannot recover.
        """
        reshard(module)
        try:
            found = action()
        # raised on all ranks at the same announcement: no rank is left to be told
        except OutOfStepError:
            raise
        except Exception as error:
            if self._inside:
                raise BrokenPassError(
                    f"an explanation failed inside a pass through a sharded model ({error!r}), in which the other "
                    "ranks wait for this one; training cannot go on. Try the explanation in trainer.validate on one "
                    "device from a checkpoint, or leave AttributionMonitor out"
                ) from error
            self._announce("failed")
            raise
        # a rank that still wants to make a pass learns it here, and does not wait in it for this rank
        self._announce("done")
        return found

    def sit_out(self, module: nn.Module) -> None:
        """Tell the other ranks, which are in `together`, that this one failed earlier."""
        reshard(module)
        self._announce("failed")

    @contextmanager
    def passing(self, kind: Pass) -> Iterator[None]:
        """Wrap one pass: forward, or forward and backward."""
        self._announce(kind)
        self._inside = True
        yield
        # captum runs the backward pass after this context exits, so that pass ends at the next announcement
        self._inside = kind == "whole"

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        self._announce("size")
        return int(reduced(self._trainer, torch.tensor(number, device="cpu"), "max"))

    def level(self, padding: Callable[[], None]) -> None:
        """Wait until no rank computes gradients any more; ``padding`` computes a gradient that is discarded."""
        while self._announce("waits") == "gradient":
            self._inside = True
            padding()
            self._inside = False

    def _announce(self, mine: Moment) -> Moment:
        """Announce ``mine`` and return what the ranks that do not wait are about to do."""
        table = reduced(self._trainer, torch.tensor([int(moment == mine) for moment in MOMENTS], device="cpu"), "sum")
        self._inside = False
        doing: set[Moment] = {moment for moment, count in zip(MOMENTS, table.tolist(), strict=True) if count}
        if "failed" in doing and mine != "failed":
            raise OutOfStepError("the explanation failed on another rank, so it was abandoned before the next pass")
        # ranks that wait join in gradients, on padding, and in nothing else
        busy = doing - {"waits"}
        if mine != "failed" and doing != {mine} and busy != {"gradient"}:
            raise OutOfStepError(
                f"ranks make different passes through a sharded model: this one {mine!r}, and all of them "
                f"{sorted(doing)}; use integrated_gradients with a fixed n_steps, which makes the same passes on all "
                "ranks"
            )
        return next(iter(busy), "waits")
