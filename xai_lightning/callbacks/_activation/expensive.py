"""The optional parts of an ActivationMonitor, besides running statistics: representations, weights and pictures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import MultiheadAttention

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks._activation import pictures as drawing
from xai_lightning.callbacks._activation.history import LayerHistory
from xai_lightning.callbacks._activation.kernels import BestOf
from xai_lightning.callbacks._activation.layers import Layer
from xai_lightning.callbacks._activation.names import largest
from xai_lightning.callbacks._activation.packed import packed_in
from xai_lightning.callbacks._activation.probe import ActivationProbe, Represented
from xai_lightning.callbacks._activation.represented import Key, Representation
from xai_lightning.callbacks._activation.weights import NORM, UPDATE, WatchedWeights
from xai_lightning.callbacks._batches import Batches
from xai_lightning.callbacks._record import Look, Record
from xai_lightning.callbacks._trainer import loader_of, log_step

Found = Mapping[str, Mapping[str, float]]


class Expensive:
    """Representation, weights and pictures of one monitor, logged under the names that `names` returns.

    For up to eight layers and a fixed sample of rows it keeps the mean over positions of each unit, in a step's last
    call of the layer. `xai_lightning.functional.representation` defines what is logged about these; CKA with the first,
    previous and best validation is exactly 1 if nothing changed. If ``nn.MultiheadAttention`` is among the layers (it
    must be named to be watched), the attention weights of those rows are recomputed in float32, to see where heads
    attend. For up to eight modules with weights it logs the norm, the relative update, from at most 65,536 entries of
    each, and a histogram. Pictures are drawn at validations 2, 4, 8, … and at the end of ``fit``. None of this takes a
    forward pass, but it takes memory, which ``setup`` reports, and time that does not grow with the data. The state
    holds kernels and entries of weights, never inputs.

    Args:
        batches: reads the batches, with the declared groups.
        layers: True, or glob patterns of names of watched modules.
        size: number of sampled rows.
        seed: seed of all draws.
        best_of: the metric that chooses the best validation, and ``"min"`` or ``"max"``; None: no best validation.
        pictures: whether to draw pictures.
        log_inputs: whether pictures may show inputs.
    """

    def __init__(
        self,
        batches: Batches,
        layers: bool | Sequence[str],
        *,
        size: int,
        seed: int,
        best_of: BestOf | None,
        pictures: bool,
        log_inputs: bool,
    ) -> None:
        probe = ActivationProbe(size, batches, seed, thumbnails=pictures and log_inputs)
        self.representation, self.weights = Representation(layers, probe, best_of), WatchedWeights(seed)
        self._pictures, self.step = pictures, 0
        self._history = LayerHistory([], [], histograms=False)
        self._kept: Mapping[str, Any] = {}
        self._top: drawing.TopSamples | None = None
        self._last_drawn = False

    def __getstate__(self) -> dict[str, Any]:
        # `_top` may hold pictures of inputs
        return {**vars(self), "_top": None}

    def set_up(
        self,
        pl_module: LightningModule,
        layers: Sequence[Layer],
        statistics: Sequence[str],
        *,
        ridges: bool,
        hidden: str = "",
    ) -> None:
        """Choose layers and weights.

        Args:
            pl_module: the module that holds them.
            layers: all watched layers.
            statistics: running statistics for which the worst layer is logged.
            ridges: whether histograms of activations are made.
            hidden: name of a strategy that does not keep weights as they are, or empty.
        """
        self.representation.choose(
            layers, [n for n, m in pl_module.named_modules() if isinstance(m, MultiheadAttention)]
        )
        self.weights.choose(pl_module, hidden)
        names = [*statistics, *map("/".join, self.representation.worst(fit=True))]
        history = LayerHistory([layer.name for layer in layers], names, histograms=ridges)
        if (history.layers, history.statistics) != (self._history.layers, self._history.statistics):
            self._history = history
        self._take_up()

    def names(self, *, fit: bool) -> tuple[list[str], list[str]]:
        """The names that go through ``self.log``, and those that go to the loggers directly."""
        shared = [tags.activation_max(*key) for key in self.representation.worst(fit=fit)]
        ours = self.representation
        direct = [tags.activation(x.name, *key) for x in ours.layers for key in ours.keys(x.name, fit=fit)]
        direct += [tags.weight(name, what) for name in self.weights.names for what in (NORM, *[UPDATE] * fit)]
        return shared, direct

    def open(self, trainer: Trainer, dataloader_idx: int) -> None:
        """Begin a validation."""
        self.representation.probe.open(loader_of(trainer, dataloader_idx))
        self.weights.open()

    def before(self, batch: Any) -> list[Layer]:
        """The layers that need hooks in the coming step."""
        return self.representation.layers if self.representation.probe.before(batch) else []

    def keep(self, layer: Layer, h: Tensor, mask: Tensor | None, call: tuple[Any, ...]) -> bool:
        """Keep a layer's output, from its call: the module, positional and keyword arguments, output.

        Returns:
            False if the output has no row per sample.
        """
        packed = packed_in(call[-1])
        kept = self.representation.probe.keep(layer, h if packed is None else packed, mask)
        if layer.name in self.representation.attention:
            self.representation.probe.attend(layer, call[0], (call[1], call[2]))
        return kept

    def gather(self, trainer: Trainer) -> tuple[Represented, float]:
        """Combine all ranks: a collective of fixed shapes, which every rank must call."""
        self.weights.gather(trainer)
        return self.representation.gather(trainer)

    def conclude(self, record: Record, look: Look, gathered: tuple[Represented, float], found: Found) -> None:
        """Add numbers and pictures to the record.

        Args:
            record: the record of this validation.
            look: this validation.
            gathered: the result of `Representation.gather`.
            found: running statistics by layer.
        """
        fit, ours = look.stage == "fit", self.representation
        numbers = ours.conclude(*gathered, fit=fit)
        for layer, own in numbers.items():
            record.direct |= {tags.activation(layer, *key): own[key] for key in ours.keys(layer, fit=fit)}
        for key in ours.worst(fit=fit):
            record.shared[tags.activation_max(*key)] = largest(own.get(key, math.nan) for own in numbers.values())
        for name, measured in self.weights.numbers.items():
            record.direct |= {tags.weight(name, what): measured[what] for what in (NORM, *[UPDATE] * fit)}
        record.histograms |= {tags.weight(n, "histogram"): h for n, h in self.weights.histograms.items()}
        if not fit:
            return
        self.weights.settle()
        if self._pictures:
            self._remember(record, look.number, gathered[0], _together(found, numbers))

    def _remember(self, record: Record, number: int, probe: Represented, found: Found) -> None:
        names = {tags.activation(layer, "histogram"): layer for layer in self._history.layers}
        counts = {names[n]: h.bucket_counts for n, h in record.histograms.items() if n in names}
        self._history.add(number, found, counts)
        self._top = drawing.top_of(probe)
        # the number of pictures grows with the logarithm of the run; the last ones are drawn at its end
        self._last_drawn = number > 1 and number & (number - 1) == 0
        if self._last_drawn:
            record.pictures |= self._drawn()

    def _drawn(self) -> drawing.Pictures:
        return {**drawing.heatmaps(self._history), **drawing.ridges(self._history), **drawing.tops(self._top)}

    def note(self, trainer: Trainer, look: Look) -> None:
        """Called when a validation has ended and its metrics are final."""
        if look.stage == "fit":
            self.step = log_step(trainer, look.started)
            self.representation.references.note(trainer.callback_metrics)

    def at_end(self) -> Record:
        """The pictures at the end of ``fit`` that the last validation did not draw."""
        if not self._pictures:
            return Record()
        similar = drawing.similarities(*self.representation.references.similarity())
        return Record(pictures=similar if self._last_drawn else {**self._drawn(), **similar})

    def state(self) -> dict[str, Any]:
        """Tensors and plain types; no inputs."""
        history = self._history.state()
        last = {"history": history, "step": self.step, "drawn": self._last_drawn}
        return {"representation": self.representation.state(), "weights": self.weights.state(), **last}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a `state`."""
        self.representation.load(state["representation"])
        self.weights.load(state["weights"])
        self._kept = state["history"]
        self.step, self._last_drawn = int(state.get("step", 0)), bool(state.get("drawn", False))
        self._take_up()

    def _take_up(self) -> None:
        """Load the history once both it and the layers are known: a state may come before the layers or after."""
        if self._kept and self._history.layers:
            self._history.load(self._kept)
            self._kept = {}


def _together(found: Found, numbers: Mapping[str, Mapping[Key, float]]) -> Found:
    ours = {layer: {"/".join(key): value for key, value in own.items()} for layer, own in numbers.items()}
    return {layer: {**found.get(layer, {}), **ours.get(layer, {})} for layer in {**found, **ours}}
