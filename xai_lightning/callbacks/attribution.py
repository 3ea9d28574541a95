"""What the model looks at, on a fixed probe, and whether that drifts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, Trainer, rank_zero_info, rank_zero_warn
from xai_lightning.callbacks._attribution_record import bars, grid, summary
from xai_lightning.callbacks._batches import Batches
from xai_lightning.callbacks._explainer import Explainer, Explanation
from xai_lightning.callbacks._gathered import Gathered, gather
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._probe import Candidates, Rows
from xai_lightning.callbacks._record import Look, OnError, Record
from xai_lightning.callbacks._references import REFERENCES, References
from xai_lightning.callbacks._strata import Strata
from xai_lightning.callbacks._trainer import Stage, loader_of, resolve_network
from xai_lightning.functional import drift
from xai_lightning.functional.attribution import Custom, Task, check_method
from xai_lightning.functional.attribution.variables import Where
from xai_lightning.functional.rng import isolated
from xai_lightning.functional.tables import choose
from xai_lightning.readers import GroupSource, Outputs, Reader, Space
from xai_lightning.readers.groups import Declared
from xai_lightning.sinks import Sink

SHOWN = 8
EVERY = 2**31


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
        method: a name from `xai_lightning.functional.attribution.METHODS`, or a callable, see ``attribute`` there.
        features: names of a table's variables: name to a column, columns, or a slice.
        sensitive: names of variables whose share of the attribution is logged.
        groups: as in `FairnessMonitor`; only for the strata of the probe.
        groups_from: likewise.
        reader: how to read a batch, see `xai_lightning.readers.read`.
        network: the submodule to explain; default the LightningModule if it overrides ``forward``, else its only child.
        task: ``"classification"`` or ``"regression"``.
        target: ``"label"``, or the number of a class that is explained for every sample.
        baseline: what stands for "absent": a number, or a tensor like one input (several rows: the background of
            ``gradient_shap``).
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
        undeclared: as in `FairnessMonitor`.
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
        groups_from: Mapping[str, GroupSource] | GroupSource | None = None,
        reader: Reader | None = None,
        network: str | None = None,
        task: Task = "classification",
        target: Literal["label"] | int = "label",
        baseline: float | Tensor = 0.0,
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
        undeclared: Literal["error", "unknown"] = "error",
        dataloader_idx: int = 0,
        name: str = "",
        on_error: OnError = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
        options = dict(options or {})
        if isinstance(method, str):
            check_method(method, options)
        self._explainer = Explainer(
            method,
            options=options,
            task=choose("task", task, ("classification", "regression")),
            outputs=Outputs.of(choose("output space", outputs, ("logits", "probabilities")), None),
            baseline=baseline,
            features=features,
            seed=seed,
            autocast=autocast,
        )
        self.method = self._explainer.label
        identity = {"method": self.method, "options": options, "target": target, "baseline": baseline, "seed": seed}
        super().__init__(
            self.method, identity, name=name, dataloader_idx=dataloader_idx, on_error=on_error, sinks=sinks
        )
        _check_numbers(probe_size=probe_size, reference_after=reference_after, every_n_validations=every_n_validations)
        self.measures = [choose("measure", measure, drift.MEASURES) for measure in measures]
        self.references = [choose("reference", reference, REFERENCES) for reference in references]
        self.sensitive = [choose("feature", s, features) if features else s for s in sensitive]
        self.network, self.target, self.probe, self.probe_size = network, target, probe, probe_size
        self.reference_after, self.every_n_validations, self.seed = reference_after, every_n_validations, seed
        self._batches = Batches(reader, groups or {}, groups_from, undeclared)
        self._strata = Strata(self._batches.vocabularies, task, probe_size)
        self._candidates: Candidates | None = None
        self._rows: Rows | None = None
        self._mine: tuple[Rows, Explanation] | None = None
        self._shown: tuple[Rows, Tensor] | None = None
        self._references = References()
        self._spread = torch.zeros(3, dtype=torch.float64)
        self._scale = 1.0
        self._learned = False

    @override
    def logged_names(self, stage: Stage = "fit") -> tuple[list[str], list[str]]:
        shared = [tags.xai(self.method, what) for what in ("forward_passes", "backward_passes", "probe_size")]
        shared += [tags.xai(self.method, what) for what in ("zero_maps", "nonfinite_maps")]
        if self._explainer.spec is not None and self._explainer.spec.complete:
            shared.append(tags.xai(self.method, "completeness_error"))
        if self.sensitive:
            shared.append(tags.attribution(self.method, "sensitive_share"))
        if stage == "fit":
            parts = [(m, r, p) for m in self.measures for r in self.references for p in tags.DRIFT_PARTS]
            shared += [tags.drift(self.method, *part) for part in parts]
        variables = self._explainer.variables
        direct = [tags.importance(self.method, feature) for feature in (variables.names if variables else ())]
        return shared, direct + [tags.xai(self.method, "probe", *name) for name in self._strata.names()]

    # --- state

    @override
    def _save(self) -> dict[str, Any]:
        return {"references": self._references.state(), "target_scale": self._scale}

    @override
    def _load(self, state: Mapping[str, Any]) -> None:
        self._references = References.of(state["references"])
        self._scale = float(state["target_scale"])

    # --- one validation

    @override
    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        resolve_network(pl_module, self.network)

    @override
    def _due(self) -> bool:
        return (self._number - 1) % self.every_n_validations == 0

    @override
    def _open(self, trainer: Trainer, look: Look) -> None:
        self._mine = self._shown = None
        self._batches.open(loader_of(trainer, self.dataloader_idx))
        keeps_probe = look.stage == "fit" and self._rows is not None
        self._candidates = None if keeps_probe or look.sanity else Candidates(0, self.seed)
        self._spread = torch.zeros(3, dtype=torch.float64)

    @override
    def _after(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        if not self._learned:
            self._learn(trainer, pl_module, batch)
        look = self._look
        if look is not None and look.batches == 0 and (look.sanity or not self._proved):
            self._rehearse(pl_module, batch)
        if self._candidates is not None and self.probe is None:
            self._collect(self._candidates, batch)

    def _learn(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        explainer = self._explainer
        sample = self._batches.sample(batch)
        explainer.learn(pl_module, resolve_network(pl_module, self.network), sample)
        if self.sensitive:
            if explainer.variables is None:
                raise ValueError(
                    f"sensitive={self.sensitive} needs a table of variables; inputs are {list(sample.inputs.shape)}"
                )
            explainer.variables.indices(self.sensitive)
        self._strata.n_classes = explainer.n_classes
        self._learned = True
        variables = explainer.blocks.number if explainer.blocks else 0
        cost = explainer.cost(variables, tuple(sample.inputs.shape[1:]))
        if cost is not None:
            rank_zero_info(
                f"AttributionMonitor({self.method!r}) explains up to "
                f"{self._strata.quota * len(self._strata.names())} samples at each validation, "
                f"with {cost.forward} forward and {cost.backward} backward passes per sample"
            )

    def _rehearse(self, pl_module: LightningModule, batch: Any) -> None:
        """Explain one sample of the first batch, so that what cannot work fails now (law 8)."""
        sample = self._batches.sample(batch)
        rehearsal = Candidates(1, self.seed)
        self._offer(rehearsal, sample, torch.zeros(len(sample), dtype=torch.int64), torch.arange(len(sample)) == 0)
        if rehearsal.rows is not None:
            self._explain(pl_module, rehearsal.rows, torch.zeros(1, dtype=torch.int64))

    def _collect(self, candidates: Candidates, batch: Any) -> None:
        reading = self._batches.read(batch)
        candidates.quota = self._strata.quota
        targets = self._offer(candidates, reading.sample, self._strata.of(reading.sample, reading.groups), reading.real)
        if self._explainer.task == "regression":
            real = targets[reading.real.to(targets.device)].double().cpu()
            self._spread += torch.stack([torch.tensor(float(len(real))).double(), real.sum(), real.square().sum()])

    def _offer(self, candidates: Candidates, sample: Any, strata: Tensor, real: Tensor) -> Tensor:
        targets = self._explainer.targets(sample, None if self.target == "label" else int(self.target))
        candidates.offer(sample.inputs, targets, strata, self._explainer.extras(sample), real)
        return targets

    @override
    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._candidates is not None and self.probe is not None:
            self._collect_given(trainer, pl_module, self._candidates)
        rows = self._rows if self._candidates is None else self._candidates.rows
        if rows is not None and len(rows.hashes):
            # which candidates stay is known only after the exchange with other ranks
            shown = torch.arange(len(rows.hashes)) if self._candidates is not None else _gallery(len(rows.hashes))
            self._mine = (rows, self._explain(pl_module, rows, shown))

    def _collect_given(self, trainer: Trainer, pl_module: LightningModule, candidates: Candidates) -> None:
        """Every sample of the probe that the user gave; each rank takes its share."""
        given = self.probe
        if isinstance(given, Dataset):
            given = DataLoader(given, batch_size=64)
        batches = given if isinstance(given, DataLoader) else [given]
        reader = Batches(self._batches.reader, {}, None, "error")
        candidates.quota = EVERY
        with isolated():
            for batch in batches:
                sample = reader.sample(batch)
                if not self._learned:
                    self._learn(trainer, pl_module, batch)
                mine = torch.arange(len(sample)) % trainer.world_size == trainer.global_rank
                self._offer(candidates, sample, self._strata.of(sample, {}), mine)

    def _explain(self, pl_module: LightningModule, rows: Rows, shown: Tensor) -> Explanation:
        network = resolve_network(pl_module, self.network)
        try:
            return self._explainer.explain(pl_module, network, rows, shown)
        except RuntimeError as error:
            if "Inference tensors cannot be saved" not in str(error):
                raise
            raise RuntimeError(
                "the network keeps tensors that it made in inference mode (a cached table, say), so nothing can be "
                "differentiated through it; use Trainer(inference_mode=False)"
            ) from error

    @override
    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        reduce = trainer.strategy.reduce
        known = torch.tensor(self._strata.n_classes, device=pl_module.device)
        self._strata.n_classes = int(reduce(known, reduce_op="max"))
        spread = reduce(self._spread.clone().to(pl_module.device), reduce_op="sum").cpu()
        held = torch.tensor(len(self._mine[0].hashes) if self._mine else 0, device=pl_module.device)
        capacity = int(reduce(held, reduce_op="max"))
        quota = self._strata.quota if self.probe is None else EVERY
        return spread, gather(trainer, pl_module, self._mine, capacity, quota)

    @override
    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        spread, found = gathered
        if len(found.hashes) == 0:
            raise ValueError("no sample was read in this validation")
        if self._explainer.task == "regression":
            if self._candidates is not None and not (look.stage == "fit" and self._references.maps):
                self._scale = _standard_deviation(spread)
            found = found._replace(maps=found.maps / self._scale)
        self._settle(found, look)
        record = summary(self.method, found, self._explainer, self._strata, self.sensitive)
        if look.stage == "fit":
            self._take_up_references(found)
            self._add_drift(record, found, look.number)
        self._add_pictures(record, found)
        if look.stage == "fit":
            self._references.maps["previous"] = found.maps
        return record

    def _settle(self, found: Gathered, look: Look) -> None:
        """This rank keeps its share of the probe, and of that what is drawn."""
        if self._mine is None:
            return
        rows, explanation = self._mine
        shown = explanation.shown
        if self._candidates is not None:
            kept = torch.isin(rows.hashes, found.hashes).nonzero().flatten()
            rows, shown = rows.take(kept), shown[kept[_gallery(len(kept))]] if shown.numel() else shown
            self._rows = rows if look.stage == "fit" else self._rows
        if shown.numel():
            self._shown = (rows.take(_gallery(len(rows.hashes))), shown)

    def _take_up_references(self, found: Gathered) -> None:
        """References of other samples are given up."""
        references = self._references
        if not references.same_probe(found.hashes, found.strata):
            if references.maps:
                rank_zero_warn(
                    f"AttributionMonitor({self.method!r}): the validation data changed since the references were "
                    f"made (other "
                    "samples are drawn for the probe); drift starts anew"
                )
            self._references = References(found.hashes, found.strata)

    def _add_drift(self, record: Record, found: Gathered, number: int) -> None:
        references = self._references
        if "first" not in references.maps and number >= self.reference_after:
            references.maps["first"] = found.maps
        record.shared |= references.distances(self.method, found.maps, self.measures, self.references, self.seed)

    def _add_pictures(self, record: Record, found: Gathered) -> None:
        variables, references = self._explainer.variables, self._references
        if variables is not None and variables.names:
            draw = bars(self.method, variables, found.maps, references.maps.get("first"), self.sensitive)
            record.pictures[tags.attribution(self.method, "importance")] = draw
        if self._shown is None:
            return
        rows, maps = self._shown
        references.show(maps / self._scale)
        labels = [" ".join(self._strata.names()[int(stratum)]) for stratum in rows.strata]
        record.direct[tags.xai(self.method, "colour_scale")] = references.scale
        draw = grid(rows.inputs, references.shown, maps / self._scale, labels, references.scale)
        record.pictures[tags.attribution(self.method, "maps")] = draw


def _gallery(n: int) -> Tensor:
    """Positions of up to eight of ``n`` rows, evenly spread over the strata."""
    return torch.linspace(0, max(n - 1, 0), min(SHOWN, n)).round().long()


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")


def _standard_deviation(spread: Tensor) -> float:
    """Standard deviation from count, sum and sum of squares; 1 where all targets are equal."""
    n, total, squares = spread.tolist()
    variance = max(0.0, squares / n - (total / n) ** 2)
    return math.sqrt(variance) or 1.0
