"""The verdict of one rank on one validation, and the evidence of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks._gate import decision, evidence
from xai_lightning.callbacks._gate.feedback import Feedback
from xai_lightning.functional import gate


class Asked(NamedTuple):
    """What a gate requires.

    Args:
        limits: the user's limits.
        monitor: name of the monitored value.
        utility_floor: see `xai_lightning.callbacks._gate.decision.all_limits`.
    """

    limits: Sequence[gate.Limit]
    monitor: str | None
    utility_floor: bool


class Judged(NamedTuple):
    """The basis of a decision, and the evidence of it.

    Args:
        verdict: whether the limits hold.
        metrics: every metric by its name.
        fresh: names of those that this validation logged.
        grounds: what the evidence says about it, plain types.
    """

    verdict: gate.Verdict
    metrics: dict[str, float]
    fresh: set[str]
    grounds: dict[str, Any]


def judge(
    trainer: Trainer,
    pl_module: LightningModule,
    asked: Asked,
    *,
    look: int,
    started: Mapping[str, Tensor],
    feedback: Feedback,
) -> Judged:
    """Check the limits against what was logged.

    Args:
        trainer: the trainer.
        pl_module: the module, with the weights that were validated.
        asked: what the gate requires.
        look: the number of this validation.
        started: the metrics when the validation began; a metric that is still the same object is stale.
        feedback: sees whether the validation set steers the training.
    """
    now = trainer.callback_metrics
    metrics = {name: float(value) for name, value in now.items()}
    fresh = {name for name, value in now.items() if value is not started.get(name)}
    feedback.validation_ends(trainer, pl_module, fresh)
    logged = decision.logged_by_monitors(trainer)
    wanted = decision.all_limits(asked.limits, asked.monitor, metrics, utility_floor=asked.utility_floor, logged=logged)
    verdict = gate.decide(wanted, metrics, fresh, decision.lacks(trainer, wanted))
    coverage = decision.coverage(trainer, asked.limits)
    for name in decision.restarted(trainer, coverage.promised, look):
        reason = f"{name} restarted its account of delta at validation {look}, with other settings than before"
        feedback.note("account", reason)
    reasons = feedback.reasons
    grounds = {
        "checks": evidence.checks(verdict),
        "guarantee": evidence.guarantee(coverage, reasons),
        "promise": evidence.promise(coverage, reasons),
        "feedback": reasons,
        "monitors": decision.evidence_of(trainer),
    }
    return Judged(verdict, metrics, fresh, grounds)


def unjudged(limits: Sequence[gate.Limit], reason: str) -> Judged:
    """The judgement if judging failed: a no, with no metrics behind it (law 3)."""
    checks = tuple(gate.Check(*limit, None, passed=False, reason=reason, violation=math.inf) for limit in limits)
    nothing = {"checks": [], "guarantee": "none", "promise": "Nothing was judged.", "feedback": [], "monitors": []}
    return Judged(gate.Verdict(False, checks, reason), {}, set(), nothing)
