"""Group fairness of every validation, counted on all of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, MisconfigurationException, Trainer, rank_zero_info
from xai_lightning.callbacks import _fairness_record as records
from xai_lightning.callbacks._asked import DEFINITIONS, ask, subject_names, subjects
from xai_lightning.callbacks._batches import Batches, Reading
from xai_lightning.callbacks._counting import Counting
from xai_lightning.callbacks._flips import Flip
from xai_lightning.callbacks._foresight import outlook
from xai_lightning.callbacks._individual import Gathered, Individuals
from xai_lightning.callbacks._judging import Counted, Judging
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._record import STATE_VERSION, Look, OnError, Record, stable
from xai_lightning.callbacks._rehearsal import rehearsed
from xai_lightning.callbacks._spending import Spending
from xai_lightning.callbacks._tally import Tally
from xai_lightning.callbacks._trainer import Stage, callbacks_of, loader_of, resolve_network
from xai_lightning.functional.fairness import REPLICATES, Metric
from xai_lightning.functional.gate import Kind, Outlook
from xai_lightning.functional.rng import isolated
from xai_lightning.readers import Column, GroupSource, Outputs, Reader, Space, Table, WeightSource
from xai_lightning.readers.groups import Declared
from xai_lightning.sinks import Sink


class FairnessMonitor(Monitor):
    """Counts who gets what, over the whole validation set, and logs rates, metrics and their confidence limits.

    Logs ``fairness/<attribute>/<metric>/{value,lower,upper,bound}``, ``utility/balanced_accuracy/{value,bound,chance}``
    (of numbers ``utility/r2/…``) and ``count/<attribute>/missing_share`` through ``self.log`` on every rank, equal on
    all; ``rate/<attribute>/<rate>/<group>``, ``count/<attribute>/<group>`` and pictures of rates and calibration on
    rank zero. ``lower`` and ``upper`` are a 95 % interval for watching; ``bound`` is the one-sided limit at the error
    that this validation may spend, for gating. Costs no forward or backward pass, unless ``flips`` asks for some.

    A group without the samples that a rate needs makes the metrics of that rate NaN, and a prediction that is not
    finite makes all of them NaN: undefined is never fair. Definitions: `xai_lightning.functional.fairness` and
    ``docs/metrics.md``.

    Args:
        groups: attribute to its groups: a list of names (matches strings, and integers as positions), a dict from code
            to name, `Bins` of a number, or ``"discover"``: those of the first real validation. None, NaN and -1 count
            as ``missing``.
        groups_from: where the attribute is, if no entry of the batch has its name: `Column`, `Table`, a callable of the
            batch, or a mapping from attribute to these.
        metrics: names from `xai_lightning.functional.fairness.METRICS`; by default the usual ones of such outputs.
        own_metrics: further ones by name, see `xai_lightning.functional.fairness.Metric`.
        reader: how to read a batch, see `xai_lightning.readers.read`.
        network: submodule whose output holds the predictions if the step returns none.
        outputs: space of the outputs: ``"logits"``, ``"probabilities"``, ``"labels"``, or ``"values"`` of a regression.
        threshold: of a single output, in that space (default 0, or .5).
        n_classes: number of classes of ``outputs="labels"``.
        positive_class: the class whose prediction is the favourable decision; 1 of two by default.
        multi_label: each output is a label by itself; metrics are those of the worst label.
        weights: weights of samples: an entry of the batch, `Column`, `Table` or a callable. ``utility/…`` and
            ``count/…`` are of samples all the same.
        intersections: 2 to compare the groups of every pair of attributes too, as ``race+sex``.
        given: attribute to a legitimate one, to compare the first within the groups of the second too, as ``sex|job``.
        max_groups: the most groups that may be discovered per attribute.
        flips: attribute to its `Column` of the input, or a callable that makes the inputs of its other values: log how
            many decisions another value would change. Costs a pass of a sample of rows per value.
        consistency_features: columns of the input table that make samples alike: log how alike those are treated.
        exact: limits that hold at any sample size, and are wider.
        replicates: number of bootstrap replicates of metrics without a closed form.
        delta: error probability that all bounds of one ``fit`` share.
        horizon: number of validations that share it; by default from the Trainer's limits; without any, validation t
            may spend ``6 delta / (pi t)^2``.
        undeclared: what an undeclared group value is: an ``"error"``, or counted as ``"unknown"``.
        dataloader_idx: the validation loader it looks at.
        pictures: whether to draw rates and calibration.
        custom_scalars: whether to lay out TensorBoard's margin charts of value, lower and upper.
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
        metrics: Sequence[str] | None = None,
        own_metrics: Mapping[str, Metric] | None = None,
        reader: Reader | None = None,
        network: str | None = None,
        outputs: Space = "logits",
        threshold: float | None = None,
        n_classes: int | None = None,
        positive_class: int | None = None,
        multi_label: bool = False,
        weights: WeightSource | None = None,
        intersections: int = 1,
        given: Mapping[str, str] | None = None,
        max_groups: int = 16,
        flips: Mapping[str, Flip] | None = None,
        consistency_features: list[int] | None = None,
        exact: bool = False,
        replicates: int = REPLICATES,
        delta: float = 0.05,
        horizon: int | None = None,
        undeclared: Literal["error", "unknown"] = "error",
        dataloader_idx: int = 0,
        pictures: bool = True,
        custom_scalars: bool = False,
        name: str = "",
        on_error: OnError = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
        identity: dict[str, object] = {"groups": groups, "outputs": outputs, "positive_class": positive_class}
        identity["network"] = network
        super().__init__("fairness", identity, name=name, dataloader_idx=dataloader_idx, on_error=on_error, sinks=sinks)
        _check_attributes(groups)
        self.asked = ask(
            metrics,
            own_metrics,
            outputs,
            multi_label=multi_label,
            exact=exact,
            replicates=replicates,
            weighted=weights is not None,
            given=given,
            intersections=intersections,
        )
        _check_given(self.asked.given, groups)
        self.metrics = list(self.asked.metrics)
        self.positive_class, self.network = positive_class, network
        self.pictures, self.custom_scalars = pictures, custom_scalars
        self._spending = Spending(delta, horizon)
        batches = Batches(
            reader,
            groups,
            groups_from,
            undeclared,
            max_groups=max_groups,
            intersections=2 if intersections == 2 or given else None,
            weights=weights,
        )
        judging = Judging(
            Outputs.of(outputs, threshold),
            self.asked,
            n_classes=n_classes,
            positive_class=positive_class,
            multi_label=multi_label,
            network=network,
        )
        self._counting = Counting(self.asked, batches, judging)
        self._individuals = _individuals(batches, judging, flips, consistency_features)
        self._total = Tally()
        self._estimates: dict[str, dict[str, dict[str, float | None]]] = {}
        self._reads = stable([network, outputs, judging.how.threshold, n_classes, dataloader_idx, reader])
        self._leads = True

    @property
    def _batches(self) -> Batches:
        return self._counting.batches

    @property
    def _judging(self) -> Judging:
        return self._counting.judging

    @property
    def delta(self) -> float:
        """The error probability that all bounds of one ``fit`` share."""
        return self._spending.delta

    @property
    def horizon(self) -> int | None:
        """The number of validations that share it, once known."""
        return self._spending.horizon

    @override
    def logged_names(self, stage: Stage = "fit") -> tuple[list[str], list[str]]:
        known = [] if self._batches.undecided else subjects(self.asked, self._batches)
        names = subject_names(self.asked, self._batches)
        shared = records.shared_names(self.asked, names, self._batches.vocabularies)
        direct = records.direct_names(self.asked, known)
        if self._leads:
            measure = records.utility_measure(self._judging.numbers)
            shared += [tags.utility(measure, part) for part in records.UTILITY_PARTS]
            shared.append(tags.NONFINITE_PREDICTIONS)
            shared += [tags.xai("fairness", what) for what in ("undefined_rates", "error", "error_spent")]
        if self._individuals is not None:
            extra = self._individuals.names()
            shared, direct = shared + extra[0], direct + extra[1]
        return shared, direct

    @override
    def evidence(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "monitor": "fairness",
            "name": self.name,
            "failed": not self._estimates,
            "groups": {attribute: list(v.rows) for attribute, v in self._batches.vocabularies.items()},
            "metrics": self._estimates,
            "definitions": self.asked.definitions(),
            "definitions_version": DEFINITIONS,
            "counts_group_actual_predicted": {name: counts.tolist() for name, counts in self._total.counts.items()},
            "outputs": self._judging.how._asdict(),
            "positive_class": self._judging.positive(self._total.n_classes) if self._total.n_classes else None,
            "delta": self.delta,
            "error": self._spending.error,
            "horizon": self.horizon,
            "error_spent": self._spending.spent,
            "looks": self._number,
        }
        if self._total.residuals:
            found["samples"] = {name: self._total.sizes(name).tolist() for name in self._total.residuals}
        return found

    @override
    def _save(self) -> dict[str, Any]:
        return {**self._spending.save(), "groups": self._batches.state()}

    @override
    def _load(self, state: Mapping[str, Any]) -> None:
        self._spending.load(state)
        self._batches.load(state.get("groups", {}))

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # validate and test of a checkpoint, which spend nothing of it, compare the groups that it was trained with
        if self._entry != "fit" and self._batches.undecided and state_dict.get("version") == STATE_VERSION:
            self._batches.load(state_dict.get("groups", {}))

    @override
    def outlook(self, name: str, kind: Kind, threshold: float) -> Outlook | None:
        if not self._estimates:
            return None
        limit = name, name.removeprefix(tags.within(self.name, "")), threshold
        found = subjects(self.asked, self._batches)
        positive = self._judging.positive(self._total.n_classes) if self._total.n_classes else 0
        return outlook(limit, self.asked, self._total, found, positive=positive, error=self._spending.error)

    def measure(
        self, trainer: Trainer, pl_module: LightningModule, loader: Any
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """All metrics on other rows, at the whole of ``delta``, with the weights that the module has now.

        The user's ``validation_step`` runs on every batch of ``loader``, on each rank on all of them; nothing is
        logged, and the module, this monitor and the random generators are left as they were.

        Args:
            trainer: the trainer.
            pl_module: the module.
            loader: the rows; attributes from a `Table` cannot be read there.

        Returns:
            The metrics under the names that ``fit`` logs, and the evidence.

        Raises:
            ValueError: if groups were never fixed, come from a `Table`, or a batch cannot be read.
        """
        if self._batches.undecided:
            raise ValueError(f"the groups of {self._batches.undecided} were not discovered: no validation was counted")
        counting = self._counting.elsewhere(loader)
        individuals = None if self._individuals is None else self._individuals.elsewhere()
        with isolated():
            for batch, outputs in rehearsed(trainer, pl_module, loader, counting, dataloader_idx=self.dataloader_idx):
                self._ask(individuals, pl_module, batch, *counting.add(batch, outputs))
        total = counting.gather(None)
        if isinstance(total, ValueError):
            raise total
        record, estimates = self._concluded(total, self.delta)
        if individuals is not None:
            self._add_individuals(record, individuals, individuals.alone(), self.delta)
        counts = {name: counts.tolist() for name, counts in total.counts.items()}
        stamp = self.evidence() | {"metrics": estimates, "error": self.delta, "counts_group_actual_predicted": counts}
        return {tags.within(self.name, name): value for name, value in record.shared.items()}, stamp

    @override
    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kin = [c for c in callbacks_of(trainer) if isinstance(c, FairnessMonitor) and c.name == self.name]
        self._leads = kin[0] is self
        if kin[0]._reads != self._reads:
            raise MisconfigurationException(
                f"two FairnessMonitors share the name {self.name!r}, and so utility/…, but read other outputs "
                f"({kin[0]._reads} and {self._reads}); give one of them a name=..."
            )
        self._judging.find_network(pl_module)
        if self._individuals is not None and self._individuals.passes_per_row:
            rank_zero_info(
                f"FairnessMonitor: flips cost {self._individuals.passes_per_row} forward passes of each sampled row"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._spending.plan(trainer, self._number)

    # --- one validation

    @override
    def _open(self, trainer: Trainer, look: Look) -> None:
        self._counting.open(loader_of(trainer, self.dataloader_idx))
        # what a failed validation leaves behind must not be stamped as its own
        self._total, self._estimates = Tally(), {}
        if self._individuals is not None:
            self._individuals.open()
        if not look.sanity:
            self._spending.spend(look)

    @override
    def _before(self, pl_module: LightningModule, batch: Any) -> None:
        self._counting.listen(self._hooks, pl_module, batch)

    @override
    def _after(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        self._ask(self._individuals, pl_module, batch, *self._counting.add(batch, outputs, first=not self._proved))

    def _ask(
        self,
        individuals: Individuals | None,
        pl_module: LightningModule,
        batch: Any,
        reading: Reading,
        counted: Counted,
    ) -> None:
        """Individual fairness of a batch that was counted."""
        if individuals is not None and counted.decision is not None:
            individuals.after(
                pl_module,
                resolve_network(pl_module, self.network) if individuals.flips else None,
                batch,
                sample=reading.sample,
                real=reading.real,
                decision=counted.decision,
                positive=counted.judged.positive,
            )

    @override
    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        total = self._counting.gather(trainer)
        individuals = None if self._individuals is None else self._individuals.gather(trainer)
        return total, individuals

    @override
    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        total, individuals = gathered
        if isinstance(total, ValueError):
            raise total
        if not total.seen:
            raise ValueError("no sample was read in this validation")
        self._total = total
        record, self._estimates = self._concluded(self._total, self._spending.error)
        if self._leads:
            record.shared[tags.NONFINITE_PREDICTIONS] = float(total.nonfinite)
            spent = {"error": self._spending.error, "error_spent": self._spending.spent}
            record.shared |= {tags.xai("fairness", name): number for name, number in spent.items()}
        if self._individuals is not None:
            self._add_individuals(record, self._individuals, individuals, self._spending.error)
        if self.custom_scalars:
            record.charts = records.charts(self.asked, subject_names(self.asked, self._batches))
        return record

    @staticmethod
    def _add_individuals(record: Record, individuals: Individuals, gathered: Gathered, error: float) -> None:
        shared = individuals.names()[0]
        numbers = individuals.conclude(gathered, error)
        record.shared |= {name: numbers[name] for name in shared}
        record.direct |= {name: number for name, number in numbers.items() if name not in shared}

    def _concluded(self, total: Tally, error: float) -> records.Conclusion:
        found = subjects(self.asked, self._batches)
        positive = self._judging.positive(total.n_classes) if total.n_classes and not total.labels else 1
        concluded = records.conclude(self.asked, total, found, positive, error)
        if self._leads:
            missing = records.undefined(self.asked, total, found, positive)
            concluded.record.shared[tags.xai("fairness", "undefined_rates")] = float(missing)
            records.add_utility(concluded.record, total, self._counting.names[0], error, exact=self.asked.exact)
        if self.pictures:
            records.add_pictures(concluded.record, total, found, positive)
        return concluded


def _check_attributes(groups: object) -> None:
    if not isinstance(groups, Mapping) or not groups:
        raise ValueError(
            f"groups must declare at least one attribute, such as {{'sex': ['Female', 'Male']}}; got {groups!r}"
        )
    barred = [attribute for attribute in groups if "|" in attribute]
    if barred:
        raise ValueError(f"an attribute must not have '|' in its name, as one within another has; got {barred[0]!r}")


def _check_given(given: Mapping[str, str], groups: Mapping[str, Declared]) -> None:
    for attribute, other in given.items():
        for name in (attribute, other):
            if name not in groups:
                raise ValueError(f"given names {name!r}, which is not among the attributes {list(groups)}; declare it")
        if attribute == other:
            raise ValueError(f"given must name another attribute for {attribute!r}; got itself")


def _individuals(
    batches: Batches, judging: Judging, flips: Mapping[str, Flip] | None, features: Sequence[int] | None
) -> Individuals | None:
    if not flips and features is None:
        return None
    if judging.numbers or judging.multi_label:
        raise ValueError(f"flips and consistency_features need one class per sample; got outputs={judging.how.space!r}")
    vocabularies = batches.vocabularies
    chosen = None if features is None else list(features)
    return Individuals(flips or {}, vocabularies, judging.how, consistency_features=chosen, n_classes=judging.n_classes)
