"""A checkpoint that decides at the end of each validation, from what was logged."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, Trainer, rank_zero_info, rank_zero_warn
from xai_lightning._version import __version__
from xai_lightning.callbacks._gate import audit, certificate, decision, evidence
from xai_lightning.callbacks._gate.arbiter import Arbiter, Ruling, ask
from xai_lightning.callbacks._gate.feedback import Feedback
from xai_lightning.callbacks._gate.judged import Asked, Judged, judge, unjudged
from xai_lightning.callbacks._gate.memory import GateMemory
from xai_lightning.callbacks._gate.stamped import StampedCheckpoint
from xai_lightning.callbacks._gate.timeline import Timeline
from xai_lightning.callbacks._stopwatch import timed
from xai_lightning.callbacks._trainer import callbacks_of, is_dry, is_real, loaders_of, log_step
from xai_lightning.functional import gate
from xai_lightning.functional.pareto import Point
from xai_lightning.sinks import LoggerSink, logger_sinks

LACKS = "The audit file lacks this line, which the files written also hold"


class DecidingCheckpoint(StampedCheckpoint):
    """Decides once per validation whether its weights may be kept, and remembers every decision.

    Args:
        limits: what a checkpoint must keep.
        utility_floor: whether fairness limits need a model that is better than chance.
        arbiter: asked once the limits hold.
        certify: untouched rows on which to certify the kept checkpoint.
        options: further arguments of `StampedCheckpoint`.
    """

    mode: Literal["min", "max"]

    def __init__(
        self,
        limits: Sequence[gate.Limit],
        *,
        utility_floor: bool,
        arbiter: Arbiter | None,
        certify: DataLoader[Any] | Dataset[Any] | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.limits, self.utility_floor = tuple(limits), utility_floor
        self.arbiter, self.certify = arbiter, certify
        self._started: dict[str, Tensor] = {}
        self._logged: dict[str, Tensor] = {}
        self._memory, self._feedback, self._timeline = GateMemory(), Feedback(), Timeline(self.limits)
        self._names_checked, self._resumed, self._unwritable = False, False, ""
        self._undecided = False

    @property
    @override
    def _label(self) -> str:
        return super()._label + (f"(name={self.name!r})" if self.name else "")

    @override
    @timed
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._feedback.training_starts(pl_module)
        self._set_out(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning skips the start of a training that has nothing left to do
        if self._resumed:
            self._set_out(trainer)

    def _set_out(self, trainer: Trainer) -> None:
        """Put the folder in order for a training that starts or resumes."""
        resumed, self._resumed = self._resumed, False
        dropped = 0 if is_dry(trainer) else self._put_in_order(trainer, self._memory.looks, resumed=resumed)
        if dropped:
            self._feedback.note(
                "resume", f"{dropped} validations had followed the checkpoint that this run was resumed from"
            )

    @override
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # with several loaders, Lightning keeps no metrics of the sanity check
        if len(loaders_of(trainer)) == 1:
            self._check_names(trainer)

    @override
    @timed
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._logged = dict(trainer.callback_metrics), dict(trainer.logged_metrics)
        if is_real(trainer):
            self._look, self._undecided = self._memory.looks + 1, True
            self._attempt("look at the weights", self._feedback.validation_begins, pl_module)

    @override
    @timed
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._attempt("look at the weights", self._feedback.training_goes_on, trainer, pl_module)

    @override
    @timed
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_real(trainer):
            return
        self._add_up(trainer)
        if not self._names_checked:
            self._check_names(trainer)
        judged = self._attempt("judge", self._judge, trainer, pl_module) or unjudged(self.limits, self._obstacle)
        verdict, metrics, fresh, _ = judged
        value = metrics.get(self.monitor, math.nan) if self.monitor else math.nan
        point = Point(value, verdict.relative, self._look, trainer.current_epoch)
        self._decide(trainer, judged, point)
        self._try("report on sample sizes", self._report_sizes, trainer)
        self._try("continue its timeline", self._timeline.add, self._decision["step"], {n: metrics[n] for n in fresh})
        self._settle_timeline()
        if not is_dry(trainer):
            self._choose(trainer, point)
        self._settle_timeline()
        self._publish(trainer, verdict.violation)
        self._undecided = False
        gates = [other for other in callbacks_of(trainer) if isinstance(other, DecidingCheckpoint)]
        # what one gate saves holds the state of the others, which must have decided too
        if not is_dry(trainer) and not any(one._undecided for one in gates):
            for one in gates:
                one._conclude(trainer)

    def _judge(self, trainer: Trainer, pl_module: LightningModule) -> Judged:
        of = Asked(self.limits, self.monitor, self.utility_floor)
        return judge(trainer, pl_module, of, look=self._look, started=self._started, feedback=self._feedback)

    def _check_names(self, trainer: Trainer) -> None:
        wanted = [limit.name for limit in self.limits] + ([] if self.monitor is None else [self.monitor])
        decision.check_names(trainer, wanted)
        self._names_checked = True

    def _decide(self, trainer: Trainer, judged: Judged, point: Point) -> None:
        is_open, reason, ruling = self._settle(trainer, judged.verdict, judged.metrics)
        self._memory.add(point, self.mode, None if is_open else reason)
        self._decision = {
            "format": evidence.FORMAT,
            "xai_lightning": __version__,
            "gate": "open" if is_open else "closed",
            "reason": reason,
            "step": log_step(trainer, self._logged),
            "global_step": trainer.global_step,
            "epoch": point.epoch,
            "look": point.look,
            "monitor": {"name": self.monitor, "mode": self.mode, "value": evidence.finite(point.value)},
            "checks": [],
            "violation": evidence.finite(point.violation),
            "arbiter": None if ruling is None else ruling._asdict(),
            "kept": None,
            "fallback": None,
            "pareto": self._memory.points(),
            **judged.grounds,
            **({} if is_open else evidence.CLOSED),
        }

    def _settle(
        self, trainer: Trainer, verdict: gate.Verdict, metrics: Mapping[str, float]
    ) -> tuple[bool, str, Ruling | None]:
        """Whether all ranks and the arbiter agree, and why; with what the arbiter said, if it was asked."""
        obstacle, self._obstacle = self._obstacle, ""
        if trainer.is_global_zero and not is_dry(trainer):
            what = f"write evidence to {self.audit_path.name}"
            self._unwritable = self._failure_of(what, evidence.prove_room, self.audit_path)
            if self._unwritable:
                self._complain(self._unwritable)
            obstacle = obstacle or self._unwritable
        if not trainer.strategy.reduce_boolean_decision(verdict.open and not obstacle, all=True):
            return False, (obstacle or "another rank refused") if verdict.open else verdict.reason, None
        if self.arbiter is None:
            return True, verdict.reason, None
        ruling = trainer.strategy.broadcast(ask(self.arbiter, metrics) if trainer.is_global_zero else Ruling(False, ""))
        return ruling.open, f"{verdict.reason}; arbiter: {ruling.reason}", ruling

    # --- files

    def _choose(self, trainer: Trainer, point: Point) -> None:
        """Keep this validation's weights, or make them the fallback, if they qualify."""
        candidates = self._monitor_candidates(trainer)
        obsolete = self.fallback_model_path
        if self._decision["gate"] == "open":
            failure = self._keep(trainer, candidates)
            if failure:
                self._decision |= {"gate": "closed", "reason": failure, **evidence.CLOSED}
                self._memory.close(point, failure)
        if self._memory.opened:
            self._candidate = {}
        elif self.fallback != "none":
            self._offer(trainer, candidates, point.violation, point.value)
        if obsolete and obsolete != self.fallback_model_path:
            self._remove_checkpoint(trainer, obsolete)

    def _conclude(self, trainer: Trainer) -> None:
        """Write the file for resuming, which makes all before it count, and then do what a restart can do again."""
        if self._save_last(trainer, self._monitor_candidates(trainer)):
            self._clear(trainer)
        self._write_line(trainer, self._decision)

    def _settle_timeline(self) -> None:
        """Mark the decision in the timeline, before writing the file for resuming, which holds the timeline too."""
        kept = self._decision["kept"]
        best = kept is not None and kept == Path(self._best_path).name
        self._timeline.settle(opened=self._decision["gate"] == "open", best=best)

    def _write_line(self, trainer: Trainer, line: Mapping[str, Any], so: str = LACKS) -> None:
        if trainer.is_global_zero:
            failure = self._failure_of(f"write to {self.audit_path.name}", audit.append, self.audit_path, line)
            if self._unwritable:
                self._error = None
            elif failure:
                self._complain(failure, so)

    # --- what is shown

    def _report_sizes(self, trainer: Trainer) -> None:
        """After the first validation, report whether the data suffice for the limits at all."""
        if self._memory.looks > 1 or not trainer.is_global_zero:
            return
        report = decision.sizes(trainer, self.limits, utility_floor=self.utility_floor)
        if report is not None:
            self._memory.sizes |= report.numbers
            (rank_zero_info if report.opens else rank_zero_warn)(report.sentence)

    def _publish(self, trainer: Trainer, violation: float) -> None:
        decided = self._decision
        if self.verbose:
            rank_zero_info(f"Epoch {decided['epoch']}: gate {decided['gate']}: {decided['reason']}")
        if not trainer.is_global_zero:
            return
        numbers = {tags.gate("open"): float(decided["gate"] == "open"), tags.gate("violation"): violation}
        numbers |= {tags.xai("gate", what): number for what, number in self._watch.lap()._asdict().items()}
        # the report of the first validation is repeated, so that names stay the same (law 4)
        shown = {
            tags.within(self.name, key): value if math.isfinite(value) else math.nan
            for key, value in {**numbers, **self._memory.sizes}.items()
        }
        for sink in logger_sinks(trainer.loggers):
            self._try(f"write to {type(sink.logger).__name__}", self._show, sink, shown, decided["step"])

    def _show(self, sink: LoggerSink, shown: Mapping[str, float], step: int) -> None:
        sink.scalars(shown, step)
        if sink.takes_pictures:
            sink.picture(tags.within(self.name, tags.gate("timeline")), self._timeline.draw(), step)
        sink.flush()

    @override
    @timed
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # a dry run keeps nothing, whatever passes
        self._missing = "" if is_dry(trainer) else self._memory.nothing_passed()
        if self._missing and self.fallback_model_path:
            self._missing += f" Kept as the fallback, although it did not pass: {self.fallback_model_path}."
        if self._missing:
            rank_zero_warn(self._missing)
        if self.certify is None or is_dry(trainer) or not self._best_path:
            return
        if self._memory.certificate:
            rank_zero_info("GatedCheckpoint: this run has already been certified, and is not certified a second time")
            return
        self._certify(trainer, pl_module, self.certify)

    def _certify(self, trainer: Trainer, pl_module: LightningModule, rows: DataLoader[Any] | Dataset[Any]) -> None:
        settings = {"utility_floor": self.utility_floor, "strict": self.on_error == "raise"}
        record = certificate.of_kept(trainer, pl_module, self.limits, rows, path=Path(self._best_path), **settings)
        self._memory.certificate = record
        kept, holding = Path(self._best_path), list[str]()
        if trainer.is_global_zero:
            failure = self._failure_of("stamp the certificate", self._stamp_certificate, trainer, record, holding)
            if failure:
                self._complain(failure, f"The certificate was written to {', '.join(holding) or 'no checkpoint'}")
        event = {"event": "certificate", "global_step": trainer.global_step, "file": kept.name}
        self._write_line(trainer, {**event, **record}, "The audit file lacks the certificate")
        so = "The file is stamped with it." if kept.name in holding else "The file does not hold it."
        if record["gate"] == "open":
            rank_zero_info(f"Certified {kept}: {record['reason']}. {so}")
        else:
            rank_zero_warn(f"The certificate of {kept} is CLOSED: {record['reason']}. {so}")

    def _stamp_certificate(self, trainer: Trainer, record: dict[str, Any], holding: list[str]) -> None:
        """Stamp the kept file, and the gate's state in it and in the one for resuming; ``holding`` gets their names."""
        for path in dict.fromkeys(path for path in (self._best_path, self.last_model_path) if path):
            stamp = {"certificate": record} if path == self._best_path else {}
            found = certificate.restamp(trainer, Path(path), self.state_key, {"certificate": record}, stamp)
            holding.append(Path(path).name)
            evidence.write_verdict(path, found)
