import math

import pytest
import torch

import references_fairness as slow
from cases_fairness import made_of
from xai_lightning.functional.fairness import (
    METRICS,
    Confusion,
    estimate,
)
from xai_lightning.functional.intervals import allowance

REPEATS = 4000
NAMES = [
    "accuracy_difference",
    "demographic_parity_difference",
    "demographic_parity_difference_to_overall",
    "demographic_parity_ratio",
    "equal_opportunity_difference",
    "equalized_odds_difference",
    "false_positive_rate_ratio_to_overall",
    "worst_group_accuracy",
    "worst_group_false_positive_rate",
]
SPREAD = 3 * math.sqrt(0.05 * 0.95 / REPEATS)


def simulated(tpr: list[float], fpr: list[float], sizes: list[int], seed: int = 0) -> Confusion:
    """Counts [REPEATS, G] of samples that are positive with probability 1/2, and of these true rates."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: torch.Tensor, p: list[float]) -> torch.Tensor:
        return torch.binomial(n.double(), torch.tensor(p).double().expand(REPEATS, -1), generator=generator).long()

    total = torch.tensor(sizes).expand(REPEATS, -1)
    positives = draw(total, [0.5] * len(sizes))
    tp, fp = draw(positives, tpr), draw(total - positives, fpr)
    return made_of(tp, fp, positives - tp, total - positives - fp)


def truth(name: str, tpr: list[float], fpr: list[float], sizes: list[int]) -> float:
    rates = {
        "selection_rate": [(t + f) / 2 for t, f in zip(tpr, fpr, strict=True)],
        "accuracy": [(1 + t - f) / 2 for t, f in zip(tpr, fpr, strict=True)],
        "true_positive_rate": tpr,
        "false_positive_rate": fpr,
    }
    wholes = [size * 10**7 for size in sizes]
    exact = [[(round(p * n), n) for p, n in zip(rates[each], wholes, strict=True)] for each in METRICS[name].rates]
    return slow.VALUES[METRICS[name].aggregation](exact)


def share(condition: torch.Tensor) -> float:
    return condition.double().mean().item()


WORLDS = {
    "2 groups, large gap": ([0.8, 0.5], [0.3, 0.1], [400, 400]),
    "2 groups, small gap": ([0.75, 0.7], [0.2, 0.15], [600, 300]),
    "2 groups, one small": ([0.9, 0.6], [0.2, 0.1], [400, 60]),
    "5 groups, one apart": ([0.7, 0.7, 0.7, 0.7, 0.5], [0.2] * 4 + [0.1], [500, 300, 200, 100, 80]),
    "10 groups, spread": ([0.5 + i / 40 for i in range(10)], [0.1 + i / 50 for i in range(10)], [200] * 10),
    "10 groups, two apart": ([0.9, 0.4] + [0.65] * 8, [0.4, 0.1] + [0.25] * 8, [200] * 10),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world", WORLDS)
def test_the_bound_and_both_limits_cover_the_true_metric(world, name):
    tpr, fpr, sizes = WORLDS[world]
    true = truth(name, tpr, fpr, sizes)
    parts = estimate(METRICS[name], simulated(tpr, fpr, sizes), error=0.05)
    low = METRICS[name].best == "low"
    assert share(parts.bound >= true if low else parts.bound <= true) >= 0.95 - SPREAD
    careful, plain = (parts.lower > true, parts.upper < true) if low else (parts.upper < true, parts.lower > true)
    assert share(careful) <= 0.025 + SPREAD
    assert share(plain) <= 0.025 + SPREAD


@pytest.mark.parametrize("name", NAMES)
def test_with_fifteen_samples_per_class_and_group_the_bound_still_covers_in_93_of_100(name):
    tpr, fpr = [0.7, 0.4], [0.3, 0.1]
    bound = estimate(METRICS[name], simulated(tpr, fpr, [30, 30]), error=0.05).bound
    true = truth(name, tpr, fpr, [30, 30])
    assert share(bound >= true if METRICS[name].best == "low" else bound <= true) >= 0.93


@pytest.mark.parametrize("name", [name for name in NAMES if "worst" not in name])
@pytest.mark.parametrize("n_groups", [2, 5, 10])
@pytest.mark.parametrize("size", [30, 200])
def test_a_fair_model_is_not_claimed_to_be_unfair_however_many_groups_there_are(name, n_groups, size):
    """Trap 80: small groups are noise."""
    parts = estimate(METRICS[name], simulated([0.7] * n_groups, [0.2] * n_groups, [size] * n_groups), error=0.05)
    assert share(parts.lower > 0 if METRICS[name].best == "low" else parts.upper < 1) <= 0.025 + SPREAD


@pytest.mark.parametrize("name", ["demographic_parity_difference", "demographic_parity_ratio", "accuracy_difference"])
def test_the_interval_of_two_groups_is_not_wider_than_it_must_be(name):
    """What is significant is seen: an interval that hardly ever left out what is true would hide true gaps."""
    parts = estimate(METRICS[name], simulated([0.7] * 2, [0.2] * 2, [400] * 2), error=0.05)
    assert share(parts.lower > 0 if METRICS[name].best == "low" else parts.upper < 1) >= 0.015


@pytest.mark.parametrize("name", ["demographic_parity_difference", "equalized_odds_difference", "accuracy_difference"])
def test_a_group_of_ten_cannot_open_a_gate_at_a_tenth_even_if_it_looks_perfectly_fair(name):
    """Trap 80: small groups are noise."""
    perfect = made_of([500, 5], [0, 0], [0, 0], [500, 5])
    parts = estimate(METRICS[name], perfect, error=0.05)
    assert parts.value == 0
    assert parts.bound > 0.1


@pytest.mark.parametrize("horizon", [20, None])
def test_a_run_of_many_validations_lets_an_unfair_model_pass_at_most_in_delta_of_all_runs(horizon):
    """Trap 88: gate and best-metric interaction; passes by chance, once out of many."""
    passed, always, spent = torch.zeros(REPEATS).bool(), torch.zeros(REPEATS).bool(), 0.0
    for number in range(1, 21):
        counts = simulated([0.601, 0.5], [0.301, 0.2], [1000, 1000], seed=number)
        error = allowance(0.05, number, horizon, spent)
        spent += error
        passed |= estimate(METRICS["demographic_parity_difference"], counts, error=error).bound <= 0.1
        always |= estimate(METRICS["demographic_parity_difference"], counts, error=0.05).bound <= 0.1
    assert share(passed) <= 0.05
    assert share(always) > 0.3
