"""The life of a monitor: one frame for every callback that observes an evaluation."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import (
    LightningModule,
    MisconfigurationException,
    Trainer,
    check_trainer,
    rank_zero_info,
)
from xai_lightning.callbacks._announcer import Announcer
from xai_lightning.callbacks._guard import Hooks, out_of_memory
from xai_lightning.callbacks._observer import Observer
from xai_lightning.callbacks._publish import log_equal, log_sum, write
from xai_lightning.callbacks._record import FAILURES_IN_A_ROW, STATE_VERSION, Look, OnError, Record, stable
from xai_lightning.callbacks._trainer import (
    Stage,
    callbacks_of,
    is_last_batch,
    loader_of,
    loaders_of,
    log_step,
    stage_of,
)
from xai_lightning.functional.gate import Kind, Outlook
from xai_lightning.sinks import Sink, logger_sinks


class Monitor(Observer, Announcer):
    """Observes evaluations: reads batches, concludes at the end, logs, and never harms the training.

    Subclasses fill in the methods that raise nothing here. What fails before the first real batch was handled is
    raised; afterwards a failure is a warning, NaN under every name, and ``xai/errors`` (law 8).

    Logs ``xai/<kind>/{seconds,time_share}``: the seconds that its hooks took on the main thread since it logged last,
    and their share of the time since then; at first since the training began, and outside of ``fit`` since the
    evaluation did. They are the mean over ranks, and the sum over monitors of one name. What comes after they are
    logged, drawing and writing above all, is in those of the next validation.

    Args:
        kind: its name below ``xai/``.
        identity: the settings that make it another monitor than its neighbour.
        name: own prefix of all names that it logs.
        dataloader_idx: the loader that it looks at.
        on_error: ``"warn"``, or ``"raise"`` to stop training.
        sinks: further receivers beside the Trainer's loggers.
    """

    def __init__(
        self,
        kind: str,
        identity: Mapping[str, object],
        *,
        name: str,
        dataloader_idx: int,
        on_error: OnError,
        sinks: Sequence[Sink],
    ) -> None:
        super().__init__()
        given: Sequence[object] = sinks
        strangers = [sink for sink in given if not isinstance(sink, Sink)]
        if strangers:
            raise TypeError(f"sinks need the methods scalars, picture, histogram and flush; got {strangers[0]!r}")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise'; got {on_error!r}")
        if dataloader_idx < 0:
            raise ValueError(f"dataloader_idx must not be negative; got {dataloader_idx}")
        self.kind, self.name, self.dataloader_idx, self.on_error = kind, name, dataloader_idx, on_error
        self.sinks = list(sinks)
        self._identity = stable({**identity, "name": name, "dataloader_idx": dataloader_idx})
        self._hooks = Hooks()
        self._look: Look | None = None
        self._number = 0
        self._failures = 0
        self._proved = False
        self._ready, self._entry = False, "fit"
        self._named = False

    def __getstate__(self) -> dict[str, Any]:
        # Lightning hands each callback the module's own log, and with it the module (trap 56)
        return {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")} | {"_look": None}

    @property
    @override
    def state_key(self) -> str:
        # Lightning refuses equal keys in the Trainer's constructor with a message that does not help (trap 39);
        # until `setup`, which says it better, keys differ
        own = f"{type(self).__qualname__}{self._identity}"
        return own if self._ready else f"{own}#{id(self)}"

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, "number": self._number, **self._save()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        version = state_dict.get("version")
        # Lightning loads callbacks for validate and test too, which would roll back what this run has seen and spent
        if not state_dict or self._entry != "fit":
            return
        if version != STATE_VERSION:
            warnings.warn(
                f"{type(self).__name__}: ignored a state of version {version!r}; this release reads {STATE_VERSION}",
                stacklevel=2,
            )
            return
        self._number = max(self._number, int(state_dict.get("number", 0)))
        self._load(state_dict)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        self._ready, self._entry = True, stage
        others = [other for other in callbacks_of(trainer) if isinstance(other, Monitor) and other is not self]
        twins = [other for other in others if type(other) is type(self) and other._identity == self._identity]
        if twins:
            raise MisconfigurationException(
                f"two {type(self).__name__} with equal settings {self._identity}; remove one, or change a setting"
            )
        self._set_up(trainer, pl_module)
        clash = sorted(self.full_names() & {name for other in others if other._ready for name in other.full_names()})
        if clash:
            raise MisconfigurationException(
                f"{type(self).__name__} and another monitor would both log {clash[0]!r}; give one of them a name=..., "
                "which becomes the prefix of all it logs"
            )
        # under `test` they are longest
        self._meet_loggers(trainer, [tags.within("test", tags.within(self.name, x)) for x in self.logged_names()[0]])

    def full_names(self) -> set[str]:
        """All names that it logs within ``fit``, with its own prefix."""
        return {tags.within(self.name, name) for names in self.logged_names() for name in names}

    def outlook(self, name: str, kind: Kind, threshold: float) -> Outlook | None:
        """Whether the counts of the last validation suffice for a limit on ``name``; None if that is not known."""
        return None

    def _start(self, trainer: Trainer) -> None:
        stage = stage_of(trainer)
        counted = stage == "fit" and not trainer.sanity_checking
        self._number += counted
        due = not counted or self._due()
        if stage != "fit":
            self._watch.begin()
        self._look = Look(stage, trainer.sanity_checking, self._number * counted, dict(trainer.logged_metrics), due)
        self._look.metrics = dict(trainer.callback_metrics)
        if not self._proved:
            loader_of(trainer, self.dataloader_idx)
            self._name_left_out(len(loaders_of(trainer)))
        self._attempt(self._open, trainer, self._look)

    def _name_left_out(self, loaders: int) -> None:
        left_out = ", ".join(str(i) for i in range(loaders) if i != self.dataloader_idx)
        if left_out and not self._named:
            rank_zero_info(f"{type(self).__name__} looks at dataloader {self.dataloader_idx}; left out: {left_out}")
            self._named = True

    def _due(self) -> bool:
        return True

    def _active(self, dataloader_idx: int | None = None) -> bool:
        look = self._look
        if look is None or not look.due or look.failure is not None or self._failures >= FAILURES_IN_A_ROW:
            return False
        return dataloader_idx is None or dataloader_idx == self.dataloader_idx

    def _attempt(self, action: Callable[..., Any], *args: Any) -> Any:
        """Run ``action``; once a real batch was handled, an exception is this validation's failure (law 8)."""
        look = self._look
        if look is None or not self._active():
            return None
        try:
            # tensors made in inference mode could not be used in an explanation later (trap 1)
            with self._watch, torch.inference_mode(False), torch.no_grad():
                return action(*args)
        except Exception as error:
            self._hooks.remove()
            if self.on_error == "raise" or not (self._proved or out_of_memory(error)):
                raise
            look.failure = error
            return None

    def _batch_start(self, pl_module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        if self._active(dataloader_idx):
            self._attempt(self._before, pl_module, batch)

    def _batch_end(
        self, trainer: Trainer, pl_module: LightningModule, seen: tuple[Any, Any], dataloader_idx: int
    ) -> None:
        self._hooks.remove()
        look = self._look
        if look is None:
            return
        if self._active(dataloader_idx):
            self._attempt(self._after, trainer, pl_module, *seen)
            look.batches += 1
            self._proved |= not look.sanity
        if is_last_batch(trainer) and not look.sanity:
            look.closed = True
            self._attempt(self._close, trainer, pl_module)

    def _epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        look = self._look
        if look is None or look.sanity or not look.due:
            return
        if not look.closed:
            self._attempt(self._close, trainer, pl_module)
        if self._unanimous(trainer, look):
            gathered = self._gather(trainer, pl_module)
            look.record = self._attempt(self._conclude, trainer, look, gathered)
        if not self._unanimous(trainer, look) or look.record is None:
            # a failure on one rank is one of all, so that all count and stop alike
            if self._failures < FAILURES_IN_A_ROW:
                look.failure = look.failure or RuntimeError("another rank failed")
            look.record = self._undefined(look.stage)
        self._count_failure(look)
        self._log(trainer, pl_module, look, look.record)

    def _unanimous(self, trainer: Trainer, look: Look) -> bool:
        ok = look.failure is None and self._failures < FAILURES_IN_A_ROW
        return bool(trainer.strategy.reduce_boolean_decision(ok, all=True))

    def _undefined(self, stage: Stage) -> Record:
        shared, direct = self.logged_names(stage)
        return Record(dict.fromkeys(shared, math.nan), dict.fromkeys(direct, math.nan))

    def _count_failure(self, look: Look) -> None:
        if look.failure is None:
            self._failures *= self._failures >= FAILURES_IN_A_ROW
            return
        self._failures += 1
        end = " It stops here." if self._failures == FAILURES_IN_A_ROW else ""
        warnings.warn(
            f"{type(self).__name__} failed in this validation and logged NaN: {look.failure!r}.{end} Training goes "
            "on; pass on_error='raise' to stop it instead.",
            stacklevel=2,
        )

    def _log(self, trainer: Trainer, pl_module: LightningModule, look: Look, record: Record) -> None:
        failed = look.failure is not None or self._failures >= FAILURES_IN_A_ROW
        log_sum(pl_module, trainer, tags.within("test" if look.stage == "test" else "", tags.ERRORS), float(failed))
        for name, value in record.shared.items():
            log_equal(pl_module, self._full(look, name), value)
        # last, so that it holds the time that logging took
        for what, number in self._watch.lap()._asdict().items():
            log_sum(pl_module, trainer, self._full(look, tags.xai(self.kind, what)), number)

    def _full(self, look: Look, name: str) -> str:
        return tags.within("test" if look.stage == "test" else "", tags.within(self.name, name))

    def _end(self, trainer: Trainer) -> None:
        look, self._look = self._look, None
        if look is None or look.record is None or not trainer.is_global_zero:
            return
        step, record = log_step(trainer, look.started), look.record.renamed(partial(self._full, look))
        for sink in logger_sinks(trainer.loggers):
            self._write(sink, record, record.direct, step)
        for own in self.sinks:
            self._write(own, record, {**record.shared, **record.direct}, step)

    def _write(self, sink: Sink, record: Record, numbers: Mapping[str, float], step: int) -> None:
        try:
            write(sink, record, numbers, step)
        except Exception as error:
            if self.on_error == "raise":
                raise
            warnings.warn(f"{type(self).__name__} could not write to {type(sink).__name__}: {error!r}", stacklevel=2)

    # --- what Lightning calls beside evaluations

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._hooks.remove()
        self._look = None

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._hooks.remove()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch.begin()
