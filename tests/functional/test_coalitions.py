"""Coalitions of variables: drawn as a slow twin draws them, and inputs exchanged bit for bit."""

import math

import pytest
import torch
from torch import Tensor

from xai_lightning.functional.attribution.ablation import Ablation
from xai_lightning.functional.attribution.coalitions import Mixture, even_coalitions, shapley_coalitions
from xai_lightning.functional.rng import random_words

TYPES = [torch.float16, torch.float32, torch.float64, torch.int32, torch.int64]
HOSTILE = (math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-40, 3e38)


def slowly(count: int, number: int, seed: int) -> list[list[bool]]:
    """One sample's coalitions, variable by variable, of fractions."""
    words, drawn = iter(random_words([seed], math.ceil((1 + number) / 3) * (count - 2))[0].tolist()), count - 2
    blocks = [[next(words) for _ in range(drawn)] for _ in range(math.ceil((1 + number) / 3))]
    odds = [1 / (size * (number - size)) for size in range(1, number)]
    found = [[True] * number, [False] * number]
    for place in range(drawn):
        chance = [((blocks[i // 3][place] >> (21 * (i % 3))) & (2**21 - 1)) / 2**21 for i in range(1 + number)]
        below = [sum(odds[: size + 1]) / sum(odds) for size in range(number - 2)]
        wanted, taken = 1 + sum(limit <= chance[0] for limit in below), []
        for i in range(number):
            taken.append(chance[1 + i] * (number - i) < wanted)
            wanted -= taken[-1]
        found.append(taken)
    return found


@pytest.mark.parametrize("number", [2, 13, 31, 32, 2000])
def test_coalitions_are_those_of_a_slow_twin_whoever_else_is_drawn(number: int) -> None:
    """Law 2; numbers of many variables need more than 32 bits."""
    found = shapley_coalitions(9, number, seeds=[2**62, 5, 7])
    assert found[1].tolist() == slowly(9, number, 5)
    assert torch.equal(found[2:], shapley_coalitions(9, number, seeds=[7]))


@pytest.mark.parametrize("number", [1, 31, 32, 33, 70])
def test_even_coalitions_are_the_bits_of_words(number: int) -> None:
    found, each = even_coalitions(5, number, seeds=[3, 8]), math.ceil(number / 32)
    words = random_words([8], 5 * each)[0].tolist()
    expected = [[bool(words[s * each + v // 32] >> (v % 32) & 1) for v in range(number)] for s in range(5)]
    assert found[1].tolist() == expected


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


@pytest.mark.parametrize("number", [1, 2, 31, 32, 40])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_mixture_has_the_very_bits_of_the_sample_or_the_baseline(dtype: torch.dtype, number: int) -> None:
    x, b = hostile(dtype, 40)
    mask = (torch.arange(40) % number)[None]
    coalitions = even_coalitions(6, number, seeds=[1, 2])
    mixture = Mixture(x, b, mask, coalitions.double(), 8)
    for samples, drawn in ((slice(0, 1), slice(0, 6)), (slice(1, 2), slice(2, 6)), (slice(0, 2), slice(0, 4))):
        inside = coalitions[samples, drawn][:, :, mask[0]]
        expected = torch.where(inside, x[samples, None], b[samples, None]).flatten(0, 1)
        assert equal_bits(mixture.of(samples, drawn), expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_ablation_shows_the_network_the_very_bits_of_each_input(dtype: torch.dtype, at_once: int) -> None:
    x, b = hostile(dtype, 6)
    mask, seen = torch.tensor([[0, 1, 0, 2, 2, 1]]), []

    def forward(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        if len(seen) > 1:
            rows.zero_()  # a block that a network writes into is none the worse
        return torch.zeros(len(rows))

    Ablation(forward).attribute((x.clone(),), (b,), (mask,), perturbations_per_eval=at_once)
    expected = [torch.where(mask == variable, b, x) for variable in range(3)]
    assert equal_bits(torch.cat(seen[1:]), torch.cat(expected))
