"""Numbers that others have published, from their counts or rows."""

import math
from statistics import NormalDist

import pytest
import torch

from cases_fairness import COMPAS, GUIDE, made_of, of_guide, value
from xai_lightning.functional.fairness import METRICS, Confusion, confusion, count, estimate, rate, weigh
from xai_lightning.functional.intervals import mover_ratio

# ProPublica, compas-analysis, people with a charge within 30 days of the screening: counts of African-Americans and of
# Caucasians, of whom the score (not low) and the two years that followed (another crime) are known.
COMPAS_FILTERED = made_of([1188, 414], [641, 282], [473, 408], [873, 999])

# Statlog (German credit): good and all of women over 25 and younger, men over 25 and younger.
GERMAN = {
    ("female", "aged"): (143, 205),
    ("female", "young"): (58, 105),
    ("male", "aged"): (447, 605),
    ("male", "young"): (52, 85),
}

# The user guide of fairlearn on control features, as four columns of 30 rows.
CONTROL = {
    "targets": "000110110101010101010110111110",
    "predictions": "110110101010101110001110011001",
    "strata": "HLHLHLLHHLLHHLLHLLHHLHLLHHLLHL",
    "groups": "ABBCCBAABACBCACCBBCABBCABABBAA",
}


def guide_by(groups: torch.Tensor, n_groups: int) -> Confusion:
    return confusion(count(GUIDE.predictions, GUIDE.targets, groups, classes=2, n_groups=n_groups), positive=1)


def labels_of(margin: int, names: list[str]) -> Confusion:
    """Labels of German credit as if they were predictions, by sex (margin 0) or age (margin 1)."""
    good = [sum(good for key, (good, _) in GERMAN.items() if key[margin] == name) for name in names]
    size = [sum(size for key, (_, size) in GERMAN.items() if key[margin] == name) for name in names]
    bad = [n - g for g, n in zip(good, size, strict=True)]
    return made_of(good, [0] * len(names), [0] * len(names), bad)


# --- the user guide of fairlearn


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("equalized_odds_ratio", 0.0),
        ("equalized_odds_difference_mean", 0.6),
        ("equal_opportunity_ratio", 0.6666667),
        ("true_positive_rate_difference_to_overall", 0.1),
        ("false_positive_rate_difference_to_overall", 0.6666667),
        ("demographic_parity_difference_to_overall", 0.1944444),
        ("true_positive_rate_ratio_to_overall", 0.8),
        ("false_positive_rate_ratio_to_overall", 0.0),
        ("demographic_parity_ratio_to_overall", 0.7407407),
    ],
)
def test_the_guide_gives_these_metrics(name, published):
    assert value(name, of_guide()) == pytest.approx(published, abs=1e-6)


def test_the_guide_gives_these_selection_rates():
    assert rate("selection_rate", of_guide()).tolist() == pytest.approx([0.75, 0.5, 0.5])
    assert METRICS["selection_rate_difference"].measure(of_guide()).pooled().value.item() == pytest.approx(10 / 18)


def test_the_guide_gives_these_recalls_of_two_attributes_together():
    second = torch.tensor([int(digit == "8") for digit in "868888666866668666"])
    recalls = rate("true_positive_rate", guide_by(GUIDE.groups * 2 + second, 6))
    assert recalls.tolist() == pytest.approx([0, 1, 2 / 3, 1 / 2, 1 / 2, 0])


def test_the_guide_gives_these_weighted_recalls():
    weights = torch.tensor([int(digit) for digit in "121323121231232311"]).double()
    sums = weigh(GUIDE.predictions, GUIDE.targets, GUIDE.groups, weights, classes=2, n_groups=3)
    recalls = rate("true_positive_rate", confusion(sums[0], 1, sums[1]))
    assert recalls.tolist() == pytest.approx([0.5, 0.5833333, 0.25], abs=1e-6)
    whole = confusion(sums[0].sum(dim=0, keepdim=True), 1)
    assert rate("true_positive_rate", whole).item() == pytest.approx(0.4545455, abs=1e-6)


def controlled() -> torch.Tensor:
    """Counts [S, G, 2, 2] of the strata H and L."""
    targets, predictions = (torch.tensor([int(d) for d in CONTROL[name]]) for name in ("targets", "predictions"))
    strata = torch.tensor(["HL".index(letter) for letter in CONTROL["strata"]])
    groups = torch.tensor(["ABC".index(letter) for letter in CONTROL["groups"]])
    return count(predictions, targets, strata * 3 + groups, classes=2, n_groups=6).reshape(2, 3, 2, 2)


def test_the_guide_gives_these_accuracies_within_strata():
    strata = controlled()
    single = [estimate(METRICS["accuracy_difference"], confusion(counts, 1), error=0.05) for counts in strata]
    assert [float(part.value) for part in single] == pytest.approx([0.55, 0.2142857], abs=1e-6)
    accuracies = rate("accuracy", confusion(strata, 1))
    assert accuracies[0].tolist() == pytest.approx([0.2, 0.4, 0.75])
    assert accuracies[1].tolist() == pytest.approx([0.4, 2 / 7, 0.5])
    together = estimate(METRICS["accuracy_difference"], confusion(strata, 1), error=0.05, strata="worst")
    assert together.value.item() == pytest.approx(0.55)


# --- COMPAS


def test_compas_has_these_sizes_and_rates():
    assert COMPAS.total.tolist() == [3696, 2454]
    assert rate("negative_predictive_value", COMPAS).tolist() == pytest.approx([0.650460, 0.711875], abs=1e-6)
    assert rate("base_rate", COMPAS).tolist() == pytest.approx([0.514340, 0.393643], abs=1e-6)
    assert METRICS["treatment_equality_unbounded_difference"].measure(COMPAS).value[0].tolist() == pytest.approx(
        [0.660870, 1.320917], abs=1e-6
    )


def test_compas_has_the_katz_interval_of_the_ratio_and_ours_is_near_it():
    hits, sizes, z = (854, 2174), (2454, 3696), NormalDist().inv_cdf(0.975)
    ratio = hits[0] / sizes[0] / (hits[1] / sizes[1])
    spread = math.sqrt(sum(1 / h - 1 / n for h, n in zip(hits, sizes, strict=True)))
    katz = [ratio * math.exp(-z * spread), ratio * math.exp(z * spread)]
    assert katz == pytest.approx((0.556904, 0.628537), abs=1e-6)
    ours = mover_ratio(*torch.tensor([hits[0], sizes[0], hits[1], sizes[1]]), error=0.025)
    assert [part.item() for part in ours] == pytest.approx(katz, abs=1e-3)
    assert estimate(METRICS["demographic_parity_ratio"], COMPAS, error=0.025).bound == ours.lower


@pytest.mark.parametrize("counts", [COMPAS, COMPAS_FILTERED], ids=["two years", "filtered"])
def test_the_identity_of_chouldechova_holds_for_compas(counts):
    p, ppv, fnr, fpr = (
        rate(name, counts)
        for name in ("base_rate", "positive_predictive_value", "false_negative_rate", "false_positive_rate")
    )
    assert (p / (1 - p) * (1 - ppv) / ppv * (1 - fnr)).tolist() == pytest.approx(fpr.tolist(), abs=1e-15)


def test_the_filtered_compas_has_these_sizes_and_rates():
    assert COMPAS_FILTERED.total.tolist() == [3175, 2103]
    assert rate("false_positive_rate", COMPAS_FILTERED).tolist() == pytest.approx([641 / 1514, 282 / 1281])
    assert value("false_positive_rate_difference", COMPAS_FILTERED) == pytest.approx(641 / 1514 - 282 / 1281)


# --- German credit


def test_german_credit_has_these_base_rates():
    good, size = (sum(cell[i] for cell in GERMAN.values()) for i in (0, 1))
    assert (good, size) == (700, 1000)
    cells = list(GERMAN.values())
    zeros = [0] * 4
    crossed = made_of([g for g, _ in cells], zeros, zeros, [n - g for g, n in cells])
    published = [0.6975610, 0.5523810, 0.7388430, 0.6117647]
    assert rate("base_rate", crossed).tolist() == pytest.approx(published, abs=1e-6)


@pytest.mark.parametrize(
    ("margin", "names", "difference", "ratio"),
    [(0, ["female", "male"], 0.0748013, 0.8965673), (1, ["young", "aged"], 0.1494477, 0.7948260)],
)
def test_german_credit_has_these_gaps_of_its_labels(margin, names, difference, ratio):
    """Signed, less than 0, in AIF360: the unprivileged group is the first."""
    counts = labels_of(margin, names)
    assert value("demographic_parity_difference", counts) == pytest.approx(difference, abs=1e-6)
    assert value("demographic_parity_ratio", counts) == pytest.approx(ratio, abs=1e-6)
    low, high = rate("selection_rate", counts).tolist()
    assert low < high
