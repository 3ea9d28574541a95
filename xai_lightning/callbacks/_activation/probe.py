"""Outputs of the chosen layers for a sample of validation rows that is the same at every validation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import MultiheadAttention
from torch.nn.utils.rnn import PackedSequence

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._activation.attention import heads_of
from xai_lightning.callbacks._activation.layers import Layer
from xai_lightning.callbacks._activation.packed import packed_by_sample
from xai_lightning.callbacks._batches import Batches, Reading
from xai_lightning.callbacks._draw import HASHED, row_hash, smallest
from xai_lightning.callbacks._sketch import Sketch
from xai_lightning.callbacks._trainer import summed
from xai_lightning.functional.representation import per_sample
from xai_lightning.functional.representation.matrix import widened

MOST_UNITS, THUMBNAIL = 4096, 32


class Represented(NamedTuple):
    """The sampled rows, ordered by hash, and what was measured for them; equal on all ranks.

    Args:
        hashes: ``int64[N]``.
        labels: classes ``int64[N]``; None if the targets are not classes.
        groups: ``int64[N]`` by attribute, -1 outside the declared groups.
        layers: ``float64[N, U]`` by layer name; no columns if the layer was never called.
        heads: ``float64[N, 2 U]`` by name of attention layer, see `heads_of`; no columns if it was never called.
        thumbnails: ``uint8[N, H, W, 3]``, or None.
    """

    hashes: Tensor
    labels: Tensor | None
    groups: dict[str, Tensor]
    layers: dict[str, Tensor]
    heads: dict[str, Tensor]
    thumbnails: Tensor | None = None


class _Step(NamedTuple):
    """Rows of one batch that may enter: hashes, places in the batch, keys, thumbnails, and layer outputs."""

    samples: int
    hashes: Tensor
    places: Tensor
    keys: Tensor
    thumbnails: Tensor
    found: dict[str, Tensor]
    heads: dict[str, Tensor]


class ActivationProbe:
    """Keeps each chosen layer's mean over positions of each unit, for the rows with the smallest seeded hashes.

    The choice of rows depends on inputs, targets and groups alone, not on order, batching or ranks; equal rows are kept
    once. If a step calls a layer several times, the last call counts. Of a layer with more than `MOST_UNITS` units,
    evenly spaced units are kept.

    Args:
        size: number of rows.
        batches: reads the batches.
        seed: selects the rows.
        thumbnails: whether to keep small pictures of inputs that are images, while a validation runs.
    """

    def __init__(self, size: int, batches: Batches, seed: int, *, thumbnails: bool) -> None:
        self.batches, self.size, self._seed, self._pictured = batches, size, seed, thumbnails
        self._layers: list[str] = []
        self._attention: list[str] = []
        self._sketch = Sketch(size)
        self._widths: list[int] = []
        self.labelled = False
        self._step: _Step | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_step": None}

    def choose(self, layers: Sequence[Layer], attention: Sequence[str]) -> None:
        """Watch these layers, and the heads of those named in ``attention``."""
        self._layers, self._attention = [layer.name for layer in layers], list(attention)

    def open(self, loader: Any) -> None:
        """Begin a validation."""
        self.batches.open(loader)
        self._clear()

    def _clear(self) -> None:
        self._sketch.clear()
        self._widths, self._step = [], None

    def before(self, batch: Any) -> bool:
        """Whether rows of the next batch may enter the sample, so that the layers need hooks.

        Raises:
            ValueError: if the batch cannot be read.
        """
        reading = self.batches.read(batch)
        labels = class_labels(reading.sample.targets)
        self.labelled |= labels is not None
        keys = self._keys(reading, labels)
        inputs = [reading.sample.inputs, *reading.sample.further.values()]
        hashes = row_hash([*inputs, keys.to(inputs[0].device)], self._seed, HASHED).cpu()
        places = reading.real.cpu().nonzero().flatten()
        places = places[smallest(hashes[places], torch.zeros_like(places), self._sketch.quota)]
        places = places[self._may_enter(hashes[places])]
        if not len(places):
            self._step = None
            return False
        small = thumbnails(inputs[0], places) if self._pictured else _wide(None, len(places), 0)
        self._step = _Step(len(reading.sample), hashes[places], places, keys[places], small, {}, {})
        return True

    def _keys(self, reading: Reading, labels: Tensor | None) -> Tensor:
        """Class and groups of each row, ``int64[N, 1 + A]``, -1 for none."""
        columns = [torch.full((len(reading.sample),), -1, device="cpu") if labels is None else labels]
        for attribute, vocabulary in self.batches.vocabularies.items():
            rows = reading.groups[attribute].cpu()
            columns.append(rows.where(rows < len(vocabulary.names), -1))
        return torch.stack(columns, dim=1)

    def _may_enter(self, hashes: Tensor) -> Tensor:
        held = self._sketch.held
        if held is None:
            return torch.ones_like(hashes, dtype=torch.bool)
        # rows that the sketch would drop need no hook, which costs time
        new = ~torch.isin(hashes, held.hashes)
        return new & (hashes < held.hashes[-1]) if len(held.hashes) == self._sketch.quota else new

    def keep(self, layer: Layer, h: Tensor | PackedSequence, mask: Tensor | None) -> bool:
        """Keep a layer's output for the rows that may enter; False if it has no row per sample.

        Args:
            layer: the layer.
            h: its output.
            mask: ``bool[N, ...]``, true where there is no padding; None: everywhere.
        """
        step = self._step
        if step is None:
            return True
        if isinstance(h, PackedSequence):
            rows = packed_by_sample(h, layer, step.samples, step.places, mask)
            rows = None if rows is None else rows[:, _units(rows.shape[1], rows.device)]
        else:
            rows = by_sample(h, layer, step.samples, step.places, mask)
        if rows is not None:
            step.found[layer.name] = rows
        return rows is not None

    def attend(self, layer: Layer, module: MultiheadAttention, call: tuple[tuple[Any, ...], Mapping[str, Any]]) -> None:
        """Keep where the heads attend in a call (positional and keyword arguments), for the rows that may enter."""
        step = self._step
        rows = None if step is None else heads_of(module, call, step.samples, step.places)
        if step is not None and rows is not None:
            step.heads[layer.name] = rows

    def after(self) -> None:
        """Let the rows enter once the step is done."""
        step, self._step = self._step, None
        if step is None:
            return
        parts = [step.thumbnails, *map(step.found.get, self._layers), *map(step.heads.get, self._attention)]
        if not self._widths:
            self._widths = [0 if rows is None else rows.shape[1] for rows in parts]
        wide = [_wide(rows, len(step.hashes), width) for rows, width in zip(parts, self._widths, strict=True)]
        columns = torch.cat([step.keys.double(), *wide], dim=1)
        self._sketch.offer(step.hashes, lambda index: columns[index])

    def gather(self, trainer: Trainer) -> Represented:
        """Combine all ranks and forget what was kept: a collective of fixed shapes, which every rank must call."""
        count, keyed = 1 + len(self._layers) + len(self._attention), 1 + len(self.batches.vocabularies)
        own = [*(self._widths or [0] * count), int(self.labelled)]
        *widths, labelled = summed(trainer, torch.tensor(own, device="cpu"), "max").tolist()
        held = self._sketch.held
        if held is not None and widths != self._widths:
            parts = torch.split(held.columns, [keyed, *self._widths], dim=1)
            wide = [_wide(part, len(part), width) for part, width in zip(parts, [keyed, *widths], strict=True)]
            self._sketch.held = held._replace(columns=torch.cat(wide, dim=1))
        held = self._sketch.gather(trainer)
        columns = held.columns if len(held.hashes) else _wide(None, 0, keyed + sum(widths))
        keys, small, *found = torch.split(columns, [keyed, *widths], dim=1)
        self._clear()
        groups = zip(self.batches.vocabularies, keys[:, 1:].long().unbind(1), strict=True)
        layers = dict(zip(self._layers, found[: len(self._layers)], strict=True))
        heads = dict(zip(self._attention, found[len(self._layers) :], strict=True))
        labels = keys[:, 0].long() if labelled else None
        return Represented(held.hashes, labels, dict(groups), layers, heads, _pictures(small))


def class_labels(targets: Tensor | None) -> Tensor | None:
    """Class indices ``int64[N]`` on the CPU; None if the targets are not classes."""
    if targets is None or targets.is_floating_point() or targets.is_complex() or targets.numel() != len(targets):
        return None
    return targets.detach().flatten().long().cpu()


def by_sample(h: Tensor, layer: Layer, samples: int, places: Tensor, mask: Tensor | None) -> Tensor | None:
    """One row per sample, ``float64[M, U]`` on the CPU: means over the positions that are not padding.

    Args:
        h: the layer's output: samples first, or second after time, or samples and positions flattened into one.
        layer: the layer.
        samples: number of samples in the batch, N.
        places: ``int64[M]``, indices of the samples to keep.
        mask: ``bool[N, ...]``, or None.

    Returns:
        The rows; None if the output has no row per sample.
    """
    dim = layer.unit_dim(h.ndim) if h.ndim > 1 else 1
    h = h[:, None] if h.ndim == 1 else h
    if h.ndim == 0 or not h.numel():
        return None
    # recurrent and attention layers may put time first; others fold time or patches into the batch
    moved = h.movedim(dim, -1)
    if len(moved) != samples and moved.ndim > 2 and moved.shape[1] == samples:
        moved = moved.transpose(0, 1)
    elif len(moved) != samples:
        if len(moved) % samples:
            return None
        moved = moved.reshape(samples, -1, *moved.shape[1:])
    moved = moved[places.to(moved.device)][..., _units(moved.shape[-1], moved.device)]
    if mask is None or mask.ndim == 1 or mask.shape[1:] != moved.shape[1 : mask.ndim]:
        return per_sample(moved, -1).cpu()
    kept = widened(mask[places.to(mask.device)].to(moved.device))
    kept = kept.reshape(*kept.shape, *[1] * (moved.ndim - kept.ndim)).expand(*moved.shape[:-1], 1).flatten(1, -2)
    return ((widened(moved).flatten(1, -2).where(kept > 0, 0.0)).sum(1) / kept.sum(1)).cpu()


def _units(count: int, device: torch.device) -> Tensor:
    most = min(count, MOST_UNITS)
    return torch.arange(most, device=device) * count // max(1, most)


def thumbnails(inputs: Tensor, places: Tensor) -> Tensor:
    """Small pictures ``float64[M, 3 + D]`` of float images ``[N, 1 or 3, H, W]``; no columns for other inputs."""
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3) or not inputs.is_floating_point():
        return _wide(None, len(places), 0)
    images = widened(inputs[places.to(inputs.device)]).cpu()
    size = min(THUMBNAIL, images.shape[2]), min(THUMBNAIL, images.shape[3])
    small = torch.nn.functional.adaptive_avg_pool2d(images, size)
    low, high = small.amin((1, 2, 3), keepdim=True), small.amax((1, 2, 3), keepdim=True)
    levels = ((small - low) / (high - low).clamp(min=1e-12) * 255).nan_to_num(0.0).round()
    # each row carries the shape, so that a rank that saw no image can read those of others
    shape = torch.tensor(levels.shape[1:], dtype=torch.float64, device="cpu").expand(len(levels), 3)
    return torch.cat([shape, levels.flatten(1)], dim=1)


def _pictures(columns: Tensor) -> Tensor | None:
    """``uint8[N, H, W, 3]`` from `thumbnails`."""
    if not columns.numel() or columns.isnan().any():
        return None
    shape = columns[0, :3].long().tolist()
    levels = columns[:, 3:].reshape(-1, *shape).permute(0, 2, 3, 1)
    return levels.expand(*levels.shape[:3], 3).to(torch.uint8)


def _wide(rows: Tensor | None, count: int, width: int) -> Tensor:
    """``rows`` if they have this width, else ``count`` rows of NaN."""
    if rows is not None and rows.shape[1] == width:
        return rows
    return torch.full((count, width), math.nan, dtype=torch.float64, device="cpu")
