"""Batches that are counted together."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from xai_lightning import FairnessMonitor
from xai_lightning.callbacks._fairness.tally import Tally


def batches(sizes: list[int], classes: int = 3) -> Iterator[tuple[Any, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    n = sum(sizes)
    outputs = torch.randn(n, classes, generator=generator)
    outputs[::17] = torch.nan
    columns = torch.zeros(n, 1), torch.randint(classes, (n,), generator=generator), torch.arange(n) % 2
    parts = (column.split(sizes) for column in (*columns, torch.arange(n) / n, outputs))
    for x, y, sex, weight, found in zip(*parts, strict=True):
        yield {"x": x, "y": y, "sex": sex, "weight": weight}, found


def total(sizes: list[int], **more: Any) -> Tally:
    monitor = FairnessMonitor({"sex": ["a", "b"]}, positive_class=1, **more)
    counting = monitor._counting
    counting.open(None)
    for batch, outputs in batches(sizes):
        counting.add(batch, outputs)
        # loaders and networks use their tensors again
        for column in (*batch.values(), outputs):
            column.zero_()
    found = counting.gather(None)
    assert isinstance(found, Tally)
    return found


def slowly(n: int) -> tuple[Tensor, Tensor, int]:
    """Counts and sums of weights ``[G, K, K]``, and samples that are not finite, one sample after the other."""
    [(batch, outputs)] = batches([n])
    counts, weights = torch.zeros(4, 3, 3, dtype=torch.int64), torch.zeros(4, 3, 3, dtype=torch.float64)
    nonfinite = 0
    for sex, actual, weight, found in zip(batch["sex"], batch["y"], batch["weight"], outputs, strict=True):
        if not bool(found.isfinite().all()):
            nonfinite += 1
            continue
        place = int(sex), int(actual), int(found.argmax())
        counts[place] += 1
        weights[place] += float(weight)
    return counts, weights, nonfinite


@pytest.mark.parametrize("sizes", [[1] * 300, [7, 250, 43], [300]])
def test_counts_are_those_of_each_sample_however_the_data_are_cut(sizes: list[int]) -> None:
    cut, (counts, _, nonfinite) = total(sizes), slowly(300)
    assert torch.equal(cut.counts["sex"], counts)
    assert cut.nonfinite == nonfinite > 0
    assert torch.equal(cut.scores["sex"][..., 0].sum(dim=(1, 2)), counts.sum(dim=(1, 2)))
    assert torch.equal(cut.scores["sex"], total([150, 150]).scores["sex"])


def test_weights_wait_with_their_samples() -> None:
    cut = total([7, 250, 43], weights="weight", metrics=["demographic_parity_difference"])
    torch.testing.assert_close(cut.weights["sex"][:, 0], slowly(300)[1], rtol=1e-6, atol=0)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xai_lightning.callbacks._fairness.waiting.SAMPLES", 50)
    counting = FairnessMonitor({"sex": ["a", "b"]}, positive_class=1)._counting
    counting.open(None)
    for batch, outputs in batches([20] * 40):
        counting.add(batch, outputs)
        assert len(counting._waiting) <= 50


def test_given_labels_out_of_range_are_refused_at_their_batch() -> None:
    counting = FairnessMonitor({"sex": ["a", "b"]}, outputs="labels")._counting
    counting.open(None)
    batch = {"x": torch.zeros(2, 1), "y": torch.tensor([0, 1]), "sex": torch.tensor([0, 1])}
    counting.add(batch, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"predictions must lie in 0\.\.1, got 2"):
        counting.add(batch, torch.tensor([0, 2]))
    found = counting.gather(None)
    assert isinstance(found, Tally)
    assert int(found.counts["sex"].sum()) == 2


def test_what_the_first_batch_shows_is_told_at_once() -> None:
    counting = FairnessMonitor(
        {"sex": ["a", "b"]}, positive_class=1, weights="weight", metrics=["accuracy_difference"]
    )._counting
    counting.open(None)
    [(batch, outputs)] = batches([10], classes=65)
    with pytest.raises(ValueError, match="weighted samples need at most 64 classes, got 65"):
        counting.add(batch, outputs, first=True)
