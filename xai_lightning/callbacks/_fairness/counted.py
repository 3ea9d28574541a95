"""A monitor that counts all samples of a validation by group, and draws conclusions from the counts."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, Trainer, rank_zero_info
from xai_lightning.callbacks._batches import Batches, Reading
from xai_lightning.callbacks._fairness import absence
from xai_lightning.callbacks._fairness import record as records
from xai_lightning.callbacks._fairness.asked import DEFINITIONS
from xai_lightning.callbacks._fairness.counting import Counting
from xai_lightning.callbacks._fairness.foresight import outlook
from xai_lightning.callbacks._fairness.individual import Individuals
from xai_lightning.callbacks._fairness.judging import Counted, Judging
from xai_lightning.callbacks._fairness.refusals import refuse_other_readings
from xai_lightning.callbacks._fairness.rehearsal import rehearsed
from xai_lightning.callbacks._fairness.spending import Spending
from xai_lightning.callbacks._fairness.subjects import subject_names, subjects
from xai_lightning.callbacks._fairness.tally import Tally
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._record import STATE_VERSION, Look, Record, stable
from xai_lightning.callbacks._sharded import refuse_unequal_passes
from xai_lightning.callbacks._trainer import Stage, callbacks_of, loader_of, resolve_network
from xai_lightning.functional.gate import Kind, Outlook
from xai_lightning.functional.rng import isolated


class CountingMonitor(Monitor):
    """Counts every batch, and logs at the end what the counts show about the groups.

    Args:
        counting: reads, judges and counts batches.
        individuals: measures flips and consistency, if requested.
        spending: the error that all bounds share.
        identity: the settings that distinguish it from other monitors.
        reads: the settings that determine how it reads outputs; monitors with the same name must agree on them.
        network: name of the network, or None.
        pictures: whether to draw pictures.
        custom_scalars: whether to lay out margin charts.
        options: further options of `Monitor`.
    """

    def __init__(
        self,
        counting: Counting,
        individuals: Individuals | None,
        spending: Spending,
        *,
        identity: Mapping[str, object],
        reads: Mapping[str, object],
        network: str | None,
        pictures: bool,
        custom_scalars: bool,
        **options: Any,
    ) -> None:
        super().__init__("fairness", identity, **options)
        self.asked, self.network = counting.asked, network
        self.pictures, self.custom_scalars = pictures, custom_scalars
        self._counting, self._individuals, self._spending = counting, individuals, spending
        self._total = Tally()
        self._estimates: records.Estimates = {}
        self._reads, self._leads, self._told = {key: stable(value) for key, value in reads.items()}, True, False

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
        """The number of validations that share ``delta``, once known."""
        return self._spending.horizon

    @property
    def looks(self) -> int:
        """The number of validations that its account of the error knows."""
        return self._number

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
        return self._stamp(self._total, self._estimates, self._spending.error)

    def _stamp(self, total: Tally, estimates: records.Estimates, error: float) -> dict[str, Any]:
        found: dict[str, Any] = {
            "monitor": "fairness",
            "name": self.name,
            "failed": not estimates,
            "groups": {attribute: list(v.rows) for attribute, v in self._batches.vocabularies.items()},
            "metrics": estimates,
            "definitions": self.asked.definitions(),
            "definitions_version": DEFINITIONS,
            "strata": self.asked.strata if self.asked.given else None,
            "counts_group_actual_predicted": {name: counts.tolist() for name, counts in total.counts.items()},
            "outputs": self._judging.how._asdict(),
            "positive_class": self._judging.positive(total.n_classes) if total.n_classes else None,
            "delta": self.delta,
            "error": error,
            "horizon": self.horizon,
            "error_spent": self._spending.spent,
            "looks": self._number,
        }
        if total.residuals:
            found["samples"] = {name: total.sizes(name).tolist() for name in total.residuals}
        return found

    @override
    def _save(self) -> dict[str, Any]:
        return {**self._spending.save(), "groups": self._batches.state()}

    @override
    def _load(self, state: Mapping[str, Any]) -> None:
        self._spending.load(state)
        self._batches.load(state.get("groups", {}))

    @override
    def _forgo(self) -> None:
        self._spending.exhaust()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # `validate` and `test` of a checkpoint spend none of its error, but compare the groups that it was trained with
        if self._entry != "fit" and self._batches.undecided and state_dict.get("version") == STATE_VERSION:
            self._batches.load(state_dict.get("groups", {}))

    @override
    def outlook(self, name: str, kind: Kind, threshold: float) -> Outlook | None:
        if not self._estimates:
            return None
        limit = name, name.removeprefix(tags.within(self.name, "")), threshold
        found = subjects(self.asked, self._batches)
        positive = self._judging.favourable(self._total)
        return outlook(limit, self.asked, self._total, found, positive=positive, error=self._spending.error)

    @override
    def lack(self, name: str) -> str:
        own = name.removeprefix(tags.within(self.name, ""))
        return absence.lack(own, self.asked, self._total, self._judging.favourable(self._total))

    def measure(
        self, trainer: Trainer, pl_module: LightningModule, loader: Any
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """All metrics on other rows, at the full ``delta``, with the module's current weights.

        The user's ``validation_step`` runs on every batch of ``loader``, and each rank runs all batches. Nothing is
        logged, and the module, this monitor and the random generators are left as they were.

        Args:
            trainer: the trainer.
            pl_module: the module.
            loader: the rows; attributes from a `Table` cannot be read for them.

        Returns:
            The metrics under the names that ``fit`` logs, and the evidence.

        Raises:
            ValueError: if groups were never fixed, come from a `Table`, or a batch cannot be read.
        """
        if self._batches.undecided:
            raise ValueError(
                f"the groups of {self._batches.undecided} were never discovered, since no validation was counted"
            )
        counting = self._counting.elsewhere(loader)
        individuals = None if self._individuals is None else self._individuals.elsewhere()
        with isolated():
            for batch, outputs in rehearsed(trainer, pl_module, loader, counting, dataloader_idx=self.dataloader_idx):
                self._ask(individuals, pl_module, batch, *counting.add(batch, outputs))
        # nothing to sum over ranks: every rank has read all rows
        total = counting.gather(None)
        if isinstance(total, ValueError):
            raise total
        record, estimates = self._concluded(total, self.delta)
        if individuals is not None:
            records.add_individuals(record, individuals, individuals.alone(), self.delta)
        stamp = self._stamp(total, estimates, self.delta)
        return {tags.within(self.name, name): value for name, value in record.shared.items()}, stamp

    @override
    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kin = [c for c in callbacks_of(trainer) if isinstance(c, CountingMonitor) and c.name == self.name]
        # numbers that do not depend on the groups are logged once, by the first of these monitors
        self._leads, self._told = kin[0] is self, False
        refuse_other_readings(self.name, kin[0]._reads, self._reads)
        if self._individuals is not None and self._individuals.flips:
            refuse_unequal_passes(trainer, "FairnessMonitor(flips=...)")
        self._judging.find_network(pl_module)
        if self._individuals is not None and self._individuals.passes_per_row:
            rank_zero_info(
                f"FairnessMonitor: flips cost {self._individuals.passes_per_row} forward passes per sampled row"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._spending.plan(trainer, self._number)

    # --- one validation

    @override
    def _open(self, trainer: Trainer, look: Look) -> None:
        self._counting.open(loader_of(trainer, self.dataloader_idx))
        # a failed validation must not be stamped with the results of an earlier one
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
        """Measure individual fairness in a batch that was counted."""
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
        return self._counting.gather(trainer), None if self._individuals is None else self._individuals.gather(trainer)

    @override
    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        total, individuals = gathered
        if isinstance(total, ValueError):
            raise total
        if not total.seen:
            raise ValueError(f"no sample of loader {self.dataloader_idx} was read in this validation")
        self._total = total
        record, self._estimates = self._concluded(self._total, self._spending.error)
        if self._leads:
            record.shared[tags.NONFINITE_PREDICTIONS] = float(total.nonfinite)
            spent = {"error": self._spending.error, "error_spent": self._spending.spent}
            record.shared |= {tags.xai("fairness", name): number for name, number in spent.items()}
        if self._individuals is not None:
            records.add_individuals(record, self._individuals, individuals, self._spending.error)
        if self.custom_scalars:
            record.charts = records.charts(self.asked, subject_names(self.asked, self._batches))
        return record

    def _concluded(self, total: Tally, error: float) -> records.Conclusion:
        found = subjects(self.asked, self._batches)
        positive = self._judging.favourable(total)
        concluded = records.conclude(self.asked, total, found, positive, error)
        if self._leads:
            missing = records.undefined(self.asked, total, found, positive)
            concluded.record.shared[tags.xai("fairness", "undefined_rates")] = float(missing)
            records.add_utility(concluded.record, total, self._counting.names[0], error, exact=self.asked.exact)
        if self.pictures:
            records.add_pictures(concluded.record, total, found, positive)
        self._told = self._told or absence.tell(self._label, self.asked, total, positive, utility=self._leads)
        return concluded
