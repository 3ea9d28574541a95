"""What single units encode, which are out of proportion, where heads look, and how weights move."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import references_representation as slow
from xai_lightning.functional.activation import HistogramSummary
from xai_lightning.functional.representation import (
    attention_entropy,
    class_selectivity,
    class_sums,
    collapsed_heads,
    first_token_share,
    group_selectivity,
    head_similarity,
    largest_by_chance,
    massive_activations,
    most_selective,
    relative_update,
    top_samples,
    uniform_heads,
    weight_histogram,
    weight_norm,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def codes(most: int, count: int, seed: int = 0) -> Tensor:
    return torch.randint(most, (count,), generator=torch.Generator().manual_seed(seed))


# --- classes


def selectivity(h: Tensor, labels: Tensor, least: int = 1) -> Tensor:
    return class_selectivity(*class_sums(h, labels, 5), least=least)


@unhurried
@given(samples=st.integers(0, 30), seed=st.integers(0, 10**6), least=st.integers(1, 4))
def test_class_selectivity_agrees_with_its_definition(samples: int, seed: int, least: int):
    h, labels = noise(samples, 3, seed=seed).clamp(min=-0.2), codes(5, samples, seed)
    found = selectivity(h, labels, least)
    for unit in range(3):
        expected = slow.class_selectivity(h[:, unit].tolist(), labels.tolist(), least)
        assert found[unit].item() == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_a_unit_for_one_class_is_selective_and_one_for_all_is_not():
    labels = torch.arange(100) % 5
    h = torch.stack([(labels == 3) * 2.0, torch.full((100,), 0.7), labels * 0.0, labels - 2.0], dim=1)
    found = selectivity(h, labels, 10)
    assert found[:2].tolist() == pytest.approx([1.0, 0.0], abs=1e-12)
    assert found[2:].isnan().all(), "one that is dead, one with negative means"
    assert selectivity(h * 1e-12, labels, 10)[0].item() == 1.0, "the scale does not matter"


def test_sums_by_class_of_batches_add_up():
    h, labels = noise(50, 4).abs(), codes(5, 50)
    parts = [class_sums(h[rows], labels[rows], 5) for rows in (slice(0, 13), slice(13, 50))]
    sums, counts = (a + b for a, b in zip(*parts, strict=True))
    whole_sums, whole_counts = class_sums(h, labels, 5)
    torch.testing.assert_close(sums, whole_sums)
    assert torch.equal(counts, whole_counts)
    assert class_sums(h, labels - 5, 5)[1].tolist() == [0] * 5, "negative labels are left out"
    with pytest.raises(ValueError, match="below 4 classes, got 4"):
        class_sums(h, labels, 4)
    with pytest.raises(ValueError, match=r"int64\[50\], got torch.int64 of shape \(49,\)"):
        class_sums(h, labels[1:], 5)
    with pytest.raises(ValueError, match=r"got shapes \(5, 4\) and \(4,\)"):
        class_selectivity(sums, counts[1:])


def test_classes_of_few_samples_are_left_out():
    labels = torch.tensor([0] * 10 + [1] * 10 + [2] * 9)
    h = torch.stack([(labels == 2).double() + 1.0, labels.double() + 1], dim=1)
    assert class_selectivity(*class_sums(h, labels, 3)).tolist() == pytest.approx([0.0, 1 / 3], abs=1e-12)
    assert class_selectivity(*class_sums(h, labels, 3), least=11).isnan().all()


# --- groups


@unhurried
@given(
    samples=st.integers(0, 40),
    seed=st.integers(0, 10**6),
    least=st.integers(1, 4),
    mean=st.sampled_from([0.0, 1e3]),
)
def test_group_selectivity_agrees_with_its_definition(samples: int, seed: int, least: int, mean: float):
    h = noise(samples, 3, seed=seed) + mean
    labels, groups = codes(4, samples, seed) - 1, codes(4, samples, seed + 1) - 1
    found = group_selectivity(h, labels, groups, least=least)
    for unit in range(3):
        expected = slow.explained(h[:, unit].tolist(), labels.tolist(), groups.tolist(), least)
        assert found.value[unit].item() == pytest.approx(expected, abs=1e-8, nan_ok=True)
        assert found.chance[unit].isnan() == math.isnan(expected)


def planted(samples: int = 600, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Unit 0 is noise, 1 encodes the label, 2 the group, 3 the group under label 0 and its opposite under label 1."""
    labels = codes(2, samples, seed)
    # a group is three times as frequent under one label as under the other
    rare = torch.rand(samples, generator=torch.Generator().manual_seed(seed + 1)) < 0.25
    groups = torch.where(rare, 1 - labels, labels)
    h = noise(samples, 4, seed=seed + 2)
    h[:, 1] += 5 * labels
    h[:, 2] += 1.5 * groups
    h[:, 3] += 1.5 * torch.where(labels == 0, groups, 1 - groups)
    return h.clamp(min=0.0), labels, groups


@pytest.mark.parametrize("seed", range(5))
def test_a_unit_that_encodes_the_group_is_found_and_one_that_encodes_only_the_label_is_not(seed: int):
    h, labels, groups = planted(seed=seed)
    found, by_chance = group_selectivity(h, labels, groups), largest_by_chance(h, labels, groups)
    assert (found.value[2:] > 3 * by_chance).all()
    assert (found.value[2:] > 0.15).all()
    assert (found.value[:2] < 2.5 * by_chance).all()
    assert (found.value[:2] < 0.02).all()
    regardless = group_selectivity(h, torch.zeros_like(labels), groups)
    assert regardless.value[1] > 0.1, "without the label held fixed it would be accused"


def test_chance_is_what_dealing_out_groups_within_classes_gives():
    h, labels = noise(60, 3).exp(), codes(3, 60)
    groups = codes(3, 60, seed=1)
    said = group_selectivity(h, labels, groups, least=1)
    total, largest, repeats = torch.zeros(3, dtype=torch.float64), 0.0, 2000
    generator = torch.Generator().manual_seed(0)
    for _ in range(repeats):
        dealt = groups.clone()
        for label in range(3):
            rows = (labels == label).nonzero().flatten()
            dealt[rows] = groups[rows[torch.randperm(len(rows), generator=generator)]]
        value = group_selectivity(h, labels, dealt, least=1).value
        total += value
        largest += value.max().item() / repeats
    torch.testing.assert_close(total / repeats, said.chance, rtol=0.03, atol=0)
    assert largest_by_chance(h, labels, groups, least=1, repeats=500).item() == pytest.approx(largest, rel=0.05)
    assert largest > 1.1 * said.chance.max().item()


def test_group_selectivity_is_one_where_the_group_is_all_there_is_and_invariant_to_scale_and_names():
    labels, groups = torch.arange(80) % 4, torch.arange(80) // 4 % 2
    h = torch.stack([groups + 10.0 * labels, 1e6 + 1e-3 * groups.double(), noise(80, 1)[:, 0]], dim=1).double()
    found = group_selectivity(h, labels, groups)
    assert found.value[:2].tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    assert group_selectivity(1e13 + groups[:, None].double(), labels, groups).value.item() == 1.0
    for other in (group_selectivity(h * -1e30, labels, groups), group_selectivity(h, 9 - labels, 7 - 3 * groups)):
        torch.testing.assert_close(other.value, found.value)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(group_selectivity(h[order], labels[order], groups[order]).value, found.value)
    assert largest_by_chance(h, labels, groups, seed=1) == largest_by_chance(h, labels, groups, seed=1)


def test_what_says_nothing_about_groups_is_undefined():
    labels, groups = torch.arange(40) % 2, torch.arange(40) // 2 % 2
    h = torch.stack([labels * 0.1, noise(40, 1)[:, 0], torch.full((40,), math.nan)], dim=1).double()
    found = group_selectivity(h, labels, groups)
    assert found.value.isfinite().tolist() == found.chance.isfinite().tolist() == [False, True, False]
    assert largest_by_chance(h, labels, groups).isfinite()
    for of, who in ((labels, groups * 0), (labels, groups - 1), (labels - 2, groups), (groups, groups)):
        assert group_selectivity(h, of, who).value.isnan().all()
        assert largest_by_chance(h, of, who).isnan()
    assert group_selectivity(h, labels, groups, least=11).value.isnan().all()
    with pytest.raises(ValueError, match=r"`groups` must be int64\[40\], got torch.float32"):
        group_selectivity(h, labels, groups.float())
    with pytest.raises(ValueError, match="at least 1, got 0"):
        largest_by_chance(h, labels, groups, repeats=0)


def test_the_most_selective_units_and_their_strongest_samples_come_first():
    assert most_selective(torch.tensor([0.5, math.nan, 0.9, 0.5]), 3).tolist() == [2, 0, 3]
    h = torch.tensor([[1.0, 5.0], [math.nan, 5.0], [3.0, 7.0]])
    assert top_samples(h, torch.tensor([1, 0]), 2).tolist() == [[2, 0], [2, 0]]
    assert top_samples(h, torch.tensor([0]), 9).tolist() == [[2, 0, 1]]


# --- outliers


def test_massive_activations_are_large_and_out_of_proportion():
    h = noise(50, 16) * 0.1
    h[4, 2], h[9, 2], h[0, 7] = 250.0, -101.0, 99.0
    assert massive_activations(h).tolist() == [0, 0, 2] + [0] * 13
    assert massive_activations(h + 1).sum() == 0, "large, but not a thousand times the median"
    assert massive_activations(torch.tensor([[math.inf, math.nan, 1.0, 0.0]])).tolist() == [1, 0, 0, 0]
    assert massive_activations(torch.zeros(0, 2)).tolist() == [0, 0]


# --- heads


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", ["nothing", "right", "left"])
def test_heads_agree_with_loops_over_their_rows(causal: bool, padded: str):
    keep = torch.ones(3, 5, dtype=torch.bool)
    if padded == "right":
        keep[0, 3:] = keep[2, 1:] = False
    if padded == "left":
        keep[0, :2] = keep[2, :4] = False
    weights = (2 * noise(3, 4, 5, 5)).exp()
    weights = weights.masked_fill(~keep[:, None, None], 0.0)
    weights = (weights.tril() if causal else weights).float()
    weights = (weights / weights.sum(-1, keepdim=True)).nan_to_num(0.0)
    entropies, firsts, alike = slow.attention(weights, keep, causal=causal)
    assert attention_entropy(weights, keep, causal=causal).tolist() == pytest.approx(entropies, abs=1e-6)
    assert first_token_share(weights, keep, causal=causal).tolist() == pytest.approx(firsts, abs=1e-6)
    found = head_similarity(weights, keep, causal=causal)
    torch.testing.assert_close(found, torch.tensor(alike, dtype=torch.float64), atol=1e-6, rtol=0)


def test_padding_to_any_length_changes_nothing():
    weights = noise(2, 3, 4, 4).softmax(-1)
    padded = torch.zeros(2, 3, 128, 128, dtype=torch.float64)
    padded[:, :, :4, :4] = weights
    padded[:, :, 4:] = 1 / 128
    keep = torch.zeros(2, 128, dtype=torch.bool)
    keep[:, :4] = True
    for measure in (attention_entropy, first_token_share, head_similarity):
        torch.testing.assert_close(measure(padded, keep), measure(weights), atol=1e-12, rtol=0)
    assert attention_entropy(padded).max() > attention_entropy(weights).max() + 0.02, "without a mask it would"


def test_collapsed_uniform_and_parked_heads_are_found():
    """Heads that look at themselves, everywhere, at the first token, and as one starts out."""
    tokens = 16
    itself, everywhere = torch.eye(tokens), torch.full((tokens, tokens), 1 / tokens)
    first = torch.zeros(tokens, tokens)
    first[:, 0] = 1.0
    heads = torch.stack([itself, everywhere, first, (3 * noise(tokens, tokens)).softmax(-1).float()])[None]
    entropy = attention_entropy(heads)
    assert entropy[:3].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    assert 0.2 < entropy[3].item() < 0.9
    assert first_token_share(heads)[:3].tolist() == pytest.approx([1 / 16, 1 / 16, 1])
    assert (collapsed_heads(entropy).item(), uniform_heads(entropy).item()) == (0.5, 0.25)
    assert collapsed_heads(entropy, below=1.1).item() == 1.0
    alike = head_similarity(heads)
    assert alike.diagonal().tolist() == pytest.approx([1.0] * 4)
    assert alike[0, 2].item() == pytest.approx(1 / 16)
    causal = (everywhere.tril() / everywhere.tril().sum(-1, keepdim=True))[None, None]
    assert attention_entropy(causal, causal=True).item() == pytest.approx(1)
    assert attention_entropy(causal).item() < 0.8, "without knowing of it, half of what is uniform looks narrow"


def test_heads_of_a_real_layer_are_between_the_extremes():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x = torch.randn(3, 6, 16)
    padding = torch.arange(6) >= torch.tensor([[6], [4], [1]])
    _, weights = layer(x, x, x, key_padding_mask=padding, average_attn_weights=False)
    entropy = attention_entropy(weights, ~padding)
    assert ((entropy > 0.5) & (entropy < 1)).all()
    assert not entropy.requires_grad
    assert collapsed_heads(entropy).item() == 0


def test_heads_without_a_choice_or_a_weight_are_undefined():
    weights = noise(2, 2, 3, 3).softmax(-1)
    alone = torch.tensor([[True, False, False]] * 2)
    for measure in (attention_entropy, first_token_share, head_similarity):
        assert measure(weights, alone).isnan().all()
        broken = weights.clone()
        broken[1, 0, 2] = 0.0
        assert measure(broken)[0].isnan().all()
        assert measure(broken).isnan().any()
        assert measure(broken)[1, ..., -1:].isfinite().all() if measure is head_similarity else measure(broken)[1] >= 0
        with pytest.raises(ValueError, match=r"\[N, U, T, T\], got shape \(2, 3, 3\)"):
            measure(weights[0])
        with pytest.raises(ValueError, match=r"bool\[2, 3\], got torch.float32 of shape \(2, 3\)"):
            measure(weights, torch.ones(2, 3))
    assert collapsed_heads(torch.tensor([0.0, math.nan])).isnan()
    assert uniform_heads(torch.tensor([0.0, math.nan])).isnan()


# --- weights


def test_norm_and_update_of_weights_are_those_of_all_tensors_as_one_vector():
    now, then = ([noise(4, 3, seed=seed), noise(5, seed=seed + 1)] for seed in (0, 2))
    flat, before = (torch.cat([w.flatten() for w in weights]) for weights in (now, then))
    assert weight_norm(now).item() == pytest.approx(flat.norm().item())
    assert relative_update(now, then).item() == pytest.approx(((flat - before).norm() / before.norm()).item())
    assert relative_update(now, now).item() == 0
    assert weight_norm([]).item() == 0


def test_a_step_of_gradient_descent_moves_weights_by_rate_times_gradient():
    layer = nn.Linear(3, 2)
    then = [p.detach().clone() for p in layer.parameters()]
    layer(torch.ones(4, 3)).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    expected = 0.1 * weight_norm([p.grad for p in layer.parameters()]) / weight_norm(then)
    found = relative_update(list(layer.parameters()), then)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not found.requires_grad


def test_updates_that_cannot_be_told_are_undefined():
    zero, one = [torch.zeros(3)], [torch.ones(3)]
    assert relative_update(one, zero).isnan()
    assert relative_update([torch.full((3,), math.inf)], one).isnan()
    assert relative_update([], []).isnan()
    with pytest.raises(ValueError, match=r"got \[\(3,\)\] after \[\(2,\)\]"):
        relative_update(one, [torch.zeros(2)])


def test_the_histogram_of_weights_is_that_of_all_tensors():
    weights = [noise(40, 3), torch.tensor(2.5), torch.tensor([math.nan])]
    summary = weight_histogram(weights)
    assert isinstance(summary, HistogramSummary)
    flat = torch.cat([weights[0].flatten(), torch.tensor([2.5])])
    assert (summary.num, sum(summary.bucket_counts)) == (121, 121)
    assert (summary.min, summary.max) == (flat.min().item(), flat.max().item())
    assert summary.sum == pytest.approx(flat.sum().item())
    assert summary.sum_squares == pytest.approx(flat.square().sum().item())
    below = torch.searchsorted(flat.sort().values, torch.tensor(summary.bucket_limits, dtype=torch.float64))
    assert torch.tensor(summary.bucket_counts).cumsum(0).tolist() == below.tolist()
    assert weight_histogram([]).num == 0
