"""The life cycle of an explaining monitor: draw, explain, gather, compare, log."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import (
    LightningModule,
    MisconfigurationException,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from xai_lightning.callbacks._attribution.baselines import Baselines
from xai_lightning.callbacks._attribution.clock import Clock
from xai_lightning.callbacks._attribution.course import Course
from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.gallery import Gallery, Shown, chosen
from xai_lightning.callbacks._attribution.gathered import Gathered, gather
from xai_lightning.callbacks._attribution.history import History
from xai_lightning.callbacks._attribution.in_step import check_in_step
from xai_lightning.callbacks._attribution.names import names
from xai_lightning.callbacks._attribution.panel import Panel
from xai_lightning.callbacks._attribution.passing import PassingMonitor
from xai_lightning.callbacks._attribution.probe import Probe, standard_deviation
from xai_lightning.callbacks._attribution.record import (
    add_importance,
    add_passes,
    importance_of,
    similarities,
    summary,
    unusable,
)
from xai_lightning.callbacks._attribution.references import References
from xai_lightning.callbacks._attribution.targets import why_none
from xai_lightning.callbacks._record import Look, Record
from xai_lightning.callbacks._sharded import Steps, is_sharded, refuse_unseen
from xai_lightning.callbacks._trainer import Stage, everywhere, log_step, resolve_network, summed
from xai_lightning.functional import attribution, drift

_WITHOUT = "leave AttributionMonitor out: ActivationMonitor and FairnessMonitor make no passes of their own"


class ExplainingMonitor(PassingMonitor):
    """Explains a probe and a fresh sample at each validation; see `AttributionMonitor` for the settings.

    Args:
        explainer: explains samples.
        probe: draws the samples to explain.
        gallery: draws pictures.
        shares: variables whose share of the attribution is logged, by the name of that share.
        measures: distances to log; None: all that fit the input.
        references: validations to compare with.
        best_of: see `AttributionMonitor`, as are all below.
        reference_after: likewise.
        noise_every: likewise.
        every_n_validations: likewise.
        max_overhead: likewise.
        sample_size: likewise.
        pictures: likewise.
        network: likewise.
        seed: likewise.
        identity: the settings that distinguish it from others of its kind.
        common: further arguments of `Monitor`.
    """

    def __init__(
        self,
        explainer: Explainer,
        probe: Probe,
        gallery: Gallery,
        *,
        shares: Mapping[str, Sequence[str]],
        measures: Sequence[str] | None,
        references: Sequence[str],
        best_of: tuple[str, str] | None,
        reference_after: int,
        noise_every: int,
        every_n_validations: int,
        max_overhead: float | None,
        sample_size: int | None,
        pictures: bool,
        network: str | None,
        seed: int,
        identity: dict[str, object],
        **common: Any,
    ) -> None:
        ways = explainer.ways
        history = History(ways.label, best_of, reference_after, attribution.versions(ways.method), ways.making())
        super().__init__(
            explainer,
            probe,
            history,
            shares=shares,
            noise_every=noise_every,
            sample_size=sample_size,
            network=network,
            identity=identity,
            max_overhead=max_overhead,
            **common,
        )
        self.measures, self.references, self.best_of, self.seed = measures, references, best_of, seed
        self.reference_after, self.every_n_validations = reference_after, every_n_validations
        self._gallery, self.pictures = gallery, pictures
        self._last_step, self._scale, self._unusable = 0, 1.0, False

    @override
    def logged_names(self, stage: Stage = "fit") -> tuple[list[str], list[str]]:
        strata, timed = self._probe.strata, self._clock.limited
        return names(self._panel, self._explainer, strata, self._shares, stage=stage, timed=timed)

    @property
    def _panel(self) -> Panel:
        explainer = self._explainer
        measures = [*drift.MEASURES, *(drift.IMAGE_MEASURES if explainer.grid else ())]
        return Panel(
            self.method,
            measures if self.measures is None else self.measures,
            self.references,
            draws=explainer.ways.draws,
            classes=explainer.task in ("classification", "multilabel"),
            grid=explainer.grid,
            padded=explainer.ways.tokens,
            seed=self.seed,
        )

    @override
    def _learn(self, pl_module: LightningModule, batch: Any) -> None:
        super()._learn(pl_module, batch)
        self._panel.check()

    @override
    def _save(self) -> dict[str, Any]:
        return {**self._history.state(), "clock": self._clock.state(), "last_step": self._last_step}

    @override
    def _load(self, state: Mapping[str, Any]) -> None:
        self._history.load(state)
        self._clock.load(state["clock"])
        self._last_step = int(state.get("last_step", 0))

    @override
    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_unseen(trainer, f"AttributionMonitor({self.method!r})", _WITHOUT)
        self._steps = Steps(trainer) if is_sharded(trainer) else None
        if self._steps is not None:
            check_in_step(self._explainer.ways)
        self._explainer.check(resolve_network(pl_module, self.network))
        ways = self._explainer.ways
        if isinstance(ways.method, str) and trainer.strategy.root_device.type == "cpu":
            # now rather than in a validation, whose time is reported
            attribution.compile_loops(ways.method, ways.options)
        if Baselines(self._explainer.ways).from_data and trainer.world_size > 1:
            raise MisconfigurationException(
                f"baseline={self._explainer.ways.baseline!r} is computed from the data of a single process, so it "
                f"would differ among {trainer.world_size} processes; give it as a tensor"
            )
        self._probe.forget()
        if self._learned_of is None or self._learned_of() is not resolve_network(pl_module, self.network):
            # with another network, the first batch is inspected anew, and may fail again
            self._learned = self._proved = self._told = False

    @override
    def _due(self) -> bool:
        return (self._number - 1) % self.every_n_validations == 0 and self._clock.due(self._number)

    @override
    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        self._share_learnt(trainer)
        strata, sampled = self._probe.strata, self._sampled
        sizes = [strata.n_classes, *(len(x[0].hashes) if x else 0 for x in (self._explained, sampled))]
        sizes = summed(trainer, torch.tensor([*sizes, self._probe.fresh.size], device="cpu"), "max").tolist()
        strata.n_classes, capacity, room, size = sizes
        spread = everywhere(trainer, self._probe.spread)
        # every rank goes by the clock and the metric of rank zero
        own = [*self._clock.read(), math.nan if self._history.metric is None else self._history.metric]
        told = everywhere(trainer, torch.tensor(own, dtype=torch.float64, device="cpu"))[0].tolist()
        found = gather(trainer, self._explained, capacity, self._probe.quota, pooled=strata.pooled)
        return spread, found, gather(trainer, sampled, room, size, pooled=True) if size else None, told

    @override
    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        spread, found, fresh, (seconds, elapsed, metric) = gathered
        if len(found.hashes) == 0:
            raise ValueError(why_none(self._explainer.task, self._explainer.ways.target, self.dataloader_idx))
        fitting, history, explainer, strata = look.stage == "fit", self._history, self._explainer, self._probe.strata
        self._scale = history.target_scale
        if explainer.task == "regression":
            if self._probe.drawing and not history.references.maps:
                self._scale = standard_deviation(spread)
            if fitting:
                history.target_scale = self._scale
            found, fresh = found.over(self._scale), None if fresh is None else fresh.over(self._scale)
        record = summary(self.method, found, explainer, strata, self._shares)
        add_importance(self.method, record, found if fresh is None else fresh, explainer.columns)
        if fresh is not None:
            add_passes(self.method, record, fresh)
        if fitting:
            moment = look.number, trainer.global_step, metric
            compared = history.follow(found, self._panel, strata, explainer.columns, moment)
            record.shared |= compared.shared
            record.direct |= compared.direct
            history.keep_importance(look.number, importance_of(self.method, record, explainer.columns))
            self._clock.note(look.number, seconds, elapsed)
            record.shared |= {tags.xai(self.method, what): value for what, value in self._clock.told.items()}
            if look.number == 1:
                self._tell_share(seconds, elapsed)
            self._tell_unusable(found)
        self._draw(record, found, fresh, fitting)
        return record

    @override
    def _memory(self) -> tuple[dict[str, Any], Clock]:
        return self._history.state(), copy.copy(self._clock)

    @override
    def _go_back(self, state: tuple[dict[str, Any], Clock]) -> None:
        history, self._clock = state
        self._history.load(history)
        if not self._history.references.maps:
            # the scale of a regression comes from the draw of the first reference
            self._probe.forget()

    def _draw(self, record: Record, found: Gathered, fresh: Gathered | None, fitting: bool) -> None:
        history = self._history
        references = history.references if fitting else References(found.hashes, found.strata)
        names = [" ".join(name) for name in self._probe.strata.names()]
        shown = self._shown(found, keep=fitting)
        course = history.course if fitting else Course()
        self._gallery.add(record, found, references, course, shown, names)
        if fresh is not None:
            self._gallery.add_average(record, fresh, references)

    def _tell_unusable(self, found: Gathered) -> None:
        """Warn once per run if most explanations are left out of drift: NaN alone would not say why."""
        why = None if self._unusable else unusable(found, self._explainer.ways)
        if why is not None:
            self._unusable = True
            rank_zero_warn(f"AttributionMonitor({self.method!r}): {why}")

    def _tell_share(self, seconds: float, elapsed: float) -> None:
        share = seconds / elapsed if elapsed > 0 else math.nan
        rank_zero_info(
            f"AttributionMonitor({self.method!r}) took {seconds:.2g} s in the first validation: {share:.0%} of the "
            "time since the training began"
        )

    def _shown(self, found: Gathered, *, keep: bool) -> Shown | None:
        """Fix this rank's share of the probe, and choose samples of it for pictures."""
        rows, explanation = self._explained or (None, None)
        if keep:
            self._probe.keep(None if rows is None else rows.take(found.own))
        if rows is None or explanation is None or not len(found.own):
            return None
        return chosen(rows, explanation, found, self._scale, whole=self._probe.provisional)

    @override
    def _end(self, trainer: Trainer) -> None:
        look = self._look
        if look is not None and look.record is not None:
            self._last_step = log_step(trainer, look.started)
            if look.stage == "fit" and look.failure is None:
                self._try("remember this validation", self._history.note, trainer.callback_metrics)
        super()._end(trainer)

    @override
    def _show(self, trainer: Trainer, record: Record, step: int) -> None:
        if not self.pictures:
            record.pictures.clear()
        super()._show(trainer, record, step)

    @override
    def _after_training(self, trainer: Trainer) -> None:
        course = self._history.course
        if not trainer.is_global_zero or len(course.numbers) < 2:
            return
        name = tags.within(self.name, tags.attribution(self.method, "similarity"))
        record = Record(pictures={name: similarities(self.method, course)})
        self._show(trainer, record, self._last_step)
