"""Values agree with fairlearn and scikit-learn on random, Adult and German data; where they differ it is shown how."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import adult_data
from cases_fairness import value
from xai_lightning.functional.fairness import (
    METRICS,
    confusion,
    count,
    estimate,
    residual_sums,
    score_counts,
    scored,
    undefined,
    weigh,
)

GERMAN = {(0, 0): (143, 205), (0, 1): (58, 105), (1, 0): (447, 605), (1, 1): (52, 85)}


class Rows(NamedTuple):
    """Targets and predictions of two classes, scores, groups and strata of the same rows."""

    targets: Tensor
    predictions: Tensor
    scores: Tensor
    groups: Tensor
    strata: Tensor


def decided(targets: Tensor, scores: Tensor, groups: Tensor, strata: Tensor) -> Rows:
    return Rows(targets, (scores > 0.5).long(), scores, groups, strata)


def random_rows(seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    size, n_groups = 400 + 300 * seed, 2 + seed % 4
    groups, strata = (torch.randint(0, n, (size,), generator=generator) for n in (n_groups, 2))
    targets = torch.randint(0, 2, (size,), generator=generator)
    noise = torch.randn(size, generator=generator, dtype=torch.float64)
    return decided(targets, (noise + targets - 0.5 + groups / 5).sigmoid(), groups, strata)


@cache
def adult_rows(attribute: str) -> Rows:
    """The 16,281 official test rows, scored by a rule of thumb, within those who are married and those who are not."""
    rows = adult_data.read_rows(adult_data.FOLDER / "adult.test.gz")
    names = sorted({row[attribute] for row in rows})
    married = torch.tensor([int(row["marital_status"].startswith("Married")) for row in rows])
    numbers = torch.tensor(
        [[float(row[name]) for name in ("education_num", "age", "hours_per_week")] for row in rows]
    ).double()
    logits = (
        (numbers - torch.tensor([12.0, 40.0, 40.0])) @ torch.tensor([0.4, 0.03, 0.03]).double() + 1.5 * married - 0.8
    )
    targets = torch.tensor([int(row["label"] == ">50K") for row in rows])
    groups = torch.tensor([names.index(row[attribute]) for row in rows])
    return decided(targets, logits.sigmoid(), groups, married)


@cache
def german_rows() -> Rows:
    """The 1,000 rows of German credit by sex and age, from their counts, with scores that are drawn."""
    cells = [(sex, age, good) for (sex, age), (n, size) in GERMAN.items() for good in [1] * n + [0] * (size - n)]
    groups, strata, targets = torch.tensor(cells).unbind(dim=1)
    noise = torch.randn(len(cells), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return decided(targets, (noise + 1.2 * targets - 0.4 * groups).sigmoid(), groups, strata)


DATA: dict[str, Callable[[], Rows]] = {
    **{f"random {seed}": lambda seed=seed: random_rows(seed) for seed in range(5)},
    "adult by sex": lambda: adult_rows("sex"),
    "adult by race": lambda: adult_rows("race"),
    "german": german_rows,
}
SLOW = {"adult by race": pytest.mark.slow}
everywhere = pytest.mark.parametrize("data", [pytest.param(x, marks=SLOW.get(x, ()), id=x) for x in DATA])


def peers(rows: Rows, **options) -> dict[str, object]:
    """All that fairlearn has of our metrics of decisions, scalars; with ``control_features`` one for each stratum."""
    fairlearn, sklearn = pytest.importorskip("fairlearn.metrics"), pytest.importorskip("sklearn.metrics")

    def negatives(function):
        return lambda y_true, y_pred: function(1 - y_true, 1 - y_pred)

    def none_of(function):
        return lambda y_true, y_pred: 1 - function(y_true, y_pred)

    precision = sklearn.precision_score
    functions = {
        "selection_rate": fairlearn.selection_rate,
        "true_positive_rate": fairlearn.true_positive_rate,
        "false_positive_rate": fairlearn.false_positive_rate,
        "false_negative_rate": fairlearn.false_negative_rate,
        "true_negative_rate": fairlearn.true_negative_rate,
        "accuracy": sklearn.accuracy_score,
        "positive_predictive_value": precision,
        "false_discovery_rate": none_of(precision),
        "negative_predictive_value": negatives(precision),
        "false_omission_rate": none_of(negatives(precision)),
        "balanced_accuracy": sklearn.balanced_accuracy_score,
    }
    arrays = {"y_true": rows.targets.numpy(), "y_pred": rows.predictions.numpy()}
    frame = fairlearn.MetricFrame(metrics=functions, sensitive_features=rows.groups.numpy(), **arrays, **options)
    tables = {
        "{}_difference": frame.difference(),
        "{}_ratio": frame.ratio(),
        "{}_difference_to_overall": frame.difference(method="to_overall"),
        "{}_ratio_to_overall": frame.ratio(method="to_overall"),
        "worst_group_{}": frame.group_min(),
    }
    found = {form.format(name): table[name] for form, table in tables.items() for name in functions}
    errors = {f"worst_group_{name}": frame.group_max()[name] for name in ("false_positive_rate", "false_negative_rate")}
    return {name: theirs for name, theirs in (found | errors).items() if name in METRICS}


def named_peers(rows: Rows) -> dict[str, float]:
    """What fairlearn has functions for."""
    fairlearn = pytest.importorskip("fairlearn.metrics")
    arrays = {
        "y_true": rows.targets.numpy(),
        "y_pred": rows.predictions.numpy(),
        "sensitive_features": rows.groups.numpy(),
    }
    found = {name: getattr(fairlearn, name)(**arrays) for name in METRICS if hasattr(fairlearn, name)}
    for name in METRICS:
        base = name.removesuffix("_to_overall")
        if base != name and hasattr(fairlearn, base):
            found[name] = getattr(fairlearn, base)(**arrays, method="to_overall")
    return found | {"equalized_odds_difference_mean": fairlearn.equalized_odds_difference(**arrays, agg="mean")}


def counted(rows: Rows):
    parts = rows.predictions, rows.targets, rows.groups
    return confusion(count(*parts, classes=2, n_groups=int(rows.groups.max()) + 1), positive=1)


# --- decisions


@everywhere
def test_every_shared_metric_of_decisions_agrees(data):
    rows = DATA[data]()
    counts, expected = counted(rows), peers(rows) | named_peers(rows)
    assert undefined(counts, expected) == 0
    assert len(expected) >= 60
    assert {name: value(name, counts) for name in expected} == pytest.approx(expected, abs=1e-12)


@everywhere
def test_every_shared_metric_within_strata_agrees(data):
    """Control features: ours is the worst stratum."""
    rows = DATA[data]()
    n_groups = int(rows.groups.max()) + 1
    cells = rows.strata * n_groups + rows.groups
    counts = count(rows.predictions, rows.targets, cells, classes=2, n_groups=2 * n_groups)
    strata = confusion(counts.reshape(2, n_groups, 2, 2), positive=1)
    expected = peers(rows, control_features=rows.strata.numpy())
    # Of the five Eskimos and Indians … the smallest cells, some have no denominator: there fairlearn says 0.
    defined = [name for name in expected if undefined(strata, [name]) == 0]
    assert len(defined) >= 40
    for name in defined:
        ours = estimate(METRICS[name], strata, error=0.05, strata="worst", replicates=10).value.item()
        worst = max(expected[name]) if METRICS[name].best == "low" else min(expected[name])
        assert ours == pytest.approx(worst, abs=1e-12), name


def test_weighted_rows_agree():
    fairlearn = pytest.importorskip("fairlearn.metrics")
    rows = adult_rows("sex")
    weights = torch.arange(len(rows.groups)).remainder(7).double()
    sums = weigh(rows.predictions, rows.targets, rows.groups, weights, classes=2, n_groups=2)
    counts = confusion(sums[0], 1, sums[1])
    arrays = {"y_true": rows.targets.numpy(), "y_pred": rows.predictions.numpy(), "sample_weight": weights.numpy()}
    for name in ("demographic_parity_difference", "equalized_odds_difference", "equal_opportunity_ratio"):
        theirs = getattr(fairlearn, name)(**arrays, sensitive_features=rows.groups.numpy())
        assert value(name, counts) == pytest.approx(theirs, abs=1e-12), name


# --- scores


@everywhere
def test_the_area_under_the_curve_agrees_to_what_bins_hide(data):
    fairlearn, sklearn = pytest.importorskip("fairlearn.metrics"), pytest.importorskip("sklearn.metrics")
    rows = DATA[data]()
    cells = scored(score_counts(rows.scores, rows.targets, rows.groups, n_groups=int(rows.groups.max()) + 1))
    numbers = cells.numbers.double()
    # Half of the pairs that share a bin may be counted wrongly, in one direction.
    meet = (numbers[:, 0] * numbers[:, 1]).sum(dim=-1) / numbers.sum(dim=-1).prod(dim=-1) / 2
    columns = {"sensitive_features": rows.groups.numpy(), "y_true": rows.targets.numpy(), "y_pred": rows.scores.numpy()}
    frame = fairlearn.MetricFrame(metrics=sklearn.roc_auc_score, **columns)
    slack = float(meet.max())
    assert slack < 0.002
    found = {
        name: estimate(METRICS[name], cells, error=0.05).value.item() for name in ("auc_difference", "worst_group_auc")
    }
    assert found["auc_difference"] == pytest.approx(frame.difference(), abs=2 * slack)
    assert found["worst_group_auc"] == pytest.approx(fairlearn.roc_auc_score_group_min(**columns), abs=slack)


@everywhere
def test_scores_on_the_grid_agree_exactly(data):
    """In the middles of the bins nothing is lost but the order within a bin, which is none."""
    fairlearn, sklearn = pytest.importorskip("fairlearn.metrics"), pytest.importorskip("sklearn.metrics")
    rows = DATA[data]()
    scores = ((rows.scores * 1024).floor() + 0.5) / 1024
    cells = scored(score_counts(scores, rows.targets, rows.groups, n_groups=int(rows.groups.max()) + 1))
    columns = {"sensitive_features": rows.groups.numpy(), "y_true": rows.targets.numpy(), "y_pred": scores.numpy()}
    functions = {"auc": sklearn.roc_auc_score, "brier_score": sklearn.brier_score_loss}
    frame = fairlearn.MetricFrame(metrics=functions, **columns)
    for name, function in functions.items():
        ours = estimate(METRICS[f"{name}_difference"], cells, error=0.05, replicates=10).value.item()
        assert ours == pytest.approx(frame.difference()[name], abs=1e-9), function


# --- numbers


@everywhere
def test_every_shared_metric_of_predicted_numbers_agrees(data):
    fairlearn, sklearn = pytest.importorskip("fairlearn.metrics"), pytest.importorskip("sklearn.metrics")
    rows = DATA[data]()
    targets, predictions = 30 * rows.scores + rows.groups, 20 * rows.scores.square() + rows.targets
    sums = residual_sums(predictions, targets, rows.groups, n_groups=int(rows.groups.max()) + 1)
    functions = {
        "mean_absolute_error": sklearn.mean_absolute_error,
        "root_mean_squared_error": sklearn.root_mean_squared_error,
        "mean_prediction": fairlearn.mean_prediction,
        "mean_residual": lambda y_true, y_pred: np.mean(y_true - y_pred),
    }
    columns = {"sensitive_features": rows.groups.numpy(), "y_true": targets.numpy(), "y_pred": predictions.numpy()}
    frame = fairlearn.MetricFrame(metrics=functions, **columns)
    tables = {"{}_difference": frame.difference(), "{}_ratio": frame.ratio(), "worst_group_{}": frame.group_max()}
    expected = {form.format(name): table[name] for form, table in tables.items() for name in functions}
    expected["worst_group_mean_residual"] = frame.by_group["mean_residual"].abs().max()
    expected = {name: theirs for name, theirs in expected.items() if name in METRICS}
    assert len(expected) == 9
    for name, theirs in expected.items():
        assert estimate(METRICS[name], sums, error=0.05).value.item() == pytest.approx(theirs, rel=1e-9), name
