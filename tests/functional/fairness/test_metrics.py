import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import references_fairness as slow
from cases_fairness import COMPAS, COUNTED, OF_RATES, errors, made_of, metrics, of_guide, remade, tallies, value
from xai_lightning.functional.fairness import (
    METRICS,
    confusion,
    count,
    estimate,
    rate,
    undefined,
)
from xai_lightning.functional.intervals import newcombe


def test_the_metrics_of_the_user_guide_of_fairlearn():
    counts = of_guide()
    assert rate("selection_rate", counts).tolist() == pytest.approx([0.75, 0.5, 0.5])
    assert rate("true_positive_rate", counts).tolist() == pytest.approx([0.5, 0.6, 0.4])
    assert rate("false_positive_rate", counts).tolist() == pytest.approx([1, 0, 2 / 3])
    assert value("demographic_parity_difference", counts) == pytest.approx(0.25)
    assert value("demographic_parity_ratio", counts) == pytest.approx(2 / 3)
    assert value("equalized_odds_difference", counts) == pytest.approx(1)
    assert value("equal_opportunity_difference", counts) == pytest.approx(0.2)


def test_the_published_metrics_of_compas():
    expected = {
        "demographic_parity_difference": 0.240200,
        "demographic_parity_ratio": 0.591638,
        "equalized_odds_difference": 0.213925,
        "equal_opportunity_difference": 0.197373,
        "accuracy_difference": 0.031669,
        "worst_group_accuracy": 0.638258,
        "equalized_odds_difference_mean": 0.205649,
        "equalized_odds_ratio": 0.522987,
        "predictive_parity_difference": 0.038380,
        "false_positive_rate_difference": 0.213925,
        "treatment_equality_unbounded_difference": 1.320917 - 0.660870,
    }
    for name, published in expected.items():
        assert value(name, COMPAS) == pytest.approx(published, abs=1e-6), name


def test_the_newcombe_intervals_of_compas():
    false_positives = newcombe(*torch.tensor([805, 1795, 349, 1488]), error=0.025)
    true_positives = newcombe(*torch.tensor([1369, 1901, 505, 966]), error=0.025)
    assert [limit.item() for limit in false_positives] == pytest.approx((0.182053, 0.245023), abs=1e-6)
    assert [limit.item() for limit in true_positives] == pytest.approx((0.159860, 0.234559), abs=1e-6)
    assert estimate(METRICS["equalized_odds_difference"], COMPAS, error=0.025).bound == false_positives.upper


@given(tallies(least=0), metrics, errors, st.floats(1e-4, 0.5))
def test_an_estimate_equals_its_slow_twin(counts, name, error, level):
    metric = METRICS[name]
    squares = torch.stack([counts.tn, counts.fp, counts.fn, counts.tp], -1).reshape(-1, 2, 2).tolist()
    by_group = [[slow.rates(each, square) for square in squares] for each in metric.rates]
    rates = [list(row) for groups in by_group for row in zip(*groups, strict=True)]
    expected = slow.estimate(rates, metric.aggregation, error, level)
    got = [part.item() for part in estimate(metric, counts, error=error, level=level)]
    assert got == pytest.approx(expected, abs=1e-6, nan_ok=True)


@given(tallies(), metrics, st.randoms())
def test_the_order_of_the_groups_changes_nothing(counts, name, random):
    order = list(range(counts.total.shape[0]))
    random.shuffle(order)
    shuffled = remade(counts, lambda cells: cells[order])
    pairs = [torch.stack(estimate(METRICS[name], each, error=0.01)) for each in (counts, shuffled)]
    assert torch.allclose(*pairs, rtol=0, atol=1e-12, equal_nan=True)


@given(tallies(), metrics, errors)
def test_the_value_lies_within_its_limits_and_all_lie_between_zero_and_one(counts, name, error):
    value, lower, upper, bound = estimate(METRICS[name], counts, error=error)
    if not value.isnan():
        assert 0 <= lower <= value <= upper <= 1
        assert value <= bound <= 1 if METRICS[name].best == "low" else 0 <= bound <= value


@given(tallies(), metrics, errors, errors)
def test_a_smaller_error_gives_a_bound_that_is_nearer_to_unfair(counts, name, one, other):
    strict, lax = (estimate(METRICS[name], counts, error=error).bound for error in sorted((one, other)))
    assert strict.isnan() or (strict >= lax if METRICS[name].best == "low" else strict <= lax)


@given(tallies(), metrics, st.integers(2, 9))
def test_more_samples_of_the_same_rates_bring_the_bound_nearer_to_the_value(counts, name, factor):
    few = estimate(METRICS[name], counts, error=0.01)
    many = estimate(METRICS[name], remade(counts, lambda cells: cells * factor), error=0.01)
    assert few.value.isnan() or (many.bound - many.value).abs() <= (few.bound - few.value).abs() + 1e-12


@given(tallies())
def test_equalized_odds_are_the_worse_of_two_gaps_and_not_their_mean(counts):
    gaps = [rate(name, counts) for name in ("true_positive_rate", "false_positive_rate")]
    gaps = [(each.max() - each.min()).item() for each in gaps]
    worst = value("equalized_odds_difference", counts)
    assert worst == pytest.approx(max(gaps))
    assert worst >= sum(gaps) / 2 - 1e-12


FAIRER = [name for name in COUNTED if "false_omission" not in name and "negative_predictive" not in name]


@pytest.mark.parametrize("name", FAIRER)
def test_a_fair_model_is_nearer_to_the_ideal_on_the_side_that_is_best(name):
    """Trap 86: direction and definition."""
    fair = made_of([90, 90], [10, 10], [10, 10], [90, 90])
    unfair = made_of([85, 20], [50, 5], [15, 80], [50, 95])
    metric = METRICS[name]
    good, bad = (estimate(metric, counts, error=0.05) for counts in (fair, unfair))
    assert metric.how.ideal is None or good.value == metric.ideal
    assert bad.value < good.value if metric.best == "high" else bad.value > good.value
    assert bad.bound < good.bound if metric.best == "high" else bad.bound > good.bound


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_says_in_one_sentence_what_it_hides(name):
    assert METRICS[name].hides.endswith(".")
    assert METRICS[name].hides.count(". ") == 0


def test_no_group_is_compared_with_itself():
    counts = made_of(
        [5, 5000], [0, 0], [0, 0], [5, 5000]
    )  # the small group, against itself, would look the least certain
    gap, ratio = (
        estimate(METRICS[f"demographic_parity_{kind}"], counts, error=0.05) for kind in ("difference", "ratio")
    )
    assert gap.bound.item() == pytest.approx(slow.newcombe((5, 10), (5000, 10000), 0.05)[1])
    assert ratio.bound.item() == pytest.approx(slow.mover_ratio((5, 10), (5000, 10000), 0.05)[0])


@pytest.mark.parametrize("name", OF_RATES)
def test_estimates_broadcast_over_leading_dimensions(name):
    stacked = remade(COMPAS, lambda cells: torch.stack([cells, cells * 3]))
    both = estimate(METRICS[name], stacked, error=0.01)
    for row, counts in enumerate((COMPAS, remade(COMPAS, lambda cells: cells * 3))):
        alone = estimate(METRICS[name], counts, error=0.01)
        assert all(a[row] == b for a, b in zip(both, alone, strict=True))


def fairlearn_values(predictions, targets, groups) -> dict[str, float]:
    import fairlearn.metrics as peer
    from sklearn.metrics import accuracy_score, precision_score

    rows = {"y_true": targets.numpy(), "y_pred": predictions.numpy(), "sensitive_features": groups.numpy()}
    values = {name: getattr(peer, name)(**rows) for name in METRICS if hasattr(peer, name)}
    for name in METRICS:
        base = name.removesuffix("_to_overall")
        if base != name and hasattr(peer, base):
            values[name] = getattr(peer, base)(**rows, method="to_overall")
    values["equalized_odds_difference_mean"] = peer.equalized_odds_difference(**rows, agg="mean")
    for of, function in {"accuracy": accuracy_score, "positive_predictive_value": precision_score}.items():
        frame = peer.MetricFrame(metrics=function, **rows)
        values |= {
            f"{of}_difference": frame.difference(),
            f"{of}_ratio": frame.ratio(),
            f"{of}_difference_to_overall": frame.difference(method="to_overall"),
            f"{of}_ratio_to_overall": frame.ratio(method="to_overall"),
            f"worst_group_{of}": frame.group_min(),
        }
    return values


@pytest.mark.parametrize("seed", range(8))
def test_values_agree_with_fairlearn_where_every_group_is_defined(seed):
    generator = torch.Generator().manual_seed(seed)
    size, n_groups = 90 + 100 * seed, 2 + seed % 4
    groups = torch.randint(0, n_groups, (size,), generator=generator)
    targets, predictions = (torch.randint(0, 2, (size,), generator=generator) for _ in range(2))
    counts = confusion(count(predictions, targets, groups, classes=2, n_groups=n_groups), positive=1)
    expected = fairlearn_values(predictions, targets, groups)
    assert len(expected) >= 32
    assert undefined(counts, COUNTED) == 0
    for name, theirs in expected.items():
        assert value(name, counts) == pytest.approx(theirs, abs=1e-12), name


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_fairlearn_gives_a_group_without_positives_the_rate_zero_and_we_do_not():
    """Trap 79: 0/0 becomes 0, or vanishes."""
    targets, predictions = torch.tensor([1, 1, 1, 0, 0, 0]), torch.tensor([1, 1, 0, 1, 0, 0])
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    counts = confusion(count(predictions, targets, groups, classes=2, n_groups=2), positive=1)
    theirs = fairlearn_values(predictions, targets, groups)
    assert theirs["equal_opportunity_difference"] == pytest.approx(2 / 3)
    assert math.isnan(value("equal_opportunity_difference", counts))
    assert math.isnan(value("equalized_odds_difference", counts))
    assert value("demographic_parity_difference", counts) == theirs["demographic_parity_difference"]
