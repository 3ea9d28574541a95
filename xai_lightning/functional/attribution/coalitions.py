"""Coalitions of variables, drawn for many samples at once."""

import itertools
import math
from collections.abc import Sequence
from functools import cache, cached_property
from typing import NamedTuple, cast

import torch
from torch import Tensor

from xai_lightning.functional.attribution import fast
from xai_lightning.functional.attribution.fast import MOST_VARIABLES, Subsets
from xai_lightning.functional.precision import exact, exact_device
from xai_lightning.functional.rng import random_words

BITS, THIRDS, DIGITS = 32, 3, 21
LOW = 64 - DIGITS
PAIRED, SPARE = 4, 10
ENDPOINT_WEIGHT, NEARLY, FIRST = 1e6, 0.9, 0.65
LISTED = 16
"""Up to this many variables, all subsets are listed: 256 KB."""


class Coalitions:
    """Which of V variables are in each of S coalitions of N samples.

    Args:
        number: the number of variables V.
        words: int32[N, S], a bit for each variable, for at most 31 variables.
        present: bool[N, S, V], instead of words.
    """

    def __init__(self, number: int, *, words: Tensor | None = None, present: Tensor | None = None) -> None:
        self.number, self._words, self._present = number, words, present

    @cached_property
    def words(self) -> Tensor | None:
        """A bit for each variable, ``int32[N, S]``; None for more than 31 variables."""
        if self._words is None and self.number <= MOST_VARIABLES:
            present = self.present
            powers = 2.0 ** torch.arange(self.number, dtype=torch.float64, device="cpu")
            return (exact(present) @ powers.to(exact_device(present.device))).to(present.device, torch.int32)
        return self._words

    @cached_property
    def present(self) -> Tensor:
        """Whether each variable is in each coalition, ``bool[N, S, V]``."""
        if self._words is None:
            return cast(Tensor, self._present)
        return ((self._words[..., None] >> torch.arange(self.number, device=self._words.device)) & 1).bool()

    def of(self, samples: Tensor | slice) -> "Coalitions":
        """The coalitions of some samples, given as a slice or indices."""
        words, present = (x if x is None else x[samples] for x in (self._words, self._present))
        return Coalitions(self.number, words=words, present=present)

    def to(self, device: torch.device) -> "Coalitions":
        """The coalitions on a device."""
        words, present = (x if x is None else x.to(device) for x in (self._words, self._present))
        return Coalitions(self.number, words=words, present=present)


class Plan(NamedTuple):
    """How KernelSHAP's coalitions are spent, beside all variables and none.

    Args:
        full: all subsets of up to this many variables, and their complements, are taken once each.
        drawn: the number of draws from the sizes between.
        step: 2 if each draw is followed by its complement, else 1.
        weights: float64[1, S], the weight of each coalition in the linear model.
    """

    full: int
    drawn: int
    step: int
    weights: Tensor


@cache
def plan(count: int, number: int) -> Plan:
    """Take all small and large subsets where nearly as many would be drawn, since drawing would leave some out.

    Subsets of one variable, and of all but one, are taken from two thirds on, which reduces the error by a sixth; and
    wherever there is room for them but not for enough pairs of others to tell all variables apart, for which four draws
    per variable and ten more are enough. The others are drawn in proportion to the weights of their sizes; if they are
    few, they share these weights out, each up to the least weight of a subset that is taken.

    Args:
        count: the number of coalitions S.
        number: the number of variables V.
    """
    odds = _odds(number)
    shares = (odds / odds.sum()).tolist()
    too_few_for_pairs = count - 2 < PAIRED * number + SPARE
    full, left, rest = 0, count - 2, 1.0
    ends = torch.full((2,), ENDPOINT_WEIGHT, dtype=torch.float64, device="cpu")
    weights = [ends]
    while 2 * full < number - 1:
        sizes = sorted({full + 1, number - full - 1})
        many, share = sum(math.comb(number, size) for size in sizes), sum(shares[size - 1] for size in sizes)
        # leave room for at least one pair of the sizes between, if there are any
        between = 2 if 2 * full < number - 3 else 0
        nearly_all_drawn = left * share >= (NEARLY if full else FIRST) * many * rest
        if left < many + between or not (too_few_for_pairs or nearly_all_drawn):
            break
        full, left, rest = full + 1, left - many, rest - share
        weights.append(ends.new_full((many,), (count - 2) * share / many))
    step, room = 1 if too_few_for_pairs and not full else 2, max(0, left)
    drawn = 0 if 2 * full >= number - 1 else room // step
    # no more than the weight of a subset that is taken: heavier weights on few draws would add more noise than signal
    most = float(weights[-1][0]) if full else math.inf
    weights.append(ends.new_full((drawn * step,), min(most, (count - 2) * rest / max(1, drawn * step))))
    weights.append(ends.new_zeros(room - drawn * step))
    return Plan(full, drawn, step, torch.cat(weights)[None, :count])


def shapley_coalitions(count: int, number: int, seeds: Sequence[int]) -> Coalitions:
    """Coalitions of KernelSHAP: all variables, none, all subsets of the sizes `plan` takes, random ones of others.

    Each random one is followed by its complement, unless there are fewer than 2 V + 4 coalitions; an odd place left
    over holds the empty coalition again, with weight 0. This gives exact Shapley values if variables act alone or in
    pairs, and for any network if there is room for all subsets.

    Args:
        count: the number of coalitions S.
        number: the number of variables V.
        seeds: one per sample.

    Returns:
        The coalitions of each sample.

    Example:
        >>> shapley_coalitions(2, 3, seeds=[0]).present.tolist()
        [[[True, True, True], [False, False, False]]]

    References:
        I. Covert, S.-I. Lee, Improving KernelSHAP: practical Shapley value estimation via linear regression, AISTATS
        2021, section 3.3.
    """
    spent = plan(count, number)
    if number > LISTED:
        return Coalitions(number, present=_one_after_the_other(count, number, seeds, spent))
    listed, subsets = _subsets(number, spent.full)
    words, first = torch.zeros(len(seeds), count, dtype=torch.int32, device="cpu"), 2 + len(listed)
    words[:, 0] = 2**number - 1
    words[:, 2:first] = listed
    if not spent.drawn:
        return Coalitions(number, words=words)
    if fast.takes(words):
        drawn = torch.tensor([first, spent.drawn, spent.step], device="cpu")
        fast.draw_shapley(torch.tensor(list(seeds), dtype=torch.int64, device="cpu"), drawn, subsets, words)
        return Coalitions(number, words=words)
    random = random_words(seeds, spent.drawn)
    size = torch.searchsorted(subsets.limits, (random >> LOW) & (2**DIGITS - 1), right=True)
    drawn = subsets.words[subsets.first[size] + ((random & (2**LOW - 1)) * subsets.many[size] >> LOW)]
    both = drawn[..., None] if spent.step == 1 else torch.stack((drawn, words[:, :1] ^ drawn), dim=2)
    words[:, first : first + spent.drawn * spent.step] = both.flatten(1)
    return Coalitions(number, words=words)


@cache
def _subsets(number: int, full: int) -> tuple[Tensor, Subsets]:
    """Words ``int32[L]`` of all subsets of up to ``full`` variables and their complements; and the subsets between."""
    words = torch.arange(1, 2**number - 1, dtype=torch.int32, device="cpu")
    sizes = ((words[:, None] >> torch.arange(number, device="cpu")) & 1).sum(dim=1)
    order, few = sizes.argsort(stable=True), torch.minimum(sizes, number - sizes)
    listed, between = words[few.argsort(stable=True)][: int((few <= full).sum())], words[order[few[order] > full]]
    many = torch.bincount(sizes, minlength=number)[full + 1 : number - full]
    return listed, Subsets(_limits(number, full), many.cumsum(0) - many, many, between)


def _odds(number: int) -> Tensor:
    """Odds of the sizes 1 to V - 1, ``float64[V - 1]``, not normalised."""
    sizes = torch.arange(1, number, dtype=torch.float64, device="cpu")
    return 1 / (sizes * (number - sizes))


def _limits(number: int, full: int) -> Tensor:
    """Where the odds of the next size begin, for sizes above ``full`` and below V - ``full``, in units of 2^-21."""
    odds = _odds(number)[full : number - 1 - full]
    limits: Tensor = ((odds / odds.sum()).cumsum(0)[:-1] * 2**DIGITS).ceil()
    return limits.long()


@cache
def _listed(number: int, full: int) -> Tensor:
    """All subsets of up to ``full`` variables, each size followed by its complements: ``bool[V, L]``."""
    rows = []
    for size in range(1, full + 1):
        some = torch.tensor(list(itertools.combinations(range(number), size)), device="cpu")
        few = torch.zeros(len(some), number, dtype=torch.bool, device="cpu").scatter_(1, some, True)
        rows += [few] if 2 * size == number else [few, ~few]
    return torch.cat(rows).T if rows else torch.empty(number, 0, dtype=torch.bool, device="cpu")


def _one_after_the_other(count: int, number: int, seeds: Sequence[int], spent: Plan) -> Tensor:
    """``bool[N, S, V]``, drawn by variable, each with the probability that it is among those still wanted."""
    listed = _listed(number, spent.full)
    found = torch.zeros(len(seeds), number, count, dtype=torch.bool, device="cpu")
    first, step = 2 + listed.shape[1], spent.step
    found[:, :, 0], found[:, :, 2:first], last = True, listed, first + spent.drawn * step
    uniform = _uniform(seeds, 1 + number, spent.drawn, number)
    limits = _limits(number, spent.full).to(uniform[0].dtype)
    # how many variables are still wanted, in the unit of the random numbers
    wanted = torch.searchsorted(limits, uniform[0], right=True).to(uniform[0].dtype).add_(1 + spent.full) * 2**DIGITS
    for i in range(number):
        taken = uniform[1 + i].mul_(number - i) < wanted
        found[:, i, first:last:step] = taken
        wanted.sub_(taken.to(wanted.dtype), alpha=2**DIGITS)
    if step == 2:
        found[:, :, first + 1 : last : 2] = ~found[:, :, first:last:2]
    return found.mT


def even_coalitions(count: int, number: int, seeds: Sequence[int]) -> Coalitions:
    """Coalitions in which each variable is present with probability one half, as LIME draws them.

    All subsets where there is room for them. Otherwise, from 4 V + 10 coalitions on, every second one is the complement
    of the one before, which reduces the effect of other variables on a coefficient.

    Args:
        count: the number of coalitions S.
        number: the number of variables V.
        seeds: one per sample.
    """
    if number <= MOST_VARIABLES and count >= 2**number:
        subsets = torch.arange(count, dtype=torch.int32, device="cpu") % 2**number
        return Coalitions(number, words=subsets.repeat(len(seeds), 1))
    paired = count >= PAIRED * number + SPARE
    if number <= MOST_VARIABLES:
        words = torch.empty(len(seeds), count, dtype=torch.int32, device="cpu")
        if fast.takes(words):
            fast.draw_even(torch.tensor(list(seeds), dtype=torch.int64, device="cpu"), number, words, paired=paired)
            return Coalitions(number, words=words)
        whole, step = 2**number - 1, 1 + paired
        words[:, ::step] = random_words(seeds, math.ceil(count / step)).bitwise_and_(whole).int()
        if paired:
            words[:, 1::2] = whole ^ words[:, : count - 1 : 2]
        return Coalitions(number, words=words)
    drawn = math.ceil(count / (1 + paired))
    random = random_words(seeds, drawn * math.ceil(number / BITS)).reshape(len(seeds), drawn, -1)
    bits = torch.stack([(random[:, :, i // BITS] >> (i % BITS)) & 1 for i in range(number)], dim=1).bool()
    if paired:
        bits = torch.stack((bits, ~bits), dim=3).flatten(2)[:, :, :count]
    return Coalitions(number, present=bits.mT)


def _uniform(seeds: Sequence[int], rows: int, columns: int, factor: int) -> list[Tensor]:
    """Integers in [0, 2^21), ``[N, columns]`` for each row, of a type that holds ``factor`` times as much."""
    dtype = torch.int32 if factor < 2 ** (BITS - 1 - DIGITS) else torch.int64
    blocks = math.ceil(rows / THIRDS)
    words = random_words(seeds, blocks * columns).view(len(seeds), blocks, columns)
    return [((words[:, i // THIRDS] >> (DIGITS * (i % THIRDS))) & (2**DIGITS - 1)).to(dtype) for i in range(rows)]
