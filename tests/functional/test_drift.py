import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import references_drift as slow
from xai_lightning.functional import drift
from xai_lightning.functional.drift import (
    MEASURES,
    cosine,
    global_importance,
    magnitude,
    pool,
    share,
    summarise,
    top_k,
    weighted_jaccard,
)

# How long an example takes depends on what else the machine does.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHAPE_BLIND = ["cosine", "weighted_jaccard", "top_k", "jensen_shannon"]
every_measure = pytest.mark.parametrize("name", list(MEASURES))


def map_of(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


whole = st.integers(-20, 20).map(float)
anything = st.one_of(whole, st.floats(-1e3, 1e3), st.sampled_from([0.0, -0.0, 1e-14, math.nan, math.inf]))


@st.composite
def pairs_of_maps(draw: st.DrawFn, values: st.SearchStrategy[float] = anything) -> tuple[torch.Tensor, torch.Tensor]:
    features = draw(st.integers(1, 24))
    rows = st.lists(values, min_size=features, max_size=features)
    return map_of(*draw(rows)), map_of(*draw(rows))


@every_measure
@unhurried
@given(maps=pairs_of_maps())
def test_every_measure_agrees_with_its_definition(name, maps):
    a, b = maps
    expected = slow.MEASURES[name](a[0].tolist(), b[0].tolist())
    assert MEASURES[name](a, b).item() == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


@every_measure
@pytest.mark.parametrize("features", [50, 51, 75, 196])
def test_every_measure_agrees_with_its_definition_on_large_maps(name, features):
    a, b = noise(3, features, seed=1), noise(3, features, seed=2)
    expected = [slow.MEASURES[name](x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)]
    assert MEASURES[name](a, b).tolist() == pytest.approx(expected, rel=1e-9)


@every_measure
@unhurried
@given(maps=pairs_of_maps(st.floats(-1e6, 1e6)))
def test_the_distance_of_a_map_to_itself_is_exactly_zero(name, maps):
    """Trap 98: an unchanged model has no drift, not 6e-7 of it."""
    assume(name != "top_k" or maps[0].shape[1] > 1)
    assert MEASURES[name](maps[0], maps[0].clone()).item() == 0.0


@every_measure
@unhurried
@given(maps=pairs_of_maps())
def test_every_measure_is_symmetric(name, maps):
    forward, backward = MEASURES[name](*maps), MEASURES[name](*reversed(maps))
    assert torch.equal(forward.nan_to_num(-1), backward.nan_to_num(-1))


@pytest.mark.parametrize("name", SHAPE_BLIND)
@unhurried
@given(maps=pairs_of_maps(whole), factor=st.floats(1e-3, 1e3))
def test_a_positive_factor_changes_no_measure_but_the_magnitude(name, maps, factor):
    a, b = maps
    distances = MEASURES[name](a, b), MEASURES[name](a * factor, b)
    assert distances[0].item() == pytest.approx(distances[1].item(), abs=1e-9, nan_ok=True)


@unhurried
@given(maps=pairs_of_maps(st.floats(0.01, 100)), factor=st.floats(1e-3, 1e3))
def test_a_factor_changes_the_magnitude_by_its_logarithm(maps, factor):
    assert magnitude(maps[0] * factor, maps[0]).item() == pytest.approx(abs(math.log(factor)), abs=1e-9)


@unhurried
@given(maps=pairs_of_maps(whole))
def test_a_flipped_sign_is_the_opposite_direction_shares_no_mass_and_keeps_the_ranking(maps):
    a = maps[0]
    assume(a.abs().sum() > 0 and a.shape[1] > 1)
    assert cosine(a, -a).item() == pytest.approx(2.0)
    assert weighted_jaccard(a, -a).item() == 1.0
    assert top_k(a, -a).item() == magnitude(a, -a).item() == 0.0


@every_measure
@unhurried
@given(maps=pairs_of_maps())
def test_every_measure_stays_within_its_range(name, maps):
    features = maps[0].shape[1]
    chance = min(max(5, math.ceil(features / 10)), features // 2) / features
    bounded = {"cosine": 2.0, "weighted_jaccard": 1.0, "top_k": 1 / (1 - chance), "jensen_shannon": 1.0}
    highest = bounded.get(name, math.inf)
    distance = MEASURES[name](*maps).item()
    assert math.isnan(distance) or 0.0 <= distance <= highest + 1e-12


def test_rounding_takes_no_cosine_distance_beyond_two():
    a = noise(1000, 50)
    assert (cosine(a, -a) <= 2.0).all()


def test_the_weighted_jaccard_of_the_worked_example_is_six_elevenths():
    assert weighted_jaccard(map_of(0.5, -0.3, 0.2), map_of(0.4, 0.4, 0.2)).item() == pytest.approx(1 - 6 / 11)


def test_cosine_ignores_what_is_close_to_zero_while_the_rest_agrees():
    strong = torch.tensor([[5.0, -4.0, 3.0, 2.0, -1.0]], dtype=torch.float64)
    a, b = (torch.cat([strong, 1e-2 * noise(1, 95, seed=seed)], dim=1) for seed in (1, 2))
    assert cosine(a, b).item() < 1e-3


def test_random_maps_have_chance_corrected_top_k_distance_one():
    distances = top_k(noise(4000, 40, seed=1), noise(4000, 40, seed=2))
    assert distances.mean().item() == pytest.approx(1.0, abs=0.01)


def test_padding_does_not_change_which_features_lead():
    """Trap 24: with all places counted, the leaders of a short text are the whole text, and never change."""
    rows = [(noise(1, d, seed=d), noise(1, d, seed=d + 50)) for d in (1, 2, 7, 12, 40)]
    expected = torch.cat([top_k(a, b) for a, b in rows])
    a, b = (torch.cat([torch.nn.functional.pad(pair[i], (0, 64 - pair[i].shape[1])) for pair in rows]) for i in (0, 1))
    torch.testing.assert_close(top_k(a, b, present=a != 0), expected, equal_nan=True)
    assert float(top_k(a, b)[2]) == 0 < float(expected[2])


def test_disjoint_leaders_are_farther_apart_than_chance():
    a, b = map_of(*[1.0] * 5, *[0.0] * 5), map_of(*[0.0] * 5, *[1.0] * 5)
    assert top_k(a, b).item() == pytest.approx(2.0)


def test_ties_share_the_places_that_are_left():
    # k = 2: the first map has one leader and four ties for one place.
    a, b = map_of(9, 1, 1, 1, 1), map_of(9, 8, 1, 1, 1)
    overlap = (1 + 1 / 4) / 2
    assert top_k(a, b).item() == pytest.approx(1 - (overlap - 2 / 5) / (1 - 2 / 5))


def test_rounding_errors_break_no_tie():
    a = map_of(3.0, *[1.0] * 11)
    assert top_k(a * (1 + 1e-7 * noise(1, 12)), a).item() == 0.0


def test_top_k_is_undefined_for_a_single_feature():
    assert top_k(map_of(1.0), map_of(1.0)).isnan().all()


@every_measure
def test_two_zero_maps_are_equal_and_one_shares_nothing_with_another_map(name):
    """Trap 98: saturated models explain nothing; that is no NaN of a division."""
    zero, other = map_of(0, 0, 0, 0), map_of(1, -2, 3, 0)
    assert MEASURES[name](zero, zero).item() == 0.0
    expected = math.nan if name in ("magnitude", "effective_features") else 1.0
    for pair in ((zero, other), (other, zero), (other, zero + 1e-14)):
        assert MEASURES[name](*pair).item() == pytest.approx(expected, nan_ok=True)


@every_measure
@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_not_finite_is_undefined_and_leaves_the_others_alone(name, strange):
    a, b = noise(3, 6, seed=1), noise(3, 6, seed=2)
    clean = MEASURES[name](a, b)
    a[1, 2] = strange
    distances = MEASURES[name](a, b)
    assert distances.isnan().tolist() == [False, True, False]
    assert torch.equal(distances[[0, 2]], clean[[0, 2]])


@every_measure
def test_float32_maps_with_a_gradient_are_measured_in_float64_without_one(name):
    a = noise(3, 6).float().requires_grad_()
    distances = MEASURES[name](a, noise(3, 6, seed=1).float())
    assert distances.dtype == torch.float64
    assert not distances.requires_grad


@every_measure
@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (1, 3)), ((3,), (3,)), ((2, 3, 4), (2, 3, 4))])
def test_maps_of_other_shapes_are_refused_with_their_shapes(name, shapes):
    with pytest.raises(ValueError, match=str(shapes[0]).replace("(", r"\(").replace(")", r"\)")):
        MEASURES[name](torch.ones(shapes[0]), torch.ones(shapes[1]))


@pytest.mark.parametrize("size", [(1, 14, 14), (3, 28, 28), (2, 30, 17), (1, 5, 40), (3, 3, 3), (2, 1, 1)])
def test_images_are_summed_over_channels_and_averaged_over_at_most_14_cells(size):
    image = noise(2, *size)
    expected = torch.tensor([slow.pool(x.tolist()) for x in image], dtype=torch.float64)
    torch.testing.assert_close(pool(image), expected, rtol=1e-12, atol=1e-14)


def test_tables_keep_their_columns_and_sequences_are_flattened():
    table = noise(4, 7)
    assert torch.equal(pool(table), table)
    assert torch.equal(pool(noise(2, 3, 5)), noise(2, 3, 5).flatten(1))


def test_rounding_errors_become_zero_relative_to_the_sample_and_the_size_is_kept():
    pooled = pool(torch.tensor([[1.0, 1e-7, -1.1e-6], [1e-7, 2e-7, 0.0]], dtype=torch.float64))
    assert pooled.tolist() == [[1.0, 0.0, -1.1e-6], [1e-7, 2e-7, 0.0]]


def test_pooling_keeps_values_that_are_not_finite_and_zero_maps():
    pooled = pool(torch.tensor([[1.0, math.nan], [math.inf, 1.0], [0.0, 0.0]]))
    assert (~pooled.isfinite()).any(1).tolist() == [True, True, False]
    assert pooled[2].tolist() == [0.0, 0.0]


def test_pooling_no_sample_gives_none():
    assert pool(torch.ones(0, 3, 28, 28)).shape == (0, 196)


@pytest.mark.parametrize("shape", [(), (5,), (2, 0), (2, 3, 0, 4)])
def test_maps_without_features_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=r"got shape \("):
        pool(torch.ones(shape))


@unhurried
@given(values=st.lists(st.one_of(st.just(0.0), st.just(math.nan)), max_size=20))
def test_the_summary_of_zeros_is_exactly_zero_and_counts_what_it_dropped(values):
    summary = summarise(torch.tensor(values, dtype=torch.float64), repeats=50)
    dropped = sum(map(math.isnan, values))
    expected = 0.0 if dropped < len(values) else math.nan
    assert summary.dropped == dropped
    assert list(summary[:5]) == pytest.approx([expected] * 5, abs=0.0, nan_ok=True)


def test_the_summary_has_the_mean_median_and_ninetieth_percentile_of_defined_distances():
    summary = summarise(torch.tensor([0.0, 1.0, math.nan, 2.0, 3.0, 10.0]))
    assert (summary.mean, summary.median, summary.p90, summary.dropped) == pytest.approx((3.2, 2.0, 7.2, 1))
    assert summary.lower < summary.mean < summary.upper


def test_the_bootstrap_is_repeatable_and_leaves_the_global_generator_alone():
    """Law 6: equal distances have equal limits, whatever was drawn before."""
    distances = noise(30).abs()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = summarise(distances)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert first == summarise(distances)
    assert first.lower != summarise(distances, seed=1).lower


def test_the_bootstrap_interval_covers_the_mean_in_about_95_of_100_samples():
    samples = noise(400, 60).exp()
    intervals = [summarise(sample, repeats=400) for sample in samples.minimum(torch.tensor(8.0))]
    mean = noise(400_000, seed=9).exp().minimum(torch.tensor(8.0)).mean().item()
    covered = sum(interval.lower <= mean <= interval.upper for interval in intervals)
    assert 0.90 <= covered / 400 <= 0.975


def test_a_stricter_level_widens_the_interval():
    distances = noise(50).abs()
    usual, strict = summarise(distances), summarise(distances, level=0.01)
    assert strict.lower < usual.lower < usual.upper < strict.upper


def test_many_distances_are_resampled_in_blocks_of_bounded_size(monkeypatch):
    """Law 7: memory does not grow with the number of repeats."""
    drawn, randint = [], torch.randint
    monkeypatch.setattr("xai_lightning.functional.drift.summaries.DRAWN_AT_ONCE", 100)
    monkeypatch.setattr(torch, "randint", lambda high, size, **kw: drawn.append(size) or randint(high, size, **kw))
    summarise(noise(30).abs(), repeats=10)
    assert drawn == [(3, 30), (3, 30), (3, 30), (1, 30)]


@pytest.mark.parametrize(
    ("distances", "options", "shown"),
    [
        (torch.ones(2, 2), {}, r"\(2, 2\)"),
        (torch.ones(2), {"repeats": 0}, "repeats=0"),
        (torch.ones(2), {"level": 1.0}, r"level=1\.0"),
        (torch.ones(2), {"level": math.nan}, "level=nan"),
    ],
)
def test_a_summary_refuses_and_shows_values_out_of_range(distances, options, shown):
    with pytest.raises(ValueError, match=shown):
        summarise(distances, **options)


def test_importance_is_the_mean_absolute_attribution_over_finite_maps():
    maps = torch.tensor([[1.0, -2.0], [math.nan, 5.0], [3.0, 4.0]])
    assert global_importance(maps).tolist() == [2.0, 3.0]
    assert global_importance(maps[1:2]).isnan().all()


def test_the_share_is_a_ratio_of_sums_over_finite_maps():
    maps = torch.tensor([[1.0, -1.0, 2.0], [0.0, -6.0, 0.0], [math.inf, 1.0, 1.0]])
    assert share(maps, [1]) == pytest.approx(0.7)
    assert share(maps, [0, 1, 2]) == 1.0
    assert share(maps, [1, 1]) == share(maps, [1])
    assert share(maps, []) == 0.0


def test_the_share_of_nothing_is_undefined():
    assert math.isnan(share(torch.zeros(3, 2), [0]))
    assert math.isnan(share(torch.full((3, 2), math.nan), [0]))


def test_a_column_that_does_not_exist_is_refused_and_shown():
    with pytest.raises(IndexError, match="7"):
        share(torch.ones(2, 3), [7])


def test_jensen_shannon_is_known_for_small_maps_and_blind_to_sign_and_size() -> None:
    a, b = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, -4.0]]), torch.tensor([[0.5, -0.5], [0.0, 0.1], [-1.0, 2.0]])
    found = drift.jensen_shannon(a, b).tolist()
    assert found == pytest.approx([0.3112781, 1.0, 0.0], abs=1e-6)
    assert drift.jensen_shannon(a, a).tolist() == [0.0, 0.0, 0.0]
