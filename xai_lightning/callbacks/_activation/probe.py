"""What the chosen layers return for a sample of validation rows that is the same at every validation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import MultiheadAttention

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._activation.attention import heads_of
from xai_lightning.callbacks._activation.layers import Layer
from xai_lightning.callbacks._batches import Batches, Reading
from xai_lightning.callbacks._draw import HASHED, row_hash, smallest
from xai_lightning.callbacks._sketch import Sketch
from xai_lightning.callbacks._trainer import summed
from xai_lightning.functional.representation import per_sample
from xai_lightning.functional.representation.matrix import widened

MOST_UNITS, THUMBNAIL = 4096, 32


class Represented(NamedTuple):
    """Rows of the sample, ordered by hash, and what was found of them; equal on all ranks.

    Args:
        hashes: ``int64[N]``.
        labels: ``int64[N]`` classes; None if the targets are none.
        groups: ``int64[N]`` by attribute, -1 outside of the declared groups.
        layers: ``float64[N, U]`` by name; without columns if the layer was never called.
        heads: ``float64[N, 2 U]`` by name of layers of attention, see `heads_of`; likewise.
        thumbnails: ``uint8[N, H, W, 3]``, or None.
    """

    hashes: Tensor
    labels: Tensor | None
    groups: dict[str, Tensor]
    layers: dict[str, Tensor]
    heads: dict[str, Tensor]
    thumbnails: Tensor | None = None


class _Step(NamedTuple):
    """Rows of one batch that may enter: hashes, places in the batch, keys, thumbnails, and what layers returned."""

    samples: int
    hashes: Tensor
    places: Tensor
    keys: Tensor
    thumbnails: Tensor
    found: dict[str, Tensor]
    heads: dict[str, Tensor]


class ActivationProbe:
    """Keeps, of each chosen layer, the mean over positions of each unit for the rows with the smallest seeded hashes.

    Which rows depends on inputs, targets and groups alone, not on order, batching or ranks; equal rows are kept once.
    Of a layer that a step calls several times the last call counts. Of layers with more than `MOST_UNITS` units evenly
    spaced ones are kept.

    Args:
        size: how many rows.
        batches: reads the batches.
        seed: chooses the rows.
        thumbnails: keep small pictures of inputs that are images, while a validation runs.
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
        """Look at these layers, and at the heads of those among them that are named."""
        self._layers, self._attention = [layer.name for layer in layers], list(attention)

    def open(self, loader: Any) -> None:
        """Begin a validation."""
        self.batches.open(loader)
        self._clear()

    def _clear(self) -> None:
        self._sketch.clear()
        self._widths, self._step = [], None

    def before(self, batch: Any) -> bool:
        """Whether rows of the next batch may enter, so that the layers must be listened to.

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
        # what the sketch would drop need not be listened to: a hook costs time
        new = ~torch.isin(hashes, held.hashes)
        return new & (hashes < held.hashes[-1]) if len(held.hashes) == self._sketch.quota else new

    def keep(self, layer: Layer, h: Tensor, mask: Tensor | None) -> None:
        """Keep what a layer returned for the rows that may enter.

        Args:
            layer: which.
            h: what it returned.
            mask: ``bool[N, ...]``, what is no padding; None: all.
        """
        step = self._step
        rows = None if step is None else by_sample(h, layer, step.samples, step.places, mask)
        if step is not None and rows is not None:
            step.found[layer.name] = rows

    def attend(self, layer: Layer, module: MultiheadAttention, call: tuple[tuple[Any, ...], Mapping[str, Any]]) -> None:
        """Keep where the heads look in a call, given by position and by name, for the rows that may enter."""
        step = self._step
        rows = None if step is None else heads_of(module, call, step.samples, step.places)
        if step is not None and rows is not None:
            step.heads[layer.name] = rows

    def after(self) -> None:
        """The step is done: its rows enter."""
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
        """Put the ranks together: fixed shapes, called by every rank alike; what was kept is forgotten."""
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
    """Class indices ``int64[N]`` on the CPU; None if the targets are none."""
    if targets is None or targets.is_floating_point() or targets.is_complex() or targets.numel() != len(targets):
        return None
    return targets.detach().flatten().long().cpu()


def by_sample(h: Tensor, layer: Layer, samples: int, places: Tensor, mask: Tensor | None) -> Tensor | None:
    """One row per sample ``float64[M, U]`` on the CPU: means over positions that are no padding.

    Args:
        h: what the layer returned: samples first, or after time, or with their positions in a row.
        layer: which.
        samples: how many the batch holds, N.
        places: ``int64[M]``, which are kept.
        mask: ``bool[N, ...]``, or None.

    Returns:
        None if the output has no row per sample.
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
    """Small pictures of images ``[N, C, H, W]`` of one or three channels, ``float64[M, 3 + D]``; else no columns."""
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3) or not inputs.is_floating_point():
        return _wide(None, len(places), 0)
    images = widened(inputs[places.to(inputs.device)]).cpu()
    size = min(THUMBNAIL, images.shape[2]), min(THUMBNAIL, images.shape[3])
    small = torch.nn.functional.adaptive_avg_pool2d(images, size)
    low, high = small.amin((1, 2, 3), keepdim=True), small.amax((1, 2, 3), keepdim=True)
    levels = ((small - low) / (high - low).clamp(min=1e-12) * 255).nan_to_num(0.0).round()
    # the shape travels with each row: a rank that saw no image must be able to read those of others
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
    """``rows`` if they are so wide, else as many undefined ones."""
    if rows is not None and rows.shape[1] == width:
        return rows
    return torch.full((count, width), math.nan, dtype=torch.float64, device="cpu")
