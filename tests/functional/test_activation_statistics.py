"""Statistics of activations against published numbers, closed forms and numpy on the whole array."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_lightning.functional.activation import (
    STATISTICS,
    Measured,
    empty,
    histogram_summary,
    median_magnitude,
    observe,
    statistics,
    union,
)

SATURATION = Measured(limits=(-0.95, 0.95))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(h: np.ndarray) -> dict[str, float]:
    """Of all elements, in float64 on the whole array."""
    d = h - h.mean()
    m2, m3, m4 = ((d**k).mean() for k in (2, 3, 4))
    rms = math.sqrt((h * h).mean())
    return {"mean": h.mean(), "std": math.sqrt(m2), "rms": rms, "skew": m3 / m2**1.5, "kurtosis": m4 / m2**2}


@settings(deadline=None, max_examples=30)
@given(
    cuts=st.lists(st.integers(1, 1023), max_size=6, unique=True),
    order=st.randoms(use_true_random=False),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    offset=st.sampled_from([0.0, 1e4]),
)
def test_any_split_in_any_order_equals_numpy_on_the_whole_array(cuts, order, dtype, offset):
    """Mean 1e4 and deviation 1, and half types (science 40, trap 93)."""
    h = (offset + noise(1024, 3, 2).exp()).to(dtype)
    parts = [observe(h[a:b], 1) for a, b in itertools.pairwise([0, *sorted(cuts), 1024])]
    order.shuffle(parts)
    state = union(parts)
    expected = moments(h.double().numpy())
    assert statistics(state, list(expected)) == pytest.approx(expected, rel=1e-6)
    wide = h.double().transpose(1, 2).reshape(-1, 3)
    for unit in range(3):
        d = (wide[:, unit] - wide[:, unit].mean()).numpy()
        found = [float(m[unit]) for m in (state.m2, state.m3, state.m4)]
        assert found == pytest.approx([(d**k).sum() for k in (2, 3, 4)], rel=1e-6)


def test_data_sorted_by_value_merge_as_well_as_shuffled_ones():
    """The shift of each block is its own; that of the first would be far from the last."""
    h = (1e4 + 3 * noise(40000, 1)).sort(0).values.float()
    found = statistics(union([observe(part, 1) for part in h.split(1000)]))
    expected = moments(h.double().numpy())
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e7, 1e12, 1e30])
def test_skew_and_kurtosis_know_no_unit_of_measurement(scale):
    """Fourth powers of small and of large numbers leave the range of float32."""
    h = noise(4000, 4, seed=3).exp().float()
    found = statistics(observe(h * scale, 1), ["rms", "skew", "kurtosis"])
    plain = moments((h * scale).double().numpy())
    if scale >= 1e-10:
        assert [found["skew"], found["kurtosis"]] == pytest.approx([plain["skew"], plain["kurtosis"]], rel=1e-5)
    assert found["rms"] == pytest.approx(plain["rms"], rel=1e-6)


def test_a_normal_distribution_has_skew_0_and_kurtosis_3():
    found = statistics(observe(5 + 2 * noise(200000, 2), 1))
    assert (found["skew"], found["kurtosis"]) == pytest.approx((0, 3), abs=0.03)


def test_what_is_constant_has_neither_skew_nor_kurtosis():
    found = statistics(observe(torch.full((50, 2), 0.3), 1))
    assert math.isnan(found["skew"])
    assert math.isnan(found["kurtosis"])
    assert found["std"] == 0


def test_the_dormant_example_of_the_literature():
    """E|h| = (0, .01, 1, 2.99): one of four at tau 0, two at tau .025 (science 39)."""
    found = statistics(observe(torch.tensor([[0.0, -0.01, 1.0, 2.99]]).repeat(5, 1), 1))
    assert [found[f"dormant_{tau}"] for tau in ("0", "0.025", "0.1")] == [0.25, 0.5, 0.5]
    assert math.isnan(found["dead_share"]), "nothing says that it is rectified"


def test_a_silent_layer_is_dormant_as_a_whole():
    found = statistics(observe(torch.zeros(5, 4), 1), rectified=True)
    assert [found[f"dormant_{tau}"] for tau in ("0", "0.025", "0.1")] == [1, 1, 1]
    assert (found["dead_share"], found["zero_share"]) == (1, 1)


@pytest.mark.parametrize(
    ("vector", "hoyer"), [([3.0, 4.0], 0.0343146), ([0, 0, 7.0, 0], 1), ([2.0] * 5, 0), ([3.0, -4.0], 0.0343146)]
)
def test_hoyer_sparsity_of_known_vectors(vector, hoyer):
    """Science 39; a vector of zeros has none, and is left out."""
    h = torch.tensor([vector, [0.0] * len(vector)])
    assert statistics(observe(h, 1))["hoyer"] == pytest.approx(hoyer, abs=1e-6)
    image = h[:, :, None, None].expand(-1, -1, 3, 2)
    assert statistics(observe(image, 1))["hoyer"] == pytest.approx(hoyer, abs=1e-6)
    assert math.isnan(statistics(observe(torch.zeros(3, 2), 1))["hoyer"])


def test_treves_rolls_sparsity_of_known_vectors():
    """One of four: a = 1/4, so 1; all equal: 0; (1, 3): a = 4/5, so 2/5; undefined where anything is negative."""
    for vector, expected in (([0, 5.0, 0, 0], 1), ([2.0] * 3, 0), ([1.0, 3.0], 0.4)):
        assert statistics(observe(torch.tensor([vector]), 1))["treves_rolls"] == pytest.approx(expected, abs=1e-6)
    assert math.isnan(statistics(observe(torch.tensor([[1.0, -3.0]]), 1))["treves_rolls"])


def test_outlier_kurtosis_is_1_for_equal_units_and_the_number_of_units_for_one():
    """Science 39: one-hot of 8 gives 8."""
    assert statistics(observe(noise(4, 1).expand(4, 8), 1))["outlier_kurtosis"] == pytest.approx(1)
    assert statistics(observe(torch.eye(8)[:1].repeat(5, 1), 1))["outlier_kurtosis"] == pytest.approx(8)


def test_an_outlier_feature_is_found():
    h = noise(500, 64)
    before = statistics(observe(h, 1))["outlier_kurtosis"]
    h[:, 7] *= 40
    assert statistics(observe(h, 1))["outlier_kurtosis"] > 30 > 2 > before


@pytest.mark.parametrize(("largest", "expected"), [(99.0, 0), (101.0, 0), (5000.0, 1), (-5000.0, 1)])
def test_a_massive_activation_is_large_and_a_thousand_times_the_median(largest, expected):
    h = torch.full((100, 4), 2.0)
    h[3, 2] = largest
    assert statistics(observe(h, 1))["massive"] == expected
    assert math.isnan(statistics(observe(h, 1, None, Measured()))["massive"]), "no histogram was observed"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40))
def test_the_median_of_magnitudes_is_rounded_up_by_at_most_two(values):
    h = torch.tensor(values)[:, None]
    exact = sorted(map(abs, values))[(len(values) - 1) // 2]
    found = median_magnitude(observe(h, 1).histogram)
    assert exact <= found <= max(2 * exact, 2.0**-16)
    assert math.isnan(median_magnitude(empty(1).histogram))


def test_a_saturated_tanh_is_found():
    h = torch.tanh(noise(200, 3) * torch.tensor([0.1, 1.0, 100.0]))
    found = statistics(observe(h, 1, None, SATURATION), bounded=True)["saturated_share"]
    assert found == pytest.approx(float((h.abs() >= 0.95).double().mean()))
    assert found > 1 / 3
    assert math.isnan(statistics(observe(h, 1), bounded=False)["saturated_share"])


def test_a_unit_that_fires_once_in_2000_is_nearly_dead_and_not_dead():
    """And how many samples this is said of stands beside it."""
    h = torch.zeros(2000, 4)
    h[:, 0], h[-1, 1], h[:5, 2] = 1.0, 1e-3, 1.0
    found = statistics(union([observe(part, 1) for part in h.split(100)]), rectified=True)
    assert (found["dead_share"], found["nearly_dead_share"], found["dead_among"]) == (0.25, 0.5, 2000)


def test_a_mask_of_tokens_leaves_padding_out():
    """Trap 95: padded to 8 or to 128, the statistics are the same; a text without a token is no sample."""
    lengths = torch.tensor([3, 8, 0, 5])
    short = noise(4, 8, 6).float().relu()
    long = torch.cat([short, torch.full((4, 120, 6), 1e3)], dim=1)
    masks = [torch.arange(width) < lengths[:, None] for width in (8, 128)]
    found = [observe(h, 2, mask) for h, mask in zip((short, long), masks, strict=True)]
    assert torch.equal(found[0].mean, found[1].mean)
    assert statistics(found[0]) == pytest.approx(statistics(found[1]), rel=1e-12, nan_ok=True)
    assert (int(found[0].count), int(found[0].samples)) == (16, 3)
    first = observe(short.transpose(1, 2), 1, masks[0])
    torch.testing.assert_close(first.m4, found[0].m4, rtol=1e-6, atol=0)


def test_without_units_what_is_defined_over_them_is_undefined():
    found = statistics(observe(noise(5, 1), 1), rectified=True, bounded=True, units=False)
    over_units = {name for name, row in STATISTICS.items() if row.of in ("units", "rectified")}
    assert {name for name, value in found.items() if math.isnan(value)} >= over_units
    assert found["mean"] == pytest.approx(float(noise(5, 1).mean()))


def test_what_was_not_measured_is_undefined_also_after_a_merge():
    plain = Measured()
    state = union([observe(noise(5, 3), 1, None, plain), empty(3), observe(noise(2, 3), 1, None, plain)])
    found = statistics(state, bounded=True)
    missing = {name for name, row in STATISTICS.items() if row.needs in ("higher", "histogram", "sparsity")}
    assert {name for name, value in found.items() if math.isnan(value)} == missing | {
        "dead_share",
        "nearly_dead_share",
        "dead_among",
    }
    assert histogram_summary(state).num == 0


def test_widths_together_are_the_statistics_of_all_elements_and_units():
    wide, narrow = noise(6, 5).relu(), noise(6, 2, seed=1).relu()
    wide[:, 3] = 0
    found = statistics([observe(wide, 1), observe(narrow, 1)], rectified=True)
    both = torch.cat([wide.flatten(), narrow.flatten()]).numpy()
    assert {name: found[name] for name in moments(both)} == pytest.approx(moments(both), rel=1e-9)
    assert found["dead_share"] == pytest.approx(1 / 7)
    summary = histogram_summary([observe(wide, 1), observe(narrow, 1)])
    assert (summary.num, summary.max) == (42, both.max())
    assert sum(summary.bucket_counts) == 42


def test_an_unknown_statistic_is_refused_and_the_nearest_named():
    with pytest.raises(ValueError, match=r"'kurtosi'.*'kurtosis'"):
        statistics(empty(1), ["kurtosi"])


def test_no_states_do_not_merge():
    with pytest.raises(ValueError, match="got no units"):
        union([])
