"""Explains rows of the probe, or of a fresh sample, in one guard that leaves no trace."""

import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from xai_lightning._lightning import LightningModule
from xai_lightning.callbacks._attribution.baselines import Against, Baselines, Seen
from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.hints import hints, never_fits
from xai_lightning.callbacks._attribution.in_step import differentiate
from xai_lightning.callbacks._attribution.ways import Ways
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._guard import out_of_memory
from xai_lightning.callbacks._progress import step
from xai_lightning.callbacks._sharded import Steps
from xai_lightning.functional import attribution, drift, render
from xai_lightning.functional.attribution import Explained

T = TypeVar("T")


class Explanation(NamedTuple):
    """Explained rows, on the CPU.

    Args:
        columns: what is known of each row, ``float64[M, k]`` by name: ``maps`` (canonical), ``gap`` and ``change`` of
            the completeness check, ``peaks`` (colour scales of whole maps as shares of their size), ``probabilities``,
            ``targets`` (the explained class; 1 for multilabel), ``regions`` (mass in each, then in total), and
            ``replicate`` (maps with other seeds); ``k`` is 0 where it does not apply.
        shown: whole maps ``float32[S, H, W]`` of the requested rows, for pictures; empty unless they are images.
        forward: rows sent forward through the network.
        backward: rows sent backward.
    """

    columns: dict[str, Tensor]
    shown: Tensor
    forward: int
    backward: int

    def first(self, count: int) -> "Explanation":
        """What is known of the first ``count`` rows."""
        return self._replace(columns={name: column[:count] for name, column in self.columns.items()})


def by_chance(explainer: Explainer) -> bool:
    """Whether other seeds give other maps; before the first batch, whether they can."""
    ways, canon = explainer.ways, explainer.canon
    return ways.draws if canon is None else ways.by_chance(explainer.shape, canon.number)


class Explaining(NamedTuple):
    """One network under explanation.

    Args:
        explainer: knows how to explain it.
        pl_module: the module that may be touched.
        network: the network that is explained.
        steps: keeps the ranks in step that explain a sharded model; None for other models.
    """

    explainer: Explainer
    pl_module: LightningModule
    network: nn.Module
    steps: Steps | None = None

    @property
    def ways(self) -> Ways:
        """The settings."""
        return self.explainer.ways

    def explain(
        self,
        probe: Rows,
        shown: Tensor,
        *,
        seen: Seen | None = None,
        frozen: Tensor | None = None,
        replicate: bool = False,
    ) -> Explanation:
        """Explain ``probe`` in one guard that leaves no trace.

        Args:
            probe: the rows.
            shown: positions of those whose whole maps are kept.
            seen: mean and background of the data, for baselines that need them.
            frozen: ``int64[M]``, the reference's classes, if those are explained; -1 for the predicted class.
            replicate: explain a second time with other seeds, if that can make a difference.
        """
        explainer, rows = self.explainer, probe.on(self.pl_module.device)
        with explainer.guarded(self.pl_module), hints(self.network, self.ways):
            explained = explainer.explained(self.network, self.steps)
            explained.told = step
            asked, found = self._fitting(probe, lambda: self._asked_and_found(explained, rows, seen, frozen))
            again = None
            if replicate and by_chance(explainer):
                again = self._fitting(probe, lambda: self._attribute(explained, asked, probe.hashes, 1))
            elif replicate:
                again = found
        values = self._left_out(found.values, asked.left_out)
        columns = {
            "maps": self._canonical(values),
            "gap": found.gap[:, None],
            "change": found.change[:, None],
            "probabilities": asked.probabilities,
            "targets": (asked.classes if explainer.task != "multilabel" else torch.ones_like(asked.classes))[:, None],
            "regions": explainer.regions.mass(explainer.canon, self._on_input(values), asked.masks),
            "replicate": values[0].new_zeros(len(probe.hashes), 0),
        }
        if again is not None:
            columns["replicate"] = self._canonical(self._left_out(again.values, asked.left_out))
        detached = {name: column.detach().cpu().double() for name, column in columns.items()}
        explainer.mapped = values[0].ndim == 4
        whole = values[0].sum(dim=1).float().cpu() if explainer.mapped else detached["maps"][:, None]
        detached["peaks"] = peaks(whole)
        return Explanation(
            detached, whole[shown] if explainer.mapped else whole[:0], explained.rows, explained.gradients
        )

    def _asked_and_found(
        self, explained: Explained, probe: Rows, seen: Seen | None, frozen: Tensor | None
    ) -> tuple["_Asked", attribution.Found]:
        asked = self._asked(explained, probe, seen, frozen)
        return asked, self._attribute(explained, asked, probe.hashes, 0)

    def _fitting(self, probe: Rows, action: Callable[[], T]) -> T:
        """Run ``action`` on the rows, and halve for good what is computed at once each time that memory runs out."""
        explainer, cost = self.explainer, self.explainer.cost()
        while True:
            try:
                return action()
            except RuntimeError as error:
                # a pass that failed on one rank of a sharded model cannot be repeated
                if self.steps or not out_of_memory(error):
                    raise
                if explainer.at_once <= explainer.numbers:
                    raise torch.OutOfMemoryError(never_fits(error)) from error
            # outside of the handler, which keeps the memory of the failed computation alive
            most = explainer.numbers * len(probe.hashes) * (cost.forward if cost is not None else 1)
            explainer.at_once = max(explainer.numbers, min(explainer.at_once, most) // 2)
            trainer = self.pl_module.trainer
            place = f" on rank {trainer.global_rank}" if trainer.world_size > 1 else ""
            # each rank has memory of its own, and says so itself
            warnings.warn(
                f"AttributionMonitor({self.ways.label!r}) ran out of memory{place}; it now computes at most "
                f"{explainer.at_once // explainer.numbers} samples at once",
                stacklevel=2,
            )

    def _asked(self, explained: Explained, probe: Rows, seen: Seen | None, frozen: Tensor | None) -> "_Asked":
        count, extras = len(self.explainer.arguments.further), len(self.explainer.arguments.extras)
        inputs, given = (probe.inputs, *probe.extras[:count]), probe.extras[count : count + extras]
        masks = probe.extras[count + extras :]
        ids, outputs = inputs[0], self._outputs(explained, inputs, given)
        probabilities = self._probabilities(outputs)
        classes = probe.targets
        if self.explainer.task == "segmentation":
            classes = torch.full_like(probe.targets[:, 0, 0], cast(int, self.ways.target))
        if self.ways.target in ("predicted", "reference_prediction"):
            classes = probabilities.argmax(dim=1)
        if frozen is not None:
            known = frozen.to(classes.device)
            classes = torch.where(known >= 0, known, classes)
        left_out = self._unexplained(ids, given) if self.ways.tokens else None
        regional = (probe.targets == self.ways.target,) if self.explainer.task == "segmentation" else ()
        seeds = self._seeds(probe.hashes, 0)
        baselines = Baselines(self.ways).of(inputs, self._layouts, seeds, seen, left_out)
        if self.ways.embeds:
            rest = (*inputs[1:], *given)
            inputs, given = (self._embedded(explained, ids, rest), *inputs[1:]), (ids, *given)
            # a background may have more rows than there are samples
            baselines = baselines.embedded(lambda x: self._embedded(explained, ids, rest, replaced=x))
        return _Asked(inputs, (*regional, *given), classes, probabilities, baselines, masks, left_out)

    def _outputs(self, explained: Explained, inputs: tuple[Tensor, ...], extras: tuple[Tensor, ...]) -> Tensor:
        """The network's outputs, computed in blocks that fit into memory."""
        blocks = self._blocks(len(inputs[0]))
        return torch.cat([explained.outputs(*(x[b] for x in inputs), *(x[b] for x in extras)) for b in blocks])

    def _embedded(
        self, explained: Explained, ids: Tensor, rest: tuple[Tensor, ...], replaced: Tensor | None = None
    ) -> Tensor:
        """The embedding of ``ids``, or of the ids that they are ``replaced`` by: a background may have more rows."""
        again = torch.arange(len(ids if replaced is None else replaced), device=ids.device) % len(ids)
        parts = [(again[b], None if replaced is None else replaced[b]) for b in self._blocks(len(again))]
        return torch.cat([explained.embedded(ids[i], *(x[i] for x in rest), replaced=new) for i, new in parts])

    def _blocks(self, count: int) -> list[slice]:
        size = max(1, self.explainer.at_once // self.explainer.numbers)
        return [slice(i, i + size) for i in range(0, count, size)]

    @property
    def _layouts(self) -> Sequence[str]:
        return self.explainer.canon.forms if self.explainer.canon is not None else ()

    def _unexplained(self, ids: Tensor, extras: Sequence[Tensor]) -> Tensor:
        """Which tokens are padding or special, ``bool[M, T]``."""
        special = torch.tensor([self.ways.pad_token, *self.ways.special_tokens], device=ids.device)
        found = torch.isin(ids, special)
        for name, extra in zip(self.explainer.arguments.extras, extras, strict=False):
            if name == "attention_mask" and extra.shape == ids.shape:
                found |= extra == 0
        return found

    def _left_out(self, values: tuple[Tensor, ...], left_out: Tensor | None) -> tuple[Tensor, ...]:
        """Attributions, with those of padding and special tokens set to 0."""
        first = values[0]
        if left_out is None or (self.ways.explains_layer and self.ways.layer != self.ways.embedding):
            return values
        mask = left_out.reshape(*left_out.shape, *[1] * (first.ndim - 2))
        return (first.masked_fill(mask, 0.0), *values[1:])

    def _on_input(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps of a convolution interpolated to the size of the image, so that regions can be found in them."""
        shape = self.explainer.shape
        if not self.ways.explains_layer or values[0].ndim != 4 or len(shape) != 3:
            return values
        summed = values[0].sum(dim=1, keepdim=True)
        return (torch.nn.functional.interpolate(summed, shape[1:], mode="bilinear", align_corners=False),)

    def _canonical(self, values: tuple[Tensor, ...]) -> Tensor:
        if self.ways.explains_layer or self.explainer.canon is None:
            summed = values[0].sum(dim=2) if self.ways.layer == self.ways.embedding else values[0]
            return drift.pool(summed if summed.ndim > 1 else summed[:, None])
        return self.explainer.canon.canonical(values)

    def _probabilities(self, outputs: Tensor) -> Tensor:
        """``[M, K]`` for classes or a label; the output ``[M, 1]`` of a regression; ``[M, 0]`` for a segmentation."""
        space = self.ways.outputs.space
        if self.explainer.task == "segmentation":
            return outputs.new_zeros(len(outputs), 0)
        if self.explainer.task == "regression":
            several = outputs.ndim == 2 and isinstance(self.ways.target, int)
            return outputs[:, self.ways.target, None] if several else outputs.reshape(len(outputs), -1)  # type: ignore[index]
        if self.explainer.task == "multilabel":
            outputs = outputs[:, cast(int, self.ways.target)]
        if outputs.ndim == 1 or outputs.shape[1] == 1:
            positive = outputs.reshape(-1) if space == "probabilities" else outputs.reshape(-1).sigmoid()
            return torch.stack([1 - positive, positive], dim=1)
        return outputs if space == "probabilities" else outputs.softmax(dim=1)

    def _seeds(self, hashes: Tensor, replicate: int) -> list[int]:
        own = zlib.crc32(f"{self.ways.label}{replicate or ''}".encode()) << 31
        return [(int(h) ^ self.ways.seed ^ own) % 2**63 for h in hashes]

    def _attribute(self, explained: Explained, asked: "_Asked", hashes: Tensor, replicate: int) -> attribution.Found:
        blocks = self.explainer.canon.blocks if self.explainer.canon is not None else ()
        if self.ways.embeds and self.explainer.canon is not None:
            tokens = blocks[0].mask[..., None].expand(1, *asked.inputs[0].shape[1:])
            blocks = (attribution.Variables((), tokens.contiguous()), *blocks[1:])
        found = attribution.attribute(
            self.ways.method,
            explained,
            asked.inputs,
            asked.classes.to(torch.int64),
            baselines=asked.baselines.points,
            background=asked.baselines.background,
            variables=blocks,
            seeds=self._seeds(hashes, replicate),
            extras=asked.extras,
            options=self.ways.options,
            layer=self.explainer.module(self.network, "layer"),
            smooth=self.ways.smooth,
            at_once=self.explainer.at_once,
        )
        if self.steps is not None:
            # samples differ in how many gradients they need, and those of other ranks may need more
            first = slice(0, 1)
            inputs, rest = ([x[first] for x in part] for part in (asked.inputs, asked.extras))
            self.steps.level(partial(differentiate, explained, inputs, (asked.classes[first].long(), *rest)))
        return found


def peaks(maps: Tensor) -> Tensor:
    """The colour scale of each of ``maps`` ``[M, H, W]`` by itself, as a share of its size: ``float64[M, 1]``."""
    scales = [render.colour_scale(each[None]) for each in drift.normalised(maps)]
    return torch.tensor(scales, dtype=torch.float64, device="cpu").reshape(-1, 1)


class _Asked(NamedTuple):
    """What to explain about the rows, on the device of the network."""

    inputs: tuple[Tensor, ...]
    extras: tuple[Tensor, ...]
    classes: Tensor
    probabilities: Tensor
    baselines: Against
    masks: tuple[Tensor, ...]
    left_out: Tensor | None
