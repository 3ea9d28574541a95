"""The fairness counts of one validation: states that add up over batches and ranks, for every set of groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._trainer import summed
from xai_lightning.functional import fairness
from xai_lightning.functional.fairness import Residuals
from xai_lightning.readers import moved


class Judged(NamedTuple):
    """The samples of one batch that count, with their predictions.

    Args:
        targets: classes ``int64[N]``, labels ``int64[N, L]``, or numbers ``float64[N]``.
        classes: predicted classes or labels, in the shape of the targets; None for numbers.
        n_classes: number of classes; 0 for numbers.
        scores: probability of the favourable class ``float32[N]``; None if no metric needs it.
        values: predicted numbers ``float64[N]``.
        weights: ``float64[N]``, or None.
        positive: the favourable class.
    """

    targets: Tensor
    classes: Tensor | None = None
    n_classes: int = 0
    scores: Tensor | None = None
    values: Tensor | None = None
    weights: Tensor | None = None
    positive: int = 1


@dataclass
class Tally:
    """States by set of groups (one attribute, or two combined); most have the groups as their first dimension.

    Args:
        counts: ``int64[G, K, K]``, ``int64[G, K, 3]`` or, for labels, ``int64[G, L, 2, 2]``.
        weights: ``float64[G, 2, K, K]``: sums of weights and of their squares.
        scores: ``int64[G, 2, B, 3]``.
        residuals: sums for predicted numbers; `_GROUPS` gives the dimension of the groups in each.
        nonfinite: number of samples whose prediction is not finite.
        n_classes: number of classes, 0 if none was seen or predictions are numbers.
        labels: number of labels per sample, 0 if it has one class.
    """

    counts: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)
    residuals: dict[str, Residuals] = field(default_factory=dict)
    nonfinite: int = 0
    n_classes: int = 0
    labels: int = 0

    def add(self, name: str, judged: Judged, rows: Tensor, size: int) -> None:
        """Add a batch.

        Args:
            name: name of the set of groups.
            judged: the samples.
            rows: the group of each sample, ``int64[N]``.
            size: number of groups.
        """
        if judged.classes is None:
            self._add_numbers(name, judged, rows, size)
            return
        _add(self.counts, name, _counted(judged, rows, size))
        if judged.weights is not None:
            sums = fairness.weigh(
                judged.classes, judged.targets, rows, judged.weights, classes=judged.n_classes, n_groups=size
            )
            _add(self.weights, name, sums.movedim(0, 1))
        if judged.scores is not None:
            hits = judged.targets == judged.positive
            # in place: a histogram is larger than most batches
            into = self.scores.get(name)
            self.scores[name] = fairness.score_counts(judged.scores, hits, rows, n_groups=size, into=into)

    def _add_numbers(self, name: str, judged: Judged, rows: Tensor, size: int) -> None:
        if judged.values is None:
            raise ValueError("predicted numbers are needed; got none")
        self.residuals[name] = fairness.residual_sums(
            judged.values, judged.targets, rows, n_groups=size, into=self.residuals.get(name)
        )

    def move(self, moves: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
        """Move the counts in provisional rows to the rows that are now fixed."""
        for name, rows in moves.items():
            for kept in (self.counts, self.weights, self.scores):
                if name in kept:
                    kept[name] = moved(kept[name], rows, sizes[name])
            if name in self.residuals:
                parts = zip(self.residuals[name], _GROUPS, strict=True)
                self.residuals[name] = Residuals(*(_moved(part, rows, sizes[name], where) for part, where in parts))

    def gather(
        self, trainer: Trainer | None, names: Sequence[str], sizes: Mapping[str, int], kinds: Sequence[str]
    ) -> "Tally":
        """The tally of all ranks together; a collective of fixed shapes.

        Args:
            trainer: the trainer; None for this rank alone.
            names: names of all sets of groups.
            sizes: number of groups in each.
            kinds: which states there are: ``counts``, ``weights``, ``scores``, ``residuals``.
        """
        # a rank without a batch knows neither of these
        mine = torch.tensor([self.n_classes, self.labels], device="cpu")
        n_classes, labels = _over(trainer, mine, "max").tolist()
        total = Tally(n_classes=n_classes, labels=labels)
        total.nonfinite = int(_over(trainer, torch.tensor(self.nonfinite, device="cpu"), "sum"))
        # in the same order on all ranks, since collectives are matched by order, not by content
        for name in names:
            size = sizes[name]
            for kind in kinds:
                if kind == "residuals":
                    # a rank without a batch takes part too, in the same shapes
                    own = self.residuals.get(name) or _no_numbers(size)
                    total.residuals[name] = Residuals(*(_over(trainer, part, "sum") for part in own))
                else:
                    state = getattr(self, kind).get(name)
                    state = _empty(kind, size, n_classes, labels) if state is None else state
                    getattr(total, kind)[name] = _over(trainer, state, "sum")
        return total

    @property
    def seen(self) -> bool:
        """Whether any sample was read."""
        return bool(self.n_classes or self.nonfinite) or any(
            bool(sums.targets.sum()) for sums in self.residuals.values()
        )

    def sizes(self, name: str) -> Tensor:
        """Number of samples of each group, ``int64[G]``."""
        if name in self.residuals:
            return self.residuals[name].predictions.sum(dim=1)
        counts = self.counts[name]
        if self.labels:
            return counts[:, 0].sum(dim=(-1, -2))
        return fairness.confusion(counts, 0).total

    def evidence(self, kind: str, name: str, index: Tensor, positive: int) -> Any:
        """The evidence that a metric needs, for some groups.

        Args:
            kind: ``counts``, ``scores``, ``residuals``, ``predictions`` or ``errors``.
            name: name of the set of groups.
            index: rows of the groups, ``int64[G]``, or ``int64[S, G]`` for strata.
            positive: the favourable class.
        """
        if kind == "counts":
            return self._confusion(name, index, positive)
        if kind == "scores":
            return fairness.scored(self.scores[name][index])
        sums = self.residuals[name]
        parts = zip(sums, _GROUPS, strict=True)
        chosen = Residuals(*(part if where is None else part.index_select(where, index) for part, where in parts))
        return chosen if kind == "residuals" else fairness.distribution(chosen, _DISTRIBUTIONS[kind])

    def _confusion(self, name: str, index: Tensor, positive: int) -> fairness.Confusion:
        if name in self.weights:
            heavy = self.weights[name][index].movedim(-3, 0)
            return fairness.confusion(heavy[0], positive, heavy[1])
        cells = self.counts[name][index]
        if self.labels:
            # labels are strata: each is evaluated separately, and the worst counts
            cells = cells.movedim(-3, 0).flatten(0, -4)
            return fairness.confusion(cells, 1)
        return fairness.confusion(cells, positive)


_GROUPS: tuple[int | None, ...] = (0, 1, 0, 1, 0, None, None)
"""The dimension of the groups in each field of ``Residuals``."""
_DISTRIBUTIONS: dict[str, Any] = {"predictions": "predictions", "errors": "residuals"}


def _over(trainer: Trainer | None, mine: Tensor, how: Literal["sum", "max"]) -> Tensor:
    return mine.cpu() if trainer is None else summed(trainer, mine, how)


def _counted(judged: Judged, rows: Tensor, size: int) -> Tensor:
    if judged.classes is None or judged.targets.ndim == 1:
        return fairness.count(
            judged.classes if judged.classes is not None else judged.targets,
            judged.targets,
            rows,
            classes=judged.n_classes,
            n_groups=size,
        )
    labels = judged.targets.shape[1]
    # every label of every group is counted as a group of its own, in one pass
    places = rows[:, None] * labels + torch.arange(labels, device=rows.device)
    cells = fairness.count(judged.classes, judged.targets, places, classes=2, n_groups=size * labels)
    return cells.reshape(size, labels, 2, 2)


def _add(kept: dict[str, Tensor], name: str, new: Tensor) -> None:
    kept[name] = kept[name] + new if name in kept else new


def _empty(kind: str, size: int, n_classes: int, labels: int) -> Tensor:
    if kind == "weights":
        return torch.zeros(size, 2, n_classes, n_classes, dtype=torch.float64, device="cpu")
    if kind == "scores":
        return torch.zeros(size, 2, fairness.SCORE_BINS, 3, dtype=torch.int64, device="cpu")
    width = n_classes if n_classes <= fairness.SQUARE_LIMIT else 3
    return torch.zeros((size, labels, 2, 2) if labels else (size, n_classes, width), dtype=torch.int64, device="cpu")


def _no_numbers(size: int) -> Residuals:
    nothing = torch.zeros(0, device="cpu")
    return fairness.residual_sums(nothing, nothing, nothing.long(), n_groups=size)


def _moved(part: Tensor, rows: Tensor, size: int, where: int | None) -> Tensor:
    if where is None:
        return part
    return moved(part.movedim(where, 0), rows, size).movedim(0, where)
