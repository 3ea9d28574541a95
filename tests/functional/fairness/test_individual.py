import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

import cases_fairness  # noqa: F401 - its settings of hypothesis
from xai_lightning.functional.fairness import individual
from xai_lightning.functional.fairness.individual import consistency, flip_rate, flips, score_change


@st.composite
def decisions(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    n, others = draw(st.integers(1, 20)), draw(st.integers(1, 4))
    column = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    return draw(column), [draw(column) for _ in range(others)]


@given(decisions())
def test_flips_equal_their_slow_twin(case):
    own, others = case
    expected = [any(other[i] != own[i] for other in others) for i in range(len(own))]
    found = flips(torch.tensor(own), torch.tensor(others))
    assert found.tolist() == expected
    assert flip_rate(torch.tensor(own), torch.tensor(others)).item() == pytest.approx(sum(expected) / len(own))


@given(decisions())
def test_changes_of_scores_equal_their_slow_twin(case):
    own, others = case
    changes = [[other[i] - own[i] for other in others] for i in range(len(own))]
    found = score_change(torch.tensor(own).float(), torch.tensor(others).float())
    assert found.signed.tolist() == pytest.approx([sum(each) / len(each) for each in changes])
    assert found.absolute.tolist() == pytest.approx([sum(map(abs, each)) / len(each) for each in changes])


def test_without_samples_the_flip_rate_is_undefined_and_without_other_values_it_is_refused():
    none = torch.zeros(0, dtype=torch.int64)
    assert flip_rate(none, none[None]).isnan()
    with pytest.raises(ValueError, match=r"at least one flipped value.*\[3\] and \[0, 3\]"):
        flip_rate(torch.ones(3), torch.ones(0, 3))
    with pytest.raises(ValueError, match=r"\[3\] and \[2, 4\]"):
        score_change(torch.ones(3), torch.ones(2, 4))


def slow(features, predictions, k, *, standardise=True, itself=False) -> float:
    """Zemel et al. 2013; places that several equally far samples could have are shared."""
    x = np.asarray(features, dtype=np.float64)
    if standardise:
        x = StandardScaler().fit_transform(x)
    gaps = []
    for i, own in enumerate(predictions):
        far = {j: round(float(((x[i] - x[j]) ** 2).sum()), 9) for j in range(len(x)) if j != i}
        places, total = (k - 1, float(own)) if itself else (k, 0.0)
        for distance in sorted(set(far.values())):
            tied = [predictions[j] for j in far if far[j] == distance]
            taken = min(places, len(tied))
            total, places = total + taken * sum(tied) / len(tied), places - taken
        gaps.append(abs(own - total / k))
    return 1 - sum(gaps) / len(gaps)


def peer(features, predictions, k, *, standardise=True, itself=False) -> float:
    x = StandardScaler().fit_transform(features) if standardise else features.numpy()
    found = NearestNeighbors(n_neighbors=k + (not itself), algorithm="ball_tree").fit(x).kneighbors(x)[1]
    y = predictions.double().numpy()
    return 1 - np.abs(y - y[found[:, 0 if itself else 1 :]].mean(axis=1)).mean()


def table(n: int, width: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of very different size, and decisions that depend on the first."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    y = x[:, 0] + 0.5 * torch.randn(n, generator=generator) > 0
    return x * 10 ** torch.arange(width).double() + 1000, y


@pytest.mark.parametrize("k", [1, 5, 17])
def test_consistency_agrees_with_the_neighbours_of_scikit_learn(k):
    x, y = table(700)
    assert consistency(x, y, k).item() == pytest.approx(peer(x, y, k), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_consistency_can_be_that_of_aif360_which_takes_features_as_they_are_and_each_sample_for_its_neighbour(k):
    x, y = table(700)
    theirs = consistency(x, y, k, compat="aif360").item()
    assert theirs == pytest.approx(peer(x, y, k, standardise=False, itself=True), abs=1e-12)
    standard = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    assert consistency(standard, y, k, compat="aif360") > consistency(x, y, k), "optimistic"
    if k == 1:
        assert theirs == 1, "everybody is treated like himself"


@st.composite
def discrete(draw: st.DrawFn):
    """Rows of few values, so that most distances are tied."""
    n, width = draw(st.integers(3, 14)), draw(st.integers(1, 3))
    rows = st.lists(st.integers(0, 2), min_size=width, max_size=width)
    x = draw(st.lists(rows, min_size=n, max_size=n))
    return x, draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), draw(st.integers(1, n - 1))


@given(discrete(), st.booleans())
def test_consistency_equals_its_slow_twin_where_many_are_equally_far(case, itself):
    x, y, k = case
    compat = "aif360" if itself else None
    found = consistency(torch.tensor(x), torch.tensor(y), k, compat=compat).item()
    assert found == pytest.approx(slow(x, y, k, standardise=not itself, itself=itself), abs=1e-9)


@given(discrete(), st.randoms())
def test_the_order_of_the_rows_changes_nothing_even_where_many_are_equally_far(case, random):
    x, y, k = case
    order = list(range(len(y)))
    random.shuffle(order)
    x, y = torch.tensor(x), torch.tensor(y)
    assert consistency(x[order], y[order], k).item() == pytest.approx(consistency(x, y, k).item(), abs=1e-12)


def test_the_size_of_blocks_changes_nothing(monkeypatch):
    x, y = table(300)
    whole = consistency(x, y)
    monkeypatch.setattr(individual, "_DISTANCES_AT_ONCE", 7 * 300 + 1)
    assert consistency(x, y).item() == pytest.approx(whole.item(), abs=1e-14)


def test_units_and_constant_features_change_nothing():
    x, y = table(200)
    plain = consistency(x, y).item()
    assert consistency(x * torch.tensor([1e-6, 1, 1e6, -3]) - 7, y).item() == pytest.approx(plain, abs=1e-12)
    constant = torch.full((200, 2), 0.1 + 0.2, dtype=torch.float64)
    assert consistency(torch.cat([x, constant], dim=1), y).item() == pytest.approx(plain, abs=1e-12)


def test_where_nothing_tells_samples_apart_all_others_are_neighbours():
    y = torch.tensor([1, 0, 0, 0])
    assert consistency(torch.full((4, 2), 0.1), y, k=2).item() == pytest.approx(1 - (1 + 3 * 1 / 3) / 4)


def test_a_constant_prediction_is_consistent_and_one_that_parts_twins_is_not():
    x = torch.arange(40).double().repeat_interleave(2)[:, None]
    assert consistency(x, torch.ones(80)).item() == 1
    assert consistency(x, torch.arange(80) % 2, k=1).item() == 0


def test_probabilities_are_compared_like_decisions():
    x, p = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0.2, 0.4, 0.9])
    assert consistency(x, p, k=1).item() == pytest.approx(1 - (0.2 + 0.2 + 0.5) / 3)


def test_too_few_samples_or_a_number_that_is_not_finite_leave_consistency_undefined():
    x, y = table(6)
    assert consistency(x[:5], y[:5], k=5).isnan()
    assert consistency(x, y, k=5).isfinite()
    assert consistency(x[:0], y[:0], k=5).isnan()
    broken = x.clone()
    broken[0, 0] = math.nan
    assert consistency(broken, y, k=2).isnan()
    assert consistency(x, torch.full((6,), math.inf), k=2).isnan()


def test_settings_that_cannot_be_are_refused_with_what_came():
    x, y = table(6)
    with pytest.raises(ValueError, match=r"k must be .* got 0"):
        consistency(x, y, 0)
    with pytest.raises(ValueError, match="compat must be 'aif360' or None, got 'sklearn'"):
        consistency(x, y, compat="sklearn")
    with pytest.raises(ValueError, match=r"got \[6, 4\] and \[5\]"):
        consistency(x, y[:5])


def test_ten_thousand_samples_take_little_time():
    x, y = table(10_000, 20)
    began = time.process_time()
    found = consistency(x, y)
    assert time.process_time() - began < 6, "about one second on an idle core"
    assert 0.5 < found < 1
