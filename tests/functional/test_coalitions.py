"""Coalitions of variables: drawn as a slow twin draws them, and inputs exchanged bit for bit."""

import ctypes
import importlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.loops import Broken, interpreted, threads
from xai_lightning.functional import compiled
from xai_lightning.functional.attribution import (
    METHODS,
    Explained,
    Variables,
    attribute,
    coalitions,
    fast,
    is_exhaustive,
    proof,
    resolve_options,
    surrogates,
    table_variables,
)
from xai_lightning.functional.attribution.ablation import Ablation
from xai_lightning.functional.attribution.coalitions import (
    Coalitions,
    Plan,
    _limits,
    _listed,
    _subsets,
    even_coalitions,
    plan,
    shapley_coalitions,
)
from xai_lightning.functional.attribution.mixture import Mixture, Without, distinct
from xai_lightning.functional.attribution.surrogates import LEAST, Surrogate, _fitted, coefficients, nearness
from xai_lightning.functional.rng import random_words

TYPES = [torch.float16, torch.float32, torch.float64, torch.int32, torch.int64]
HOSTILE = (math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-40, 3e38)


@pytest.fixture
def _compiled() -> None:
    pytest.importorskip("numba")
    assert fast.kernels() is not None


@pytest.fixture(params=["compiled", "interpreted", "operations"])
def _way(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where numba is installed, and where it is not; and what numba compiles with numpy, which checks bounds."""
    if request.param == "operations":
        without_numba(monkeypatch)
    else:
        request.getfixturevalue("_compiled")
    if request.param == "interpreted":
        from xai_lightning.functional.attribution import fit_kernels, kernels

        # numba divides as numpy does
        monkeypatch.setattr(fit_kernels, "math", np)
        interpreted(monkeypatch, fit_kernels, kernels)
    with np.errstate(all="ignore"):
        yield


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "kernels", lambda: None)


def taken_once(count: int, number: int) -> list[list[list[bool]]]:
    """Subsets that are not drawn, from the smallest and largest ones to those of the middle; by size."""
    odds = {size: Fraction(1, size * (number - size)) for size in range(1, number)}
    found: list[list[list[bool]]] = []
    while odds:
        size, left = min(odds), count - 2 - sum(map(len, found))
        outer = {size, number - size}
        share = sum(odds[each] for each in outer) / sum(odds.values())
        both = [[v in some for v in range(number)] for s in outer for some in itertools.combinations(range(number), s)]
        for each in outer:
            odds.pop(each)
        too_few = size == 1 and not enough_for_pairs(count, number)
        if left < len(both) + (2 if odds else 0) or not (
            too_few or left * share >= Fraction(90 if found else 65, 100) * len(both)
        ):
            break
        found.append(both)
    return found


def enough_for_pairs(count: int, number: int) -> bool:
    return count - 2 >= 4 * number + 10


Drawn = Iterator[list[bool]]


def one_by_one(drawn: int, number: int, sizes: list[int], seed: int) -> Drawn:
    """One sample's coalitions, variable by variable, of fractions."""
    words = iter(random_words([seed], math.ceil((1 + number) / 3) * drawn)[0].tolist())
    blocks = [[next(words) for _ in range(drawn)] for _ in range(math.ceil((1 + number) / 3))]
    odds = [1 / (size * (number - size)) for size in sizes]
    for place in range(drawn):
        chance = [((blocks[i // 3][place] >> (21 * (i % 3))) & (2**21 - 1)) / 2**21 for i in range(1 + number)]
        wanted = sizes[sum(sum(odds[:k]) / sum(odds) <= chance[0] for k in range(1, len(sizes)))]
        taken = []
        for i in range(number):
            taken.append(chance[1 + i] * (number - i) < wanted)
            wanted -= taken[-1]
        yield taken


@cache
def in_words(number: int, size: int) -> list[int]:
    """All subsets of so many variables, a bit for each, in order."""
    return sorted(sum(2**v for v in some) for some in itertools.combinations(range(number), size))


def by_rank(drawn: int, number: int, sizes: list[int], seed: int) -> Drawn:
    """One sample's coalitions of few variables: one word tells the size, and which subset of that size."""
    odds = [Fraction(1, size * (number - size)) for size in sizes]
    for word in random_words([seed], drawn)[0].tolist():
        chance, rank = (word % 2**64) >> 43, word % 2**43
        size = sizes[sum(sum(odds[:k]) <= chance * sum(odds) / 2**21 for k in range(1, len(sizes)))]
        subsets = in_words(number, size)
        subset = subsets[rank * len(subsets) >> 43]
        yield [bool(subset >> v & 1) for v in range(number)]


def twin(count: int, number: int, seed: int) -> tuple[list[list[bool]], list[float]]:
    """One sample's coalitions and their weights."""
    listed = taken_once(count, number)
    sizes = list(range(1 + len(listed), number - len(listed)))
    odds = {size: Fraction(1, size * (number - size)) for size in range(1, number)}
    found, weights, unit = [[True] * number, [False] * number], [1e6, 1e6], (count - 2) / (sum(odds.values()) or 1)
    for both in listed:
        found += sorted(both)
        weights += [float(unit * odds[sum(one)] / math.comb(number, sum(one))) for one in both]
    paired, left = bool(listed) or enough_for_pairs(count, number), max(0, count - len(found))
    drawn = (left // 2 if paired else left) if sizes else 0
    for taken in (by_rank if number <= 16 else one_by_one)(drawn, number, sizes, seed):
        found += [taken, [not each for each in taken]] if paired else [taken]
    many = len(found) - len(weights)
    share = float(unit * sum(odds[size] for size in sizes) / (many or 1))
    weights += [min(share, weights[-1]) if listed else share] * many
    spare = max(0, count - len(found))
    return (found + [[False] * number] * spare)[:count], (weights + [0.0] * spare)[:count]


def in_order(present: Tensor, number: int) -> list[list[bool]]:
    """Coalitions, of which those that are taken once stand in any order."""
    rows: list[list[bool]] = present.tolist()
    place = 2
    for both in taken_once(len(rows), number):
        rows[place : place + len(both)] = sorted(rows[place : place + len(both)])
        place += len(both)
    return rows


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 13, 16, 17, 32])
@pytest.mark.parametrize(
    ("times", "more"), [(0, 1), (0, 3), (2, 3), (2, 4), (2, 5), (4, 11), (4, 12), (4, 64), (12, 5), (60, 0)]
)
def test_coalitions_are_those_of_a_slow_twin_whoever_else_is_drawn(number: int, times: int, more: int) -> None:
    """Law 2; numbers of many variables need more than 32 bits; from 2 V + 4 and 4 V + 12 on there are other ones."""
    count = times * number + more
    found, (expected, weights) = shapley_coalitions(count, number, seeds=[2**62, 5, 7]).present, twin(count, number, 5)
    assert in_order(found[1], number) == expected
    assert plan(count, number).weights.tolist() == [pytest.approx(weights)]
    assert torch.equal(found[2:], shapley_coalitions(count, number, seeds=[7]).present)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("draw", [shapley_coalitions, even_coalitions])
@pytest.mark.parametrize(("count", "number"), [(8, 3), (70, 14), (60, 20), (40, 40), (99, 40)])
def test_coalitions_are_drawn_on_the_processor_whatever_the_default_device(draw: Any, count: int, number: int) -> None:
    expected = draw(count, number, [1, 2])
    plan.cache_clear()
    with torch.device("meta"):
        found = draw(count, number, [1, 2])
        assert plan(count, number).weights.device.type == "cpu"
    assert torch.equal(found.present, expected.present)


@pytest.mark.usefixtures("_way")
def test_coalitions_of_many_variables_are_those_of_a_slow_twin() -> None:
    assert shapley_coalitions(9, 300, seeds=[2, 5]).present[1].tolist() == twin(9, 300, 5)[0]


@pytest.mark.parametrize("number", range(2, 8))
def test_subsets_of_many_variables_are_listed_like_those_of_few(number: int) -> None:
    for full in range(number // 2 + 1):
        words = _listed(number, full).T.double() @ 2.0 ** torch.arange(number, dtype=torch.float64)
        assert sorted(words.tolist()) == sorted(_subsets(number, full)[0].tolist())


@pytest.mark.parametrize(
    ("count", "number"), [(9, 6), (17, 6), (40, 6), (64, 6), (90, 6), (40, 14), (120, 14), (9000, 14), (848, 196)]
)
def test_weights_add_up_to_those_of_the_shapley_kernel(count: int, number: int) -> None:
    """Of each size, where all of its subsets are taken; and of the others together, unless there are few."""
    found, weights = shapley_coalitions(count, number, seeds=[3]).present[0], plan(count, number).weights[0]
    odds = torch.tensor([0.0, *(1 / (size * (number - size)) for size in range(1, number)), 0.0]).double()
    shares = torch.zeros(number + 1).double().index_add_(0, found[2:].sum(dim=1), weights[2:]) / (count - 2)
    full = len(taken_once(count, number))
    for size in (*range(1, full + 1), *range(number - full, number)):
        assert shares[size].item() == pytest.approx((odds[size] / odds.sum()).item())
    drawn = weights[2 + sum(map(len, taken_once(count, number))) :]
    few = bool(full and len(drawn) and drawn[0] == weights[2])
    assert (0.4 < shares.sum() < 1) if few else shares.sum().item() == pytest.approx(1)
    assert few == ((count, number) in ((17, 6), (40, 14)))


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("method", ["kernel_shap", "lime"])
@pytest.mark.parametrize("number", [1, 2, 5, 6])
def test_where_all_subsets_have_room_nothing_depends_on_chance(method: str, number: int) -> None:
    """Law 2; KernelSHAP gives the very Shapley values then, by whatever weights sums over all subsets find them."""
    network, x, b = nn.Sequential(nn.Linear(number, 8), nn.Tanh(), nn.Linear(8, 1)), *torch.randn(2, 5, number)
    fixed: dict[str, Any] = {"baselines": b, "variables": table_variables(number)}

    def found(name: str, first: int, options: dict[str, int]) -> tuple[Tensor, int]:
        explained = Explained(network, task="regression")
        seeds = range(first, first + 5)
        one = attribute(name, explained, x, torch.zeros(5), seeds=seeds, options=options, **fixed)
        return one.values[0], explained.rows // 5

    values, passes = found(method, 0, {})
    for other in (found(method, 9, {}), found(method, 9, {"n_samples": 3**number + 9})):
        assert passes == other[1] == 2**number
        assert torch.equal(values, other[0])
    if method == "kernel_shap":
        torch.testing.assert_close(values, found("shapley_values", 0, {})[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["kernel_shap", "lime"])
def test_no_more_coalitions_are_taken_than_there_are_of_many_variables_too(method: str) -> None:
    """Law 7; further ones would have no weight, or be taken twice. Three variables here act together."""
    number, most = 17, 2**17
    alone, x = torch.arange(number) / 8, torch.ones(1, number)
    options, told = {"n_samples": most + 9}, []

    def game(rows: Tensor) -> Tensor:
        told.append(len(rows))
        return (rows @ alone + 6 * rows[:, 0] * rows[:, 1] * rows[:, 2])[:, None]

    fixed: dict[str, Any] = {"baselines": 0 * x, "variables": table_variables(number), "options": options}
    explained = Explained(AsModule(game), task="regression")
    found, again = (attribute(method, explained, x, torch.zeros(1), seeds=[k], **fixed).values[0] for k in (1, 2))
    resolved = resolve_options(method, options, (number,), number)
    assert sum(told) == 2 * most
    assert METHODS[method].cost(resolved, number).forward + proof(METHODS[method], resolved) == most
    assert [is_exhaustive(method, {"n_samples": most - k}, (number,), number) for k in (0, 1)] == [True, False]
    assert torch.equal(found, again)
    if method == "kernel_shap":
        torch.testing.assert_close(found[0], alone + 2 * (torch.arange(number) < 3), rtol=0, atol=1e-4)


class AsModule(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(("number", "count"), [(3, 8), (3, 5), (9, 300), (9, 512), (13, 8192), (13, 8190)])
def test_values_add_up_however_many_coalitions_are_taken(number: int, count: int) -> None:
    """Where their weights outgrow those of the ends, too; of a game in which every subset is worth something else."""
    worth, members = torch.randn(2**number).double(), torch.arange(2**number)
    powers = 2 ** torch.arange(number)
    sizes = ((members[:, None] & powers) > 0).sum(dim=1)
    odds = torch.tensor([1 / (number * math.comb(number - 1, k)) for k in range(number)], dtype=torch.float64)
    expected = []
    for power in powers.tolist():
        without = members[members & power == 0]
        expected.append(((worth[without + power] - worth[without]) * odds[sizes[without]]).sum())
    x, surrogate = torch.ones(1, number), Surrogate(lambda rows: worth[rows.long() @ powers], kernel=True)
    fixed: dict[str, Any] = {"feature_mask": (torch.arange(number)[None],), "seeds": [3], "n_samples": count}
    found = surrogate.attribute((x,), (x * 0,), perturbations_per_eval=9999, **fixed)[0]
    assert found.sum().item() == pytest.approx((worth[-1] - worth[0]).item(), abs=1e-9)
    if count == 2**number:
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("number", [12, 16])
def test_more_coalitions_leave_no_larger_error(number: int) -> None:
    """Where pairs tell variables apart, and small subsets would be drawn nearly as often as they are taken."""
    torch.manual_seed(number)
    network = nn.Sequential(nn.Linear(number, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    fixed: dict[str, Any] = {"feature_mask": (torch.arange(number)[None],), "perturbations_per_eval": 9999}

    def found(count: int, many: int) -> Tensor:
        x = torch.full((many, number), 3.0)
        surrogate = Surrogate(lambda rows: network(rows)[:, 0].detach(), kernel=True)
        return surrogate.attribute((x,), (x * 0,), n_samples=count, seeds=range(many), **fixed)

    expected = found(2**number, 1)
    before, after = ((found(4 * number + 11 + more, 400) - expected).square().mean().sqrt() for more in (0, 1))
    assert after < 1.02 * before


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("number", [4, 9, 16])
def test_many_draws_are_the_same_without_numba(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 2: ranks with and without it draw alike, where the odds of the next size begin too."""
    seeds = [1, -(2**63)]
    monkeypatch.setattr(coalitions, "plan", single)
    first = shapley_coalitions(20_000, number, seeds).words
    without_numba(monkeypatch)
    assert torch.equal(first, shapley_coalitions(20_000, number, seeds).words)
    for full in (0, 1):
        odds = [Fraction(1, size * (number - size)) for size in range(1 + full, number - full)]
        limits = [math.ceil(sum(odds[:k]) / sum(odds) * 2**21) for k in range(1, len(odds))]
        assert _limits(number, full).tolist() == limits


def single(count: int, number: int) -> Plan:
    """All but the first two are drawn."""
    weights = torch.ones(1, count, dtype=torch.float64)
    weights[:, :2] = coalitions.ENDPOINT_WEIGHT
    return Plan(0, count - 2, 1, weights)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("number", [5, 18])
def test_pairs_of_coalitions_leave_no_error_where_variables_act_in_twos(number: int) -> None:
    """Half of what two do together is each one's; draws without their complements miss that, an odd one out too."""
    alone, together = torch.randn(number), torch.randn(number, number).triu(1)

    def forward(x: Tensor) -> Tensor:
        return x @ alone + ((x @ together) * x).sum(dim=1)

    x = torch.ones(6, number)
    fixed: dict[str, Any] = {"feature_mask": (torch.arange(number)[None],), "seeds": range(6)}
    expected = (alone + (together + together.T).sum(dim=1) / 2).expand(6, number)
    for count, error in (*((count, 0.0) for count in (4, 5, 4 * number, 5 * number, 6 * number + 1)), (-1, 0.02)):
        surrogate = Surrogate(forward, kernel=True)
        found = surrogate.attribute((x,), (x * 0,), n_samples=2 * number + count, perturbations_per_eval=99, **fixed)
        missed = (found - expected).norm(dim=1) / expected.norm(dim=1)
        assert (missed > error).all() if error else (missed < 1e-4).all()


@pytest.mark.parametrize("kernel", [False, True], ids=["lime", "kernel_shap"])
@pytest.mark.parametrize("count", [48, 96])
def test_pairs_of_coalitions_leave_at_most_six_tenths_of_the_error(
    *, kernel: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network with bends, where as many single ones are drawn; of KernelSHAP, small and large subsets are not."""
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    mask, x = (torch.arange(8)[None],), torch.randn(1, 8)

    @torch.no_grad()
    def found(count: int, seeds: range) -> Tensor:
        surrogate = Surrogate(lambda rows: network(rows).squeeze(1), kernel=kernel)
        rows = x.expand(len(seeds), 8)
        return surrogate.attribute((rows,), (rows * 0,), mask, count, perturbations_per_eval=9999, seeds=seeds)

    expected = found(40_000, range(1))
    error = (found(count, range(1, 200)) - expected).square().mean().sqrt()
    monkeypatch.setattr(coalitions, "PAIRED", 10**9)
    for place in (coalitions, surrogates):
        monkeypatch.setattr(place, "plan", single)
    assert error < (0.4 if kernel else 0.6) * (found(count, range(1, 200)) - expected).square().mean().sqrt()


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("count", [26, 35])
def test_few_draws_tell_variables_apart_that_act_alone(count: int) -> None:
    """Of as few pairs, one sample in seventy would have too few to."""
    alone, x = torch.arange(1.0, 7.0), torch.ones(1000, 6)
    fixed: dict[str, Any] = {"feature_mask": (torch.arange(6)[None],), "seeds": range(1000)}
    found = Surrogate(lambda rows: rows @ alone, kernel=True).attribute((x,), (x * 0,), n_samples=count, **fixed)
    torch.testing.assert_close(found, alone.expand(1000, 6), rtol=0, atol=1e-3)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("count", [1, 2, 3, 16, 17])
def test_the_only_variable_is_there_or_not(count: int) -> None:
    assert shapley_coalitions(count, 1, seeds=[0]).present[0, :, 0].tolist() == ([True] + [False] * 16)[:count]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("number", [1, 31, 32, 33, 70])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_even_coalitions_are_the_bits_of_words(number: int, more: int) -> None:
    """From four draws for a variable and ten on there are pairs; of all subsets, where there is room, each one."""
    count, each = 4 * number + 10 + more, math.ceil(number / 32)
    if number == 1:
        assert even_coalitions(count, 1, seeds=[3]).present.flatten().tolist() == ([False, True] * count)[:count]
        count = 1
        more = -1
    found = even_coalitions(count, number, seeds=[3, 8]).present
    words = random_words([8], count * each)[0].tolist()
    drawn = [[bool(words[s * each + v // 32] >> (v % 32) & 1) for v in range(number)] for s in range(count)]
    pairs = [both for one in drawn for both in (one, [not bit for bit in one])]
    assert found[1].tolist() == (pairs if more >= 0 else drawn)[:count]


def hostile(dtype: torch.dtype, columns: int) -> tuple[Tensor, Tensor]:
    values = torch.tensor(HOSTILE).repeat(2, columns)[:, :columns]
    x, b = values.clone(), values.roll(1, dims=1)
    if not dtype.is_floating_point:
        x, b = (torch.randint(-(2**31), 2**31 - 1, each.shape) for each in (x, b))
    return x.to(dtype), b.to(dtype)


def equal_bits(found: Tensor, expected: Tensor) -> bool:
    return found.dtype == expected.dtype and torch.equal(
        found.view(torch.uint8), expected.contiguous().view(torch.uint8)
    )


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("number", [1, 2, 31, 32, 40])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_mixture_has_the_very_bits_of_the_sample_or_the_baseline(dtype: torch.dtype, number: int) -> None:
    x, b = hostile(dtype, 40)
    mask = (torch.arange(40) % number)[None]
    coalitions = even_coalitions(6, number, seeds=[1, 2])
    mixture = Mixture(x, b, mask, coalitions, 8)
    for samples, drawn in ((range(1), range(6)), (range(1, 2), range(2, 6)), (range(2), range(4))):
        inside = coalitions.present[samples][:, drawn][:, :, mask[0]]
        expected = torch.where(inside, x[samples][:, None], b[samples][:, None]).flatten(0, 1)
        assert equal_bits(mixture.of(samples, drawn), expected)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_ablation_shows_the_network_the_very_bits_of_each_input(dtype: torch.dtype, at_once: int) -> None:
    x, b = hostile(dtype, 6)
    mask, seen = torch.tensor([[0, 1, 0, 2, 2, 1]]), []

    def forward(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        rows.zero_()  # what a network writes into its input spoils nothing
        return torch.zeros(len(rows))

    Ablation(forward).attribute((x.clone(),), (b,), (mask,), perturbations_per_eval=at_once)
    expected = [torch.where(mask == variable, b, x) for variable in range(4)]
    assert equal_bits(torch.cat(seen), torch.stack(expected, dim=1).flatten(0, 1))


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("width", [1, 2, 15, 33, 108])
def test_mixtures_of_any_width_and_number_of_coalitions_are_whole(width: int) -> None:
    """Registers and pairs of rows end in the middle of what is mixed."""
    x, b = torch.randn(2, 3, width)
    mask, coalitions = torch.arange(width)[None] % 5, even_coalitions(7, 5, seeds=range(3))
    for drawn in (range(7), range(1, 5), range(6, 7)):
        inside = coalitions.present[:, drawn][:, :, mask[0]]
        expected = torch.where(inside, x[:, None], b[:, None]).flatten(0, 1)
        assert torch.equal(Mixture(x, b, mask, coalitions, 21).of(range(3), drawn), expected)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_rows_are_whole_again_after_a_network_wrote_into_them(*, inference: bool, shared: bool) -> None:
    """Trap 15; of one sample some variables, and of several all."""
    with torch.inference_mode(inference):
        x, b = torch.randn(2, 4, 6)
        b = b[:1].expand(4, 6) if shared else b
        mask = torch.tensor([[0, 1, 0, 2, 3, 1]])
        without, forms = Without(x, b, mask), [(1, 0), (1, 1), (2, 2), (2, 3), (2, 4), (3, 4), (0, 0), (3, 1)]
        without.prepare(*torch.tensor(forms).T.contiguous(), 5)
        for some in (range(2), range(2, 5), range(3, 8)):
            rows = without.of(some)
            assert torch.equal(
                rows, torch.stack([torch.where(mask[0] == v, b[i], x[i]) for i, v in forms[some.start : some.stop]])
            )
            rows.mul_(2)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("at_once", [1, 3, 9])
def test_ablation_of_several_inputs_changes_one_of_them_at_a_time(at_once: int) -> None:
    """The variables of one are none of the other's, and more than it has."""
    x, b = (torch.randn(2, 2), torch.randn(2, 7)), (torch.zeros(2, 2), torch.zeros(2, 7))
    masks, seen = (torch.tensor([[1, 0]]), torch.arange(2, 9)[None]), []

    def forward(*rows: Tensor) -> Tensor:
        seen.append(torch.cat(rows, dim=1).clone())
        return rows[0].sum(dim=1)

    Ablation(forward).attribute(x, b, masks, perturbations_per_eval=at_once)
    expected = [torch.where(torch.cat(masks, dim=1) == v, 0, torch.cat(x, dim=1)) for v in range(10)]
    assert torch.equal(torch.cat(seen), torch.stack(expected, dim=1).flatten(0, 1))


class First(torch.nn.Module):
    """The first number of each sample, in a type."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0].to(self.dtype)


def drawn(samples: int, count: int, number: int) -> tuple[Coalitions, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    values, weights = torch.rand(2, samples, count, dtype=torch.float64, generator=generator)
    return even_coalitions(count, number, seeds=range(samples)), values, weights


@pytest.mark.parametrize("_way", ["compiled", "interpreted"], indirect=True)
@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("samples", [1, 7, 8, 9, 20])
@pytest.mark.parametrize("number", [1, 2, 13, 31])
def test_compiled_fits_are_least_squares(samples: int, number: int) -> None:
    coalitions, values, weights = drawn(samples, 4 * number + 30, number)
    for weighing in (weights, weights[:1]):
        found, sound = fast.fit(coalitions.words, values, weighing, number, LEAST)
        design = torch.cat([coalitions.present.double(), values.new_ones(samples, len(values[0]), 1)], dim=2)
        root = weighing.sqrt().expand_as(values)
        expected = torch.linalg.lstsq(design * root[..., None], (values * root)[..., None]).solution[:, :number, 0]
        assert sound.all()
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def never_apart(words: Tensor) -> None:
    """The last of six variables is there where the one before it is."""
    words.copy_((words & 31) | (words & 16) << 1)


@pytest.mark.usefixtures("_compiled")
def test_what_equations_do_not_determine_is_the_smallest_solution() -> None:
    """Two variables that are never apart, one that is always there, and scalars that are not finite."""
    coalitions, values, weights = drawn(11, 40, 6)
    words = coalitions.words
    assert words is not None
    never_apart(words[2])
    words[3] |= 4
    values[5, 7], values[6, 0] = math.nan, math.inf
    _, sound = fast.fit(words, values, weights, 6, LEAST)
    assert (~sound).nonzero().flatten().tolist() == [2, 3, 5, 6]
    found = _fitted(Coalitions(6, words=words), values, weights, 3)
    expected = coefficients(Coalitions(6, words=words).present.double(), values, weights)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, equal_nan=True)
    assert found[5:7].isnan().all()
    assert found[[2, 3]].isfinite().all()


@pytest.mark.usefixtures("_compiled")
def test_what_equations_hardly_determine_is_found_apart() -> None:
    """Two variables are apart in one coalition only, which weighs next to nothing."""
    coalitions, values, weights = drawn(2, 40, 6)
    words = coalitions.words
    assert words is not None
    never_apart(words[1])
    words[1, 0], weights[1, 0] = 16, 1e-12
    assert fast.fit(words, values, weights, 6, LEAST)[1].tolist() == [True, False]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_lime_follow_the_angle_to_the_sample(dtype: torch.dtype) -> None:
    x, b = torch.randn(2, 5, 9, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x[3], b[3] = 0, 0
    # far away, so that the others would be lost beside it
    b[1, 4], x[2, 0] = 1e12, -1e12
    mask, coalitions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 3, 3]]), even_coalitions(20, 4, seeds=range(5))
    mixed = torch.where(coalitions.present[:, :, mask[0]], x[:, None], b[:, None]).double()
    cosine = torch.nn.functional.cosine_similarity(mixed, x[:, None].double(), dim=2)
    expected = torch.exp(-((1 - cosine) ** 2) / 2)
    parts = [(x[:, :4], b[:, :4], mask[:, :4]), (x[:, 4:], b[:, 4:], mask[:, 4:])]
    torch.testing.assert_close(nearness(coalitions, parts), expected, rtol=1e-9, atol=0)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_weights_of_lime_follow_both_parts_of_complex_numbers(dtype: torch.dtype) -> None:
    """What is only imaginary has a length, too."""
    x, b = torch.randn(2, 3, 4, dtype=dtype)
    x.real[0], b.real[0] = 0, 0
    coalitions, mask = even_coalitions(9, 3, seeds=range(3)), torch.tensor([[0, 1, 2, 1]])
    mixed = torch.where(coalitions.present[:, :, mask[0]], x[:, None], b[:, None])
    numbers = (torch.view_as_real(each).flatten(2).double() for each in (mixed, x[:, None]))
    expected = torch.exp(-((1 - torch.nn.functional.cosine_similarity(*numbers, dim=2)) ** 2) / 2)
    torch.testing.assert_close(nearness(coalitions, [(x, b, mask)]), expected, rtol=1e-9, atol=0)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["sample", "baseline"])
def test_a_sample_without_an_angle_is_undefined_and_no_other_one(odd: float, where: str) -> None:
    """The network does not read the number, so that all scalars are finite."""
    x, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    network = Explained(First(), task="regression")
    given = {"targets": torch.zeros(5), "variables": table_variables(3), "seeds": range(5)}
    expected = attribute("lime", network, x, baselines=b, **given).values[0]
    (x if where == "sample" else b)[2, 1] = odd
    expected[2] = math.nan
    found = attribute("lime", network, x, baselines=b, **given).values[0]
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("method", ["feature_ablation", "kernel_shap", "shapley_values"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float16])
def test_effects_on_a_network_of_whole_numbers_are_fractions(method: str, dtype: torch.dtype) -> None:
    network = Explained(First(dtype), task="regression")
    given = {"variables": table_variables(3, {"both": [0, 1]}), "seeds": [0], "baselines": torch.zeros(1, 3)}
    found = attribute(method, network, torch.tensor([[1.0, 1, 1]]), torch.zeros(1), **given).values[0]
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 0.0]], dtype=found.dtype), rtol=0, atol=1e-3)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.bytes = max(self.bytes, *(x.untyped_storage().nbytes() for x in tree_leaves(made) if type(x) is Tensor), 0)
        return made


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("method", ["kernel_shap", "lime"])
@pytest.mark.parametrize("options", [{}, {"n_samples": 10}], ids=["drawn", "undetermined"])
def test_little_more_is_held_than_was_said(method: str, options: dict[str, int]) -> None:
    """Coalitions that are drawn one variable after the other, and equations that determine nothing, take most room."""
    x, given = torch.ones(150, 31), {"variables": table_variables(31), "seeds": range(150), "options": options}
    with Largest() as largest:
        network = Explained(First(), task="regression")
        attribute(method, network, x, torch.zeros(150), baselines=x[:1] * 0, at_once=20_000, **given)
    numbers = largest.bytes / 4
    assert numbers < 4 * 20_000


class Doubled(torch.nn.Module):
    """Twice the first number, found in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)[:, :1] * 1.0


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("method", ["feature_ablation", "occlusion", "kernel_shap", "lime", "shapley_values"])
def test_a_network_that_writes_into_its_input_is_explained_as_it_is_and_damages_nothing(method: str) -> None:
    """Trap 15; whether or not it was said that it does."""
    x, b = torch.randn(2, 4, 3)
    given, before = {"variables": table_variables(3), "seeds": range(4), "baselines": b}, (x.clone(), b.clone())
    for writes in (False, True):
        network = Explained(Doubled(), task="regression", writes=writes)
        found = attribute(method, network, x, torch.zeros(4), **given)
        torch.testing.assert_close(found.values[0][:, 0], 2 * (before[0] - before[1])[:, 0], rtol=1e-4, atol=1e-4)
        assert torch.equal(x, before[0])
        assert torch.equal(b, before[1])


def test_windows_that_overlap_are_seen_as_they_are_by_a_network_that_writes_into_its_input() -> None:
    """captum makes the next inputs of what it passes first."""
    x, options = torch.randn(4, 3), {"sliding_window_shapes": (2,), "strides": (1,)}
    given = {"variables": table_variables(3), "seeds": range(4), "options": options, "baselines": torch.randn(1, 3)}
    twin, before = torch.nn.Linear(3, 1, bias=False), x.clone()
    twin.weight.data = torch.tensor([[2.0, 0.0, 0.0]])
    expected = attribute("occlusion", Explained(twin, task="regression"), x, torch.zeros(4), **given).values[0]
    found = attribute("occlusion", Explained(Doubled(), task="regression"), x, torch.zeros(4), **given).values[0]
    torch.testing.assert_close(found, expected)
    assert torch.equal(x, before)


class Marked(Tensor):
    """A tensor of another class, as libraries for images return."""


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("method", ["feature_ablation", "kernel_shap", "lime"])
@pytest.mark.parametrize("where", ["inputs", "baselines", "outputs"])
def test_tensors_of_another_class_are_explained_like_any(method: str, where: str) -> None:
    class Network(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            summed = x.cumsum(dim=1).sum(dim=1)
            return summed.as_subclass(Marked) if where == "outputs" else summed

    x, b = torch.randn(2, 4, 3)
    given = {"variables": table_variables(3), "seeds": range(4)}
    expected = (x - b) * torch.tensor([3.0, 2.0, 1.0])
    x, b = x.as_subclass(Marked) if where == "inputs" else x, b.as_subclass(Marked) if where == "baselines" else b
    network = Explained(Network(), task="regression")
    found = attribute(method, network, x, torch.zeros(4), baselines=b, **given).values[0]
    torch.testing.assert_close(found.as_subclass(Tensor), expected, rtol=1e-4, atol=1e-4)
    assert type(found) is Tensor or where != "outputs"


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("method", ["feature_ablation", "kernel_shap", "lime"])
def test_variables_may_be_numbered_by_any_whole_numbers(method: str) -> None:
    x, mask = torch.randn(4, 40), torch.arange(40)[None] // 4
    explained, given = Explained(First(), task="regression"), {"baselines": torch.ones(1, 40), "seeds": range(4)}
    found = [
        attribute(method, explained, x, torch.zeros(4), variables=Variables((), each), **given).values[0]
        for each in (mask, mask.int())
    ]
    assert torch.equal(*found)


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize(
    "change",
    [
        lambda words, least: (words.long(), least),
        lambda words, least: (words.mT.contiguous().mT, least),
        lambda words, least: (words.as_subclass(Marked), least),
        lambda words, least: (words.to("meta"), least),
        lambda words, least: (words[0], least),
        lambda words, least: (words, least.float()),
    ],
    ids=["type", "layout", "class", "device", "dimensions", "last"],
)
def test_loops_refuse_what_they_would_misread(change: Any) -> None:
    """They are given addresses, and would read or write what lies beside."""
    coalitions, values, weights = drawn(3, 8, 4)
    words, least = change(coalitions.words, values.new_tensor([LEAST]))
    found, sound = values.new_empty(3, 4), torch.empty(3, dtype=torch.bool)
    kernels: Any = fast.kernels()
    with pytest.raises(ValueError, match=r"_fit reads contiguous torch\.(int32|float64) of .*got (Tensor|Marked) of"):
        kernels.fit.on(words, values, weights, least, found, sound)


def test_what_proves_completeness_damages_no_input() -> None:
    """Trap 15; the network writes into what it is passed, which was not said."""
    x, b = torch.randn(2, 4, 3)
    given, before = {"variables": table_variables(3), "seeds": range(4), "baselines": b}, (x.clone(), b.clone())
    attribute("shapley_value_sampling", Explained(Doubled(), task="regression"), x, torch.zeros(4), **given)
    assert torch.equal(x, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("at_once", [4, 1000])
@pytest.mark.parametrize(
    ("method", "options"), [("kernel_shap", {"n_samples": n}) for n in (1, 2, 7, 8)] + [("shapley_values", {})]
)
def test_ends_that_a_method_saw_are_not_passed_again(method: str, options: dict[str, int], at_once: int) -> None:
    """Law 7; of a single draw the other end is passed beside it."""
    torch.manual_seed(0)
    network, x, b = torch.nn.Linear(3, 1), torch.randn(2, 5, 3)[0], torch.randn(1, 3)
    explained = Explained(network, task="regression")
    given = {"variables": table_variables(3), "seeds": range(5), "options": options, "at_once": at_once}
    found = attribute(method, explained, x, torch.zeros(5), baselines=b, **given)
    row = METHODS[method]
    assert explained.rows == 5 * (row.cost(options, 3).forward + proof(row, options))
    expected = (network(x) - network(b)).detach().double()[:, 0]
    torch.testing.assert_close(found.change, expected, rtol=1e-5, atol=1e-6)
    total = found.values[0].double().sum(dim=1)
    torch.testing.assert_close(found.gap, total - found.change, rtol=0, atol=1e-9)


COMPILED = ["kernel_shap", "lime", "feature_ablation", "occlusion"]


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("method", COMPILED)
def test_attributions_are_the_same_without_numba(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    x, given = torch.randn(20, 9), {"variables": table_variables(9), "seeds": range(20), "at_once": 300}

    def found() -> Tensor:
        one = attribute(method, Explained(network), x, torch.arange(20) % 3, baselines=torch.ones(1, 9), **given)
        return one.values[0]

    compiled_ones = found()
    without_numba(monkeypatch)
    torch.testing.assert_close(compiled_ones, found(), rtol=1e-5, atol=1e-6)
    assert compiled_ones.abs().max() > 0.1


@pytest.mark.usefixtures("_way")
def test_networks_in_torch_of_any_default_type_and_device_can_be_explained() -> None:
    """What is made on the way has the samples' type."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            fast_again = fast.kernels.__wrapped__() if hasattr(fast.kernels, "__wrapped__") else None
        x, b, mask = torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([[0, 1, 1]])
        assert Mixture(x, b, mask, even_coalitions(4, 2, [1, 2]), 8).of(range(2), range(4)).dtype == torch.float64
        forms = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
        for dtype in (torch.float32, torch.float64):
            with torch.device("meta"):
                without = Without(x.to(dtype), b.to(dtype), mask)
                assert without.effective(3).tolist() == [[True, True, False]] * 2
                without.prepare(*forms, 4)
                assert without.of(range(4)).tolist() == [[0, 1, 1], [1, 0, 0]] * 2
    finally:
        torch.set_default_dtype(torch.float32)
    assert fast_again is fast.kernels()


LOOPS = ["draw_shapley", "draw_even", "mix", "leave_out", "effective", "fit", "nearness", "add_products"]


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("fault", ["does nothing", "raises"])
def test_loops_that_do_not_work_are_told_and_left_alone(name: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast.kernels(), name, Broken(fault))
    fast.kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"ablation and occlusion take longer.*(no space left|were wrongly )"):
            assert fast.kernels() is None
    finally:
        monkeypatch.undo()
        fast.kernels.cache_clear()


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("team", [True, False], ids=["shared", "alone"])
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("turns", [0, 1, 2, 7, 8, 9, 1000])
def test_threads_do_each_turn_of_a_loop_once(
    turns: int, number: int, team: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done twice would be added twice."""
    if not team:
        monkeypatch.setattr(threads(), "in_threads", lambda: None)
    before, x = torch.get_num_threads(), torch.randn(turns, 3)
    torch.set_num_threads(number)
    try:
        for _ in range(20):
            sums = fast.products(x, torch.ones(1, 3), torch.tensor([0, 0, 1]), 2)
            torch.testing.assert_close(sums[:, 0, 1], x[:, :2].double().sum(dim=1))
            torch.testing.assert_close(sums[:, 1, 0], x[:, 2].double().square())
            assert torch.equal(sums[:, :, 2], sums.new_tensor([2.0, 1.0]).expand(turns, 2))
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("_compiled")
@pytest.mark.skipif("OpenMP" not in torch.__config__.parallel_info(), reason="torch has other threads")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch may have another OpenMP")
def test_the_threads_are_those_of_torch() -> None:
    """Of which there are no more afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(2**20).sum()
        held = len(list(Path("/proc/self/task").iterdir()))
        fast.products(torch.ones(1000, 3), torch.ones(1, 3), torch.tensor([0, 0, 1]), 2)
        assert threads().in_threads() is not None
        assert len(list(Path("/proc/self/task").iterdir())) == held
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("_compiled")
@pytest.mark.skipif("OpenMP" not in torch.__config__.parallel_info(), reason="torch has other threads")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch may have another OpenMP")
@pytest.mark.parametrize(("number", "turns", "asked"), [(1, 9, []), (2, 1, []), (2, 2, [2]), (3, 9, [3])])
def test_as_many_threads_share_a_loop_as_torch_uses(
    number: int, turns: int, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    team, found = threads().in_threads(), []

    def told(work: int, table: Any, many: int, flags: int) -> None:
        found.append(many)
        team.run(work, table, many, flags)

    monkeypatch.setattr(threads(), "in_threads", lambda: team._replace(run=told))
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        fast.products(torch.ones(turns, 3), torch.ones(1, 3), torch.tensor([0, 0, 1]), 2)
    finally:
        torch.set_num_threads(before)
    assert found == asked


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize(("number", "order"), [(0, [0, 1, 2]), (1, [1, 2, 0]), (2, [2, 0, 1])])
def test_a_thread_begins_with_its_own_share(number: int, order: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's operations do; then it does what others have left."""
    of_threads, many, each = threads(), torch.get_num_threads(), 8
    place, seen = torch.zeros(1, dtype=torch.int64), torch.zeros(3 * each, dtype=torch.int64)

    @of_threads.loops  # type: ignore[untyped-decorator]
    def note(begin: int, end: int, place: Any, seen: Any) -> None:
        for turn in range(begin, end):
            seen[place[0]] = turn
            place[0] += 1

    parts, as_ints = of_threads.parts, of_threads.as_ints

    def work(table: Any) -> None:
        for begin, end in parts(table):
            note(begin, end, as_ints(table, 0), as_ints(table, 1))

    tells = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: number)
    alone = of_threads.Team(
        lambda work, table, threads, flags: ctypes.CFUNCTYPE(None, ctypes.c_void_p)(work)(ctypes.addressof(table)),
        ctypes.cast(tells, ctypes.c_void_p).value,
    )
    monkeypatch.setattr(of_threads, "in_threads", lambda: alone)
    # not kept: there would be one more for each run of this test
    monkeypatch.setattr(of_threads, "kept_callback", pytest.importorskip("numba").cfunc)
    torch.set_num_threads(3)
    try:
        of_threads.shared(note, as_ints, as_ints)(work).on(place, seen)(3 * each)
    finally:
        torch.set_num_threads(many)
    assert seen.tolist() == [turn for share in order for turn in range(share * each, (share + 1) * each)]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_more_rows_are_written_than_there_is_room_for(dtype: torch.dtype) -> None:
    x, mask = torch.ones(3, 4, dtype=dtype), torch.arange(4)[None]
    mixture, without = Mixture(x, 0 * x, mask, even_coalitions(2, 4, range(3)), 4), Without(x, 0 * x, mask)
    without.prepare(*torch.tensor([[0, 0, 1, 1, 2, 2], [0, 1] * 3]), 4)
    assert len(mixture.of(range(2), range(2))) == len(without.of(range(4))) == 4
    with pytest.raises(ValueError, match="room for 4 rows; got 6"):
        mixture.of(range(3), range(2))
    with pytest.raises(ValueError, match="room for 4 rows; got 6"):
        without.of(range(6))


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_what_is_the_baseline_already_takes_no_pass(dtype: torch.dtype, *, shared: bool) -> None:
    """Compared with the method written down: one sample and one variable after the other."""
    for seed in range(20):
        torch.manual_seed(seed)
        x, b = torch.randint(0, 2, (2, 5, 6)).to(dtype)
        b = b[:1].expand(5, 6) if shared else b
        mask = torch.randint(0, 4, (1, 6))
        mask[0, 0], rows = 3, []

        def forward(points: Tensor, weights: Tensor, *, rows: list[Tensor] = rows) -> Tensor:
            rows.append(points.clone())
            return (points.double() ** 2 * weights).sum(dim=1)

        weights = torch.randn(5, 6, dtype=torch.float64)
        found = Ablation(forward).attribute((x,), (b,), (mask,), (weights,), 7)
        forms = [[torch.where(mask[0] == v, b[i], x[i]) for v in range(4)] for i in range(5)]
        known = [[bool((form == x[i]).all()) for form in forms[i]] for i in range(5)]
        expected = [
            [forward(x[i : i + 1], weights[i : i + 1]) - forward(form[None], weights[i : i + 1]) for form in forms[i]]
            for i in range(5)
        ]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
        # numbers of two bytes are not compared
        assert found[torch.tensor(known)].abs().sum() == 0
        passes = sum(map(len, rows)) - 2 * 4 * 5
        all_but_known = 5 + sum(not each for one in known for each in one)
        has = len(set(mask[0].tolist()))
        assert passes == (all_but_known if dtype != torch.float16 else 5 + 5 * has)


@pytest.mark.usefixtures("_way")
def test_only_the_very_bits_of_the_baseline_are_known() -> None:
    """One over zero has the zero's sign; and what is no number for the sample is none for its variables."""
    x, b, mask = (
        torch.tensor([[-0.0, 1.0], [0.0, math.nan]]),
        torch.tensor([[0.0, 1.0], [0.0, math.nan]]),
        torch.tensor([[0, 1]]),
    )
    assert Without(x, b, mask).effective(2).tolist() == [[True, False], [False, False]]
    found = Ablation(lambda rows: 1 / rows[:, 0] + rows[:, 1]).attribute((x,), (b,), (mask,))
    assert found[0].tolist() == [-math.inf, pytest.approx(math.nan, nan_ok=True)]
    assert found[1].isnan().all()


@pytest.mark.usefixtures("_way")
def test_a_variable_of_several_inputs_is_known_where_all_of_its_numbers_are() -> None:
    x, masks = (
        (torch.tensor([[0.0, 1.0]] * 2), torch.tensor([[1.0], [0.0]])),
        (torch.tensor([[0, 1]]), torch.tensor([[0]])),
    )
    seen: list[int] = []

    def forward(a: Tensor, b: Tensor) -> Tensor:
        seen.append(len(a))
        return a.sum(dim=1) + 10 * b[:, 0]

    assert Ablation(forward).attribute(x, tuple(map(torch.zeros_like, x)), masks, (), 99).tolist() == [[10, 1], [0, 1]]
    assert seen == [5]


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.sparing])
def test_every_pass_is_made_where_passes_are_announced(method: str) -> None:
    """Other processes make as many, of samples that they know less of."""
    x, told = torch.eye(6), []

    @contextmanager
    def passing(kind: str) -> Iterator[None]:
        told.append(kind)
        yield

    network, fixed = nn.Linear(6, 1), {"variables": table_variables(6), "seeds": range(6)}
    one, all_of_them = Explained(network), Explained(network, passing=passing)
    found = [
        attribute(method, each, x, torch.ones(6, dtype=torch.int64), baselines=x[:1] * 0, **fixed).values[0]
        for each in (one, all_of_them)
    ]
    torch.testing.assert_close(*found)
    assert (one.rows, all_of_them.rows) == (6 * 2, 6 * 7)
    assert told


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.compiled])
def test_conjugates_and_negatives_that_are_only_marked_as_such_are_what_they_show(method: str) -> None:
    """Their bits are those of what they were made of."""
    points = torch.tensor([[1.0 + 2.0j, -1.0j], [3.0 - 1.0j, 2.0j]])
    given = [(points.conj(), points[:1].conj() * 0), (torch._neg_view(points.real), torch._neg_view(points.imag))]
    fixed: dict[str, Any] = {"variables": table_variables(2), "seeds": [1, 2]}
    explained = Explained(Imaginary(), task="regression")
    for x, b in given:
        found, plain = (
            attribute(method, explained, *(pair[0], torch.ones(2)), baselines=pair[1], **fixed).values[0]
            for pair in ((x, b), (x.clone().resolve_conj().resolve_neg() + 0, b + 0))
        )
        assert plain.abs().sum() > 0
        torch.testing.assert_close(found, plain)


class Imaginary(torch.nn.Module):
    """The sum of imaginary parts, or of real numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.imag if x.is_complex() else x).sum(dim=1)


def test_a_baseline_that_all_samples_share_is_held_once() -> None:
    b = torch.randn(4, 3)
    assert distinct(b[:1].expand(4, 3)).shape == (1, 3)
    assert torch.equal(distinct(b), b)


@pytest.mark.usefixtures("_compiled")
def test_where_numba_is_missing_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fast.kernels.cache_clear()
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    try:
        assert fast.kernels() is None
    finally:
        fast.kernels.cache_clear()


WAYS = pytest.mark.parametrize("way", ["kept", "kept_callback(types.float64(types.float64))"])


@pytest.mark.usefixtures("_compiled")
@WAYS
def test_what_another_process_has_only_announced_is_not_looked_for_in_what_an_earlier_version_left(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba's index names a file before it is written: a process beside, or after a kill, reads what lay there."""
    from numba.core.caching import IndexDataCacheFile

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def more(number: int) -> float:
        source = f"from numba import types\nfrom xai_lightning.functional.compiled import *\n@{way}\ndef more(x):\n"
        (tmp_path / "announced_loops.py").write_text(f"{source}    return x + {number}\n")
        monkeypatch.delitem(sys.modules, "announced_loops", raising=False)
        compiled._sources.cache_clear()
        made = importlib.import_module("announced_loops").more
        return getattr(made, "ctypes", made)(1.0)

    assert more(1) == 2
    with monkeypatch.context() as patch:
        patch.setattr(IndexDataCacheFile, "_save_data", lambda *args: None)
        assert more(22) == 23
    assert [more(22), more(22), more(1)] == [23, 23, 2]


@pytest.mark.usefixtures("_compiled")
@WAYS
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_what_was_compiled_of_another_version_of_what_is_called_is_not_found(
    way: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba looks only whether the function's own file is the same; what is compiled of an archive is kept at home."""
    if packed and not hasattr(pytest.importorskip("numba").core.caching, "ZipCacheLocator"):
        pytest.skip("this numba keeps nothing of an archive")
    parts = [
        "from inner_loops import add",
        "from numba import types",
        "from xai_lightning.functional.compiled import *",
    ]
    outer = "\n".join([*parts, f"@{way}", "def more(x):", "    return add(x)", ""])
    place = tmp_path / "packed.zip" if packed else tmp_path
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    for number in (1, 1, 2):
        inner = f"from numba import njit\n@njit\ndef add(x):\n    return x + {number}\n"
        written(place, {"outer_loops": outer, "inner_loops": inner})
        for name in ("outer_loops", "inner_loops"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        compiled._sources.cache_clear()
        more = importlib.import_module("outer_loops").more
        found.append(getattr(more, "ctypes", more)(1.0))
        hits = more.cache_hits if hasattr(more, "cache_hits") else sum(more.stats.cache_hits.values())
        assert hits == (len(found) == 2)
    assert found == [2, 2, 3]


def written(place: Path, sources: dict[str, str]) -> None:
    """Modules in a folder or an archive."""
    if place.suffix == ".zip":
        with ZipFile(place, "w") as packed:
            for name, source in sources.items():
                packed.writestr(f"{name}.py", source)
    else:
        for name, source in sources.items():
            (place / f"{name}.py").write_text(source)


@pytest.mark.usefixtures("_compiled")
def test_what_is_compiled_is_named_by_what_compiles_it_and_for_which_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that two processors share, each would else find what the other compiled at the same time."""
    from llvmlite import binding

    (tmp_path / "loops.py").write_text("")
    # as an editor marks a file that is open
    (tmp_path / ".#loops.py").symlink_to("nowhere")

    def version() -> str:
        compiled._sources.cache_clear()
        return compiled._sources(tmp_path)

    names = [version(), version()]
    with monkeypatch.context() as patch:
        patch.setattr(binding, "get_host_cpu_name", lambda: "another")
        names.append(version())
    monkeypatch.setattr(pytest.importorskip("numba"), "__version__", "another")
    names.append(version())
    assert names[0] == names[1]
    assert len(set(names)) == 3


@pytest.mark.usefixtures("_compiled")
def test_where_no_sources_can_be_read_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an executable: what another version kept could not be told from it."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def more(x: float) -> float:
        return x + 1

    made = more.__code__.replace(co_filename=str(Path("/nowhere/loops.py")))
    monkeypatch.setattr(more, "__code__", made)
    assert compiled.kept(more)(1.0) == 2
    assert not compiled.kept(more).stats.cache_path
