"""Whether the neurons are alive, over the whole validation set."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, Trainer, rank_zero_warn
from xai_lightning.callbacks._draw import sample_hash
from xai_lightning.callbacks._layers import Layer, find_layers
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._record import Look, OnError, Record
from xai_lightning.callbacks._trainer import Positions, Stage, everywhere, loader_of, summed
from xai_lightning.functional import activation
from xai_lightning.functional.activation_widths import combined, combined_histogram
from xai_lightning.functional.attribution import output_tensor
from xai_lightning.readers import Reader, read
from xai_lightning.sinks import Sink

WIDTHS = 8
STATISTICS = ("mean", "std", "rms", "zero_share", "dead_share")


class ActivationMonitor(Monitor):
    """Statistics of the outputs of chosen modules, reduced in a hook while the user's own validation step runs.

    Logs ``activation_max/<statistic>`` (the worst layer; of the mean its absolute value) through ``self.log`` on every
    rank, equal on all, and ``activation/<module>/<statistic>`` with a histogram per module on rank zero. Hooks exist
    during a step only. Costs no forward or backward pass. Definitions: `xai_lightning.functional.activation`;
    ``dead_share`` is the share of units that were never positive on the samples seen, and is undefined (NaN) for
    modules whose output need not be zero.

    Args:
        layers: glob patterns of module names, such as ``["encoder.*.act", "head"]``; by default the outputs of
            non-linearities, 16 at most. Modules inside torch's own transformer layers are left out unless named, since
            a hook there switches their fused path off, which changes the last bit of the validation metrics.
        max_layers: how many layers at most, without ``layers``.
        share: share of the samples that is looked at, chosen by their hash, between 0 and 1.
        reader: how to read a batch; needed for ``share`` below 1 only.
        seed: of that choice.
        dataloader_idx: the validation loader it looks at.
        name: prefix of everything it logs, to tell two alike apart.
        on_error: ``"warn"``, or ``"raise"`` to stop training.
        sinks: further receivers beside the Trainer's loggers.

    Raises:
        ValueError: if ``share`` or ``max_layers`` is out of range.
        MisconfigurationException: in ``setup``, if a pattern matches no module.

    Example:
        >>> monitor = ActivationMonitor(["network.*"], share=0.25)
    """

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        *,
        max_layers: int = 16,
        share: float = 1.0,
        reader: Reader | None = None,
        seed: int = 0,
        dataloader_idx: int = 0,
        name: str = "",
        on_error: OnError = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
        if isinstance(layers, str):
            raise ValueError(f"layers must be a list of patterns; got the string {layers!r}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1; got {share}")
        if max_layers < 1:
            raise ValueError(f"max_layers must be at least 1; got {max_layers}")
        identity = {"layers": layers, "share": share, "seed": seed}
        super().__init__(
            "activation", identity, name=name, dataloader_idx=dataloader_idx, on_error=on_error, sinks=sinks
        )
        self.layers, self.max_layers, self.share, self.reader, self.seed = layers, max_layers, share, reader, seed
        self._layers: list[Layer] = []
        self._moments: dict[tuple[str, int], activation.Moments] = {}
        self._positions = Positions(None)
        self._keep: Tensor | None = None
        self._warned = False

    @override
    def logged_names(self, stage: Stage = "fit") -> tuple[list[str], list[str]]:
        direct = [tags.activation(layer.name, statistic) for layer in self._layers for statistic in STATISTICS]
        return [tags.activation_max(statistic) for statistic in STATISTICS], direct

    @override
    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._layers = find_layers(pl_module, self.layers, self.max_layers)

    @override
    def _open(self, trainer: Trainer, look: Look) -> None:
        self._moments = {}
        self._positions = Positions(loader_of(trainer, self.dataloader_idx))

    @override
    def _before(self, pl_module: LightningModule, batch: Any) -> None:
        self._keep = self._chosen(batch) if self.share < 1 or self._positions.pads else None
        for layer in self._layers:
            self._hooks.add(pl_module.get_submodule(layer.name), self._hook(layer))

    def _chosen(self, batch: Any) -> Tensor:
        """Which samples are looked at, ``bool[N]``: those that are not padding, and by hash their share."""
        inputs = read(batch, self.reader).inputs
        keep = self._positions.advance(len(inputs)).to(inputs.device)
        if self.share == 1:
            return keep
        # the highest 63 bits as a fraction
        fraction = (sample_hash(inputs, self.seed) >> 1).double() / 2.0**62 / 2 + 0.5
        return keep & (fraction < self.share)

    def _hook(self, layer: Layer) -> Callable[..., None]:
        def reduce(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            self._attempt(self._add, layer, output)

        return reduce

    def _add(self, layer: Layer, output: Any) -> None:
        h = output_tensor(output).detach()
        h = h.unsqueeze(1) if h.ndim == 1 else h
        keep = self._keep if self._keep is not None and len(self._keep) == len(h) else None
        new = activation.observe(h, layer.unit_dim(h.ndim), keep)
        # one module may be called at several widths, as the one ReLU of a residual block is
        key = (layer.name, len(new.mean))
        old = self._moments.get(key)
        self._moments[key] = new if old is None else activation.merge(old, new)

    @override
    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        if trainer.world_size == 1:
            return self._moments
        mine = torch.zeros(len(self._layers), WIDTHS, dtype=torch.int64)
        for row, layer in enumerate(self._layers):
            widths = sorted(width for name, width in self._moments if name == layer.name)[:WIDTHS]
            mine[row, : len(widths)] = torch.tensor(widths, dtype=torch.int64)
        merged: dict[tuple[str, int], activation.Moments] = {}
        for layer, widths in zip(self._layers, summed(trainer, mine, "max").tolist(), strict=True):
            for width in filter(None, widths):
                own = activation.pack(self._moments.get((layer.name, width), activation.empty(width)))
                parts = [activation.unpack(part, width) for part in everywhere(trainer, own)]
                merged[layer.name, width] = reduce(activation.merge, parts)
        return merged

    @override
    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        record, worst = Record(), dict.fromkeys(STATISTICS, math.nan)
        for layer in self._layers:
            moments = [found for (name, _), found in gathered.items() if name == layer.name]
            found = combined(moments, rectified=layer.rectified)
            for statistic in STATISTICS:
                record.direct[tags.activation(layer.name, statistic)] = found[statistic]
                worst[statistic] = _larger(worst[statistic], abs(found[statistic]))
            if moments:
                record.histograms[tags.activation(layer.name, "histogram")] = combined_histogram(moments)
        record.shared = {tags.activation_max(statistic): value for statistic, value in worst.items()}
        self._name_silent({name for name, _ in gathered})
        return record

    def _name_silent(self, called: set[str]) -> None:
        silent = [layer.name for layer in self._layers if layer.name not in called]
        if silent and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"ActivationMonitor: these modules were never called in a validation step and log NaN: "
                f"{', '.join(silent)}"
            )


def _larger(a: float, b: float) -> float:
    """The larger number; an undefined one loses."""
    return b if math.isnan(a) or b > a else a
