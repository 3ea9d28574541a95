"""The drift panel in a real Trainer, on explanations that are chosen: what is logged of them is known."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from small import Classifier, Ledger, fit, loader, rows
from xai_lightning import AttributionMonitor, MemorySink

Maps = Callable[[Tensor, int], Tensor]
"""Attributions to ``inputs[1, ...]`` at a validation, which count from 1."""


class Validations(pl.Callback):
    """Counts them."""

    number = 0

    def on_validation_start(self, *args: Any) -> None:
        self.number += 1


def explained(maps: Maps, folder: Path, *, shape: tuple[int, ...] = (6,), **options: Any) -> tuple[Ledger, MemorySink]:
    """A fit of six validations whose explanations are ``maps``."""
    count, ledger, sink = Validations(), Ledger(), MemorySink()

    def chosen(forward: Any, inputs: Tensor, baselines: Tensor) -> Tensor:
        return maps(inputs, count.number)

    monitor = AttributionMonitor(chosen, sinks=[sink], **{"on_error": "raise", **options})
    data = {"train": loader(rows(16, shape)), "val": loader(rows(48, shape, seed=1))}
    fit(Classifier(shape), [count, monitor], folder, logger=ledger, max_epochs=6, **data)
    return ledger, sink


def test_the_ranking_compares_the_same_samples_whichever_are_undefined(tmp_path: Path) -> None:
    """Trap 98: where explanations of one kind of sample vanish, the others' leading features have not changed."""

    def maps(inputs: Tensor, number: int) -> Tensor:
        kind = bool(inputs[0, 0] > 0)
        weights = torch.tensor([9.0, 5, 4, 3, 2, 1] if kind else [1.0, 2, 3, 4, 5, 6])
        return weights[None] * (math.nan if kind and number in (2, 4) else 1)

    looks = explained(maps, tmp_path)[0].validations()
    assert 0 < looks[1]["xai/chosen/nonfinite_maps"] < 1
    for look in looks[1:]:
        for reference in ("first", "previous"):
            assert look[f"drift/chosen/cosine/{reference}/mean"] == 0
            assert look[f"drift/chosen/ranking/{reference}/ndcg"] == 1
            assert look[f"drift/chosen/ranking/{reference}/ndcg_adjusted"] == 1


@pytest.mark.parametrize(("size", "expected"), [(18, 0), (20, 1)])
def test_too_few_samples_show_no_end_of_drift(size: int, expected: int, tmp_path: Path) -> None:
    """An equivalence test: a few samples that hardly move say nothing of others, though their bootstrap is narrow."""
    looks = explained(lambda inputs, number: inputs, tmp_path, probe_size=size)[0].validations()
    assert looks[-1]["xai/chosen/probe_size"] == size
    assert looks[-1]["drift/chosen/cosine/previous/upper"] == 0
    assert [look["drift/chosen/converged"] for look in looks] == [0] * 5 + [expected]
