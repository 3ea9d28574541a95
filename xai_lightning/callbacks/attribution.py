"""What the model looks at, on a fixed probe, and whether that drifts."""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import (
    LightningModule,
    MisconfigurationException,
    Trainer,
    rank_zero_info,
)
from xai_lightning.callbacks._attribution_names import names
from xai_lightning.callbacks._attribution_record import (
    add_importance,
    add_passes,
    check_columns,
    importance_of,
    similarities,
    summary,
)
from xai_lightning.callbacks._baselines import Baselines
from xai_lightning.callbacks._batches import Batches
from xai_lightning.callbacks._course import Course
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._explainer import Explainer
from xai_lightning.callbacks._explanation import Explaining, Explanation
from xai_lightning.callbacks._gallery import Gallery, Shown, Words, chosen
from xai_lightning.callbacks._gathered import Gathered, gather
from xai_lightning.callbacks._history import History
from xai_lightning.callbacks._in_step import check_in_step, check_root, filled
from xai_lightning.callbacks._panel import Panel
from xai_lightning.callbacks._probe import Probe, gallery, standard_deviation
from xai_lightning.callbacks._progress import working
from xai_lightning.callbacks._record import Look, OnError, Record
from xai_lightning.callbacks._references import REFERENCES, References
from xai_lightning.callbacks._regions import Region
from xai_lightning.callbacks._settings import (
    check_arguments,
    check_counts,
    check_references,
    check_sample_size,
    check_share,
    check_shares,
    check_target,
)
from xai_lightning.callbacks._sharded import Steps, is_sharded, refuse_unseen
from xai_lightning.callbacks._timed import TimedMonitor
from xai_lightning.callbacks._trainer import Stage, everywhere, loader_of, log_step, meet, resolve_network, summed
from xai_lightning.callbacks._ways import Target, Ways, resolve_method
from xai_lightning.functional import drift
from xai_lightning.functional.attribution import SMOOTHS, Custom, Passes, Smooth, Task
from xai_lightning.functional.attribution.variables import Where
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Column, GroupSource, Outputs, Reader, Space, Table
from xai_lightning.readers.groups import Declared
from xai_lightning.sinks import Sink

TASKS = ("classification", "multilabel", "segmentation", "regression")
LAYOUTS = ("NCT", "NTC")

_WITHOUT = "leave AttributionMonitor out: ActivationMonitor and FairnessMonitor make no passes of their own"


class AttributionMonitor(TimedMonitor):
    """Explains the same validation samples at every validation, and logs how far the explanations moved.

    The probe is drawn at the first validation: per stratum (class x group) the samples with the smallest seeded hash of
    their own input, which does not depend on order, batching or ranks. Logs
    ``drift/<method>/<measure>/<reference>/{mean,lower,upper,median,p90}``, ``attribution/<method>/sensitive_share`` and
    ``xai/<method>/…`` through ``self.log`` on every rank, equal on all; ``importance/<method>/<feature>`` with its
    interval, from a fresh sample of each validation, and the pictures on rank zero. Each rank explains its own share.
    The cost in passes is said once and logged, ``xai/<method>/{forward_passes,backward_passes}``, in rows over all
    ranks, without the trial on the first batch. Under ``validate`` and ``test`` there is no drift. Definitions:
    `xai_lightning.functional.attribution` and `xai_lightning.functional.drift`.

    Args:
        method: a name from `xai_lightning.functional.attribution.METHODS`, or a callable (or its dotted path), see
            ``attribute`` there.
        features: names of a table's variables: name to a column, columns, or a slice.
        sensitive: names of variables whose share of the attribution is logged.
        proxies: names of variables that stand in for sensitive ones; their share is logged beside.
        groups: as in `FairnessMonitor`; only for the strata of the probe.
        groups_from: likewise.
        reader: how to read a batch, see `xai_lightning.readers.read`.
        network: the submodule to explain; default the LightningModule if it overrides ``forward``, else its only child.
        task: ``"classification"``, ``"multilabel"``, ``"segmentation"`` (targets ``[N, H, W]``) or ``"regression"``.
        target: which class is explained: each sample's ``"label"``, the ``"reference_prediction"`` (made at the first
            validation and kept), the ``"predicted"`` one of each validation, or a number; of a regression with several
            outputs the number of one; of labels or a segmentation always a number.
        baseline: what stands for "absent": a number, one of ``zero``, ``mean``, ``background``, ``blur``, ``uniform``,
            ``pad``, or a tensor that broadcasts to one input (several rows: a background); a list gives one for each
            input. Default: padding for token ids, else 0. See `xai_lightning.functional.attribution.baselines`.
        inputs: names of entries of the batch that are explained beside the first input.
        layer: name of the layer, within the network, of methods that need one.
        smooth: ``"smoothgrad"``, ``"smoothgrad_sq"`` or ``"vargrad"``: average over noisy copies of the input.
        embedding: name of the module that embeds token ids, within the network.
        pad_token: the id of padding.
        special_tokens: further ids that are left out of explanations, and kept in baselines.
        layout: of series: channels first, or time first.
        regions: name to a region whose share of the attribution is logged: edges ``(top, left, bottom, right)`` or
            ``(begin, end)``, a mask, or the name of an entry of the batch that holds a mask for each sample.
        outputs: space of the network's outputs, ``"logits"`` or ``"probabilities"``.
        options: further arguments of captum's ``attribute``, such as ``{"n_steps": 20}``.
        probe: a batch, dataset or loader to explain instead of drawn samples.
        probe_size: how many samples to draw, an equal part from each stratum; default 128, and 32 where a sample has
            10,000 numbers or more.
        sample_size: how many fresh samples to draw at each validation, for the global importance of variables or of
            the places of an image; default half the probe's size; 0: none, importance is then the probe's. Each of
            several processes explains as many, since which are kept is known only once all are put together.
        measures: names from `xai_lightning.functional.drift.MEASURES`, for images also from ``IMAGE_MEASURES``; default
            all.
        references: some of ``"first"``, ``"previous"`` and ``"best"``; default all that can be had.
        best_of: a logged metric and ``"min"`` or ``"max"``: ``best`` is the earlier validation where it was best.
        reference_after: number of the validation that ``first`` means.
        noise_every: of a method that draws, explain by other seeds too at every so many validations, to know its noise.
        every_n_validations: explain at every n-th validation, beginning with the first.
        max_overhead: leave out validations so that explaining and drawing take at most this share of the time; then
            the record depends on the clock.
        log_inputs: whether pictures may show the inputs themselves.
        words: of token ids, for pictures: a callable such as a tokenizer's ``convert_ids_to_tokens``, a list or a dict.
        seed: of the draw and of methods that draw.
        autocast: explain under the Trainer's mixed precision instead of float32.
        dataloader_idx: the validation loader it looks at.
        name: prefix of everything it logs, to tell two alike apart.
        on_error: ``"warn"``, or ``"raise"`` to stop training.
        sinks: further receivers beside the Trainer's loggers.

    Raises:
        ValueError: on an unknown method, option, measure or reference; the nearest is named, the known ones are listed.
        ImportError: if the method needs a package that is not installed.

    Example:
        >>> monitor = AttributionMonitor("saliency", features={"age": 0, "job": slice(1, 9)}, sensitive=["age"])
    """

    def __init__(
        self,
        method: str | Custom = "integrated_gradients",
        *,
        features: Mapping[str, Where] | None = None,
        sensitive: Sequence[str] = (),
        proxies: Sequence[str] = (),
        groups: Mapping[str, Declared] | None = None,
        # jsonargparse tries in this order; a mapping first would take YAML's class_path for an attribute (trap 58)
        groups_from: Column | Table | Mapping[str, GroupSource] | Callable[[Any], Any] | None = None,
        reader: Reader | None = None,
        network: str | None = None,
        task: Task = "classification",
        target: Target = "label",
        baseline: float | str | Tensor | Sequence[Any] | None = None,
        inputs: Sequence[str] = (),
        layer: str | None = None,
        smooth: Smooth | None = None,
        embedding: str | None = None,
        pad_token: int = 0,
        special_tokens: Sequence[int] = (),
        layout: Literal["NCT", "NTC"] = "NCT",
        regions: Mapping[str, Region] | None = None,
        outputs: Space = "logits",
        options: Mapping[str, Any] | None = None,
        probe: Any = None,
        probe_size: int | None = None,
        sample_size: int | None = None,
        measures: Sequence[str] | None = None,
        references: Sequence[str] | None = None,
        best_of: tuple[str, str] | None = None,
        reference_after: int = 1,
        noise_every: int = 5,
        every_n_validations: int = 1,
        max_overhead: float | None = None,
        log_inputs: bool = True,
        words: Words | None = None,
        seed: int = 0,
        autocast: bool = False,
        dataloader_idx: int = 0,
        name: str = "",
        on_error: OnError = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
        check_arguments(locals())
        options = dict(options or {})
        ways = Ways(
            resolve_method(method, options, smooth),
            options=options,
            task=choose("task", task, TASKS),
            outputs=Outputs.of(choose("output space", outputs, ("logits", "probabilities")), None),
            target=check_target(target),
            baseline=baseline,
            features=features,
            inputs=inputs,
            layer=layer,
            smooth=smooth if smooth is None else choose("smooth", smooth, SMOOTHS),
            embedding=embedding,
            pad_token=pad_token,
            special_tokens=special_tokens,
            time_first=choose("layout", layout, LAYOUTS) == "NTC",
            regions=regions or {},
            seed=seed,
            autocast=autocast,
        )
        Baselines(ways).check()
        self._explainer = Explainer(ways)
        self.method = ways.label
        identity: dict[str, object] = {"method": self.method, "options": options, "target": target, "seed": seed}
        identity |= {"baseline": baseline, "network": network, "layer": layer, "embedding": embedding}
        common: Any = {"name": name, "dataloader_idx": dataloader_idx, "on_error": on_error, "sinks": sinks}
        super().__init__(self.method, identity, check_share(max_overhead), **common)
        check_counts(reference_after=reference_after, every_n_validations=every_n_validations, noise_every=noise_every)
        check_counts(**({} if probe_size is None else {"probe_size": probe_size}))
        known = (*drift.MEASURES, *drift.IMAGE_MEASURES)
        self.measures = None if measures is None else [choose("measure", measure, known) for measure in measures]
        self.references = check_references(references, best_of, REFERENCES)
        self.best_of, self.noise_every = best_of, noise_every
        self._shares = check_shares(features, sensitive_share=sensitive, proxy_share=proxies)
        self.network, self.reference_after, self.seed = network, reference_after, seed
        self.every_n_validations, self._sample_size = every_n_validations, check_sample_size(sample_size)
        batches = Batches(reader, groups or {}, groups_from, "unknown")
        self._probe = Probe(batches, self._explainer, size=probe_size, given=probe, seed=seed)
        self._explained: tuple[Rows, Explanation] | None = None
        self._sampled: tuple[Rows, Explanation] | None = None
        self._rehearsal: list[Rows] = []
        self._steps: Steps | None = None
        self._padding: Rows | None = None
        self._history, self._learned = History(self.method, best_of, reference_after), False
        self._learned_of: weakref.ref[nn.Module] | None = None
        self._last_step, self._scale = 0, 1.0
        self._gallery = Gallery(self.method, self._explainer, shares=self._shares, log_inputs=log_inputs, words=words)

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
            seed=self.seed,
        )

    @override
    def _save(self) -> dict[str, Any]:
        return {**self._history.state(), "clock": self._clock.state(), "last_step": self._last_step}

    @override
    def _load(self, state: Mapping[str, Any]) -> None:
        self._history.load(state)
        self._clock.load(state["clock"])
        self._last_step = int(state.get("last_step", 0))

    def __getstate__(self) -> dict[str, Any]:
        passing = dict.fromkeys(("_explained", "_sampled", "_learned_of", "_steps", "_padding"))
        return {**super().__getstate__(), **passing, "_rehearsal": []}

    @override
    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_unseen(trainer, f"AttributionMonitor({self.method!r})", _WITHOUT)
        self._steps = Steps(trainer) if is_sharded(trainer) else None
        if self._steps is not None:
            check_in_step(self._explainer.ways)
        self._explainer.check(resolve_network(pl_module, self.network))
        if Baselines(self._explainer.ways).from_data and trainer.world_size > 1:
            raise MisconfigurationException(
                f"baseline={self._explainer.ways.baseline!r} is taken from the data that one process sees, which would "
                f"differ among {trainer.world_size} processes; give it as a tensor"
            )
        self._probe.forget()
        if self._learned_of is None or self._learned_of() is not resolve_network(pl_module, self.network):
            # the first batch of another network is learnt, and may fail, anew
            self._learned = self._proved = False
        cost = self._explainer.fixed_cost()
        if cost is not None and self._probe.strata.fitted and not self._learned:
            self._tell_cost(cost, self._probe.beside(self._sample_size))

    def _tell_cost(self, cost: Passes, fresh: int) -> None:
        probe = self._probe.size
        count, beside = probe + fresh, f" and {fresh} fresh ones" if fresh else ""
        rank_zero_info(
            f"AttributionMonitor({self.method!r}) explains about {probe} samples{beside} at each validation, with at "
            f"most {count * cost.forward:,} forward and {count * cost.backward:,} backward passes "
            f"({cost.forward} and {cost.backward} per sample)"
        )

    @override
    def _due(self) -> bool:
        return (self._number - 1) % self.every_n_validations == 0 and self._clock.due(self._number)

    @override
    def _open(self, trainer: Trainer, look: Look) -> None:
        self._explained = self._sampled = None
        loader = loader_of(trainer, self.dataloader_idx)
        self._probe.open(loader, look.number, draw=not look.sanity, anew=look.stage != "fit")

    @override
    def _before(self, pl_module: LightningModule, batch: Any) -> None:
        # before the user's step: a network that writes into its input would leave another one
        if not self._learned:
            self._learn(pl_module, batch)
        look = self._look
        if look is not None and look.batches == 0 and self._steps is not None:
            self._padding = self._probe.first(batch)
        if look is not None and look.batches == 0 and (look.sanity or not self._proved):
            given = self._probe.first_given(pl_module.trainer)
            self._rehearsal = [self._probe.first(batch), *([] if given is None else [given])]
        self._probe.see(batch)

    @override
    def _after(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        # what cannot work fails now (law 8); after the user's step, as that may spoil every explanation (trap 2)
        rehearsed, self._rehearsal = self._rehearsal, []
        if rehearsed:
            self._in_step(pl_module, lambda: [self._explain(pl_module, rows, gallery(1)) for rows in rehearsed])

    def _learn(self, pl_module: LightningModule, batch: Any) -> None:
        explainer, sample = self._explainer, self._probe.batches.sample(batch)
        if self._steps is not None:
            check_root(pl_module, resolve_network(pl_module, self.network))
        explainer.learn(pl_module, resolve_network(pl_module, self.network), sample)
        if self._steps is not None:
            # what fits is not found out by trying: a pass that fails cannot be made again
            explainer.at_once = min(explainer.at_once, explainer.numbers * len(sample))
        check_columns(explainer, self._shares, sample)
        told = self._probe.strata.fitted and explainer.fixed_cost() is not None
        self._probe.fit(self._sample_size)
        self._learned, self._learned_of = True, weakref.ref(resolve_network(pl_module, self.network))
        cost = explainer.cost()
        if cost is not None and not told:
            self._tell_cost(cost, self._probe.fresh.size)

    @override
    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_step(pl_module, lambda: self._explain_all(trainer, pl_module))

    @override
    def _sit_out(self, pl_module: LightningModule) -> None:
        if self._steps is not None:
            self._steps.sit_out(pl_module)

    def _in_step(self, pl_module: LightningModule, action: Callable[[], Any]) -> None:
        if self._steps is None:
            action()
        else:
            self._steps.together(pl_module, action)

    def _explain_all(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._probe.take_given(trainer)
        rows, fresh = self._probe.rows(), self._probe.fresh.rows()
        # which candidates stay is known only after the exchange with other ranks
        shown = torch.arange if self._probe.drawing else gallery
        self._explained = self._explain_share(pl_module, rows, shown, probe=True)
        known = None if fresh is None else self._probe.fresh.known(fresh)
        sampled = self._explain_share(pl_module, known, lambda n: gallery(0))
        self._sampled = None if fresh is None or sampled is None else (fresh, sampled[1])

    def _explain_share(
        self, pl_module: LightningModule, rows: Rows | None, shown: Callable[[int], Tensor], *, probe: bool = False
    ) -> tuple[Rows, Explanation] | None:
        """Explain this rank's rows, and of a sharded model as much padding as brings it in step with the others."""
        every = rows if self._steps is None else filled(self._steps, self._explainer, rows, self._padding)
        if every is None:
            return None
        own = 0 if rows is None else len(rows.hashes)
        found = self._explain(pl_module, every, shown(own), probe=probe)
        return None if rows is None else (rows, found.first(own))

    def _explain(self, pl_module: LightningModule, rows: Rows, shown: Tensor, *, probe: bool = False) -> Explanation:
        ways, look = self._explainer.ways, self._look
        frozen = self._history.references.classes(rows.hashes, ways.target)
        fitting = look is not None and look.stage == "fit"
        again = probe and ways.draws and look is not None and fitting and self._replicates(look.number)
        network = resolve_network(pl_module, self.network)
        explaining = Explaining(self._explainer, pl_module, network, self._steps)
        cost = self._explainer.cost()
        total = None if cost is None else len(rows.hashes) * cost.forward * (1 + again)
        with working(pl_module.trainer, f"{self.method}: explaining", total):
            return explaining.explain(rows, shown, seen=self._probe.seen, frozen=frozen, replicate=again)

    def _replicates(self, number: int) -> bool:
        """Whether the noise is looked at: with the reference, and at every so many explained validations."""
        history = self._history
        return history.course.count % self.noise_every == 0 or history.begins(number)

    @override
    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        self._share_learnt(trainer)
        strata, sampled = self._probe.strata, self._sampled
        strata.n_classes = int(summed(trainer, torch.tensor(strata.n_classes), "max"))
        spread = everywhere(trainer, self._probe.spread)
        capacity = int(summed(trainer, torch.tensor(len(self._explained[0].hashes) if self._explained else 0), "max"))
        size = int(summed(trainer, torch.tensor(self._probe.fresh.size), "max"))
        room = int(summed(trainer, torch.tensor(len(sampled[0].hashes) if sampled else 0), "max"))
        # one rank's clock and metric are every rank's
        own = [*self._clock.read(), math.nan if self._history.metric is None else self._history.metric]
        told = everywhere(trainer, torch.tensor(own, dtype=torch.float64))[0].tolist()
        found = gather(trainer, self._explained, capacity, self._probe.quota, pooled=strata.pooled)
        return spread, found, gather(trainer, sampled, room, size) if size else None, told

    def _share_learnt(self, trainer: Trainer) -> None:
        """A rank that saw no batch learns from one that did what is logged and how much is explained."""
        knows = everywhere(trainer, torch.tensor(int(self._learned))).flatten().bool()
        if bool(knows.all()) or not bool(knows.any()):
            return
        teacher = int(knows.nonzero()[0])
        meet(trainer)
        learnt: Any = trainer.strategy.broadcast(self._explainer.learnt() if self._learned else None, src=teacher)
        if not self._learned:
            self._explainer.take_up(learnt)
            self._probe.fit(self._sample_size)
            self._learned = True

    @override
    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        spread, found, fresh, (seconds, elapsed, metric) = gathered
        if len(found.hashes) == 0:
            raise ValueError(f"no sample of loader {self.dataloader_idx} was read in this validation")
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
        self._draw(record, found, fresh, fitting)
        return record

    def _draw(self, record: Record, found: Gathered, fresh: Gathered | None, fitting: bool) -> None:
        history = self._history
        references = history.references if fitting else References(found.hashes, found.strata)
        names = [" ".join(name) for name in self._probe.strata.names()]
        shown = self._shown(found, keep=fitting)
        course = history.course if fitting else Course()
        self._gallery.add(record, found, references, course, shown, names)
        if fresh is not None:
            self._gallery.add_average(record, fresh, references)

    def _tell_share(self, seconds: float, elapsed: float) -> None:
        share = seconds / elapsed if elapsed > 0 else math.nan
        rank_zero_info(
            f"AttributionMonitor({self.method!r}) took {seconds:.2g} s in the first validation: {share:.0%} of the "
            "time since the training began"
        )

    def _shown(self, found: Gathered, *, keep: bool) -> Shown | None:
        """Settle this rank's share of the probe, and choose some of it to be drawn."""
        if self._explained is None:
            return None
        rows, explanation = self._explained
        drawing = self._probe.drawing
        kept = self._probe.settle(rows, found.hashes, keep=keep)
        return chosen(rows, explanation, kept, found, drawing, self._scale) if len(kept) else None

    @override
    def _end(self, trainer: Trainer) -> None:
        look = self._look
        if look is not None and look.record is not None:
            self._last_step = log_step(trainer, look.started)
            if look.stage == "fit" and look.failure is None:
                self._try("remember this validation", self._history.note, trainer.callback_metrics)
        super()._end(trainer)

    @override
    def _after_training(self, trainer: Trainer) -> None:
        course = self._history.course
        if not trainer.is_global_zero or len(course.numbers) < 2:
            return
        name = tags.within(self.name, tags.attribution(self.method, "similarity"))
        record = Record(pictures={name: similarities(self.method, course)})
        self._show(trainer, record, self._last_step)
