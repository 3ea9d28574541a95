import gc
import itertools
import math
import weakref
from functools import reduce

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import references_activation as slow
from xai_lightning.functional.activation import (
    EVERYTHING,
    HISTOGRAM_LIMITS,
    STATISTICS,
    Accumulator,
    Measured,
    Moments,
    empty,
    fused,
    histogram_summary,
    merge,
    observe,
    operations,
    pack,
    statistics,
    unpack,
)
from xai_lightning.functional.activation import blocks as in_blocks
from xai_lightning.functional.activation.table import ADDED

# How long an example takes depends on what else the machine does.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
EXACT = ("count", "zeros", "positives", "histogram", "minimum", "maximum", "samples", "nonfinite")
ROUNDED = {"mean": 1, "m2": 2, "m3": 3, "m4": 4, "magnitude": 1}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(a: Moments, b: Moments, rtol: float = 1e-9) -> None:
    for name in EXACT:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    extremes = torch.cat([a.minimum.abs(), a.maximum.abs(), torch.ones(1)]).nan_to_num(posinf=1.0)
    scale = max(1, int(a.count)) * extremes.max().item()
    for name, power in ROUNDED.items():
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=rtol, atol=1e-4 * rtol * scale**power)
    torch.testing.assert_close(a.sparsity, b.sparsity, rtol=max(rtol, 1e-9), atol=1e-7)


@pytest.fixture(params=["loops", "operations"])
def engine(request, monkeypatch):
    """Blocks of float32 on the CPU are added by compiled loops, or, as all others, by operations of torch."""
    if request.param == "operations":
        monkeypatch.setattr(fused, "takes", lambda values: False)
    else:
        pytest.importorskip("numba")


numbers = st.one_of(
    st.floats(-1e6, 1e6, width=32),
    st.integers(-20, 20).map(lambda exponent: 2.0**exponent),
    st.sampled_from([0.0, -0.0, -1.0, 1e-30, -1e-40, 3e38]),
)
sizes = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))


@st.composite
def activations(draw: st.DrawFn, values: st.SearchStrategy[float] = numbers) -> torch.Tensor:
    shape = draw(sizes)
    count = math.prod(shape)
    return torch.tensor(draw(st.lists(values, min_size=count, max_size=count)), dtype=torch.float64).view(shape)


@st.composite
def activations_with_a_mask(draw: st.DrawFn) -> tuple[torch.Tensor, list[bool]]:
    h = draw(activations(st.one_of(numbers, st.sampled_from([math.nan, math.inf]))))
    return h, draw(st.lists(st.booleans(), min_size=len(h), max_size=len(h)))


@unhurried
@given(case=activations_with_a_mask(), unit_dim=st.sampled_from([1, 2, -1, -2]))
def test_an_observation_agrees_with_its_definition(case, unit_dim):
    h, keep = case
    state, expected = observe(h, unit_dim, torch.tensor(keep)), slow.observe(h, unit_dim, keep)
    for name in EXACT:
        assert getattr(state, name).tolist() == expected[name], name
    size = max(1.0, h.nan_to_num(0.0, 0.0, 0.0).abs().max().item())
    for name, power in ROUNDED.items():
        assert getattr(state, name).tolist() == pytest.approx(expected[name], rel=1e-9, abs=1e-12 * size**power), name


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.bool])
def test_every_real_type_is_observed_at_its_own_values(dtype):
    h = (3 * noise(5, 3, 4)).to(dtype)
    assert_same(observe(h, 1), observe(h.double(), 1), rtol=1e-6)


@unhurried
@given(h=activations(), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_any_split_of_the_samples_merges_to_the_whole(h, cuts):
    """Law 2: the same answer however it is cut."""
    ends = sorted(min(cut, len(h)) for cut in cuts)
    parts = [h[a:b] for a, b in itertools.pairwise([0, *ends, len(h)])]
    assert_same(reduce(merge, [observe(part, 1) for part in parts]), observe(h, 1))


@unhurried
@given(a=activations(), b=activations(), c=activations())
def test_merging_is_associative_and_commutative(a, b, c):
    x, y, z = (observe(h[:, :1], 1) for h in (a, b, c))
    assert_same(merge(merge(x, y), z), merge(x, merge(y, z)))
    assert pack(merge(x, y)).equal(pack(merge(y, x)))


@unhurried
@given(h=activations())
def test_merging_with_nothing_changes_not_a_bit(h):
    state, nothing = observe(h, 1), empty(h.shape[1])
    assert pack(merge(state, nothing)).equal(pack(state))
    assert pack(merge(nothing, state)).equal(pack(state))


def test_nothing_merged_with_nothing_is_nothing():
    assert pack(merge(empty(3), empty(3))).equal(pack(empty(3)))


def test_a_large_activation_is_reduced_in_blocks_to_the_same_state(monkeypatch):
    """Law 7: the memory of an observation does not grow with the batch."""
    h, blocks = noise(23, 5, 7), []
    whole, add = observe(h, 1), operations.add_block
    monkeypatch.setattr(in_blocks, "_BLOCK_ON_CPU", 100)

    def noted(x, *args, **kwargs):
        outcome = add(x, *args, **kwargs)
        blocks.extend([tuple(x.shape)] * (outcome == ADDED))
        return outcome

    monkeypatch.setattr(operations, "add_block", noted)
    assert_same(observe(h, 1), whole)
    assert blocks == [(2, 5, 7)] * 11 + [(1, 5, 7)]
    blocks.clear()
    monkeypatch.setattr(in_blocks, "_BLOCK_ON_CPU", 20)
    assert_same(observe(h, 1), whole)
    assert blocks == [(1, 5, 4), (1, 5, 3)] * 23


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("dtype", "spread"), [(torch.float32, 1.0), (torch.float16, 100.0), (torch.bfloat16, 1e3)])
def test_the_variance_survives_a_large_mean_and_half_types(dtype, spread):
    """Trap 93: sums of squares cancel, and half types stall."""
    h = (1e4 + spread * noise(4096, 3)).to(dtype)
    state = reduce(merge, [observe(part, 1) for part in h.split(100)])
    wide = h.double()
    deviations = wide - wide.mean(0)
    torch.testing.assert_close(state.mean, wide.mean(0), rtol=1e-9, atol=0)
    for power, found in ((2, state.m2), (3, state.m3), (4, state.m4)):
        size = deviations.abs().pow(power).sum(0)
        assert ((found - deviations.pow(power).sum(0)).abs() / size).max() < 2e-7, power


MEANS = {"still": [1e4] * 8, "drifting": [0, 1, 10, 100, 1e3, 1e4, 1e3, 0], "to and fro": [0, 1e4] * 12}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_whose_means_move_add_up_to_the_moments_of_all(means, dtype):
    """Trap 93: the shift that served the first batches does not serve the later ones."""
    h = torch.cat([noise(250, 3, seed=i) + torch.tensor([mean, 0.0, -mean]) for i, mean in enumerate(MEANS[means])])
    h, layer = h.to(dtype), Accumulator(3, EVERYTHING, torch.device("cpu"))
    for part in h.split(250):
        layer.add(part, 1, len(part))
    state, deviations = layer.state(), h.double() - h.double().mean(0)
    assert (state.count, state.samples, state.calls) == (len(h), len(h), len(MEANS[means]))
    torch.testing.assert_close(state.mean, h.double().mean(0), rtol=1e-7, atol=1e-7)
    for power, found in ((2, state.m2), (3, state.m3), (4, state.m4)):
        size = deviations.abs().pow(power).sum(0)
        assert ((found - deviations.pow(power).sum(0)).abs() / size).max() < (3e-7 if dtype == torch.float32 else 1e-11)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_in_a_later_block_takes_back_the_earlier_ones(bad, monkeypatch):
    """All blocks of an activation are added, or only its finite samples are: those of before stay."""
    monkeypatch.setattr(in_blocks, "_BLOCK_ON_CPU", 8)
    h, layer = noise(12, 2, 3), Accumulator(2, EVERYTHING, torch.device("cpu"))
    layer.add(h[:6], 1, 6)
    broken = h[6:].clone()
    broken[4, 1, 2] = bad
    layer.add(broken, 1, 6)
    kept = observe(torch.cat([h[:10], h[11:]]), 1)
    assert_same(layer.state()._replace(nonfinite=kept.nonfinite), kept)
    assert layer.state().nonfinite == 1


@pytest.mark.usefixtures("engine")
def test_bfloat16_values_beyond_the_range_of_float16_stay_finite():
    """Trap 64: TensorBoard would turn them into infinity."""
    state = observe(torch.full((4, 2), 1e5, dtype=torch.bfloat16), 1)
    assert state.maximum.tolist() == pytest.approx([1e5, 1e5], rel=1e-2)
    assert state.nonfinite.item() == 0


@pytest.mark.usefixtures("engine")
def test_squares_beyond_float32_are_summed():
    h = torch.tensor([[1e30], [-1e30]], dtype=torch.float32)
    assert observe(h, 1).m2.item() == pytest.approx(2e60, rel=1e-6)


def test_a_rare_trigger_in_the_last_part_makes_a_unit_alive():
    """Trap 94: dead on one batch, or on one rank, is not dead."""
    h = torch.relu(noise(1000, 4))
    h[:, 2] = 0.0
    h[-1, 2] = 1e-3
    parts = [observe(part, 1) for part in h.split(100)]
    assert statistics(reduce(merge, parts[:-1]), rectified=True)["dead_share"] == 0.25
    for order in (parts, parts[::-1]):
        assert statistics(reduce(merge, order), rectified=True)["dead_share"] == 0.0


def test_a_channel_that_fires_at_one_pixel_is_alive():
    """Trap 94: the unit of a picture is the channel."""
    h = torch.zeros(2, 3, 4, 4)
    h[1, 0, 2, 3] = 1.0
    assert statistics(observe(h, 1), rectified=True)["dead_share"] == pytest.approx(2 / 3)


def test_units_are_dead_only_where_the_layer_is_rectified():
    """Trap 94: GELU, tanh and linear layers are below zero without being dead."""
    state = observe(-noise(8, 3).abs(), 1)
    assert math.isnan(statistics(state, rectified=False)["dead_share"])
    assert statistics(state, rectified=True)["dead_share"] == 1.0


def test_the_dormant_example_has_one_dead_unit_of_four():
    h = torch.tensor([[0.0, 0.01, 1.0, 2.99]]).repeat(5, 1)
    numbers = statistics(observe(h, 1), rectified=True)
    assert (numbers["dead_share"], numbers["zero_share"], numbers["mean"]) == pytest.approx((0.25, 0.25, 1.0))


@unhurried
@given(h=activations(st.floats(-1e3, 1e3, width=32)), unit_dim=st.sampled_from([1, 2]))
def test_the_statistics_agree_with_their_definitions(h, unit_dim):
    rectified = torch.relu(h)
    state = observe(rectified, unit_dim, None, Measured(True, True, True, (0.0, 3.0)))
    numbers = statistics(state, rectified=True, bounded=True)
    numbers.pop("massive")
    expected = slow.statistics(rectified, unit_dim) if h.shape[unit_dim] > 1 else numbers
    assert numbers == pytest.approx(expected, rel=1e-7, abs=1e-6, nan_ok=True)


def test_statistics_of_nothing_are_undefined():
    """Law 3: what was not observed is not 0."""
    for state in (empty(3), empty(0), observe(torch.full((4, 3), math.nan), 1)):
        assert all(map(math.isnan, statistics(state, rectified=True, bounded=True).values()))
    assert all(map(math.isnan, statistics([], rectified=True).values()))


def test_the_names_of_the_statistics_never_depend_on_the_data():
    """Law 4: what a monitor logs is fixed."""
    for state, rectified in itertools.product((empty(2), observe(noise(4, 2), 1)), (True, False)):
        assert list(statistics(state, rectified=rectified)) == list(STATISTICS)
        assert list(statistics(state, ["rms", "mean"], rectified=rectified)) == ["rms", "mean"]


def test_samples_that_are_not_kept_leave_no_trace():
    """Trap 95: padding and duplicates must not weigh."""
    h, keep = noise(6, 3, 2), torch.tensor([True, False, True, True, False, False])
    poisoned = h.clone()
    poisoned[~keep] = math.inf
    assert pack(observe(poisoned, 1, keep)).equal(pack(observe(h[keep], 1)))
    assert pack(observe(poisoned, 1, torch.zeros(6, dtype=torch.bool))).equal(pack(empty(3)))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 3, 0)])
def test_an_activation_without_elements_is_the_empty_state(shape):
    assert pack(observe(torch.ones(shape), 1)).equal(pack(empty(shape[1])))


def test_a_sample_that_is_not_finite_is_left_out_whole_and_its_values_counted():
    h = noise(5, 3, 2)
    h[1, 0, 0], h[1, 2, 1], h[4, 1, 1] = math.nan, math.inf, -math.inf
    state = observe(h, 1)
    assert state.nonfinite.item() == 3
    assert pack(state._replace(nonfinite=torch.tensor(0))).equal(pack(observe(h[[0, 2, 3]], 1)))


def test_every_layout_gives_the_same_state():
    """Trap 96: the unit dimension is named, never guessed."""
    h = noise(4, 5, 3, 2).float()
    expected = observe(h, 1)
    assert_same(observe(h.permute(0, 2, 3, 1), 3), expected, 1e-6)
    assert_same(observe(h.permute(0, 2, 3, 1), -1), expected, 1e-6)
    assert_same(observe(h.to(memory_format=torch.channels_last), 1), expected, 1e-6)
    assert_same(observe(h.flatten(2).transpose(1, 2), 2), expected, 1e-6)


def test_the_state_keeps_no_reference_to_the_activation():
    """Trap 92: neither memory nor graph outlives the hook."""
    h = noise(1, 1).requires_grad_()
    hidden = torch.relu(h)
    state, alive = observe(hidden, 1), weakref.ref(hidden)
    own = {field.untyped_storage().data_ptr() for field in state}
    assert hidden.untyped_storage().data_ptr() not in own
    assert not any(field.requires_grad for field in state)
    del hidden
    gc.collect()
    assert alive() is None


def test_overwriting_the_activation_afterwards_changes_nothing():
    """Trap 90: a ReLU that works in place comes right after the hook."""
    h = noise(8, 3)
    before, state = h.clone(), observe(h, 1)
    assert torch.equal(h, before)
    expected = pack(state)
    h.relu_()
    assert pack(state).equal(expected)


def test_states_made_in_inference_mode_merge_outside_of_it():
    with torch.inference_mode():
        state = observe(noise(4, 3), 1)
    assert merge(state, observe(noise(4, 3), 1)).count.item() == 8


@unhurried
@given(h=activations(st.one_of(numbers, st.just(math.nan))))
def test_a_packed_state_comes_back_bit_by_bit(h):
    state = observe(h, 1)
    vector = pack(state)
    back = unpack(vector, h.shape[1])
    assert vector.dtype == torch.float64
    assert vector.shape == (73 + 9 * h.shape[1],)
    assert all(a.equal(b) and a.dtype == b.dtype and a.shape == b.shape for a, b in zip(state, back, strict=True))


def test_counts_below_two_to_the_53_survive_packing():
    state = empty(1)._replace(count=torch.tensor(2**53 - 1))
    assert unpack(pack(state), 1).count.item() == 2**53 - 1


def test_gathered_states_merge_to_the_state_of_one_process():
    """Trap 97: a rank that saw nothing sends the empty state."""
    h = noise(10, 3)
    gathered = torch.stack([pack(observe(h[:7], 1)), pack(empty(3)), pack(observe(h[7:], 1))])
    assert_same(reduce(merge, [unpack(vector, 3) for vector in gathered]), observe(h, 1))


def test_an_unpacked_state_does_not_change_with_the_gathered_vector():
    vector = pack(observe(noise(4, 2), 1))
    state = unpack(vector, 2)
    expected = pack(state)
    vector.zero_()
    assert pack(state).equal(expected)


def test_the_limits_of_the_histogram_ascend_around_zero():
    assert len(HISTOGRAM_LIMITS) == 65
    assert list(HISTOGRAM_LIMITS) == sorted(set(HISTOGRAM_LIMITS))
    assert HISTOGRAM_LIMITS[31:33] == (-(2.0**-16), 2.0**-16)
    assert all(map(math.isfinite, HISTOGRAM_LIMITS))


@unhurried
@given(h=activations(st.floats(-(2.0**126), 2.0**126, width=32)))
def test_every_value_lies_within_the_limits_of_its_bin_in_either_precision(h):
    for value in h.flatten().tolist():
        counts = observe(torch.tensor([[value]], dtype=torch.float64), 1).histogram
        index = counts.argmax().item()
        below = HISTOGRAM_LIMITS[index - 1] if index else -math.inf
        assert below <= value <= HISTOGRAM_LIMITS[index]
        assert counts.equal(observe(torch.tensor([[value]], dtype=torch.float32), 1).histogram)


@unhurried
@given(h=activations(st.floats(-1e3, 1e3)))
def test_the_histogram_summary_counts_every_element_once(h):
    summary = histogram_summary(observe(h, 1))
    assert sum(summary.bucket_counts) == summary.num == h.numel()
    assert len(summary.bucket_counts) == len(summary.bucket_limits)
    assert (summary.min, summary.max) == (h.min().item(), h.max().item())
    assert summary.sum == pytest.approx(h.sum().item(), rel=1e-9, abs=1e-9)
    assert summary.sum_squares == pytest.approx(h.square().sum().item(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("rows", [4096, 4097], ids=["in lanes", "not in lanes"])
def test_many_numbers_are_counted_like_few(rows):
    """Law 2: large blocks are counted another way."""
    h = torch.relu(noise(rows, 32)).float() * 10
    assert observe(h, 1).histogram.equal(sum(observe(part, 1).histogram for part in h.split(100)))
    assert observe(h, 1).histogram.sum() == h.numel()


def test_the_histogram_of_nothing_is_all_zero_and_finite():
    """Trap 64: TensorBoard refuses an empty histogram, and one that is not finite."""
    for state in (empty(3), observe(torch.full((2, 3), math.nan), 1)):
        summary = histogram_summary(state)
        assert summary[:5] == (0.0, 0.0, 0, 0.0, 0.0)
        assert not any(summary.bucket_counts)


@pytest.mark.parametrize("unit_dim", [0, 3, -3, -4])
def test_a_unit_dimension_outside_the_activation_is_refused_and_shown(unit_dim):
    with pytest.raises(ValueError, match=rf"\(2, 3, 4\).*{unit_dim}\."):
        observe(torch.ones(2, 3, 4), unit_dim)


@pytest.mark.parametrize("keep", [torch.ones(3, dtype=torch.bool), torch.ones(2), torch.ones(2, 3, dtype=torch.bool)])
def test_a_mask_that_is_not_one_bool_per_sample_is_refused_and_shown(keep):
    with pytest.raises(ValueError, match=rf"\(2,\) or of its first.*, got {keep.dtype}"):
        observe(torch.ones(2, 3), 1, keep)


def test_a_complex_activation_is_refused():
    with pytest.raises(TypeError, match="complex64"):
        observe(torch.ones(2, 3, dtype=torch.complex64), 1)


def test_states_of_different_layers_do_not_merge():
    with pytest.raises(ValueError, match="3 and 1 units"):
        merge(empty(3), empty(1))


def test_a_vector_of_another_length_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"\(91,\), got \(100,\)"):
        unpack(pack(empty(3)), 2)
