"""The panel around the measures: rankings, noise, predictions, convergence, groups, pictures, all against all."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import ndcg_score, roc_auc_score
from torch import Tensor

from xai_lightning.functional import drift


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- rankings


def test_the_ranking_of_the_published_example_has_its_published_value() -> None:
    reference, live = torch.tensor([0.70, 0.50, 0.05]), torch.tensor([0.10, 0.20, 0.70])
    assert drift.ndcg(live, reference) == pytest.approx(0.6876396241, abs=1e-7)
    assert drift.ndcg(reference, live) == pytest.approx(0.6576069, abs=1e-7)


@pytest.mark.parametrize(
    ("gains", "worst", "random"),
    [
        (torch.ones(10), 1.0, 1.0),
        (torch.arange(1.0, 11), 0.668, 0.834),
        (torch.arange(1.0, 101), 0.691, 0.846),
        (1 / torch.arange(1.0, 11), 0.564, 0.709),
        (1 / torch.arange(1.0, 101), 0.368, 0.465),
        (0.5 ** torch.arange(1.0, 11), 0.396, 0.590),
        (0.5 ** torch.arange(1.0, 101, dtype=torch.float64), 0.196, 0.272),
    ],
)
def test_the_worst_ranking_and_a_random_one_depend_on_how_skewed_importances_are(
    gains: Tensor, worst: float, random: float
) -> None:
    assert drift.ndcg(-gains, gains) == pytest.approx(worst, abs=6e-4)
    assert drift.ndcg(torch.zeros_like(gains), gains) == pytest.approx(random, abs=6e-4)  # all tied: the average order
    adjusted = drift.ndcg_adjusted(torch.zeros_like(gains), gains)
    assert math.isnan(adjusted) if worst == 1 else adjusted == pytest.approx(0, abs=1e-9)
    assert worst == 1 or drift.ndcg_adjusted(gains, gains) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.integers(0, 10**6))
def test_ties_in_the_ranking_are_averaged_as_scikit_learn_does(now: list[int], seed: int) -> None:
    gains = draw(len(now), seed=seed).abs()
    expected = ndcg_score(gains[None].numpy(), np.array([now], dtype=float))
    assert drift.ndcg(torch.tensor(now, dtype=torch.float64), gains) == pytest.approx(expected, abs=5e-6)


def test_rounding_errors_break_no_tie_of_a_ranking() -> None:
    """Law 2: two equal columns differ in their last bits, by how the data were cut into batches."""
    reference = torch.tensor([3.0, 1.0, 2.0])
    found = drift.ndcg(torch.tensor([1.0, 1.0, 0.5]), reference)
    for a, b in ((1.0, 1.0 - 1e-7), (1.0 - 1e-7, 1.0)):
        assert drift.ndcg(torch.tensor([a, b, 0.5]), reference) == found
    assert drift.ndcg(torch.tensor([1.0, 1.0 - 1e-4, 0.5]), reference) > found
    assert drift.ndcg(torch.zeros(3), reference) == drift.ndcg(torch.ones(3), reference)


def test_a_ranking_against_nothing_is_undefined() -> None:
    for ranking in (drift.ndcg, drift.ndcg_adjusted):
        assert math.isnan(ranking(torch.ones(3), torch.zeros(3)))
        assert math.isnan(ranking(torch.tensor([1.0, math.nan]), torch.ones(2)))
    with pytest.raises(ValueError, match=r"equal shape, got \(3,\) and \(2,\)"):
        drift.ndcg(torch.ones(3), torch.ones(2))


# --- concentration, and places of pictures


def test_effective_numbers_have_their_closed_forms() -> None:
    maps = torch.tensor([[0.5, 0.25, -0.25], [1.0, 0, 0], [1.0, 1, 1], [0.0, 0, 0]])
    found = drift.effective_number(maps)
    assert found[:3].tolist() == pytest.approx([2.8284271, 1, 3])
    assert math.isnan(float(found[3]))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_the_centre_of_mass_moves_at_most_as_far_as_the_mass_must(rows: int, columns: int, seed: int) -> None:
    a, b = draw(1, rows * columns, seed=seed).abs(), draw(1, rows * columns, seed=seed + 1).abs()
    moved = float(drift.centre_of_mass(a, b, (rows, columns)))
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2).double().numpy()
    p, q = (a / a.sum())[0].numpy(), (b / b.sum())[0].numpy()
    diagonal = math.hypot(rows - 1, columns - 1) or 1
    transport = stats.wasserstein_distance_nd(place, place, p, q) / diagonal
    assert moved <= transport + 1e-7
    slow = np.linalg.norm(p @ place - q @ place) / diagonal
    assert moved == pytest.approx(slow, abs=1e-9)


def test_structural_similarity_of_constants_has_its_closed_form() -> None:
    half, one = torch.full((1, 1, 8, 8), 0.5), torch.ones(1, 1, 8, 8)
    assert float(drift.structural_similarity(half, one)) == pytest.approx(0.8000640, abs=1e-6)


@pytest.mark.parametrize("measure", drift.IMAGE_MEASURES)
def test_measures_of_pictures_keep_the_conventions(measure: str) -> None:
    """Exactly 0 for equal maps, whatever their scale; zero maps; what is not finite."""
    f, maps = drift.IMAGE_MEASURES[measure], draw(6, 12)
    assert f(maps, maps, (3, 4)).tolist() == [0.0] * 6
    torch.testing.assert_close(f(3 * maps, maps, (3, 4)), torch.zeros(6).double(), atol=1e-12, rtol=0)
    assert f(0 * maps, maps, (3, 4)).tolist() == [1.0] * 6
    assert f(0 * maps, 0 * maps, (3, 4)).tolist() == [0.0] * 6
    assert f(maps * math.nan, maps, (3, 4)).isnan().all()
    with pytest.raises(ValueError, match="12 cells"):
        f(maps, maps, (3, 3))


def test_a_flip_of_all_signs_does_not_move_the_centre() -> None:
    maps = draw(4, 64)
    assert drift.centre_of_mass(-maps, maps, (8, 8)).tolist() == [0.0] * 4


# --- noise


def explained(truth: Tensor, noise: float, seed: int) -> Tensor:
    return truth + noise * draw(*truth.shape, seed=seed)


def test_without_drift_corrected_estimates_are_zero_within_their_intervals() -> None:
    """Simulated: two seeds at each of two times of one model; the uncorrected distance is far from 0."""
    inside_squared, inside_cosine, naive, repeats = 0, 0, [], 200
    for i in range(repeats):
        truth = draw(100, 50, seed=10 * i) / math.sqrt(50)
        n1, n2, t1, t2 = (explained(truth, 0.15, 10 * i + k) for k in range(1, 5))
        found = drift.denoised((n1, n2), (t1, t2), repeats=300)
        inside_squared += found.squared.lower <= 0 <= found.squared.upper
        inside_cosine += found.cosine.lower <= 0 <= found.cosine.upper
        naive.append(float(drift.cosine(n1, t1).mean()))
    assert min(naive) > 0.4
    assert inside_squared / repeats > 0.9
    assert inside_cosine / repeats > 0.9


def test_true_drift_is_found_at_its_size() -> None:
    truth = draw(400, 50) / math.sqrt(50)
    moved = 0.85 * truth + math.sqrt(1 - 0.85**2) * draw(400, 50, seed=1) / math.sqrt(50)
    seeds = iter(range(2, 6))
    n1, n2, t1, t2 = (explained(m, 0.15, next(seeds)) for m in (moved, moved, truth, truth))
    found = drift.denoised((n1, n2), (t1, t2))
    assert found.cosine.value == pytest.approx(0.15, abs=0.03)
    assert found.squared.value == pytest.approx(0.30, abs=0.04)
    assert found.cosine.lower > 0
    assert 0.4 < found.reliability < 0.6


def test_too_noisy_a_method_is_called_so() -> None:
    n1, n2, t1, t2 = (draw(100, 50, seed=k) for k in range(4))
    found = drift.denoised((n1, n2), (t1, t2))
    assert all(map(math.isnan, (*found.cosine, *found.squared)))
    assert abs(found.reliability) < 0.1


def test_drift_in_parts_of_a_reference_without_size_is_undefined() -> None:
    """Trap 32: two zero maps agree, so the method is reliable, but nothing is a part of nothing."""
    n1, n2, zero = draw(30, 8), draw(30, 8), torch.zeros(30, 8)
    assert all(map(math.isnan, drift.denoised((n1, n2), (zero, zero)).squared))


def test_maps_without_noise_are_not_corrected() -> None:
    now, then = draw(30, 8), draw(30, 8, seed=1)
    found = drift.denoised((now, now), (then, then))
    assert found.reliability == pytest.approx(1)
    assert found.cosine.value == pytest.approx(float(drift.cosine(now, then).mean()), abs=1e-9)
    assert drift.denoised((now, now), (now, now)).squared == drift.Interval(0.0, 0.0, 0.0)
    assert drift.noise_floor(now, now) == 0


# --- predictions


def test_agreement_has_its_definition() -> None:
    count = 60
    p = torch.softmax(2 * draw(count, 3), dim=1)
    q = torch.softmax(p.log() + 0.3 * draw(count, 3, seed=1), dim=1)
    classes, distances = torch.arange(count) % 3, draw(count, seed=2).abs() * 0.2
    found = drift.agreement(p, q, classes, distances, floor=0.15)
    flipped = [int(p[i].argmax()) != int(q[i].argmax()) for i in range(count)]
    stable = [not flipped[i] and abs(float(p[i, classes[i]] - q[i, classes[i]])) <= 0.05 for i in range(count)]
    kept = [float(distances[i]) for i in range(count) if stable[i]]
    divergence = np.mean([jensenshannon(p[i].numpy(), q[i].numpy(), base=2) ** 2 for i in range(count)])
    assert found.churn == pytest.approx(np.mean(flipped))
    assert found.divergence == pytest.approx(divergence, abs=1e-9)
    assert found.stable_share == pytest.approx(np.mean(stable))
    assert found.stable_drift == pytest.approx(np.mean(kept))
    assert found.reason_shift == pytest.approx(np.mean([d > 0.15 for d in kept]))


def test_without_drift_no_reason_shifts_beyond_the_noise() -> None:
    """Of a method without noise nothing moves by itself; of one with, 1 in 20 beyond the floor: simulated."""
    p, classes = torch.full((128, 2), 0.5), torch.zeros(128, dtype=torch.int64)
    assert drift.agreement(p, p, classes, torch.zeros(128)).reason_shift_beyond_noise == 0
    assert drift.agreement(p, p, classes, torch.ones(128)).reason_shift_beyond_noise == 1
    beyond = []
    for i in range(100):
        truth = draw(128, 20, seed=10 * i)
        a, b, c = (explained(truth, 0.5, 10 * i + k) for k in (1, 2, 3))
        floor = drift.noise_floor(a, b)
        assert floor > 0.1
        beyond.append(drift.agreement(p, p, classes, drift.cosine(c, a), floor=floor).reason_shift_beyond_noise)
    assert np.mean(beyond) == pytest.approx(0, abs=0.02)


def test_few_stable_predictions_say_nothing_of_reasons() -> None:
    p = torch.full((19, 2), 0.5)
    found = drift.agreement(p, p, torch.zeros(19, dtype=torch.int64), torch.zeros(19))
    assert (found.churn, found.stable_share) == (0.0, 1.0)
    assert math.isnan(found.stable_drift)
    assert math.isnan(found.reason_shift)
    assert math.isnan(drift.agreement(p * math.nan, p, torch.zeros(19).long(), torch.zeros(19)).churn)


# --- convergence


def test_convergence_needs_little_drift_shown_thrice() -> None:
    small = [0.01, 0.015, 0.02]
    assert drift.converged(small, small)
    assert not drift.converged(small[:2], small)
    assert not drift.converged([*small, 0.021], [*small, 0.01])
    assert not drift.converged(small, [0.01, 0.03, 0.01])  # slow and steady
    assert not drift.converged([0.01, math.nan, 0.01], small)


# --- groups


def test_the_gap_of_drift_has_its_definition_and_needs_eight_of_a_group() -> None:
    distances = torch.cat([torch.full((10,), 0.1), torch.full((10,), 0.4), torch.full((7,), 9.0)]).double()
    groups = torch.tensor([0] * 10 + [1] * 10 + [2] * 7)
    found = drift.drift_gap(distances, groups)
    assert found.value == pytest.approx(0.3)
    assert (found.lower, found.upper) == pytest.approx((0.3, 0.3))
    assert math.isnan(drift.drift_gap(distances[:10], groups[:10]).value)
    noisy = drift.drift_gap(draw(200).abs(), torch.arange(200) % 2)
    assert noisy.lower < noisy.value < noisy.upper


@pytest.mark.parametrize(("groups", "size"), [(2, 16), (5, 16), (2, 64), (5, 64), (10, 20)])
@pytest.mark.slow
def test_limits_of_the_gap_hold_where_groups_do_not_differ_and_where_they_do(groups: int, size: int) -> None:
    """Simulated on skewed distances; a bootstrap of maximum minus minimum would claim a gap in every run."""
    generator, runs, claimed, held = torch.Generator().manual_seed(groups * size), 200, 0, 0
    of = torch.arange(groups).repeat_interleave(size)
    for _ in range(runs):
        distances = torch.rand(groups * size, generator=generator).double() ** 2
        claimed += drift.drift_gap(distances, of).lower > 0
        shifted = drift.drift_gap(distances + 0.3 * (of == 1), of)
        held += shifted.lower <= 0.3 <= shifted.upper
    assert claimed / runs <= 0.04
    assert held / runs >= 0.93


def test_shares_of_groups_are_compared_with_chance() -> None:
    alike, groups = draw(200, 6).abs(), torch.arange(200) % 2
    found, chance = drift.attribution_gap(alike, groups)
    assert found < 2.5 * chance
    other = alike.clone()
    other[groups == 1, 0] += 3
    shifted, chance = drift.attribution_gap(other, groups)
    shares = other / other.sum(1, keepdim=True)
    slow = (shares[groups == 0].mean(0) - shares[groups == 1].mean(0)).abs().sum() / 2
    assert shifted == pytest.approx(float(slow))
    assert shifted > 3 * chance


def test_explanations_that_do_not_know_the_group_have_an_area_of_one_half() -> None:
    """Simulated: the interval covers .5 in about 95 of 100 runs."""
    inside = 0
    for seed in range(100):
        found = drift.equal_treatment_auc(draw(160, 10, seed=seed), torch.arange(160) % 2 == 0, repeats=200, seed=seed)
        inside += found.lower <= 0.5 <= found.upper
    assert inside >= 88


def test_explanations_that_give_the_group_away_have_an_area_near_one() -> None:
    maps, member = draw(200, 10), torch.arange(200) % 2 == 0
    maps[member, 3] += 2
    found = drift.equal_treatment_auc(maps, member)
    assert found.lower > 0.8
    assert math.isnan(drift.equal_treatment_auc(maps[:90], member[:90]).value)


def test_the_area_counts_ties_half() -> None:
    from xai_lightning.functional.drift.groups import _auc

    scores, member = torch.tensor([0.1, 0.4, 0.4, 0.8, 0.4]), torch.tensor([False, True, False, True, False])
    assert float(_auc(scores[None], member[None])) == pytest.approx(roc_auc_score(member, scores))


# --- all against all


def test_similarity_of_all_validations_has_its_definition() -> None:
    history = draw(4, 6, 5)
    found = drift.similarity(history)
    slow = [[torch.cosine_similarity(history[i], history[j]).mean() for j in range(4)] for i in range(4)]
    torch.testing.assert_close(found, torch.tensor(slow).double())
    assert found.diagonal().tolist() == [1.0] * 4


@settings(deadline=None)
@given(st.integers(1, 400))
def test_a_thinned_history_keeps_its_ends_and_its_order(length: int) -> None:
    kept = drift.thinned(list(range(length)))
    assert len(kept) <= 128 or length > 255
    assert (kept[0], kept[-1]) == (0, length - 1)
    assert kept == sorted(set(kept))
