"""How many directions layers use, how alike they are, and the memory that takes."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import references_representation as slow
from xai_lightning.functional.representation import (
    attention_bytes_needed,
    bytes_needed,
    cka,
    cka_matrix,
    effective_rank,
    effective_rank_centred,
    hsic,
    kernel,
    layer_saturation,
    linear_cka,
    participation_ratio,
    per_sample,
    rank_statistics,
    sample_matrix,
    spectrum,
    stable_rank,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
RANKS = {
    "participation_ratio": participation_ratio,
    "effective_rank": effective_rank,
    "effective_rank_centred": effective_rank_centred,
    "stable_rank": stable_rank,
    "layer_saturation": layer_saturation,
}
CROSS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(noise(size, size, seed=seed)).Q


# --- ranks


def test_published_values_of_ranks_are_met():
    """Closed forms: sigma = (2, 1), and lambda = (4, 1) of the covariance."""
    assert effective_rank(torch.diag(torch.tensor([2.0, 1.0]))).item() == pytest.approx(1.8898816, abs=1e-7)
    assert participation_ratio(CROSS * torch.tensor([2.0, 1.0])).item() == pytest.approx(1.4705882, abs=1e-7)
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0]))).item() == pytest.approx(1.25, abs=1e-12)
    assert effective_rank(torch.eye(7)).item() == pytest.approx(7, abs=1e-12)


@pytest.mark.parametrize(("units", "directions"), [(4, 4), (100, 99), (200, 198), (201, 199)])
def test_the_direction_with_which_99_percent_are_reached_counts(units: int, directions: int):
    """The covariance is the identity; code that leaves that direction out gives 3/4 for four units."""
    cross = torch.cat([torch.eye(units), -torch.eye(units)])
    assert layer_saturation(cross).item() == directions / units


@unhurried
@given(
    samples=st.integers(2, 12),
    units=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    mean=st.sampled_from([0.0, 1.0, 1e4]),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_ranks_agree_with_singular_values(samples: int, units: int, seed: int, mean: float, scale: float):
    directions = torch.linspace(0.01, 1.0, units, dtype=torch.float64)
    h = (noise(samples, units, seed=seed) * directions + mean) * scale
    expected, found = slow.ranks(h), rank_statistics(h)
    # a mean that is large leaves directions below the precision of the second moments
    exact = dict.fromkeys(RANKS, 1e-6) | {"effective_rank": 1e-6 if mean < 1e4 else 1e-2}
    for name, measure in RANKS.items():
        assert found[name] == pytest.approx(expected[name], rel=exact[name]), name
        assert measure(h).item() == pytest.approx(found[name], rel=1e-9), name


@pytest.mark.parametrize("shape", [(400, 30), (30, 400)], ids=["tall", "wide"])
def test_a_layer_of_rank_one_is_found(shape: tuple[int, int]):
    h = (noise(shape[0], 1) @ noise(1, shape[1], seed=1)).float()
    healthy = noise(*shape, seed=2)
    found, other = rank_statistics(h), rank_statistics(healthy)
    for name in ("participation_ratio", "effective_rank", "effective_rank_centred", "stable_rank"):
        # float32 rounds each value, which spreads a ten-millionth of the variance
        assert found[name] == pytest.approx(1, abs=1e-2), name
        assert other[name] > 10, name
    assert found["layer_saturation"] == 1 / shape[1]
    assert rank_statistics(noise(50, 1) @ noise(1, 60, seed=1))["effective_rank"] == pytest.approx(1, abs=1e-12)


def test_a_shared_mean_is_a_direction_of_its_own_only_where_it_is_not_subtracted():
    h = noise(200, 20)
    assert effective_rank_centred(h + 1000).item() == pytest.approx(effective_rank_centred(h).item(), abs=1e-8)
    assert effective_rank(h + 1000).item() < 1.2 < 15 < effective_rank(h).item()
    assert stable_rank(h + 1000).item() == pytest.approx(1, abs=1e-3)


def test_ranks_do_not_depend_on_scale_rotation_or_order():
    h = noise(60, 12) * torch.arange(1, 13)
    for name, measure in RANKS.items():
        expected = pytest.approx(measure(h).item(), abs=1e-9)
        for changed in (h * 1e200, h * 1e-200, h.flip(0), h @ rotation(12)):
            assert measure(changed).item() == expected, name


@pytest.mark.parametrize("measure", RANKS.values(), ids=RANKS)
def test_ranks_of_nothing_are_undefined(measure):
    for h in (torch.zeros(5, 3), torch.full((5, 3), math.nan), torch.full((5, 3), math.inf), torch.zeros(0, 3)):
        assert measure(h).isnan().item()
    with pytest.raises(ValueError, match=r"one row per sample, got shape \(2, 3, 4\)"):
        measure(torch.zeros(2, 3, 4))
    with pytest.raises(TypeError, match=r"got torch\.complex64"):
        measure(torch.zeros(2, 3, dtype=torch.complex64))


def test_a_layer_of_constants_has_no_directions_that_vary():
    h = torch.full((50, 4), 0.1) * torch.tensor([1.0, 1e4, 3.0, 7e-3])
    for measure in (participation_ratio, effective_rank_centred, layer_saturation):
        assert measure(h).isnan().item()
    assert effective_rank(h).item() == pytest.approx(1, abs=1e-9)
    assert spectrum(h, centred=True).isnan().all()
    assert participation_ratio(noise(1, 4)).isnan(), "one sample does not vary"


def test_ranks_change_nothing_and_take_half_precision():
    h = noise(30, 6).bfloat16().requires_grad_()
    before = h.detach().clone()
    assert rank_statistics(h) == rank_statistics(before.double())
    assert torch.equal(h, before)
    assert not effective_rank(h).requires_grad


# --- similarity


def test_alignment_of_the_cross_with_its_first_column():
    """Closed form 1/sqrt(2) of the biased estimator; of the unbiased one 1/sqrt(2) as well, by counting pairs."""
    assert linear_cka(CROSS, CROSS[:, :1], unbiased=False).item() == pytest.approx(1 / math.sqrt(2), abs=1e-12)
    expected = slow.unbiased_hsic(CROSS, CROSS[:, :1])
    expected /= math.sqrt(slow.unbiased_hsic(CROSS, CROSS) * slow.unbiased_hsic(CROSS[:, :1], CROSS[:, :1]))
    assert linear_cka(CROSS, CROSS[:, :1]).item() == pytest.approx(expected, abs=1e-12)


@unhurried
@given(samples=st.integers(4, 7), seed=st.integers(0, 10**6), mean=st.sampled_from([0.0, 30.0]))
def test_hsic_is_the_mean_over_quadruples_of_samples(samples: int, seed: int, mean: float):
    x, y = noise(samples, 3, seed=seed) + mean, noise(samples, 2, seed=seed + 1) - mean
    found = hsic([x, y]) / samples
    for (i, a), (j, b) in [((0, x), (0, x)), ((0, x), (1, y)), ((1, y), (1, y))]:
        assert found[i, j].item() == pytest.approx(slow.unbiased_hsic(a, b), rel=1e-7, abs=1e-7)
        assert found[j, i].item() == pytest.approx(slow.hsic_over_quadruples(a, b), rel=1e-7, abs=1e-7)


def test_independent_layers_are_not_alike_however_wide_they_are():
    pairs = [(noise(64, 512, seed=2 * i), noise(64, 512, seed=2 * i + 1)) for i in range(10)]
    unbiased = [linear_cka(x, y).item() for x, y in pairs]
    assert abs(sum(unbiased) / 10) < 0.02
    assert min(unbiased) < 0 < max(unbiased)
    biased = [linear_cka(x, y, unbiased=False).item() for x, y in pairs]
    assert sum(biased) / 10 == pytest.approx(0.889, abs=0.01)
    assert biased[0] == pytest.approx(slow.biased_cka(*pairs[0]), abs=1e-10)


def test_alignment_sees_neither_rotation_nor_scale_nor_mean_but_other_maps():
    x = noise(40, 8)
    y = noise(40, 8, seed=1) + x
    expected = pytest.approx(linear_cka(x, y).item(), abs=1e-9)
    for changed in (x @ rotation(8), -x, x * 1e150, x * 1e-150, x + 1000, x.flip(1)):
        assert linear_cka(changed, y).item() == expected
    assert linear_cka(x, x).item() == pytest.approx(1, abs=1e-12)
    stretched = x * torch.tensor([100.0, 1, 1, 1, 1, 1, 1, 1])
    assert abs(linear_cka(stretched, y).item() - linear_cka(x, y).item()) > 0.1
    assert linear_cka(x, y).item() == linear_cka(y, x).item()


def test_batches_add_up_to_the_alignment_of_all_where_the_biased_estimator_fails():
    shared = noise(64 * 200, 32)
    y = shared + noise(64 * 200, 32, seed=1)
    whole = slow.biased_cka(shared, y)
    parts = [(a, b) for a, b in zip(shared.split(64), y.split(64), strict=True)]
    merged = cka(sum((hsic(pair) for pair in parts), torch.zeros(2, 2, dtype=torch.float64)))[0, 1].item()
    assert merged == pytest.approx(whole, abs=0.01)
    biased = sum(slow.biased_cka(a, b) for a, b in parts) / len(parts)
    assert abs(biased - whole) > 0.05
    backwards = cka(sum((hsic(pair) for pair in parts[::-1]), torch.zeros(2, 2, dtype=torch.float64)))[0, 1].item()
    assert backwards == pytest.approx(merged, abs=1e-12)


def test_a_batch_of_fewer_than_four_samples_adds_nothing():
    x, y = noise(35, 4), noise(35, 3, seed=1)
    assert torch.equal(hsic([x[:32], y[:32]]) + hsic([x[32:], y[32:]]), hsic([x[:32], y[:32]]))
    assert linear_cka(x[:3], y[:3]).isnan().item()
    assert linear_cka(x[:4], y[:4]).isfinite().item()


def test_all_layers_against_all_are_the_pairs():
    layers = [noise(20, width, seed=width) for width in (3, 40, 7)]
    layers.append(layers[0] @ rotation(3) * 5)
    matrix = cka_matrix(layers)
    for i, x in enumerate(layers):
        for j, y in enumerate(layers):
            assert matrix[i, j].item() == pytest.approx(linear_cka(x, y).item(), abs=1e-12)
            assert (kernel(x) * kernel(y)).sum().item() == pytest.approx(matrix[i, j].item(), abs=1e-12)
    assert torch.equal(matrix, matrix.T)
    assert matrix.diagonal().tolist() == [1.0] * 4
    assert matrix[0, 3].item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "dead",
    [torch.full((20, 3), 0.1), torch.zeros(20, 3), torch.eye(20)[:, :1], torch.full((20, 3), math.nan)],
    ids=["constant", "zero", "one sample only", "not a number"],
)
def test_a_layer_that_does_not_vary_has_no_alignment_and_spoils_no_other(dead: Tensor):
    alive, other = noise(20, 5), noise(20, 6, seed=1)
    matrix = cka_matrix([alive, dead, other])
    assert matrix[1].isnan().all()
    assert matrix[:, 1].isnan().all()
    assert matrix[0, 2].item() == pytest.approx(linear_cka(alive, other).item(), abs=1e-12)
    assert kernel(dead).isnan().all()


def test_layers_of_other_samples_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 2\), \(6, 2\)"):
        linear_cka(torch.zeros(5, 2), torch.zeros(6, 2))
    with pytest.raises(ValueError, match=r"got shapes \[\]"):
        cka_matrix([])
    with pytest.raises(ValueError, match=r"must be float64\[M, M\], got shape \(2, 3\)"):
        cka(torch.zeros(2, 3))


# --- samples and memory


def test_the_sample_of_an_activation_is_bounded_even_and_always_the_same():
    h = torch.arange(6 * 5 * 4 * 3.0).view(6, 5, 4, 3)
    rows, samples = sample_matrix(h, 1, most=10)
    again, _ = sample_matrix(h + 1, -3, most=10)
    assert torch.equal(again, rows + 1)
    assert rows.shape == (10, 5)
    assert samples.tolist() == sorted(samples.tolist())
    assert set(samples.tolist()) == set(range(6))
    flat = h.movedim(1, -1).reshape(-1, 5)
    every, of = sample_matrix(h, 1, most=10**6)
    assert torch.equal(every, flat)
    assert of.tolist() == [i for i in range(6) for _ in range(12)]
    h.zero_()
    assert rows.any(), "it keeps no part of the activation"


def test_one_row_per_sample_is_the_mean_over_its_positions():
    h = noise(3, 4, 2, 2)
    torch.testing.assert_close(per_sample(h, 1), h.flatten(2).mean(2))
    torch.testing.assert_close(per_sample(h, 3), h.flatten(1, 2).mean(1))
    assert torch.equal(per_sample(h[:, :, 0, 0].float(), 1), h[:, :, 0, 0].float().double())
    for function in (per_sample, lambda h, dim: sample_matrix(h, dim, most=3)):
        with pytest.raises(ValueError, match=r"shape \(3, 4, 2, 2\) after the first, got 0"):
            function(h, 0)
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        sample_matrix(h, 1, most=0)


PEAK = """
import sys, torch
from xai_lightning.functional import representation as r
torch.set_num_threads(1)
samples, units, layers = {sizes}
made = [torch.randn(samples, units, generator=torch.Generator().manual_seed(i)) for i in range(layers)]
attention = torch.rand(2, 6, {tokens}, {tokens})
labels, groups = torch.arange(samples) % 10, torch.arange(samples) // 10 % 2
def everything(made, attention, labels, groups):
    {call}
everything([h[:40, :8] for h in made], attention[:, :, :4, :4].clone(), labels[:40] * 0, groups[:40])
def peak():
    # of this process alone: what getrusage gives may be that of the process that started it
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])
before = peak()
everything(made, attention, labels, groups)
print((peak() - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2000, 500, 4), (1500, 4000, 2), (1000, 1000, 8), (6000, 500, 1)])
@pytest.mark.parametrize(
    "call",
    [
        "r.rank_statistics(made[0])",
        "r.cka_matrix(made)",
        "r.group_selectivity(made[0], labels, groups); r.largest_by_chance(made[0], labels, groups, repeats=2)",
        "r.massive_activations(made[0]); r.class_sums(made[0], labels, 10)",
    ],
)
def test_no_more_memory_is_taken_than_was_said(sizes: tuple[int, int, int], call: str):
    samples, units, layers = sizes
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(sizes=sizes, call=call, tokens=4)],
        capture_output=True,
        text=True,
        check=True,
    )
    said = bytes_needed(samples, units, layers=layers, itemsize=0)
    assert int(done.stdout) <= said + 2**24


@pytest.mark.slow
@pytest.mark.parametrize("call", ["attention_entropy", "first_token_share", "head_similarity"])
def test_no_more_memory_is_taken_by_heads_than_was_said(call: str):
    code = PEAK.format(sizes=(50, 8, 1), call=f"r.{call}(attention)", tokens=1000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= attention_bytes_needed(2, 6, 1000) + 2**23
    assert int(done.stdout) > attention_bytes_needed(2, 6, 1000) / 4


def test_what_is_kept_grows_with_layers_and_references_only_by_the_smaller_side():
    one = bytes_needed(512, 4096)
    assert bytes_needed(512, 4096, references=1) - one == 512 * 512 * 4
    assert bytes_needed(512, 64, references=1) - bytes_needed(512, 64) == 512 * 64 * 4
    assert bytes_needed(0, 0) == 0
    with pytest.raises(ValueError, match="-1"):
        bytes_needed(5, -1)
    with pytest.raises(ValueError, match="-2"):
        attention_bytes_needed(5, -2, 4)
