"""A checkpoint callback that keeps the best model among those that satisfy the limits."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from xai_lightning._lightning import LightningModule, MisconfigurationException, Trainer, check_trainer, rank_zero_warn
from xai_lightning.callbacks._announcer import Announcer
from xai_lightning.callbacks._gate import decision, evidence
from xai_lightning.callbacks._gate.arbiter import Arbiter
from xai_lightning.callbacks._gate.certificate import check_rows
from xai_lightning.callbacks._gate.deciding import DecidingCheckpoint
from xai_lightning.callbacks._gate.stamped import FALLBACKS, Fallback
from xai_lightning.callbacks._kinds import other_than_default
from xai_lightning.callbacks._paths import check_within
from xai_lightning.callbacks._record import STATE_VERSION, OnError
from xai_lightning.callbacks._settings import check_arguments
from xai_lightning.callbacks._sharded import refuse_unequal_passes
from xai_lightning.callbacks._state import take_up
from xai_lightning.callbacks._trainer import callbacks_of
from xai_lightning.functional import gate


class GatedCheckpoint(DecidingCheckpoint, Announcer):
    """A ``ModelCheckpoint`` that keeps the best monitored value among the checkpoints that satisfy its limits.

    It decides once per validation, at its end, from ``trainer.callback_metrics`` alone, and all ranks must agree. A
    metric that is missing, NaN, infinite, or not logged by this validation closes the gate. ``last.ckpt`` is written at
    the end of every validation, gate open or not; it is for resuming and never the best. Each file carries the evidence
    as one JSON string under ``checkpoint["xai_lightning"]``, and has ``<name>.verdict.json`` beside it with the file's
    SHA-256; every decision is one line of ``gate_audit.jsonl`` in the same folder. On rank zero it logs ``gate/open``
    and ``gate/violation``; the seconds spent in its hooks since the previous validation, saving included, and their
    share of the time (``xai/gate/{seconds,time_share}``); and what the monitors that own the limits report on sample
    sizes (``xai/gate/can_open``, ``xai/sample_size/…``). Costs no forward or backward pass (``certify`` one pass over
    its rows), and four sums over the weights per validation. ``docs/gate.md`` describes its whole behaviour.

    With a ``fairness/`` limit the gate also requires ``utility/<measure>/bound`` of the same monitor to be above
    ``utility/<measure>/chance``: a model that decides the same for everybody is perfectly fair.

    Args:
        monitor: the metric whose best value is kept; with None the latest checkpoint that passes is kept.
        at_most: metric name to the largest value allowed.
        at_least: metric name to the smallest value allowed.
        mode: ``"min"`` or ``"max"``: which monitored value is best.
        utility_floor: with a fairness limit, require the utility that the same monitor logs to be above chance.
        fallback: what to keep while nothing has passed: ``"none"``; ``"least_violation"``, the checkpoint whose largest
            relative violation is smallest; or ``"last"``. Such a file is called ``INFEASIBLE-…``; its path is
            ``fallback_model_path`` and never ``best_model_path``.
        arbiter: callable that is asked on rank zero once the limits hold: takes all metrics, and returns
            ``(bool, reason)`` or an object with ``open`` and ``reason``. It can only close the gate; an exception is a
            no.
        certify: untouched rows, as a loader or a dataset, on which the kept checkpoint is measured once at the end of
            ``fit``, at the full error probability, by the monitors that can measure anew.
        dirpath: folder of the files, on a local disk; by default Lightning's.
        filename: as in ``ModelCheckpoint``, such as ``"{epoch}-{val_loss:.2f}"``; not ``last``.
        save_top_k: how many checkpoints to keep; -1 keeps all that pass, 0 none.
        auto_insert_metric_name: as in ``ModelCheckpoint``.
        enable_version_counter: as in ``ModelCheckpoint``.
        verbose: whether to print every decision.
        name: prefix of what it logs and of its audit file, to tell two gates apart.
        every_n_train_steps: refused; decisions are made where metrics are, at the end of a validation.
        train_time_interval: refused; decisions are made where metrics are, at the end of a validation.
        save_on_train_epoch_end: refused; decisions are made where metrics are, at the end of a validation.
        save_weights_only: refused, since Lightning then calls no callback, and the file would hold no evidence.
        on_error: if it cannot judge or write something, ``"warn"`` closes the gate for that validation and lets
            training go on; ``"raise"`` stops it.

    Raises:
        ValueError: without limits, on a limit that is not finite or on the wrong side of a metric, on a refused option,
            and on a filename or name that would leave the folder.
        TypeError: if ``certify`` is neither a loader nor a dataset, or ``arbiter`` cannot be called.
        MisconfigurationException: in ``setup`` if there is no validation, or if two gates in one folder have the same
            name; after the sanity check (without one, or with several loaders, after the first validation) if nothing
            logs a metric that a limit or ``monitor`` names.

    Example:
        >>> gate = GatedCheckpoint("val_loss", at_most={"fairness/sex/demographic_parity_difference/bound": 0.10})
    """

    def __init__(
        self,
        monitor: str | None = None,
        *,
        at_most: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
        mode: Literal["min", "max"] = "min",
        utility_floor: bool = True,
        fallback: Fallback = "none",
        arbiter: Arbiter | None = None,
        certify: DataLoader[Any] | Dataset[Any] | None = None,
        dirpath: str | Path | None = None,
        filename: str | None = None,
        save_top_k: int = 1,
        auto_insert_metric_name: bool = True,
        enable_version_counter: bool = True,
        verbose: bool = False,
        name: str = "",
        every_n_train_steps: int | None = None,
        train_time_interval: Any = None,
        save_on_train_epoch_end: bool | None = None,
        save_weights_only: bool = False,
        on_error: OnError = "warn",
    ) -> None:
        check_arguments(locals())
        self._settings = other_than_default(GatedCheckpoint.__init__, locals())
        limits = gate.limits(at_most, at_least)
        decision.check_directions(limits)
        decision.check_monitor(monitor, mode)
        if filename is not None and re.fullmatch(r"last(-v\d+)?", filename):
            raise ValueError(f"filename={filename!r} is reserved for the file for resuming; choose another")
        decision.refuse(
            every_n_train_steps=every_n_train_steps,
            train_time_interval=train_time_interval,
            save_on_train_epoch_end=save_on_train_epoch_end,
            save_weights_only=save_weights_only or None,
        )
        _check_choices(fallback, save_top_k, arbiter, certify)
        check_within(name, "name")
        super().__init__(
            limits,
            utility_floor=utility_floor,
            arbiter=arbiter,
            certify=certify,
            name=name,
            fallback=fallback,
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            verbose=verbose,
            save_top_k=save_top_k,
            mode=mode,
            auto_insert_metric_name=auto_insert_metric_name,
            enable_version_counter=enable_version_counter,
            on_error=on_error,
        )

    @property
    @override
    def state_key(self) -> str:
        limits = [f"{limit.name} {limit.kind} {limit.threshold!r}" for limit in self.limits]
        floor = self.utility_floor
        return self._generate_state_key(
            monitor=self.monitor, mode=self.mode, limits=limits, utility_floor=floor, name=self.name
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "gate": self._attempt("save its state", self._own_state) or {}}

    def _own_state(self) -> dict[str, Any]:
        own = {"version": STATE_VERSION, "candidate": self._candidate, "feedback": self._feedback.state()}
        last = {"decision": evidence.dumps(self._decision) if self._decision else ""}
        return {**own, **last, "timeline": self._timeline.state(), **self._memory.state()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning loads callbacks for validate and test too, which would roll back what this run has kept
        if self._entry != "fit":
            return
        super().load_state_dict(state_dict)
        self._same_folder = state_dict.get("dirpath") == self.dirpath
        if self._same_folder:
            # Lightning saves it, but does not restore it
            self.current_score = state_dict.get("current_score")
        self._resumed, before = True, self._own_state()
        if not take_up(type(self).__name__, state_dict.get("gate"), STATE_VERSION, load=self._take_up, before=before):
            self._feedback.forget()

    def _take_up(self, own: Mapping[str, Any]) -> None:
        self._decision = dict(json.loads(own.get("decision") or "{}"))
        self._memory.load(own)
        self._timeline.load(own.get("timeline", {}))
        self._candidate = dict(own.get("candidate", {}))
        self._feedback.load(own.get("feedback", {}))

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        self._entry = stage
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if self.certify is not None:
            refuse_unequal_passes(trainer, "GatedCheckpoint(certify=...)")
        decision.check_can_decide(trainer, self.dirpath)
        self._meet_loggers(trainer)
        self._check_own_files(trainer)
        decision.warn_of_conflicts(self.limits)
        others = [other for other in trainer.checkpoint_callbacks if not isinstance(other, GatedCheckpoint)]
        if others:
            names = ", ".join(type(other).__name__ for other in others)
            rank_zero_warn(
                f"{names} beside GatedCheckpoint saves checkpoints that no gate has judged; remove it to keep only "
                "those that pass"
            )

    def _check_own_files(self, trainer: Trainer) -> None:
        # a gate further down the list learns its folder in its own `setup`
        others = [other for other in callbacks_of(trainer) if isinstance(other, GatedCheckpoint) and other is not self]
        if any(other.dirpath is not None and other.audit_path == self.audit_path for other in others):
            raise MisconfigurationException(
                f"two gates would write their decisions to {self.audit_path}; give one of them another name= or "
                "dirpath="
            )


def _check_choices(fallback: str, save_top_k: int, arbiter: object, certify: object) -> None:
    """Refuse impossible settings before anything is trained."""
    if fallback not in FALLBACKS:
        raise ValueError(f"fallback must be one of {', '.join(FALLBACKS)}; got {fallback!r}")
    if fallback != "none" and save_top_k == 0:
        raise ValueError(f"fallback={fallback!r} keeps a file, but save_top_k={save_top_k} keeps none; choose one")
    if arbiter is not None and not callable(arbiter):
        raise TypeError(f"arbiter must be a callable that takes a mapping of metrics; got {arbiter!r}")
    if certify is not None:
        check_rows(certify)
