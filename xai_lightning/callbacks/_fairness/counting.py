"""Counts the batches of one loader by the groups that are compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks._batches import Batches, Reading
from xai_lightning.callbacks._fairness.asked import Asked
from xai_lightning.callbacks._fairness.judging import Counted, Judging
from xai_lightning.callbacks._fairness.subjects import pair_of
from xai_lightning.callbacks._fairness.tally import Judged, Tally
from xai_lightning.callbacks._fairness.waiting import SAMPLES, Waiting
from xai_lightning.callbacks._guard import Hooks
from xai_lightning.callbacks._trainer import every_object


class Counting:
    """Reads, judges and counts batches.

    Args:
        asked: what to measure.
        batches: reads batches and groups.
        judging: turns outputs into predictions.
    """

    def __init__(self, asked: Asked, batches: Batches, judging: Judging) -> None:
        self.asked, self.batches, self.judging = asked, batches, judging
        self._tally, self._waiting = Tally(), Waiting()

    def open(self, loader: Any) -> None:
        """Start at the first batch of ``loader``."""
        self.batches.open(loader)
        self._tally, self._waiting = Tally(), Waiting()

    def elsewhere(self, loader: Any) -> "Counting":
        """A copy with the same settings and no counts, at the first batch of another ``loader``."""
        return Counting(self.asked, self.batches.elsewhere(loader), self.judging)

    def listen(self, hooks: Hooks, pl_module: LightningModule, batch: Any) -> None:
        """Listen to the network before the step on ``batch``."""
        self.judging.listen(hooks, pl_module, self.batches.sample(batch).inputs)

    def add(self, batch: Any, outputs: Any, *, first: bool = False) -> tuple[Reading, Counted]:
        """Count a batch after its step.

        Args:
            batch: the batch as the loader gave it.
            outputs: what the step returned.
            first: whether to check the outputs against the space that they were declared to be in.

        Raises:
            ValueError: if it cannot be read or judged; nothing of it is counted then.
        """
        reading = self.batches.read(batch)
        counted = self.judging.judge(self.judging.take(outputs, len(reading.sample), first=first), reading)
        self._tally.nonfinite += counted.nonfinite
        self._tally.n_classes = counted.judged.n_classes
        self._tally.labels = counted.judged.targets.shape[1] if counted.judged.targets.ndim == 2 else 0
        rows = {name: counted.kept.of(reading.groups[name]) for name in self.names}
        if not self._waiting.fits(counted.judged, rows):
            self._flush()
        if len(counted.judged.targets) > SAMPLES:
            self._tally_up(counted.judged, rows)
            return reading, counted
        self._waiting.add(counted.judged, rows)
        # samples that cannot be counted must raise at their own batch, not where ranks meet
        if first or not self.judging.certain:
            self._flush()
        return reading, counted

    def _flush(self) -> None:
        waiting = self._waiting.take()
        if waiting is not None:
            self._tally_up(*waiting)

    def _tally_up(self, judged: Judged, rows: Mapping[str, Tensor]) -> None:
        for name, groups in rows.items():
            self._tally.add(name, judged, groups, self.batches.size(name))

    def gather(self, trainer: Trainer | None) -> Tally | ValueError:
        """The counts of all ranks together, or the error in discovered groups, equal on all ranks; a collective.

        Args:
            trainer: the trainer; None for this rank alone.
        """
        self._flush()
        if self.batches.undecided and trainer is not None:
            try:
                # a collective that every rank reaches: all have agreed before that none has failed
                moves = self.batches.fix(every_object(trainer, self.batches.found()))
            except ValueError as error:
                return error
            self._tally.move(moves, self._sizes)
        return self._tally.gather(trainer, self.names, self._sizes, self._kinds)

    @property
    def names(self) -> list[str]:
        """The sets of groups that are counted."""
        pairs = list(self.batches.intersections) if self.asked.intersections else []
        within = [pair_of(attribute, other, self.batches) for attribute, other in self.asked.given.items()]
        return list(dict.fromkeys([*self.batches.vocabularies, *pairs, *within]))

    @property
    def _sizes(self) -> dict[str, int]:
        return {name: self.batches.size(name) for name in self.names}

    @property
    def _kinds(self) -> Sequence[str]:
        if self.asked.needs & {"residuals", "predictions", "errors"}:
            return ("residuals",)
        scored = "scores" in self.asked.needs
        return ("counts", *["weights"] * self.batches.weighted, *["scores"] * scored)
