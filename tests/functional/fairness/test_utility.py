from types import SimpleNamespace

import pytest
import torch
from hypothesis import given

from cases_fairness import GUIDE, counted, errors, samples
from xai_lightning.functional.fairness import METRICS, balanced_accuracy, confusion, count, estimate
from xai_lightning.functional.gate import Limit, decide


def test_balanced_accuracy_is_the_mean_recall():
    squares = count(GUIDE.predictions, GUIDE.targets, GUIDE.groups, classes=2, n_groups=3).sum(dim=0)
    value, bound = balanced_accuracy(squares, error=0.05)
    assert value.item() == pytest.approx((2 / 6 + 6 / 12) / 2)
    assert 0 <= bound < value


@given(samples(classes=4, n_groups=2), errors)
def test_balanced_accuracy_is_the_same_in_both_layouts(rows, error):
    everyone = range(4, 65)  # one correct sample of each class that the square layout does not hold
    many = SimpleNamespace(
        predictions=[*rows.predictions, *everyone], targets=[*rows.targets, *everyone], groups=[*rows.groups, *[0] * 61]
    )
    square = torch.block_diag(counted(rows, 4, 2).sum(dim=0), torch.eye(61, dtype=torch.int64))
    pairs = zip(
        balanced_accuracy(square, error), balanced_accuracy(counted(many, 65, 2).sum(dim=0), error), strict=True
    )
    assert all(a.item() == pytest.approx(b.item(), abs=1e-12, nan_ok=True) for a, b in pairs)


def test_balanced_accuracy_is_undefined_without_samples_of_a_class():
    """Trap 79: 0/0 becomes 0, or vanishes."""
    assert all(part.isnan() for part in balanced_accuracy(torch.tensor([[5, 1], [0, 0]]), error=0.05))
    assert all(part.isnan() for part in balanced_accuracy(torch.tensor([[5, 1], [0, 0]]), error=0))


def test_a_constant_predictor_is_fair_and_does_not_pass_the_floor_of_utility():
    """Trap 87: gating on fairness alone rewards trivial classifiers."""
    targets, groups = torch.arange(2000) % 10 == 0, torch.arange(2000) // 1000
    squares = count(torch.zeros(2000, dtype=torch.bool), targets, groups, classes=2, n_groups=2)
    gap = estimate(METRICS["equalized_odds_difference"], confusion(squares, 1), error=0.05)
    value, bound = balanced_accuracy(squares.sum(dim=0), error=0.05)
    assert gap.value == 0
    assert gap.bound < 0.1
    assert value == 0.5
    assert not decide([Limit("floor", "above", 0.5)], {"floor": bound.item()}, {"floor"}).open


def test_a_useful_model_on_unbalanced_classes_passes_the_floor_that_accuracy_would_refuse():
    squares = torch.tensor([[9603, 297], [20, 80]])  # 1 % positives, recall .80, FPR .03: accuracy .968 < .990
    assert balanced_accuracy(squares, error=0.001).bound > 0.5
