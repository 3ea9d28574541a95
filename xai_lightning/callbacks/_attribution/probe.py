"""The fixed samples that are explained."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._attribution.baselines import BACKGROUND, Baselines, Seen
from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.sample import FreshSample
from xai_lightning.callbacks._attribution.shares import Held, share_out
from xai_lightning.callbacks._attribution.strata import Strata
from xai_lightning.callbacks._attribution.targets import explainable
from xai_lightning.callbacks._batches import Batches
from xai_lightning.callbacks._draw import Candidates, Rows, some
from xai_lightning.functional import activation
from xai_lightning.functional.precision import exact
from xai_lightning.functional.rng import isolated
from xai_lightning.readers import Sample

EVERY = 2**31
SHOWN = 8


class Probe:
    """Draws the probe during one evaluation, and keeps this rank's share of it for the next ones.

    Args:
        batches: reads the loader's batches.
        explainer: knows targets and further arguments of the network.
        size: how many samples to draw; None chooses by the size of the inputs.
        given: a batch, dataset or loader to explain instead of drawn samples.
        seed: chooses the draw.
    """

    def __init__(self, batches: Batches, explainer: Explainer, *, size: int | None, given: Any, seed: int) -> None:
        self.batches, self.strata = (
            batches,
            Strata(batches.vocabularies, explainer.task, size, labelled=explainer.ways.target == "label"),
        )
        if isinstance(given, int | float):
            raise ValueError(f"probe={given!r} holds no samples; to draw that many, set probe_size={given!r}")
        self._explainer, self._given, self._seed = explainer, given, seed
        self._loader: Any = None
        self._candidates: Candidates | None = None
        self._kept: Rows | None = None
        self._drawn = self._shared_out = False
        self._survey = Survey(seed)
        self._spread = activation.empty(1)
        self.fresh = FreshSample(explainer, self.strata, seed)

    def __getstate__(self) -> dict[str, Any]:
        passing = dict.fromkeys(("_candidates", "_kept", "_loader"))
        return {**vars(self), **passing, "_drawn": False, "_survey": Survey(self._seed)}

    def fit(self, sample_size: int | None) -> None:
        """Choose the sizes that were not given, now that the inputs are known: the fresh sample is half the probe."""
        self.strata.n_classes = self._explainer.n_classes if self._explainer.task == "classification" else 0
        self.strata.fit(self._explainer.numbers)
        self.fresh.size = self.beside(sample_size) if self._explainer.columns.names or self._explainer.grid else 0

    def beside(self, sample_size: int | None) -> int:
        """The most fresh samples there can be."""
        return self.size // 2 if sample_size is None else sample_size

    @property
    def size(self) -> int:
        """About how many samples are explained at each evaluation: as many as were given, if they can be counted."""
        given = self._given
        if given is None:
            return self.strata.size
        if isinstance(given, DataLoader):
            given = given.dataset
        counted = len(given) if isinstance(given, Dataset) and hasattr(given, "__len__") else None
        if counted is None and not isinstance(given, Dataset):
            counted = len(self._given_sample(given))
        return self.strata.size if counted is None else counted

    def among(self, rows: int | None) -> int:
        """About how many samples are explained of a loader with so many ``rows``; None: an unknown number."""
        return self.size if rows is None or self._given is not None else min(self.size, rows)

    @property
    def drawing(self) -> bool:
        """Whether this evaluation draws a probe, rather than using the one that is kept."""
        return self._candidates is not None

    @property
    def provisional(self) -> bool:
        """Whether `rows` are candidates that other ranks' candidates may still displace."""
        return self.drawing and not self._shared_out

    @property
    def quota(self) -> int:
        """Samples per stratum."""
        return EVERY if self._given is not None else self.strata.quota

    @property
    def spread(self) -> Tensor:
        """Packed moments of the regression targets seen while drawing."""
        return activation.pack(self._spread)

    def forget(self) -> None:
        """Draw anew at the next validation, whose data may differ."""
        self._kept, self._drawn = None, False

    def open(self, loader: Any, number: int, *, draw: bool, anew: bool) -> None:
        """Begin evaluation ``number`` of ``loader``; draw a probe if there is none, or if one is wanted ``anew``."""
        self.batches.open(loader)
        self._loader = loader
        self.fresh.open(number, draw=draw)
        self._candidates = Candidates(0, self._seed) if draw and (anew or not self._drawn) else None
        self._shared_out = False
        self._spread = activation.empty(1)
        if self._candidates is not None:
            self._survey = Survey(self._seed)

    @property
    def seen(self) -> Seen | None:
        """Mean and background of the data that the probe was drawn from."""
        return self._survey.seen

    def first(self, batch: Any) -> Rows:
        """The first sample of ``batch`` alone."""
        sample = self.batches.sample(batch)
        targets = self._explainer.targets(sample)
        columns = [x.detach()[:1].cpu().clone() for x in (sample.inputs, targets, *self._explainer.columns_of(sample))]
        zero = torch.zeros(1, dtype=torch.int64, device="cpu")
        return Rows(zero, zero, columns[0], columns[1], tuple(columns[2:]))

    def see(self, batch: Any) -> None:
        """Consider the samples of the next batch: for the fresh sample, and for a probe that is being drawn."""
        if self._candidates is None or self._given is not None:
            self.fresh.see(*self.batches.advance(batch))
            return
        reading = self.batches.read(batch)
        self.fresh.see(reading.sample, reading.real)
        self._candidates.quota, self._candidates.pooled = self.quota, self.strata.pooled
        strata = self.strata.of(reading.sample, reading.groups)
        targets = self._offer(self._candidates, reading.sample, strata, reading.real)
        if self._explainer.task == "regression":
            seen = activation.observe(targets.cpu().double()[:, None], 1, reading.real.cpu())
            self._spread = activation.merge(self._spread, seen)

    def first_given(self, trainer: Trainer) -> Rows | None:
        """The first of the given samples, after a check of every target in its batch; None if none were given."""
        # a loader that shuffles draws from the global generators
        with isolated():
            batch = next(iter(self._given_batches(trainer)), None)
        if batch is None:
            return None
        shape, expected = list(self._given_sample(batch).inputs.shape[1:]), list(self._explainer.shape)
        if shape != expected:
            raise ValueError(f"samples of probe=... must have the same shape as the loader's, {expected}; got {shape}")
        try:
            self._given_from.read(batch)
        except ValueError as error:
            raise ValueError(f"the groups of probe=... cannot be read: {error}") from error
        return self.first(batch)

    def take_given(self, trainer: Trainer) -> None:
        """Take the given samples, if any, on every rank; the ranks then share them out."""
        if self._candidates is None or self._given is None:
            return
        self._candidates.quota, self._candidates.pooled = self.quota, self.strata.pooled
        batches = self._given_from
        with isolated():
            for batch in self._given_batches(trainer):
                sample, _, groups, _ = batches.read(batch)
                every = torch.ones(len(sample), dtype=torch.bool, device="cpu")
                self._offer(self._candidates, sample, self.strata.of(sample, groups), every)

    @property
    def _given_from(self) -> Batches:
        """Reads the given samples and their groups as the loader's are read."""
        batches = self.batches
        return batches.elsewhere(None) if batches.vocabularies else Batches(batches.reader, {}, None, "unknown")

    def _given_sample(self, batch: Any) -> Sample:
        try:
            return self.batches.sample(batch)
        except ValueError as error:
            raise ValueError(
                f"probe=... takes one batch as the loader yields it, a Dataset, or a DataLoader: {error}"
            ) from error

    def _given_batches(self, trainer: Trainer) -> Iterator[Any]:
        """The given batches, in the precision of the loader's."""
        if self._given is None:
            return
        given = self._given
        if isinstance(given, Dataset):
            given = DataLoader(given, batch_size=64, collate_fn=collator(given, self._loader))
        for batch in given if isinstance(given, DataLoader) else [given]:
            yield trainer.precision_plugin.convert_input(batch)

    def _offer(self, candidates: Candidates, sample: Sample, strata: Tensor, real: Tensor) -> Tensor:
        targets, further = self._explainer.targets(sample), len(self._explainer.arguments.further)
        columns = self._explainer.columns_of(sample)
        worth = explainable(real, targets, self._explainer.task, self._explainer.ways.target)
        candidates.offer(sample.inputs, targets, strata, columns, worth)
        if Baselines(self._explainer.ways).from_data:
            self._survey.add((sample.inputs, *columns[:further]), real)
        return targets

    def share_out(self, trainer: Trainer) -> None:
        """Drop the rows of probe and fresh sample that other ranks explain or displace; a collective."""
        # a rank that failed while the others settled draws anew, against the rows that the others have kept
        held = Held(self.rows(), self.quota, self.strata.pooled), Held(self.fresh.rows(), self.fresh.size, pooled=True)
        own, fresh = share_out(trainer, held)
        if self._candidates is not None:
            self._candidates.rows = own
        else:
            self._kept = own
        self.fresh.take(fresh)
        self._shared_out = True

    def rows(self) -> Rows | None:
        """This rank's samples: its candidates while drawing, else its share of the probe."""
        return some(self._candidates.rows if self._candidates is not None else self._kept)

    def keep(self, rows: Rows | None) -> None:
        """Keep this rank's share of the drawn probe for later evaluations."""
        if self.drawing:
            self._kept, self._drawn = rows, True


class Survey:
    """Mean and a few rows of the data, for baselines; the rows with the smallest hashes under a seed of their own.

    Args:
        seed: seed of the monitor.
    """

    def __init__(self, seed: int) -> None:
        self._rows, self._count = Candidates(BACKGROUND, seed - 1), 0
        self._sums: tuple[Tensor, ...] = ()

    def add(self, inputs: tuple[Tensor, ...], real: Tensor) -> None:
        """Add a batch; ``real`` tells samples from padding."""
        zeros = torch.zeros(len(real), dtype=torch.int64, device="cpu")
        self._rows.offer(inputs[0], zeros, zeros, inputs[1:], real)
        sums = tuple(exact(x[real]).sum(dim=0).cpu() for x in inputs)
        self._sums = tuple(map(torch.add, self._sums, sums)) if self._sums else sums
        self._count += int(real.sum())

    @property
    def seen(self) -> Seen | None:
        """What was seen; None before any sample."""
        rows = self._rows.rows
        if rows is None or self._count == 0:
            return None
        mean = tuple((total / self._count)[None] for total in self._sums)
        return Seen(mean, (rows.inputs, *rows.extras))


def collator(given: Any, loader: Any) -> Any:
    """The loader's collator, if it suits ``given``, rows of a dataset of the same type; None for other datasets."""
    own = isinstance(loader, DataLoader) and loader.batch_size is not None
    return loader.collate_fn if own and type(_whole(given)) is type(_whole(loader.dataset)) else None


def _whole(dataset: Any) -> Any:
    return _whole(dataset.dataset) if isinstance(dataset, Subset) else dataset


def gallery(n: int) -> Tensor:
    """Positions of up to eight of ``n`` rows to show, evenly spread over the strata."""
    return torch.linspace(0, max(n - 1, 0), min(SHOWN, n), device="cpu").round().long()


def standard_deviation(spread: Tensor) -> float:
    """Standard deviation from the packed moments of each rank ``float64[ranks, …]``; 1 if all targets are equal."""
    merged = activation.empty(1)
    for part in spread:
        merged = activation.merge(merged, activation.unpack(part, 1))
    deviation = activation.statistics(merged, rectified=False)["std"]
    return deviation if deviation > 0 else 1.0
