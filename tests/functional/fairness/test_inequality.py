import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adult_data import FOLDER, read_rows
from cases_fairness import GUIDE, counted, samples
from xai_lightning.functional.fairness import count
from xai_lightning.functional.fairness.inequality import (
    between_group_entropy,
    debiased_spread,
    differential_fairness,
    generalized_entropy,
    kearns,
)


def entropy(benefits: list[float], alpha: float) -> float:
    """Speicher et al. 2018, one sample at a time."""
    if not benefits or not sum(benefits):
        return math.nan
    mean = sum(benefits) / len(benefits)
    shares = [b / mean for b in benefits]
    if alpha in (0, -1) and min(shares) == 0:
        return math.inf
    if alpha == 0:
        return -sum(map(math.log, shares)) / len(shares)
    if alpha == 1:
        return sum(s * math.log(s) for s in shares if s) / len(shares)
    return sum(s**alpha - 1 for s in shares) / (len(shares) * alpha * (alpha - 1))


def benefits(rows) -> list[int]:
    return [p - t + 1 for p, t in zip(rows.predictions, rows.targets, strict=True)]


def counts_of(benefit: list[int]) -> torch.Tensor:
    """One group with these benefits."""
    cells = {0: (0, 1), 1: (1, 1), 2: (1, 0)}
    predictions, targets = zip(*(cells[b] for b in benefit), strict=True)
    none = torch.zeros(len(benefit), dtype=torch.int64)
    return count(torch.tensor(predictions), torch.tensor(targets), none, classes=2, n_groups=1)


alphas = st.sampled_from([2, 1, 0, 0.5, 3, -1])


def test_the_mean_log_deviation_is_that_of_the_definition_and_not_of_the_code_of_aif360():
    reference = counts_of([1, 1, 1, 2, 2, 1])
    found = generalized_entropy(reference, alpha=0).item()
    assert found == pytest.approx(0.056633, abs=1e-6)
    assert found / (8 / 6) == pytest.approx(0.042475, abs=1e-6), "its code divides by the mean benefit once more"


@given(samples(), alphas)
def test_the_index_equals_its_slow_twin(rows, alpha):
    found = generalized_entropy(counted(rows), alpha).item()
    assert found == pytest.approx(entropy(benefits(rows), alpha), abs=1e-9, nan_ok=True)


@given(samples(), alphas)
def test_the_index_between_groups_equals_its_slow_twin(rows, alpha):
    by_group = [[b for b, g in zip(benefits(rows), rows.groups, strict=True) if g == group] for group in range(3)]
    means = [sum(part) / len(part) for part in by_group if part for _ in part]
    expected = entropy(means, alpha) if all(by_group) else math.nan
    assert between_group_entropy(counted(rows), alpha).item() == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(samples(), alphas)
def test_the_index_is_the_part_between_groups_and_that_within_them(rows, alpha):
    counts = counted(rows)
    sizes, whole = counts.sum(dim=(1, 2)).double(), generalized_entropy(counts, alpha)
    means = torch.stack([(c[0, 0] + c[1, 1] + 2 * c[0, 1]) / c.sum() for c in counts.double()])
    inner = torch.stack([generalized_entropy(c[None], alpha) for c in counts])
    mean = (means * sizes).sum() / sizes.sum()
    within = (sizes / sizes.sum() * (means / mean) ** alpha * inner).sum()
    parts = between_group_entropy(counts, alpha) + within
    if parts.isfinite():
        assert whole.item() == pytest.approx(parts.item(), abs=1e-12)


def test_an_infinite_benefit_gap_is_infinite_and_one_that_nobody_has_is_not():
    assert generalized_entropy(counts_of([0, 1]), alpha=0) == math.inf
    assert generalized_entropy(counts_of([1, 2]), alpha=0).isfinite()
    assert generalized_entropy(counts_of([0, 1]), alpha=1).item() == pytest.approx(math.log(2))


def test_the_theil_index_of_errors_to_one_side_does_not_show_them():
    assert generalized_entropy(counts_of([2, 2, 2]), alpha=1) == 0


def test_a_better_model_may_have_a_larger_index():
    worse, better = [2] * 9 + [1], [2] * 8 + [1] * 2
    assert generalized_entropy(counts_of(better)) > generalized_entropy(counts_of(worse))


def test_what_has_no_samples_or_no_benefit_is_undefined():
    empty, useless = torch.zeros(2, 2, 2, dtype=torch.int64), counts_of([0, 0])
    one_empty = torch.cat([counts_of([1, 2]), empty[:1]])
    for alpha in (2, 1, 0, -1):
        assert generalized_entropy(empty, alpha).isnan()
        assert generalized_entropy(useless, alpha).isnan()
        assert generalized_entropy(one_empty, alpha).isfinite()
        assert between_group_entropy(one_empty, alpha).isnan()
        assert between_group_entropy(counts_of([1, 2]), alpha).isnan(), "one group"
    assert differential_fairness(one_empty).isnan(), "smoothing must not invent a group"
    assert differential_fairness(counts_of([1, 2])).isnan(), "one group"
    hits, totals = torch.tensor([[1, 0], [1, 0], [0, 0]]), torch.tensor([[5, 0], [5, 1], [0, 0]])
    assert kearns(hits, totals, 10).isnan().tolist() == [True, False, True]
    assert debiased_spread(hits, totals).isnan().all(), "one trial says nothing of its noise"
    assert kearns(hits[:, :1], totals[:, :1], 10).isnan().all()
    assert debiased_spread(hits[:1, :1], totals[:1, :1]).isnan().all()


@given(samples(), samples(), alphas)
def test_replicates_along_leading_dimensions_give_what_each_gives_alone(one, other, alpha):
    pair = torch.stack([counted(one), counted(other)])
    for together, alone in (
        (generalized_entropy(pair, alpha), [generalized_entropy(c, alpha) for c in pair]),
        (between_group_entropy(pair, alpha), [between_group_entropy(c, alpha) for c in pair]),
        (differential_fairness(pair), [differential_fairness(c) for c in pair]),
    ):
        assert together.dtype == torch.float64
        assert torch.equal(together.nan_to_num(-1), torch.stack(alone).nan_to_num(-1))
    hits, totals = pair[:, :, 0, 1], pair[:, :, 0].sum(dim=-1)
    sizes = pair.sum(dim=(1, 2, 3))
    alone = [kearns(h, t, n) for h, t, n in zip(hits, totals, sizes, strict=True)]
    assert torch.equal(kearns(hits, totals, sizes).nan_to_num(-1), torch.stack(alone).nan_to_num(-1))
    alone = [debiased_spread(h, t) for h, t in zip(hits, totals, strict=True)]
    assert torch.equal(debiased_spread(hits, totals).nan_to_num(-1), torch.stack(alone).nan_to_num(-1))


def predicted(pairs: list[tuple[int, int]]) -> torch.Tensor:
    """Counts of groups of which so many of so many are predicted as class 1."""
    return torch.tensor([[[total - chosen, chosen], [0, 0]] for chosen, total in pairs])


KIDNEY_STONES = {"A small": (81, 87), "A large": (192, 263), "B small": (234, 270), "B large": (55, 80)}


def test_the_differential_fairness_of_the_paper():
    """Its example of Simpson's paradox; without smoothing."""
    a, b, small, large = (
        tuple(map(sum, zip(*(pair for name, pair in KIDNEY_STONES.items() if part in name), strict=True)))
        for part in ("A", "B", "small", "large")
    )
    for groups, published in ((KIDNEY_STONES.values(), 1.511), ((a, b), 0.2329), ((small, large), 0.8667)):
        found = differential_fairness(predicted(list(groups)), concentration=1e-9)
        assert found.item() == pytest.approx(published, abs=6e-4)


def test_the_differential_fairness_of_the_adult_labels_is_that_of_the_documentation_of_aif360():
    rows = [row for part in ("data", "test") for row in read_rows(FOLDER / f"adult.{part}.gz")]
    rows = [row for row in rows if "?" not in row.values()]
    groups = sorted({(row["sex"], row["race"]) for row in rows})
    codes = torch.tensor([groups.index((row["sex"], row["race"])) for row in rows])
    labels = torch.tensor([row["label"] == ">50K" for row in rows])
    counts = count(labels, labels, codes, classes=2, n_groups=len(groups))
    assert differential_fairness(counts).item() == pytest.approx(1.7547611985549287, abs=1e-12)


@given(samples(classes=4), st.floats(0.1, 10))
def test_differential_fairness_equals_its_slow_twin(rows, concentration):
    by_group = [[p for p, g in zip(rows.predictions, rows.groups, strict=True) if g == group] for group in range(3)]
    shares = [
        [(part.count(y) + concentration / 4) / (len(part) + concentration) for y in range(4)] for part in by_group
    ]
    gaps = [abs(math.log(a[y]) - math.log(b[y])) for a in shares for b in shares for y in range(4)]
    expected = max(gaps) if all(by_group) else math.nan
    found = differential_fairness(counted(rows, classes=4), concentration).item()
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_differential_fairness_takes_the_counts_of_many_classes():
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(400) % 2
    rows = torch.randint(0, 70, (400,), generator=generator)
    many = count(rows, rows.flip(0), groups, classes=70, n_groups=2)
    assert many.shape == (2, 70, 3)
    shares = [(rows[groups == g].bincount(minlength=70) + 1 / 70).double() / (200 + 1) for g in (0, 1)]
    expected = (shares[0].log() - shares[1].log()).abs().max()
    assert differential_fairness(many).item() == pytest.approx(expected.item())


def test_weighting_by_size_hides_the_native_americans_of_compas():
    """False positives of 8 Native Americans among 7,214; a gap of .0515 in the rate itself."""
    negatives, positives = torch.tensor([8, 3955]), torch.tensor([3, 1279])
    gap = 3 / 8 - positives.sum() / negatives.sum()
    assert gap.item() == pytest.approx(0.0515, abs=5e-5)
    assert kearns(positives, negatives, 7214).item() == pytest.approx(0.000057, abs=5e-7)


@given(samples())
def test_the_weighted_gap_equals_its_slow_twin(rows):
    triples = list(zip(rows.predictions, rows.targets, rows.groups, strict=True))
    negative = [(p, g) for p, t, g in triples if t == 0]
    overall = sum(p for p, _ in negative) / len(negative) if negative else math.nan
    gaps = []
    for group in range(3):
        own = [p for p, g in negative if g == group]
        gaps.append(len(own) / len(triples) * abs(overall - sum(own) / len(own)) if own else math.nan)
    expected = math.nan if any(map(math.isnan, gaps)) else max(gaps)
    counts = counted(rows)
    found = kearns(counts[:, 0, 1], counts[:, 0].sum(dim=-1), len(triples)).item()
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_user_guide_of_fairlearn_by_hand():
    counts = count(GUIDE.predictions, GUIDE.targets, GUIDE.groups, classes=2, n_groups=3)
    # false positive rates 2/2, 0/1, 2/3, of all 4/6; 18 samples
    assert kearns(counts[:, 0, 1], counts[:, 0].sum(-1), 18).item() == pytest.approx(2 / 18 * (1 - 4 / 6))


def drawn(rates: list[float], size: int, repeats: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    totals = torch.full((repeats, len(rates)), size)
    chances = torch.tensor(rates, dtype=torch.float64).expand(repeats, -1)
    return torch.binomial(totals.double(), chances, generator=generator).long(), totals


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def test_the_debiased_variance_is_unbiased_with_the_sample_variance():
    """Where rates differ much, its cut at 0 never shows."""
    rates = [0.1, 0.3, 0.5, 0.7, 0.9]
    squared = debiased_spread(*drawn(rates, 30, 200_000)).square()
    truth = torch.tensor(rates).double().var().item()
    mean, error = mean_and_error(squared)
    assert error < 1e-4
    assert mean == pytest.approx(truth, abs=4 * error)
    assert abs(mean - 0.8 * truth) > 50 * error, "the variance over G instead of G - 1 would be seen"


def test_equal_groups_have_no_debiased_variance_where_the_plain_one_has_much():
    """Five groups of 30: the plain variance is that of sampling, .007; what is left of it is nothing."""
    hits, totals = drawn([0.3] * 5, 30, 100_000)
    rates = hits / totals.double()
    plain, noise = rates.var(dim=-1), (rates * (1 - rates) / (totals - 1)).mean(dim=-1)
    mean, error = mean_and_error(plain - noise)
    assert plain.mean() > 0.0069
    assert mean == pytest.approx(0, abs=4 * error)
    assert error < 0.00002
    found = debiased_spread(hits, totals)
    assert torch.allclose(found.square(), (plain - noise).clamp(min=0), atol=1e-15)
    assert (found == 0).double().mean() > 0.5


def test_settings_and_counts_that_cannot_be_are_refused_with_what_came():
    counts = counts_of([1, 2])
    with pytest.raises(ValueError, match=r"two classes, got shape \[1, 3, 3\]"):
        generalized_entropy(torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match=r"two classes, got shape \[2, 2\]"):
        between_group_entropy(counts[0])
    for alpha in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"alpha must be finite, got {alpha}"):
            generalized_entropy(counts, alpha)
    for concentration in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"concentration must be .* got {concentration}"):
            differential_fairness(counts, concentration)
    with pytest.raises(ValueError, match=r"got shape \[2, 5\]"):
        differential_fairness(torch.zeros(2, 5))
