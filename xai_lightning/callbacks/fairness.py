"""Group fairness of every validation, counted on all of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, MisconfigurationException, Trainer, rank_zero_info
from xai_lightning.callbacks._batches import Batches, NetworkOutput
from xai_lightning.callbacks._horizon import planned_validations
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._record import Look, OnError, Record, stable
from xai_lightning.callbacks._trainer import Stage, callbacks_of, loader_of, resolve_network, summed
from xai_lightning.functional import fairness
from xai_lightning.functional.intervals import allowance
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Column, GroupSource, Outputs, Reader, Space, Table, check_space, decide, targets_of
from xai_lightning.readers.groups import Declared
from xai_lightning.sinks import Sink

DEFAULT_METRICS = tuple(fairness.METRICS)


class FairnessMonitor(Monitor):
    """Counts who gets what, over the whole validation set, and logs rates, metrics and their confidence limits.

    Logs ``fairness/<attribute>/<metric>/{value,lower,upper,bound}`` and
    ``utility/balanced_accuracy/{value,bound,chance}`` through ``self.log`` on every rank, equal on all;
    ``rate/<attribute>/<rate>/<group>`` and ``count/<attribute>/<group>`` on rank zero. ``lower`` and ``upper`` are a
    95 % interval for watching; ``bound`` is the one-sided limit at the error that this validation may spend, for
    gating. Costs no forward or backward pass.

    A group without the samples that a rate needs makes the metrics of that rate NaN, and a prediction that is not
    finite
    makes all of them NaN: undefined is never fair. Definitions: `xai_lightning.functional.fairness`.

    Args:
        groups: attribute to its groups: a list of names (matches strings, and integers as positions), or a dict from
            code to name. None, NaN and -1 count as ``missing``.
        groups_from: where the attribute is, if no entry of the batch has its name: `Column`, `Table`, a callable of the
            batch, or a mapping from attribute to these.
        metrics: names from `xai_lightning.functional.fairness.METRICS`.
        reader: how to read a batch, see `xai_lightning.readers.read`.
        network: submodule whose output holds the predictions if the step returns none.
        outputs: space of the outputs: ``"logits"``, ``"probabilities"`` or ``"labels"``.
        threshold: of a single output, in that space (default 0, or .5).
        n_classes: number of classes of ``outputs="labels"``.
        positive_class: the class whose prediction is the favourable decision; 1 of two by default.
        delta: error probability that all bounds of one ``fit`` share.
        horizon: number of validations that share it; by default from the Trainer's limits; without any, validation t
            may spend ``6 delta / (pi t)^2``.
        undeclared: what an undeclared group value is: an ``"error"``, or counted as ``"unknown"``.
        dataloader_idx: the validation loader it looks at.
        name: prefix of everything it logs, to tell two alike apart.
        on_error: ``"warn"``, or ``"raise"`` to stop training.
        sinks: further receivers beside the Trainer's loggers.

    Raises:
        ValueError: on a setting that cannot be; the known ones are listed.

    Example:
        >>> monitor = FairnessMonitor({"sex": ["Female", "Male"]})
    """

    def __init__(
        self,
        groups: Mapping[str, Declared],
        *,
        # jsonargparse tries in this order; a mapping first would take YAML's class_path for an attribute (trap 58)
        groups_from: Column | Table | Mapping[str, GroupSource] | Callable[[Any], Any] | None = None,
        metrics: Sequence[str] = DEFAULT_METRICS,
        reader: Reader | None = None,
        network: str | None = None,
        outputs: Space = "logits",
        threshold: float | None = None,
        n_classes: int | None = None,
        positive_class: int | None = None,
        delta: float = 0.05,
        horizon: int | None = None,
        undeclared: Literal["error", "unknown"] = "error",
        dataloader_idx: int = 0,
        name: str = "",
        on_error: OnError = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
        identity: dict[str, object] = {"groups": groups, "outputs": outputs, "positive_class": positive_class}
        identity["network"] = network
        super().__init__("fairness", identity, name=name, dataloader_idx=dataloader_idx, on_error=on_error, sinks=sinks)
        if not groups:
            raise ValueError(
                f"groups must declare at least one attribute, such as {{'sex': ['Female', 'Male']}}; got {groups!r}"
            )
        self.metrics = [choose("metric", metric, fairness.METRICS) for metric in metrics]
        used = {rate for metric in self.metrics for rate in fairness.METRICS[metric].rates}
        self._rates = ("accuracy",) if used == {"accuracy"} else tuple(fairness.RATES)
        self.delta, self.horizon = delta, horizon
        allowance(delta, 1, horizon, 0.0)
        self.positive_class, self.n_classes, self.network = positive_class, n_classes, network
        self._how = Outputs.of(outputs, threshold)
        self._batches = Batches(reader, groups, groups_from, undeclared)
        self._output, self._listens = NetworkOutput(f"network={network!r}"), True
        self._counts: dict[str, Tensor] = {}
        self._total: dict[str, Tensor] = {}
        self._nonfinite, self._classes = 0, 0
        self._spent, self._error, self._fixed_horizon, self._told = 0.0, delta, horizon, False
        self._reads = stable([network, self._how.space, self._how.threshold, n_classes, dataloader_idx, reader])
        self._estimates: dict[str, dict[str, dict[str, float | None]]] = {}
        self._leads = True

    @override
    def logged_names(self, stage: Stage = "fit") -> tuple[list[str], list[str]]:
        shared, direct = [], []
        for attribute, vocabulary in self._batches.vocabularies.items():
            shared += [tags.fairness(attribute, m, part) for m in self.metrics for part in tags.ESTIMATE_PARTS]
            direct += [tags.rate(attribute, rate, group) for rate in self._rates for group in vocabulary.names]
            direct += [tags.count(attribute, row) for row in vocabulary.rows]
        if self._leads:
            shared += [tags.balanced_accuracy(part) for part in ("value", "bound", "chance")]
            shared += [tags.NONFINITE_PREDICTIONS, tags.xai("fairness", "undefined_rates")]
            shared += [tags.xai("fairness", "error"), tags.xai("fairness", "error_spent")]
        return shared, direct

    @override
    def evidence(self) -> dict[str, Any]:
        vocabularies = self._batches.vocabularies
        return {
            "monitor": "fairness",
            "failed": not self._total,
            "groups": {attribute: list(vocabulary.rows) for attribute, vocabulary in vocabularies.items()},
            "metrics": self._estimates,
            "counts_group_actual_predicted": {attribute: counts.tolist() for attribute, counts in self._total.items()},
            "outputs": self._how._asdict(),
            "positive_class": self._positive(self._classes) if self._classes else None,
            "delta": self.delta,
            "horizon": self._fixed_horizon,
            "error_spent": self._spent,
            "looks": self._number,
        }

    @override
    def _save(self) -> dict[str, Any]:
        return {"spent": self._spent, "horizon": self._fixed_horizon}

    @override
    def _load(self, state: Mapping[str, Any]) -> None:
        self._spent, self._fixed_horizon = max(self._spent, float(state["spent"])), state["horizon"]

    @override
    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kin = [c for c in callbacks_of(trainer) if isinstance(c, FairnessMonitor) and c.name == self.name]
        self._leads = kin[0] is self
        if kin[0]._reads != self._reads:
            raise MisconfigurationException(
                f"two FairnessMonitors share the name {self.name!r}, and so utility/…, but read other outputs "
                f"({kin[0]._reads} and {self._reads}); give one of them a name=..."
            )
        try:
            resolve_network(pl_module, self.network)
        except MisconfigurationException:
            # without an obvious network the step must return predictions; the first batch will tell
            if self.network is not None:
                raise
            self._listens = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        planned = self.horizon or planned_validations(trainer)
        if self._number == 0:
            self._fixed_horizon = planned
        elif self._fixed_horizon is not None and planned is not None:
            # fixed at the first fit; a longer, resumed one shares what is unspent among the validations that it adds
            self._fixed_horizon = max(self._fixed_horizon, planned)

    @override
    def _open(self, trainer: Trainer, look: Look) -> None:
        self._batches.open(loader_of(trainer, self.dataloader_idx))
        self._counts, self._nonfinite = {}, 0
        # what a failed validation leaves behind must not be stamped as its own
        self._total, self._estimates = {}, {}
        if not look.sanity:
            self._spend(look)

    @override
    def _before(self, pl_module: LightningModule, batch: Any) -> None:
        if self._listens:
            network = resolve_network(pl_module, self.network)
            self._output.listen(self._hooks, network, self._batches.sample(batch).inputs)

    @override
    def _after(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        reading = self._batches.read(batch)
        n = len(reading.sample)
        found = self._output.take(outputs, n)
        if not self._proved:
            check_space(found, self._how.space)
        decision = decide(found, self._how, n_classes=self.n_classes)
        self._fix_classes(decision.n_classes)
        targets = targets_of(reading.sample.targets, decision.n_classes).to(found.device)
        counted = reading.real.to(found.device) & decision.finite
        self._nonfinite += int((reading.real.to(found.device) & ~decision.finite).sum())
        for attribute, rows in reading.groups.items():
            size = len(self._batches.vocabularies[attribute].rows)
            chosen = decision.classes[counted], targets[counted], rows.to(found.device)[counted]
            new = fairness.count(*chosen, classes=decision.n_classes, n_groups=size)
            self._counts[attribute] = self._counts[attribute] + new if attribute in self._counts else new

    def _fix_classes(self, n_classes: int) -> None:
        if self._classes and n_classes != self._classes:
            raise ValueError(f"the network had {self._classes} classes before, and {n_classes} now")
        self._positive(n_classes)
        self._classes = n_classes

    def _positive(self, n_classes: int) -> int:
        chosen = self.positive_class
        if chosen is None and n_classes != 2 and self._rates != ("accuracy",):
            raise ValueError(
                f"{n_classes} classes: name the class whose prediction is the favourable decision with "
                f"positive_class=..."
            )
        chosen = min(1, n_classes - 1) if chosen is None else chosen
        if not 0 <= chosen < n_classes:
            raise ValueError(f"positive_class must lie in 0 .. {n_classes - 1}; got {chosen}")
        return chosen

    @override
    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        classes = int(summed(trainer, torch.tensor(self._classes), "max"))
        nonfinite = int(summed(trainer, torch.tensor(self._nonfinite), "sum"))
        total = {}
        for attribute, vocabulary in self._batches.vocabularies.items():
            width = classes if classes <= fairness.SQUARE_LIMIT else 3
            none = torch.zeros(len(vocabulary.rows), classes, width, dtype=torch.int64)
            total[attribute] = summed(trainer, self._counts.get(attribute, none), "sum")
        return classes, nonfinite, total

    @override
    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        self._classes, nonfinite, self._total = gathered
        if not self._classes:
            raise ValueError("no sample was read in this validation")
        error = self._error
        record = Record()
        undefined = 0
        for attribute, vocabulary in self._batches.vocabularies.items():
            declared = self._total[attribute][: len(vocabulary.names)]
            confusion = fairness.confusion(declared, self._positive(self._classes))
            self._add_metrics(record, attribute, confusion, error, nonfinite)
            self._add_rates(record, attribute, confusion)
            undefined += fairness.undefined(confusion, self.metrics)
        if self._leads:
            self._add_utility(record, error, nonfinite)
            record.shared[tags.xai("fairness", "undefined_rates")] = float(undefined)
            record.shared |= {tags.xai("fairness", "error"): error, tags.xai("fairness", "error_spent"): self._spent}
        return record

    def _spend(self, look: Look) -> None:
        """Set the error that this evaluation may spend: a share of delta within ``fit``, all of it in a single look."""
        self._error = self.delta
        if look.stage == "fit":
            self._error = allowance(self.delta, look.number, self._fixed_horizon, self._spent)
            self._spent += self._error
            if self._error == 0 and not self._told:
                self._told = True
                rank_zero_info(
                    f"FairnessMonitor: nothing of delta={self.delta:g} is left at validation {look.number} (planned: "
                    f"{self._fixed_horizon}), so bounds are infinite from here on; give horizon=... when a run begins"
                )

    def _add_metrics(
        self, record: Record, attribute: str, confusion: fairness.Confusion, error: float, nonfinite: int
    ) -> None:
        stamped = self._estimates[attribute] = {}
        for metric in self.metrics:
            estimate = fairness.estimate(fairness.METRICS[metric], confusion, error=error)
            for part, value in estimate._asdict().items():
                number = math.nan if nonfinite else float(value)
                record.shared[tags.fairness(attribute, metric, part)] = number
                stamped.setdefault(metric, {})[part] = number if math.isfinite(number) else None

    def _add_rates(self, record: Record, attribute: str, confusion: fairness.Confusion) -> None:
        vocabulary = self._batches.vocabularies[attribute]
        for rate in self._rates:
            values = fairness.rate(rate, confusion).tolist()
            record.direct |= {tags.rate(attribute, rate, g): v for g, v in zip(vocabulary.names, values, strict=True)}
        sizes = fairness.confusion(self._total[attribute], self._positive(self._classes)).total.tolist()
        record.direct |= {tags.count(attribute, row): float(n) for row, n in zip(vocabulary.rows, sizes, strict=True)}

    def _add_utility(self, record: Record, error: float, nonfinite: int) -> None:
        everybody = next(iter(self._total.values())).sum(dim=0)
        value, bound = (float(x) for x in fairness.balanced_accuracy(everybody, error))
        value, bound = (math.nan, math.nan) if nonfinite else (value, bound)
        parts = {"value": value, "bound": bound, "chance": 1 / self._classes}
        record.shared |= {tags.balanced_accuracy(part): number for part, number in parts.items()}
        record.shared[tags.NONFINITE_PREDICTIONS] = float(nonfinite)
