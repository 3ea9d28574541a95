"""Who explains what: each rank its own of the rows that are drawn, where all ranks know their last batch."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    Sampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)

from small import Classifier, fit, loader, rows
from xai_lightning import AttributionMonitor
from xai_lightning.callbacks._attribution.shares import Held, _own, keys
from xai_lightning.callbacks._draw import Rows, smallest
from xai_lightning.callbacks._trainer import foresees_last_batch, is_last_batch


def held(hashes: list[int], strata: list[int]) -> Rows:
    """Candidates as a draw holds them, each with its hash for an input."""
    h, s = torch.tensor(hashes, dtype=torch.int64), torch.tensor(strata, dtype=torch.int64)
    return Rows(h, s, h.float()[:, None], s, ()).take(smallest(h, s, 8))


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("quota", [1, 3, 8])
def test_ranks_explain_what_one_process_would_and_nothing_twice(quota: int, pooled: bool) -> None:
    """Law 2: with equal samples on two ranks, a rank without any, and one whose candidates all give way."""
    generator = torch.Generator().manual_seed(0)
    every = [torch.randint(0, high, (n, 2), generator=generator) for n, high in ((8, 20), (6, 20), (5, 9))]
    ranks = [held((part[:, 0] - 9).tolist(), (part[:, 1] % 2).tolist()) for part in every]
    ranks.append(held([100, 101], [0, 1]))
    holding = [*ranks[:2], None, *ranks[2:]]
    table = torch.stack([keys(part, 8) for part in holding])
    shares = [_own(Held(part, quota, pooled), table, rank) for rank, part in enumerate(holding)]
    assert shares[2] is None
    found = [row for part in shares if part is not None for row in zip(*(x.tolist() for x in part[:3]), strict=True)]
    joined = ranks[-1]
    for part in ranks[-2::-1]:
        joined = joined.join(part)
    one = joined.take(smallest(joined.hashes, joined.strata, quota, pooled=pooled))
    expected = list(zip(one.hashes.tolist(), one.strata.tolist(), strict=True))
    assert sorted((h, s) for h, s, _ in found) == sorted(expected)
    assert all(x == [h] for h, _, x in found), "each row keeps its own input"


def test_rows_that_all_ranks_hold_are_explained_by_each_in_turn() -> None:
    """A probe that was given: every rank reads it, and the work is shared equally."""
    rows = held(list(range(8)), [0] * 8)
    table = torch.stack([keys(rows, 8)] * 3)
    shares = [_own(Held(rows, 8), table, rank) for rank in range(3)]
    assert [part.hashes.tolist() for part in shares if part is not None] == [[0, 3, 6], [1, 4, 7], [2, 5]]


class Stream(IterableDataset):
    """Rows one after the other, and perhaps a length that is declared."""

    def __init__(self, count: int) -> None:
        self.rows = rows(count)

    def __iter__(self) -> Iterator[Any]:
        return (self.rows[i] for i in range(len(self.rows)))


class Declared(Stream):
    """More rows than there are."""

    def __len__(self) -> int:
        return len(self.rows) + 16


class Guessing(BatchSampler):
    """Batches by somebody's own rule, which counts one too many."""

    def __len__(self) -> int:
        return super().__len__() + 1


class Own(Sampler[int]):
    """Somebody's own order of 32 rows, which counts more."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(32))

    def __len__(self) -> int:
        return 48


class Seen(pl.Callback):
    """What was foreseen when a validation began, and whether a batch came that was known for the last."""

    def __init__(self) -> None:
        self.foreseen, self.came = list[bool](), False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.foreseen.append(foresees_last_batch(trainer))

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.came |= is_last_batch(trainer)


class Plain:
    """Two batches, from no loader of torch."""

    def __iter__(self) -> Iterator[Any]:
        return iter([rows(16).batch(), rows(8).batch()])

    def __len__(self) -> int:
        return 2


class Picky(DataLoader[Any]):
    """A loader of somebody's own that leaves a batch out."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return itertools.islice(super().__iter__(), len(self) - 1)


KNOWN: dict[str, Any] = {
    "in order": loader(rows(40)),
    "drawn by weights": loader(rows(40), sampler=WeightedRandomSampler([1.0] * 40, 20)),
    "batches of indices": DataLoader(
        rows(40), sampler=BatchSampler(SequentialSampler(range(40)), 16, False), batch_size=None
    ),
    "two loaders": [loader(rows(40)), loader(rows(8))],
    "stream": loader(Stream(40)),
    **{mode: CombinedLoader([loader(rows(40)), loader(rows(8))], mode) for mode in ("min_size", "max_size_cycle")},
}
UNKNOWN: dict[str, Any] = {
    "empty stream": loader(Stream(0)),
    "stream with a declared length": loader(Declared(40)),
    "own batches": DataLoader(rows(40), batch_sampler=Guessing(SequentialSampler(range(40)), 16, False)),
    "own loader": Picky(rows(40), batch_size=16),
    "own order": loader(rows(40), sampler=Own()),
    "no loader of torch": Plain(),
    "one of two empty": CombinedLoader([loader(rows(40)), loader(rows(0))], "max_size_cycle"),
    "one of two unknown": [loader(rows(40)), loader(Declared(40))],
}


def seen(folder: Path, val: Any, **options: Any) -> Seen:
    found = Seen()
    model = Several() if isinstance(val, list | CombinedLoader) else Classifier()
    fit(model, [found], folder, val=val, max_epochs=1, **options)
    return found


class Several(Classifier):
    """Takes several loaders, one after the other or together."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # type: ignore[override]
        return super().validation_step(batch[0] if isinstance(batch, list) else batch, batch_idx)


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined", "ignore:Total length of")
@pytest.mark.parametrize("kind", [*KNOWN, *UNKNOWN])
def test_a_last_batch_that_is_foreseen_comes(kind: str, tmp_path: Path) -> None:
    """Trap 45: who waits for others while they evaluate must know that they come; whose length is a guess may not."""
    found = seen(tmp_path, {**KNOWN, **UNKNOWN}[kind])
    assert found.foreseen == [kind in KNOWN]
    assert found.came >= (kind in KNOWN)


@pytest.mark.parametrize(
    ("kind", "limit", "expected"), [("in order", 2, True), ("in order", 0.5, True), ("stream", 9, False)]
)
def test_a_limit_on_batches_is_foreseen_unless_a_stream_may_end_before(
    kind: str, limit: float, expected: bool, tmp_path: Path
) -> None:
    """Traps 43 and 45: a stream of three batches is told to give nine, and Lightning believes it."""
    found = seen(tmp_path, KNOWN[kind], limit_val_batches=limit)
    assert found.foreseen == [expected]
    assert found.came == expected


def test_a_rank_that_explains_nothing_of_the_probe_does_not_draw_again(tmp_path: Path) -> None:
    """All of its candidates gave way, and the probe of the others stands."""
    monitor = AttributionMonitor("saliency", probe_size=8)
    fit(Classifier(), [monitor], tmp_path, max_epochs=1)
    probe, data = monitor._probe, loader(rows())
    probe.forget()
    for drawing in (True, False):
        probe.open(data, 1, draw=True, anew=False)
        assert probe.drawing == drawing
        probe.keep(None)
    assert probe.rows() is None


def test_which_of_equal_inputs_is_drawn_does_not_depend_on_their_order(tmp_path: Path) -> None:
    """Laws 2 and 6: tables hold people who differ in nothing but the label, and ranks meet them in another order."""
    data, found = rows(24, classes=3), []
    data.x = data.x[torch.arange(24) // 2]
    for order in (range(24), range(23, -1, -1)):
        monitor = AttributionMonitor("saliency", probe_size=2, sample_size=8)
        fit(Classifier(classes=3), [monitor], tmp_path, val=loader(Subset(data, order), batch_size=5), max_epochs=1)
        probe, sampled = monitor._probe.rows(), monitor._sampled
        assert probe is not None
        assert sampled is not None
        assert monitor._probe.strata.pooled
        drawn = [[*zip(part.hashes.tolist(), part.targets.tolist(), strict=True)] for part in (probe, sampled[0])]
        found.append(drawn)
    assert [len(part) for part in found[0]] == [2, 8]
    assert found[0] == found[1]
