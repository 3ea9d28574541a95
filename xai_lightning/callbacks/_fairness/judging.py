"""Turns the outputs of a step or network into the predictions that are counted."""

import math
from typing import Any, NamedTuple

from torch import Tensor

from xai_lightning._lightning import LightningModule, MisconfigurationException
from xai_lightning.callbacks._batches import Reading
from xai_lightning.callbacks._compiled import is_hidden
from xai_lightning.callbacks._fairness.asked import Asked
from xai_lightning.callbacks._fairness.heard import NetworkOutput
from xai_lightning.callbacks._fairness.refusals import check_classes
from xai_lightning.callbacks._fairness.tally import Judged, Tally
from xai_lightning.callbacks._guard import Hooks
from xai_lightning.callbacks._trainer import resolve_network
from xai_lightning.functional.precision import exact_device, moved
from xai_lightning.readers import (
    Decision,
    Outputs,
    check_space,
    decide,
    decide_labels,
    labels_of,
    numbers_of,
    scores_of,
    target_of,
    targets_of,
)


class Counted(NamedTuple):
    """The samples of a batch that count.

    Args:
        judged: these samples with their predictions.
        kept: which samples of the batch they are.
        nonfinite: number of real samples left out because their prediction is not finite.
        decision: decisions for all samples of the batch; None if predictions are numbers.
    """

    judged: Judged
    kept: "Kept"
    nonfinite: int
    decision: Decision | None


class Kept:
    """Which samples of a batch count; nothing is copied if all do.

    Args:
        which: ``bool[N]``.
    """

    def __init__(self, which: Tensor) -> None:
        self._which = which
        self.number = int(which.sum())

    def of(self, values: Tensor) -> Tensor:
        """The values of the kept samples, out of one value per sample."""
        values = moved(values, self._which.device)
        return values if self.number == len(self._which) else values[self._which]

    def left_out(self, real: Tensor) -> int:
        """Number of real samples that are not kept; all kept samples are real."""
        return 0 if self.number == len(self._which) else int(real.sum()) - self.number


class Judging:
    """Turns outputs into predictions, in a way that is fixed before the first batch and checked against it.

    Args:
        how: space and threshold of the outputs.
        asked: what to measure.
        n_classes: number of classes, for ``outputs="labels"``.
        positive_class: the favourable class, or None.
        multi_label: whether each output is a label of its own.
        network: name of the network, or None.
        output_key: which of several tensors holds the predictions, or None.
    """

    def __init__(
        self,
        how: Outputs,
        asked: Asked,
        *,
        n_classes: int | None,
        positive_class: int | None,
        multi_label: bool,
        network: str | None,
        output_key: int | str | None,
    ) -> None:
        self.output_key = output_key
        self.how, self.multi_label, self.n_classes = how, multi_label, n_classes
        self.numbers = how.space == "values"
        _check_choices(how, n_classes, positive_class)
        self._asked, self._free, self._scored = asked, asked.only_accuracy, "scores" in asked.needs
        self._given, self._network, self._listens = positive_class, network, True
        self._output = NetworkOutput(f"network={network!r}", output_key)
        self._classes = 0

    @property
    def certain(self) -> bool:
        """Whether classes and scores are in range by construction, unlike labels that the network returns."""
        return self.how.space in ("logits", "probabilities")

    def find_network(self, pl_module: LightningModule) -> None:
        """Find out whether there is a network to listen to.

        Raises:
            MisconfigurationException: if a network was named that does not exist.
        """
        try:
            resolve_network(pl_module, self._network)
        except MisconfigurationException:
            # without an obvious network the step must return predictions, which the first batch will show
            if self._network is not None:
                raise
            self._listens = False

    def listen(self, hooks: Hooks, pl_module: LightningModule, inputs: Tensor) -> None:
        """Listen to the network during the coming step."""
        if self._listens:
            network = resolve_network(pl_module, self._network)
            self._output.listen(None if is_hidden(pl_module, network, self._network) else hooks, network, inputs)

    def take(self, outputs: Any, n: int, *, first: bool) -> Tensor:
        """The outputs for the step just listened to; the first ones are checked against the declared space."""
        found = self._output.take(outputs, n)
        if first:
            check_space(found, self.how.space, multi_label=self.multi_label)
        return found

    def judge(self, found: Tensor, reading: Reading) -> Counted:
        """The samples of a batch that count, with their predictions.

        Raises:
            ValueError: if outputs or targets are not what they were declared to be.
        """
        # on a device with exact (float64) probabilities and sums, where everything else must be as well
        found = found.to(exact_device(found.device))
        real, targets = reading.real.to(found.device), target_of(reading.sample)
        if self.numbers:
            values = numbers_of(found, "prediction")
            kept = Kept(real & values.isfinite())
            judged = Judged(kept.of(numbers_of(targets, "target")), values=kept.of(values))
            return Counted(judged, kept, kept.left_out(real), None)
        decision = decide_labels(found, self.how) if self.multi_label else self._decided(found)
        kept = Kept(real & decision.finite)
        truth = labels_of(targets, tuple(found.shape)) if self.multi_label else _classes_of(targets, decision.n_classes)
        positive = 1 if self.multi_label else self.positive(decision.n_classes)
        scores = scores_of(kept.of(found), self.how, positive) if self._scored else None
        weights = None if reading.weights is None else kept.of(reading.weights)
        parts = kept.of(truth), kept.of(decision.classes), decision.n_classes
        judged = Judged(*parts, scores=scores, weights=weights, positive=positive)
        return Counted(judged, kept, kept.left_out(real), decision)

    def _decided(self, found: Tensor) -> Decision:
        decision = decide(found, self.how, n_classes=self.n_classes)
        if self._classes and decision.n_classes != self._classes:
            raise ValueError(f"the network's number of classes changed from {self._classes} to {decision.n_classes}")
        self.positive(decision.n_classes)
        check_classes(self._asked.metrics, decision.n_classes)
        self._classes = decision.n_classes
        return decision

    def positive(self, n_classes: int) -> int:
        """The favourable class.

        Raises:
            ValueError: if it must be named and is not, or if there is no such class.
        """
        chosen = self._given
        if chosen is None and n_classes != 2 and not self._free:
            raise ValueError(
                f"{n_classes} classes: name the class whose prediction is the favourable decision with "
                "positive_class=..., or choose metrics of all classes (multiclass_demographic_parity_difference, "
                "multiclass_equalized_odds_difference, accuracy_difference and the like)"
            )
        chosen = min(1, n_classes - 1) if chosen is None else chosen
        if not 0 <= chosen < n_classes:
            raise ValueError(f"positive_class must lie in 0 .. {n_classes - 1}; got {chosen}")
        return chosen

    def favourable(self, total: Tally) -> int:
        """The favourable class of these counts; 1 for labels and numbers."""
        return self.positive(total.n_classes) if total.n_classes and not total.labels else 1


def _check_choices(how: Outputs, n_classes: int | None, positive_class: int | None) -> None:
    if n_classes is not None and (how.space != "labels" or n_classes < 2):
        raise ValueError(
            f"n_classes must be at least 2, and is for outputs='labels' only; got {n_classes} with "
            f"outputs={how.space!r}"
        )
    if positive_class is not None and not 0 <= positive_class < (n_classes or math.inf):
        raise ValueError(f"positive_class must be at least 0, and below n_classes; got {positive_class}")


def _classes_of(targets: Tensor, n_classes: int) -> Tensor:
    try:
        return targets_of(targets, n_classes)
    except ValueError as error:
        regression = "; for a regression, set outputs='values'" if targets.is_floating_point() else ""
        raise ValueError(f"{error}{regression}") from error
