"""The life cycle of a monitor, shared by every callback that observes an evaluation."""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, MisconfigurationException, Trainer, check_trainer, rank_zero_info
from xai_lightning.callbacks import _progress as progress
from xai_lightning.callbacks._announcer import Announcer
from xai_lightning.callbacks._enduring import Enduring
from xai_lightning.callbacks._paths import check_within
from xai_lightning.callbacks._publish import log_equal, log_sum, show
from xai_lightning.callbacks._record import FAILURES_IN_A_ROW, STATE_VERSION, Look, OnError, Record, stable
from xai_lightning.callbacks._sharded import refuse_tensor_parallel
from xai_lightning.callbacks._state import take_up
from xai_lightning.callbacks._trainer import (
    OtherRankError,
    Stage,
    callbacks_of,
    evaluation_loop,
    foresees_last_batch,
    loader_of,
    loaders_of,
    log_step,
    refuse_hidden_batches,
    stage_of,
    stay_away,
    together,
)
from xai_lightning.functional.gate import Kind, Outlook
from xai_lightning.sinks import Sink


class Monitor(Enduring, Announcer):
    """Observes evaluations: reads batches, draws conclusions at the end, logs them, and never harms the training.

    Subclasses override the methods of `Observer`. A failure before the first real batch was handled is raised; a later
    one becomes a warning, NaN under every name, and ``xai/errors`` (law 8).

    Logs ``xai/<kind>/{seconds,time_share}``: the seconds that its hooks took on the main thread since it last logged,
    and their share of the time since then; the first time, since the training began, and outside ``fit``, since the
    evaluation began. They are averaged over ranks and summed over monitors of one name. Whatever happens after they are
    logged, mainly drawing and writing, counts towards the next validation.

    Args:
        kind: its name below ``xai/``.
        identity: the settings that distinguish it from other monitors.
        name: prefix of all names that it logs.
        dataloader_idx: index of the loader that it observes.
        on_error: ``"warn"``, or ``"raise"`` to stop training.
        sinks: further receivers, in addition to the Trainer's loggers.
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
        super().__init__(kind, name=name, on_error=on_error)
        given: Sequence[object] = sinks
        strangers = [sink for sink in given if not isinstance(sink, Sink)]
        if strangers:
            raise TypeError(f"sinks need the methods scalars, picture, histogram and flush; got {strangers[0]!r}")
        check_within(name, "name")
        if dataloader_idx < 0:
            raise ValueError(f"dataloader_idx must not be negative; got {dataloader_idx}")
        self.dataloader_idx, self.sinks = dataloader_idx, list(sinks)
        self._identity = stable({**identity, "name": name, "dataloader_idx": dataloader_idx})
        self._key = f"{type(self).__qualname__}{self._identity}"
        self._ready = self._named = self._waits = False
        self._reads_batches = True

    def __getstate__(self) -> dict[str, Any]:
        # Lightning gives each callback the module's own `log`, which holds a reference to the module (trap 56)
        return {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")} | {"_look": None}

    @property
    @override
    def state_key(self) -> str:
        # Lightning refuses equal keys in the Trainer's constructor with an unhelpful message (trap 39), so keys differ
        # until `setup`, which explains the problem better
        return self._key if self._ready else f"{self._key}#{id(self)}"

    @override
    def state_dict(self) -> dict[str, Any]:
        own = {"version": STATE_VERSION, "number": self._number}
        saved = self._try("save its state", self._save)
        return {**own, "lost": True} if saved is None else {**own, **saved}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning also loads callbacks for validate and test, which would roll back what this run has seen and spent
        given: Any = state_dict
        if self._entry != "fit" or (isinstance(given, Mapping) and not given):
            return
        lost = isinstance(given, Mapping) and "lost" in given
        if lost:
            self._number = max(self._number, int(given.get("number", 0)))
            warnings.warn(
                f"{self._label}: the checkpoint does not hold its state, which could not be saved; it starts over",
                stacklevel=2,
            )
        before = {"version": STATE_VERSION, "number": 0, **copy.deepcopy(self._save())}
        if lost or not take_up(type(self).__name__, given, STATE_VERSION, load=self._take_up, before=before):
            self._forgo()

    def _take_up(self, state: Mapping[str, Any]) -> None:
        number = max(self._number, int(state.get("number", 0)))
        self._load(state)
        self._number = number

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        refuse_tensor_parallel(trainer)
        if self._reads_batches:
            refuse_hidden_batches(pl_module, stage, type(self).__name__)
        self._ready, self._entry = True, stage
        others = [other for other in callbacks_of(trainer) if isinstance(other, Monitor) and other is not self]
        twins = [other for other in others if type(other) is type(self) and other._identity == self._identity]
        if twins:
            raise MisconfigurationException(
                f"two {type(self).__name__} with equal settings {self._identity}; remove one, or change a setting"
            )
        # the modules that these hooks create do not exist yet
        own = type(pl_module)
        made = own.setup is not LightningModule.setup or own.configure_model is not LightningModule.configure_model
        self._waits = made and next(pl_module.parameters(), None) is None
        if not self._waits:
            self._look_at_module(trainer, pl_module)

    def _look_at_module(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The part of ``setup`` that needs the modules to exist."""
        self._waits = False
        others = [other for other in callbacks_of(trainer) if isinstance(other, Monitor) and other is not self]
        self._set_up(trainer, pl_module)
        clash = sorted(self.full_names() & {name for other in others if other._ready for name in other.full_names()})
        if clash:
            raise MisconfigurationException(
                f"{type(self).__name__} and another monitor would both log {clash[0]!r}; give one of them a name=..., "
                "which becomes the prefix of all that it logs"
            )
        # names are longest under `test`
        self._meet_loggers(trainer, [tags.within("test", tags.within(self.name, x)) for x in self.logged_names()[0]])

    def full_names(self) -> set[str]:
        """All names that it logs within ``fit``, with its prefix."""
        return {tags.within(self.name, name) for names in self.logged_names() for name in names}

    def outlook(self, name: str, kind: Kind, threshold: float) -> Outlook | None:
        """Whether the counts of the last validation suffice for a limit on ``name``; None if unknown."""
        return None

    def _start(self, trainer: Trainer) -> None:
        if self._waits:
            self._look_at_module(trainer, trainer.lightning_module)
        stage = stage_of(trainer)
        counted = stage == "fit" and not trainer.sanity_checking
        self._number += counted
        if stage != "fit":
            self._watch.begin()
        look = Look(stage, trainer.sanity_checking, self._number * counted, dict(trainer.logged_metrics), due=True)
        self._look, look.metrics, look.loop = look, dict(trainer.callback_metrics), evaluation_loop(trainer)
        if not self._proved:
            loader_of(trainer, self.dataloader_idx)
            self._name_left_out(len(loaders_of(trainer)))
        stopped = self._failures >= FAILURES_IN_A_ROW
        due = not counted or (self._due() if stopped else self._attempt(self._due)) or look.failure is not None
        # ranks that disagreed would wait for each other at the end
        look.due = bool(trainer.strategy.reduce_boolean_decision(bool(due), all=False))
        if look.due and self.shares_out:
            alone = trainer.world_size == 1
            look.meets = alone or bool(trainer.strategy.reduce_boolean_decision(foresees_last_batch(trainer), all=True))
        self._attempt(self._open, trainer, look)

    def _name_left_out(self, loaders: int) -> None:
        left_out = ", ".join(str(i) for i in range(loaders) if i != self.dataloader_idx)
        if left_out and not self._named:
            rank_zero_info(
                f"{type(self).__name__} observes only dataloader_idx={self.dataloader_idx}; left out: {left_out}"
            )
            self._named = True

    def _due(self) -> bool:
        return True

    def _batch_start(self, pl_module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        if dataloader_idx == self.dataloader_idx:
            self._at_a_step(self._before, pl_module, batch)

    def _batch_end(
        self, trainer: Trainer, pl_module: LightningModule, seen: tuple[Any, Any], dataloader_idx: int
    ) -> None:
        self._hooks.remove()
        look = self._look
        if look is None:
            return
        if self._active(dataloader_idx):
            self._at_a_step(self._after, trainer, pl_module, *seen)
            look.batches += 1
            self._proved |= not look.sanity
        if look.loop.batch_progress.is_last_batch and not look.sanity:
            self._finish(trainer, pl_module, look)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, look: Look) -> None:
        look.closed = True
        if look.meets and self._active():
            self._attempt(self._share_out_together, trainer)
        elif look.meets and self._failures < FAILURES_IN_A_ROW:
            stay_away(trainer)
        if self._active():
            self._attempt(self._close, trainer, pl_module)
        elif look.due and self._failures < FAILURES_IN_A_ROW:
            self._sit_out(pl_module)

    def _epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        look = self._look
        if look is None or look.sanity or not look.due:
            return
        if not look.closed:
            self._finish(trainer, pl_module, look)
        memory = self._attempt(self._memory)
        if self._unanimous(trainer, look):
            gathered = self._attempt(self._gather_together, trainer, pl_module)
            look.record = self._attempt(self._conclude_in_sight, trainer, look, gathered)
        if not self._unanimous(trainer, look) or look.record is None:
            # a failure on one rank counts on all of them, so that all stop together
            if self._failures < FAILURES_IN_A_ROW:
                look.failure = look.failure or OtherRankError()
            look.record = self._undefined(look.stage)
            if memory is not None:
                self._try("forget this validation", self._go_back, memory)
        self._count_failure(look)
        self._log(trainer, pl_module, look, look.record)

    def _conclude_in_sight(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        with progress.working(trainer, f"{self.kind}: concluding"):
            return self._conclude(trainer, look, gathered)

    def _gather_together(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        return together(trainer, self._gather, trainer, pl_module)

    def _undefined(self, stage: Stage) -> Record:
        shared, direct = self.logged_names(stage)
        return Record(dict.fromkeys(shared, math.nan), dict.fromkeys(direct, math.nan))

    def _log(self, trainer: Trainer, pl_module: LightningModule, look: Look, record: Record) -> None:
        # writing happens, and fails, on rank zero only
        unfinished = bool(trainer.strategy.reduce_boolean_decision(self._unfinished, all=False))
        self._unfinished = False
        failed = unfinished or look.failure is not None or self._failures >= FAILURES_IN_A_ROW
        log_sum(pl_module, trainer, tags.within("test" if look.stage == "test" else "", tags.ERRORS), float(failed))
        for name, value in record.shared.items():
            log_equal(pl_module, self._full(look, name), value)
        # last, so that it includes the time that logging took
        for what, number in self._watch.lap()._asdict().items():
            log_sum(pl_module, trainer, self._full(look, tags.xai(self.kind, what)), number)

    def _full(self, look: Look, name: str) -> str:
        return tags.within("test" if look.stage == "test" else "", tags.within(self.name, name))

    def _end(self, trainer: Trainer) -> None:
        look, self._look = self._look, None
        if look is None or look.record is None or not trainer.is_global_zero:
            return
        step, record = log_step(trainer, look.started), look.record.renamed(partial(self._full, look))
        self._show(trainer, record, step)

    def _show(self, trainer: Trainer, record: Record, step: int) -> None:
        """Draw, and write to all sinks."""
        show(trainer, record, step, self.sinks, kind=self.kind, attempt=self._try)

    # --- hooks that Lightning calls outside evaluations

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._look = None
        self._try("remove its hooks", self._hooks.remove)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._try("remove its hooks", self._hooks.remove)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch.begin()
        if self._waits:
            self._look_at_module(trainer, pl_module)
