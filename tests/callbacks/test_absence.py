"""Classes that a validation has no row of: what is undefined without them, and who says so."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from small import GROUPS, Classifier, Ledger, Rows, fit, loader, rows, trainer
from xai_lightning import FairnessMonitor, GatedCheckpoint, MemorySink
from xai_lightning.callbacks._fairness import absence
from xai_lightning.callbacks._fairness.asked import Asked
from xai_lightning.callbacks._fairness.tally import Judged, Tally
from xai_lightning.functional.fairness import METRICS

LIMIT = "fairness/sex/demographic_parity_difference/bound"
UTILITY = "utility/balanced_accuracy/bound"
METRICS_OF_ALL = ["demographic_parity_difference", "worst_group_balanced_accuracy"]


def of_classes(count: int, seed: int = 1, n: int = 240) -> Rows:
    return rows(n, classes=count, seed=seed)


def gated(
    folder: Path, classes: int, limit: str = LIMIT, **settings: Any
) -> tuple[list[str], list[dict[str, Any]], list[dict[str, float]]]:
    """Three classes, of which so many occur in the validation: all warnings, decisions and numbers."""
    ledger = Ledger()
    gate = GatedCheckpoint(at_most={limit: 0.9}, dirpath=folder, **settings)
    monitor = FairnessMonitor({"sex": GROUPS}, metrics=METRICS_OF_ALL, positive_class=1, delta=0.4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = {"train": loader(of_classes(3, seed=0)), "val": loader(of_classes(classes))}
        fit(Classifier(classes=3), [monitor, gate], folder, logger=ledger, max_epochs=2, **data)
    decided = [json.loads(line) for line in gate.audit_path.read_text().splitlines()]
    return [str(w.message) for w in caught], decided, ledger.validations()


def test_a_class_without_rows_is_named_once_by_the_monitor_and_in_every_reason(tmp_path: Path) -> None:
    """Law 3: the utility of a class that nobody validates is unknown, and a gate that needs it stays closed."""
    told, decided, looks = gated(tmp_path, 2)
    named = [
        text for text in told if text.startswith("FairnessMonitor: in this evaluation no row belongs to class 2, ")
    ]
    assert len(named) == 1
    assert "leaves utility/balanced_accuracy, worst_group_balanced_accuracy undefined (NaN)" in named[0]
    assert [line["reason"] for line in decided] == [f"{UTILITY} is NaN: no row belongs to class 2"] * 2
    assert any(f"{UTILITY}: no row belongs to class 2, so the gate cannot open" in text for text in told)
    for look in looks:
        assert look["xai/gate/can_open"] == 0
        assert look["gate/open"] == 0
        assert math.isnan(look[UTILITY])


def test_where_every_class_has_rows_nothing_is_said(tmp_path: Path) -> None:
    told, decided, looks = gated(tmp_path, 3)
    assert not any("no row" in text for text in told)
    assert not any("is NaN" in line["reason"] for line in decided)
    assert looks[0]["xai/gate/can_open"] == 1


def test_a_gate_that_needs_no_utility_may_open_without_a_class(tmp_path: Path) -> None:
    _, decided, looks = gated(tmp_path, 2, utility_floor=False)
    assert decided[-1]["gate"] == "open"
    assert looks[0]["xai/gate/can_open"] == 1


def test_predictions_that_are_not_finite_are_no_absence(tmp_path: Path) -> None:
    """Such rows are not counted, and their class may well occur."""
    model = Classifier(classes=3, returns=lambda logits: logits.where(logits.argmax(1)[:, None] != 1, math.nan))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor = FairnessMonitor({"sex": GROUPS}, positive_class=1, sinks=[sink := MemorySink()])
        trainer([monitor], tmp_path).validate(model, loader(of_classes(2)), verbose=False)
    assert {name: value for _, name, value in sink.records}["xai/nonfinite_predictions"] > 0
    assert not any("no row" in str(w.message) for w in caught)


# --- what is undefined


def tallied(targets: Tensor, classes: int, positive: int) -> Tally:
    """Random predictions and scores of two groups for these targets."""
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(0, max(2, classes), targets.shape, generator=generator)
    groups = torch.arange(len(targets)) % 2
    scores = None if targets.ndim == 2 else torch.rand(len(targets), generator=generator)
    tally = Tally(n_classes=classes, labels=targets.shape[1] if targets.ndim == 2 else 0)
    tally.add("sex", Judged(targets, predicted, classes, scores, positive=positive), groups, 2)
    return tally


@pytest.mark.parametrize(
    ("classes", "occur", "positive"),
    [(2, [0], 1), (2, [1], 1), (3, [0, 1], 2), (3, [0, 1], 1), (3, [1], 1), (3, [0], 1), (3, [0, 1, 2], 1)],
)
def test_a_metric_is_called_undefined_if_and_only_if_no_prediction_could_define_it(
    classes: int, occur: list[int], positive: int
) -> None:
    targets = torch.tensor(occur)[torch.arange(600) // 2 % len(occur)]
    tally = tallied(targets, classes, positive)
    known = {name: metric for name, metric in METRICS.items() if metric.needs in ("counts", "scores")}
    nan = []
    for name, metric in known.items():
        evidence = tally.evidence(metric.needs, "sex", torch.arange(2), positive)
        nan += [name] if bool(metric.measure(evidence).value.isnan().any()) else []
    asked = Asked(known, False, 1, 0, {}, False, "worst")
    assert absence.undefined(asked, absence.absent(tally), positive) == nan


def test_labels_that_no_row_or_every_row_has_are_named() -> None:
    targets = torch.tensor([[0, 1, 0], [0, 1, 1]]).repeat(50, 1)
    missing = absence.absent(tallied(targets, 2, 1))
    assert absence.described(missing) == "no row has label 0, and every row has label 1"
    rates = ["equal_opportunity_difference", "equalized_odds_difference", "demographic_parity_difference"]
    asked = Asked({name: METRICS[name] for name in rates}, False, 1, 0, {}, False, "worst")
    assert absence.undefined(asked, missing, 1) == rates[:2]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([], ""),
        ([2], "no row belongs to class 2"),
        ([0, 2], "no row belongs to classes 0, 2"),
        (list(range(10, 80)), "no row belongs to 70 classes (10, 11, 12, 13, 14, ...)"),
    ],
)
def test_many_classes_are_counted_and_a_few_named(numbers: list[int], words: str) -> None:
    missing = torch.zeros(100, dtype=torch.bool).index_fill(0, torch.tensor(numbers, dtype=torch.int64), True)
    assert absence.described(missing) == words
