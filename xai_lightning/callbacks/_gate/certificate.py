"""One measurement of the kept checkpoint, on rows that nothing has used before."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks._gate import decision, evidence
from xai_lightning.callbacks._gate.files import discard, draft_of, take_place, verdict_path
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._progress import working
from xai_lightning.callbacks._trainer import OtherRankError, every_object
from xai_lightning.functional import gate
from xai_lightning.functional.rng import isolated

BATCH_SIZE = 64


def check_rows(certify: object) -> None:
    """Refuse what holds no rows.

    Raises:
        TypeError: if ``certify`` is neither a loader nor a dataset.
    """
    if not isinstance(certify, DataLoader | Dataset):
        raise TypeError(f"certify must be a DataLoader or a Dataset of untouched rows; got {certify!r}")


def rows_of(certify: DataLoader[Any] | Dataset[Any]) -> DataLoader[Any]:
    """The loader of the untouched rows; each rank sees all of them.

    Raises:
        ValueError: if the loader gives each rank a share, and may repeat rows to make the shares equal.
    """
    loader = certify if isinstance(certify, DataLoader) else DataLoader(certify, batch_size=BATCH_SIZE)
    if isinstance(loader.sampler, DistributedSampler):
        raise ValueError(
            f"certify needs a loader that gives all rows to every rank; got one with {type(loader.sampler).__name__}, "
            "which splits them; leave the sampler out"
        )
    return loader


@contextmanager
def holding(trainer: Trainer, module: LightningModule, checkpoint: Mapping[str, Any]) -> Iterator[None]:
    """Load the weights of ``checkpoint`` into the module, and afterwards restore its own, bit for bit."""
    own = [(tensor, tensor.detach().clone()) for tensor in _tensors(module)]
    extras = [(child, copy.deepcopy(child.get_extra_state())) for child in module.modules() if _has_extra(child)]
    try:
        trainer.strategy.load_model_state_dict(checkpoint, strict=module.strict_loading)
        yield
    finally:
        with torch.no_grad():
            for tensor, before in own:
                tensor.copy_(before)
        for child, state in extras:
            child.set_extra_state(state)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _has_extra(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def read_checkpoint(trainer: Trainer, path: Path) -> dict[str, Any]:
    """The checkpoint at ``path``, on the CPU.

    Raises:
        ValueError: if it holds objects of classes that ``weights_only=True`` does not load; names them.
    """
    disk = trainer.strategy.checkpoint_io
    try:
        return disk.load_checkpoint(path, map_location=torch.device("cpu"), weights_only=True)
    except Exception as error:
        classes = evidence.foreign_classes(path)
        if not classes:
            raise
        raise ValueError(
            f"{path.name} holds objects that cannot be loaded with weights_only=True, the only way in which "
            f"checkpoints are loaded here: {', '.join(classes)}. Keep them out of hyperparameters and of other "
            "callbacks' state"
        ) from error


def restamp(
    trainer: Trainer, path: Path, state_key: str, state: Mapping[str, Any], stamp: Mapping[str, Any]
) -> dict[str, Any]:
    """Add to the gate's state and to the evidence in a checkpoint; the caller then writes its side file anew.

    A kill leaves the old file or the new one, and never the side file of the other.

    Args:
        trainer: its strategy reads and writes.
        path: path of the checkpoint.
        state_key: state key of the gate.
        state: what to add to the gate's state.
        stamp: what to add to the evidence.

    Returns:
        The evidence.
    """
    checkpoint = read_checkpoint(trainer, path)
    checkpoint["callbacks"][state_key]["gate"] |= state
    record: dict[str, Any] = json.loads(checkpoint[evidence.CHECKPOINT_KEY]) | stamp
    checkpoint[evidence.CHECKPOINT_KEY] = evidence.dumps(record)
    draft = draft_of(path)
    # a symbolic link of that name might lead elsewhere
    discard(draft)
    try:
        trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, draft)
        verdict_path(path).unlink(missing_ok=True)
        take_place(path)
    finally:
        discard(draft)
    return record


def of_kept(
    trainer: Trainer,
    pl_module: LightningModule,
    limits: Sequence[gate.Limit],
    rows: DataLoader[Any] | Dataset[Any],
    *,
    path: Path,
    utility_floor: bool,
    strict: bool,
) -> dict[str, Any]:
    """The certificate's record for the checkpoint at ``path``, equal on all ranks; a failure closes the certificate.

    Raises:
        Exception: if ``strict``, the error on this rank.
        OtherRankError: if ``strict``, where another rank failed.
    """
    state, error = _weights_at(trainer, path) if trainer.is_global_zero else ({}, None)
    # collectives stand outside of every `try` (trap 45)
    state, is_read = trainer.strategy.broadcast((state, error is None))
    record: dict[str, Any] = {}
    if is_read:
        try:
            with working(trainer, "gate: certifying"), holding(trainer, pl_module, state):
                record = measure(trainer, pl_module, limits, rows_of(rows), utility_floor=utility_floor)
        except Exception as failure:  # noqa: BLE001 - a measurement that fails certifies nothing; ranks agree on it below
            error = failure
    reasons = every_object(trainer, "" if error is None else repr(error))
    if any(reasons):
        reason = next(f"{reason}, on rank {rank}" if rank else reason for rank, reason in enumerate(reasons) if reason)
        if strict:
            raise error or OtherRankError(reason)
        record = failed(reason, [limit.name for limit in limits])
    return trainer.strategy.broadcast(record)


def _weights_at(trainer: Trainer, path: Path) -> tuple[dict[str, Any], Exception | None]:
    """The weights in a checkpoint, or why they cannot be read."""
    try:
        return {"state_dict": read_checkpoint(trainer, path)["state_dict"]}, None
    except Exception as error:  # noqa: BLE001 - a file that cannot be read is not certified
        return {}, error


def measure(
    trainer: Trainer,
    pl_module: LightningModule,
    limits: Sequence[gate.Limit],
    loader: DataLoader[Any],
    *,
    utility_floor: bool,
) -> dict[str, Any]:
    """Check the limits against one measurement at the full error probability, with the module's current weights.

    Args:
        trainer: the trainer.
        pl_module: the module, with the weights of the kept checkpoint.
        limits: the user's limits; those that no monitor can measure anew are named and left out.
        loader: the untouched rows.
        utility_floor: as in the gate.

    Returns:
        The record, plain types only.
    """
    owners = {limit.name: decision.owner_of(trainer, limit.name) for limit in limits}
    covered = [limit for limit in limits if _can_measure(owners[limit.name])]
    missing = [limit.name for limit in limits if limit not in covered]
    if not covered:
        return failed(f"no monitor can measure {', '.join(missing)} on other rows", missing)
    metrics, found = _measured(trainer, pl_module, loader, covered, utility_floor)
    checked = _with_floors(trainer, covered, metrics, utility_floor)
    verdict = gate.decide(checked, metrics, metrics)
    coverage = decision.coverage(trainer, covered)
    return {
        "gate": "open" if verdict.open else "closed",
        "reason": verdict.reason,
        "checks": evidence.checks(verdict),
        "guarantee": evidence.guarantee(coverage, ()),
        "promise": evidence.certified(coverage, missing),
        "delta": coverage.delta,
        "not_certified": missing,
        "monitors": found,
    }


def failed(reason: str, missing: Sequence[str]) -> dict[str, Any]:
    """The record of a certificate that could not be made: it is closed."""
    text = f"Nothing was certified: {reason}."
    empty: dict[str, Any] = {"checks": [], "guarantee": "none", "promise": text, "delta": None, "monitors": []}
    return {"gate": "closed", "reason": reason, **empty, "not_certified": list(missing)}


def _measured(
    trainer: Trainer,
    pl_module: LightningModule,
    loader: DataLoader[Any],
    covered: Sequence[gate.Limit],
    utility_floor: bool,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The metrics and the evidence measured by every monitor that owns a limit or a floor."""
    wanted = [limit.name for limit in _with_floors(trainer, covered, {}, utility_floor)]
    owners = {id(owner): owner for owner in (decision.owner_of(trainer, name) for name in wanted)}
    metrics: dict[str, float] = {}
    found: list[dict[str, Any]] = []
    for owner in owners.values():
        if _can_measure(owner):
            with isolated():
                numbers, stamp = owner.measure(trainer, pl_module, loader)  # type: ignore[union-attr]
            metrics |= {name: float(number) for name, number in numbers.items()}
            found.append(stamp)
    return metrics, found


def _with_floors(
    trainer: Trainer, covered: Sequence[gate.Limit], metrics: Mapping[str, float], utility_floor: bool
) -> list[gate.Limit]:
    logged = decision.logged_by_monitors(trainer)
    return decision.all_limits(covered, None, metrics, utility_floor=utility_floor, logged=logged)


def _can_measure(owner: Monitor | None) -> bool:
    return callable(getattr(owner, "measure", None))
