"""What the model looks at, on a fixed probe, and whether that drifts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import (
    LightningModule,
    MisconfigurationException,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from xai_lightning.callbacks._attribution_record import bars, grid, summary
from xai_lightning.callbacks._baselines import Baselines
from xai_lightning.callbacks._batches import Batches
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._explainer import Explainer, Explanation, Target, Ways, resolve_method
from xai_lightning.callbacks._gathered import Gathered, gather
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._probe import Probe, gallery, standard_deviation
from xai_lightning.callbacks._record import Look, OnError, Record
from xai_lightning.callbacks._references import REFERENCES, References
from xai_lightning.callbacks._regions import Region
from xai_lightning.callbacks._settings import check_counts, check_target
from xai_lightning.callbacks._trainer import Stage, everywhere, loader_of, resolve_network, summed
from xai_lightning.functional import drift
from xai_lightning.functional.attribution import SMOOTHS, Custom, Passes, Smooth, Task
from xai_lightning.functional.attribution.variables import Where
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Column, GroupSource, Outputs, Reader, Space, Table
from xai_lightning.readers.groups import Declared
from xai_lightning.sinks import Sink

TASKS = ("classification", "multilabel", "segmentation", "regression")
LAYOUTS = ("NCT", "NTC")


class AttributionMonitor(Monitor):
    """Explains the same validation samples at every validation, and logs how far the explanations moved.

    The probe is drawn at the first validation: per stratum (class x group) the samples with the smallest seeded hash of
    their own input, which does not depend on order, batching or ranks. Logs
    ``drift/<method>/<measure>/<reference>/{mean,lower,upper,median,p90}``, ``attribution/<method>/sensitive_share`` and
    ``xai/<method>/…`` through ``self.log`` on every rank, equal on all; ``importance/<method>/<feature>`` and the
    pictures on rank zero. Each rank explains its own share. The cost in passes is said once and logged. Under
    ``validate`` and ``test`` there is no drift. Definitions: `xai_lightning.functional.attribution` and
    `xai_lightning.functional.drift`.

    Args:
        method: a name from `xai_lightning.functional.attribution.METHODS`, or a callable (or its dotted path), see
            ``attribute`` there.
        features: names of a table's variables: name to a column, columns, or a slice.
        sensitive: names of variables whose share of the attribution is logged.
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
        probe_size: how many samples to draw; at least 8 per stratum where the data have them.
        measures: names from `xai_lightning.functional.drift.MEASURES`.
        references: ``"first"``, ``"previous"`` or both.
        reference_after: number of the validation that ``first`` means.
        every_n_validations: explain at every n-th validation, beginning with the first.
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
        probe_size: int = 128,
        measures: Sequence[str] = tuple(drift.MEASURES),
        references: Sequence[str] = REFERENCES,
        reference_after: int = 1,
        every_n_validations: int = 1,
        seed: int = 0,
        autocast: bool = False,
        dataloader_idx: int = 0,
        name: str = "",
        on_error: OnError = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
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
        self.method = self._explainer.label
        identity: dict[str, object] = {"method": self.method, "options": options, "target": target, "seed": seed}
        identity |= {"baseline": baseline, "network": network, "layer": layer, "embedding": embedding}
        common: Any = {"name": name, "dataloader_idx": dataloader_idx, "on_error": on_error, "sinks": sinks}
        super().__init__(self.method, identity, **common)
        check_counts(probe_size=probe_size, reference_after=reference_after, every_n_validations=every_n_validations)
        self.measures = [choose("measure", measure, drift.MEASURES) for measure in measures]
        self.references = [choose("reference", reference, REFERENCES) for reference in references]
        self.sensitive = [choose("feature", s, features) if features else s for s in sensitive]
        self.network, self.reference_after, self.seed = network, reference_after, seed
        self.every_n_validations = every_n_validations
        batches = Batches(reader, groups or {}, groups_from, "unknown")
        self._probe = Probe(batches, self._explainer, size=probe_size, given=probe, seed=seed)
        self._explained: tuple[Rows, Explanation] | None = None
        self._rehearsal: list[Rows] = []
        self._references, self._scale, self._learned = References(), 1.0, False

    @override
    def logged_names(self, stage: Stage = "fit") -> tuple[list[str], list[str]]:
        shared = [tags.xai(self.method, what) for what in ("forward_passes", "backward_passes", "probe_size")]
        shared += [tags.xai(self.method, what) for what in ("zero_maps", "nonfinite_maps")]
        if self._explainer.complete:
            shared += [tags.xai(self.method, what) for what in ("completeness_error", "incomplete_maps")]
        shared += [tags.region(self.method, name) for name in self._explainer.regions.names]
        if self.sensitive:
            shared.append(tags.attribution(self.method, "sensitive_share"))
        if stage == "fit":
            parts = [(m, r, p) for m in self.measures for r in self.references for p in tags.DRIFT_PARTS]
            shared += [tags.drift(self.method, *part) for part in parts]
        direct = [tags.importance(self.method, name) for name in self._explainer.columns.names]
        direct += [tags.xai(self.method, "colour_scale")] if self._explainer.pictured else []
        return shared, direct + [tags.xai(self.method, "probe", *name) for name in self._probe.strata.names()]

    @override
    def _save(self) -> dict[str, Any]:
        return {"references": self._references.state(), "target_scale": self._scale}

    @override
    def _load(self, state: Mapping[str, Any]) -> None:
        self._references, self._scale = References.of(state["references"]), float(state["target_scale"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_explained": None, "_rehearsal": []}

    @override
    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._explainer.check(resolve_network(pl_module, self.network))
        if Baselines(self._explainer.ways).from_data and trainer.world_size > 1:
            raise MisconfigurationException(
                f"baseline={self._explainer.ways.baseline!r} is taken from the data that one process sees, which would "
                f"differ among {trainer.world_size} processes; give it as a tensor"
            )
        self._probe.forget()
        cost = self._explainer.fixed_cost()
        if cost is not None and not self._learned:
            self._tell_cost(cost)

    def _tell_cost(self, cost: Passes) -> None:
        rank_zero_info(
            f"AttributionMonitor({self.method!r}) explains about {self._probe.strata.size} samples at each validation, "
            f"with {cost.forward} forward and {cost.backward} backward passes per sample"
        )

    @override
    def _due(self) -> bool:
        return (self._number - 1) % self.every_n_validations == 0

    @override
    def _open(self, trainer: Trainer, look: Look) -> None:
        self._explained = None
        loader = loader_of(trainer, self.dataloader_idx)
        self._probe.open(loader, draw=not look.sanity, fresh=look.stage != "fit")

    @override
    def _before(self, pl_module: LightningModule, batch: Any) -> None:
        # before the user's step: a network that writes into its input would leave another one
        if not self._learned:
            self._learn(pl_module, batch)
        look = self._look
        if look is not None and look.batches == 0 and (look.sanity or not self._proved):
            given = self._probe.first_given(pl_module.trainer)
            self._rehearsal = [self._probe.first(batch), *([] if given is None else [given])]
        self._probe.see(batch)

    @override
    def _after(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        # what cannot work fails now (law 8); after the user's step, as that may spoil every explanation (trap 2)
        for rows in self._rehearsal:
            self._explain(pl_module, rows, gallery(1))
        self._rehearsal = []

    def _learn(self, pl_module: LightningModule, batch: Any) -> None:
        explainer, sample = self._explainer, self._probe.batches.sample(batch)
        explainer.learn(pl_module, resolve_network(pl_module, self.network), sample)
        if self.sensitive and not explainer.columns.names:
            shape = list(sample.inputs.shape)
            raise ValueError(
                f"sensitive={self.sensitive} needs a table of variables [N, D], or a series; inputs are {shape}"
            )
        explainer.columns.of(self.sensitive)
        self._probe.strata.n_classes = explainer.n_classes
        self._learned = True
        cost = explainer.cost()
        if cost is not None and explainer.fixed_cost() is None:
            self._tell_cost(cost)

    @override
    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._probe.take_given(trainer)
        rows = self._probe.rows()
        if rows is not None:
            # which candidates stay is known only after the exchange with other ranks
            n = len(rows.hashes)
            self._explained = (
                rows,
                self._explain(pl_module, rows, torch.arange(n) if self._probe.drawing else gallery(n)),
            )

    def _explain(self, pl_module: LightningModule, rows: Rows, shown: Tensor) -> Explanation:
        network = resolve_network(pl_module, self.network)
        seen, frozen = self._probe.seen, self._references.classes(rows.hashes, self._explainer.ways.target)
        return self._explainer.explain(pl_module, network, rows, shown, seen=seen, frozen=frozen)

    @override
    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        strata = self._probe.strata
        strata.n_classes = int(summed(trainer, torch.tensor(strata.n_classes), "max"))
        spread = everywhere(trainer, self._probe.spread)
        capacity = int(summed(trainer, torch.tensor(len(self._explained[0].hashes) if self._explained else 0), "max"))
        return spread, gather(trainer, self._explained, capacity, self._probe.quota)

    @override
    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        spread, found = gathered
        if len(found.hashes) == 0:
            raise ValueError(f"no sample of loader {self.dataloader_idx} was read in this validation")
        references = self._references if look.stage == "fit" else References(found.hashes, found.strata)
        if self._explainer.task == "regression":
            if self._probe.drawing and not references.maps:
                self._scale = standard_deviation(spread)
            found = found._replace(columns={**found.columns, "maps": found.columns["maps"] / self._scale})
        record = summary(self.method, found, self._explainer, self._probe.strata, self.sensitive)
        if look.stage == "fit":
            references = self._take_up_references(found)
            self._add_drift(record, found, look.number)
        self._add_bars(record, found, references)
        self._add_grid(record, found, references, look)
        if look.stage == "fit":
            references.keep("previous", found.maps, found.incomplete)
        return record

    def _take_up_references(self, found: Gathered) -> References:
        """The references, unless they are of other samples: then new ones."""
        if not self._references.same_probe(found.hashes, found.strata):
            if self._references.maps:
                rank_zero_warn(
                    f"AttributionMonitor({self.method!r}): the validation data changed since the references were made "
                    "(other samples are drawn for the probe); drift starts anew"
                )
            self._references = References(found.hashes, found.strata)
        return self._references

    def _add_drift(self, record: Record, found: Gathered, number: int) -> None:
        references = self._references
        references.freeze(found.columns["targets"])
        if "first" not in references.maps and number >= self.reference_after:
            references.keep("first", found.maps, found.incomplete)
        # names are fixed from the second validation on, also where a failure left nothing to compare with (law 4)
        wanted = [name for name in self.references if name in references.maps or (name == "previous" and number > 1)]
        now = found.maps.masked_fill(found.incomplete[:, None], float("nan"))
        record.shared |= references.distances(self.method, now, self.measures, wanted, self.seed)

    def _add_bars(self, record: Record, found: Gathered, references: References) -> None:
        columns = self._explainer.columns
        if columns.names:
            draw = bars(self.method, columns, found.maps, references.maps.get("first"), self.sensitive)
            record.pictures[tags.attribution(self.method, "importance")] = draw

    def _add_grid(self, record: Record, found: Gathered, references: References, look: Look) -> None:
        """Settle this rank's share of the probe, and draw some of it if it holds images."""
        if self._explained is None:
            return
        rows, explanation = self._explained
        kept = self._probe.settle(rows, found.hashes, keep=look.stage == "fit")
        shown = kept[gallery(len(kept))]
        if not explanation.shown.numel() or not len(shown):
            return
        maps = (explanation.shown[shown] if self._probe.drawing else explanation.shown) / self._scale
        references.show(maps)
        names = self._probe.strata.names()
        labels = [" ".join(names[int(stratum)]) for stratum in rows.strata[shown]]
        record.direct[tags.xai(self.method, "colour_scale")] = references.scale
        draw = grid(rows.inputs[shown], references.shown, maps, labels, references.scale)
        record.pictures[tags.attribution(self.method, "maps")] = draw
