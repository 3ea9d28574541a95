"""Keep the best checkpoint among those that satisfy the limits."""

import copy
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import (
    LightningModule,
    ModelCheckpoint,
    Trainer,
    check_trainer,
    rank_zero_info,
    rank_zero_warn,
)
from xai_lightning._version import __version__
from xai_lightning.callbacks import _decision as decision
from xai_lightning.callbacks import _evidence as evidence
from xai_lightning.callbacks._guard import checksum
from xai_lightning.callbacks._trainer import is_last_batch, log_step, stage_of
from xai_lightning.functional import gate
from xai_lightning.sinks import logger_sinks

AUDIT_FILE = "gate_audit.jsonl"
LAST_NOTE = "Written at the end of every validation, for resuming, whether the gate was open or not; never the best."


KEPT_STATE = (
    "best_k_models",
    "best_model_path",
    "best_model_score",
    "current_score",
    "kth_best_model_path",
    "kth_value",
    "_last_checkpoint_saved",
    "_last_global_step_saved",
)


class WeightsChangedError(RuntimeError):
    """The weights about to be written are not those that were validated."""


def fingerprint(state: Mapping[str, Any]) -> dict[str, int]:
    """A number for the content of each tensor of a state dict."""
    return {name: checksum(value) for name, value in state.items() if isinstance(value, Tensor)}


class GatedCheckpoint(ModelCheckpoint):
    """A ``ModelCheckpoint`` that keeps the best monitored value among the checkpoints that satisfy its limits.

    It decides once per validation, at its end, from ``trainer.callback_metrics`` alone, unanimously across ranks. A
    metric that is missing, NaN, infinite, or not of this validation closes the gate. ``last.ckpt`` is written at the
    end of every validation, gate open or not; it is for resuming and never the best. Each file carries the evidence as
    one JSON string under ``checkpoint["xai_lightning"]``, and has ``<name>.verdict.json`` beside it with the file's
    SHA-256; every decision is one line of ``gate_audit.jsonl`` in the same folder. Logs ``gate/open`` and
    ``gate/violation`` on rank zero. Costs no forward or backward pass.

    With a ``fairness/`` limit the gate also requires ``utility/balanced_accuracy/bound`` to be above chance (1/K): a
    model that decides the same for everybody is perfectly fair.

    Args:
        monitor: the metric of which the best value is kept; with None the latest that passes is kept.
        at_most: metric name to the largest value allowed.
        at_least: metric name to the smallest value allowed.
        mode: ``"min"`` or ``"max"``: which monitored value is best.
        utility_floor: require the balanced accuracy to be above chance if there is a fairness limit.
        dirpath: folder of the files, on a local disk; by default Lightning's.
        filename: as in ``ModelCheckpoint``.
        save_top_k: how many to keep; -1 keeps all that pass, 0 none.
        auto_insert_metric_name: as in ``ModelCheckpoint``.
        enable_version_counter: as in ``ModelCheckpoint``.
        verbose: print every decision.
        name: prefix of what it logs and of its audit file, to tell two gates apart.
        every_n_train_steps: refused; decisions are made where metrics are made.
        train_time_interval: refused, likewise.
        save_on_train_epoch_end: refused, likewise.
        save_weights_only: refused; Lightning then calls no callback, so there would be no evidence.

    Raises:
        ValueError: without limits, on a limit that is not finite or on the wrong side of a metric, on what is refused.
        MisconfigurationException: in ``setup`` without a validation, after the sanity check (else after the first
            validation) if nobody logs a limit's name.

    Example:
        >>> gate = GatedCheckpoint("val_loss", at_most={"fairness/sex/demographic_parity_difference/bound": 0.10})
    """

    def __init__(
        self,
        monitor: str | None = None,
        *,
        at_most: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
        mode: str = "min",
        utility_floor: bool = True,
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
    ) -> None:
        self.limits = gate.limits(at_most, at_least)
        decision.check_directions(self.limits)
        if filename is not None and re.fullmatch(r"last(-v\d+)?", filename):
            raise ValueError(f"filename={filename!r} is that of the file for resuming; choose another")
        decision.refuse(
            every_n_train_steps=every_n_train_steps,
            train_time_interval=train_time_interval,
            save_on_train_epoch_end=save_on_train_epoch_end,
            save_weights_only=save_weights_only or None,
        )
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            verbose=verbose,
            save_last=True,
            save_top_k=save_top_k,
            mode=mode,
            auto_insert_metric_name=auto_insert_metric_name,
            enable_version_counter=enable_version_counter,
        )
        self.name, self.utility_floor = name, utility_floor
        self._started: dict[str, Tensor] = {}
        self._logged: dict[str, Tensor] = {}
        self._decision: dict[str, Any] = {}
        self._looks = 0
        self._opened = 0
        self._closest: dict[str, Any] = {}
        self._names_checked = False
        self._entry = "fit"
        self._validated: dict[str, int] = {}
        self._writing: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Lightning hands each callback the module's own log, and with it the module (trap 56)
        return {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")}

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
        own = {"version": 1, "looks": self._looks, "opened": self._opened, "closest": self._closest}
        return {**super().state_dict(), "gate": own}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning loads callbacks for validate and test too, which would roll back what this run has kept
        if self._entry != "fit":
            return
        super().load_state_dict(state_dict)
        own = state_dict.get("gate", {})
        self._looks, self._opened = own.get("looks", 0), own.get("opened", 0)
        self._closest = own.get("closest", {})

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        self._entry = stage
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        decision.check_can_decide(trainer, self.dirpath)
        others = [other for other in trainer.checkpoint_callbacks if not isinstance(other, GatedCheckpoint)]
        if others:
            names = ", ".join(type(other).__name__ for other in others)
            rank_zero_warn(f"{names} beside GatedCheckpoint writes files that no gate has seen")

    # --- the decision

    @override
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_names(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._logged = dict(trainer.callback_metrics), dict(trainer.logged_metrics)

    @override
    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        # inside the window in which averaged weights are live
        if is_last_batch(trainer) and stage_of(trainer) == "fit":
            self._validated = fingerprint(pl_module.state_dict())

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if stage_of(trainer) != "fit" or trainer.sanity_checking:
            return
        if not self._names_checked:
            self._check_names(trainer)
        verdict = self._decide(trainer)
        is_open = bool(trainer.strategy.reduce_boolean_decision(verdict.open, all=True))
        self._looks += 1
        self._opened += is_open
        self._decision = self._record(trainer, verdict, is_open)
        self._remember_closest(verdict)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer, is_open)
        self._publish(trainer, verdict)

    def _check_names(self, trainer: Trainer) -> None:
        wanted = [limit.name for limit in self.limits] + ([] if self.monitor is None else [self.monitor])
        decision.check_names(trainer, wanted)
        self._names_checked = True

    def _decide(self, trainer: Trainer) -> gate.Verdict:
        now = trainer.callback_metrics
        fresh = {name for name, value in now.items() if value is not self._started.get(name)}
        metrics = {name: float(value) for name, value in now.items()}
        limits = decision.all_limits(self.limits, self.monitor, metrics, utility_floor=self.utility_floor)
        return gate.decide(limits, metrics, fresh)

    def _record(self, trainer: Trainer, verdict: gate.Verdict, is_open: bool) -> dict[str, Any]:
        value = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        shown = None if value is None else evidence.finite(float(value))
        found = decision.evidence_of(trainer)
        return {
            "format": evidence.FORMAT,
            "xai_lightning": __version__,
            "gate": "open" if is_open else "closed",
            "reason": verdict.reason if verdict.open == is_open else "another rank said no",
            "step": log_step(trainer, self._logged),
            "global_step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "look": self._looks,
            "monitor": {"name": self.monitor, "mode": self.mode, "value": shown},
            "checks": evidence.checks(verdict),
            "kept": None,
            "promise": evidence.promise(self.limits, decision.promised_delta(trainer, self.limits)),
            "monitors": found,
        }

    def _remember_closest(self, verdict: gate.Verdict) -> None:
        violation = verdict.violation
        if not self._closest or violation < self._closest["violation"]:
            self._closest = {"violation": violation, "epoch": self._decision["epoch"], "reason": verdict.reason}

    # --- files

    def _save(self, trainer: Trainer, is_open: bool) -> None:
        candidates = self._monitor_candidates(trainer)
        if is_open:
            self._save_if_validated(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)
        if trainer.is_global_zero:
            evidence.append_audit(self.audit_path, self._decision)

    def _save_if_validated(self, trainer: Trainer, candidates: dict[str, Tensor]) -> None:
        """Keep the file, unless another callback changed the weights since they were validated."""
        before = {name: copy.copy(vars(self)[name]) for name in KEPT_STATE}
        try:
            self._save_topk_checkpoint(trainer, candidates)
        except WeightsChangedError as error:
            vars(self).update(before)
            self._opened -= 1
            self._decision |= {"gate": "closed", "reason": str(error), "kept": None}

    @property
    def audit_path(self) -> Path:
        """The audit file: one JSON line per decision."""
        return Path(str(self.dirpath)) / (f"{self.name}_{AUDIT_FILE}" if self.name else AUDIT_FILE)

    def _evidence(self, filepath: str) -> dict[str, Any]:
        if filepath == self.last_model_path:
            return {"role": "last", "note": LAST_NOTE} | self._decision
        self._decision["kept"] = Path(filepath).name
        return {"role": "kept"} | self._decision

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._writing = self._evidence(filepath)
        try:
            super()._save_checkpoint(trainer, filepath)
        finally:
            self._writing = None
        if trainer.is_global_zero:
            evidence.write_verdict(filepath, self._evidence(filepath))

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._writing is not None and self._writing["role"] == "kept":
            now = fingerprint(checkpoint["state_dict"])
            changed = [name for name in now if self._validated.get(name, now[name]) != now[name]]
            if changed:
                raise WeightsChangedError(
                    f"{changed[0]} changed between validation and saving: another callback wrote to it"
                )
        if self._writing is not None:
            checkpoint[evidence.CHECKPOINT_KEY] = evidence.dumps(self._writing)

    @override
    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._remove_checkpoint(trainer, filepath)
        if trainer.is_global_zero:
            evidence.verdict_path(filepath).unlink(missing_ok=True)

    # --- what is shown

    def _publish(self, trainer: Trainer, verdict: gate.Verdict) -> None:
        decided = self._decision
        if self.verbose:
            rank_zero_info(f"Epoch {decided['epoch']}: gate {decided['gate']}: {decided['reason']}")
        if not trainer.is_global_zero:
            return
        numbers = {tags.gate("open"): float(decided["gate"] == "open"), tags.gate("violation"): verdict.violation}
        shown = {
            tags.within(self.name, key): value if math.isfinite(value) else math.nan for key, value in numbers.items()
        }
        for sink in logger_sinks(trainer.loggers):
            try:
                sink.scalars(shown, decided["step"])
                sink.flush()
            except Exception as error:  # noqa: BLE001 - a logger that fails is no reason to lose a training
                rank_zero_warn(f"GatedCheckpoint could not write to {type(sink.logger).__name__}: {error!r}")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._opened or not self._looks:
            return
        closest = self._closest
        looks = f"{self._looks} validation{'s' if self._looks > 1 else ''}"
        rank_zero_warn(
            f"No checkpoint passed the gate in {looks}, so there is no best model (last.ckpt is for resuming only). "
            f"Closest was epoch {closest['epoch']}: {closest['reason']}."
        )

    # decisions are made where metrics are made: Lightning's other moments to save are left out (traps 36, 37)

    @override
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        return None

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        return None

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        return None
