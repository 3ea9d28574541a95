"""Whether the validation set steers the training, as far as callbacks and schedulers show it."""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from xai_lightning._lightning import StochasticWeightAveraging, Trainer, rank_zero_warn
from xai_lightning.callbacks._restored import checksum
from xai_lightning.callbacks._trainer import callbacks_of

HISTORY = 128


def weights(module: nn.Module, like: nn.Module | None = None) -> int:
    """A checksum of the parameters of ``module``. Buffers are left out: a schedule may well be kept in one.

    Args:
        module: the module whose parameters count.
        like: a module of other precision; the checksum is that of its parameters once these were copied into them.
    """
    types = [parameter.dtype for parameter in (like or module).parameters()]
    found = zip(module.parameters(), types, strict=True)
    return hash(tuple(checksum(parameter.to(dtype)) for parameter, dtype in found))


class Feedback:
    """What was seen of the validation set's influence on weights or data; it voids the promise of a gate's bounds.

    It sees schedulers that follow a validation metric, and weights that change between a validation and the training
    step after it: nothing but training, and averages of its weights, should change them. Early stopping is no feedback:
    it only chooses among checkpoints.
    """

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._seen: deque[int] = deque(maxlen=HISTORY)
        self._before: int | None = None
        self._after: int | None = None

    @property
    def reasons(self) -> list[str]:
        """One sentence, without a full stop, for each kind of influence that was seen."""
        return list(self._found.values())

    def state(self) -> dict[str, Any]:
        """What survives a resume, as plain types."""
        return {"found": dict(self._found), "seen": list(self._seen)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore from `state`."""
        found, seen = dict(state.get("found", {})), list(state.get("seen", ()))
        self._found |= found
        self._seen.extend(seen)

    def forget(self) -> None:
        """Note that what was seen before this run was resumed is unknown."""
        self._found["state"] = "the state of the gate could not be read when the run was resumed"

    def note(self, kind: str, reason: str) -> None:
        """Remember ``reason``, and warn if nothing of this kind was seen before."""
        if kind in self._found:
            return
        self._found[kind] = reason
        rank_zero_warn(
            f"The validation set steers the training: {reason}. Checkpoints are stamped 'heuristic' from here on: no "
            "error probability is claimed for their limits. Certify the kept checkpoint on other rows (certify=...)."
        )

    def training_starts(self, module: nn.Module) -> None:
        """Before a ``fit``: a new module is no influence, but weights of an earlier validation are."""
        before, self._after = self._after, None
        now = weights(module)
        if before is not None and now != before and now in self._seen:
            self.note("weights", "a later fit started from weights of an earlier validation")

    def validation_begins(self, module: nn.Module) -> None:
        """Before the validation, and before averaged weights are swapped in."""
        self._before = weights(module)

    def validation_ends(self, trainer: Trainer, module: nn.Module, fresh: Collection[str]) -> None:
        """After the validation; ``fresh`` are the names that it logged."""
        for kind, reason in _plateaus(trainer, fresh):
            self.note(kind, reason)
        after = weights(module)
        if after != self._before and after in self._seen:
            self.note("weights", "weights of an earlier validation were loaded at the end of a later one")
        self._seen.extend(found for found in {after, self._before} - set(self._seen) if found is not None)
        self._after = after

    def training_goes_on(self, trainer: Trainer, module: nn.Module) -> None:
        """Before a training batch; only the first after a validation is checked."""
        before, self._after = self._after, None
        if before is not None and weights(module) not in (before, *_averages(trainer, module)):
            self.note(
                "weights", "weights changed between a validation and the training step after it, other than by training"
            )


def _averages(trainer: Trainer, module: nn.Module) -> Iterator[int]:
    """Checksums of weights that a callback averaged over training and moves to the module as the last epoch begins."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, StochasticWeightAveraging) and callback._average_model is not None:
            yield weights(callback._average_model, module)


def _plateaus(trainer: Trainer, fresh: Collection[str]) -> Iterator[tuple[str, str]]:
    """Schedulers that follow a metric of the validation."""
    for config in trainer.lr_scheduler_configs:
        name = type(config.scheduler).__name__
        if not (config.reduce_on_plateau or isinstance(config.scheduler, ReduceLROnPlateau)):
            continue
        if not trainer.lightning_module.automatic_optimization:
            yield name, f"{name} is stepped manually, on a value that cannot be observed"
        elif config.monitor in fresh:
            yield f"{name} {config.monitor}", f"{name} follows {config.monitor}, which is logged in validation"
