"""Coalitions of variables, drawn for many samples at once."""

import math
from collections.abc import Sequence
from functools import cache, cached_property

import torch
from torch import Tensor

from xai_lightning.functional.attribution import fast
from xai_lightning.functional.attribution.fast import MOST_VARIABLES, Subsets
from xai_lightning.functional.rng import random_words

BITS, THIRDS, DIGITS = 32, 3, 21
LOW = 64 - DIGITS
PAIRED, SPARE = 4, 10
LISTED = 16
"""Of so few variables all subsets are listed: 256 KB."""


class Coalitions:
    """Which of V variables are in each of S coalitions of N samples.

    Args:
        number: V.
        words: int32[N, S], a bit for each variable, of at most 31.
        present: bool[N, S, V], instead of words.
    """

    def __init__(self, number: int, *, words: Tensor | None = None, present: Tensor | None = None) -> None:
        self.number, self._words, self._present = number, words, present

    @cached_property
    def words(self) -> Tensor | None:
        """A bit for each variable, ``int32[N, S]``; None of more than 31."""
        if self._words is None and self.number <= MOST_VARIABLES:
            present = self.present
            powers = 2.0 ** torch.arange(self.number, dtype=torch.float64, device=present.device)
            return (present.double() @ powers).to(torch.int32)
        return self._words

    @cached_property
    def present(self) -> Tensor:
        """``bool[N, S, V]``."""
        if self._words is None:
            return torch.as_tensor(self._present)
        return ((self._words[..., None] >> torch.arange(self.number, device=self._words.device)) & 1).bool()

    def of(self, samples: Tensor | slice) -> "Coalitions":
        """Those of some samples, a slice or their indices."""
        words, present = (x if x is None else x[samples] for x in (self._words, self._present))
        return Coalitions(self.number, words=words, present=present)

    def to(self, device: torch.device) -> "Coalitions":
        """On a device."""
        words, present = (x if x is None else x.to(device) for x in (self._words, self._present))
        return Coalitions(self.number, words=words, present=present)


def shapley_coalitions(count: int, number: int, seeds: Sequence[int]) -> Coalitions:
    """Coalitions in proportion to KernelSHAP's weights: all variables, none, then random ones of random sizes.

    Each random one is followed by its complement where there are pairs enough to tell all variables apart, from four
    draws for each and ten more on: without the ten, one sample in seventy had too few. An odd one out is none once
    more, for alone it would bring back the error that pairs leave out. Of variables that act alone or in twos, pairs
    give the very Shapley values.

    Args:
        count: how many S.
        number: variables V.
        seeds: one per sample.

    Returns:
        Of each sample.

    Example:
        >>> shapley_coalitions(2, 3, seeds=[0]).present.tolist()
        [[[True, True, True], [False, False, False]]]

    References:
        I. Covert, S.-I. Lee, Improving KernelSHAP: practical Shapley value estimation via linear regression, AISTATS
        2021, section 3.3.
    """
    paired = count - 2 >= PAIRED * number + SPARE
    if number > LISTED:
        return Coalitions(number, present=_one_after_the_other(count, number, seeds, paired=paired))
    subsets, words = _subsets(number), torch.zeros(len(seeds), count, dtype=torch.int32)
    words[:, 0] = 2**number - 1
    if fast.takes(words):
        fast.draw_shapley(torch.tensor(list(seeds), dtype=torch.int64), subsets, words, paired=paired)
        return Coalitions(number, words=words)
    step = 1 + paired
    random = random_words(seeds, max(0, count - 2) // step)
    size = torch.searchsorted(subsets.limits, (random >> LOW) & (2**DIGITS - 1), right=True)
    place = (random & (2**LOW - 1)) * subsets.many[size] >> LOW
    drawn = subsets.words[subsets.first[size] + place]
    words[:, 2 : 2 + step * drawn.shape[1] : step] = drawn
    if paired:
        words[:, 3::2] = words[:, :1] ^ drawn
    return Coalitions(number, words=words)


@cache
def _subsets(number: int) -> Subsets:
    words = torch.arange(1, max(2, 2**number - 1), dtype=torch.int32, device="cpu")
    sizes = ((words[:, None] >> torch.arange(number, device="cpu")) & 1).sum(dim=1)
    many = torch.bincount(sizes)[1:]
    return Subsets(_limits(number), many.cumsum(0) - many, many, words[sizes.argsort(stable=True)])


def _limits(number: int) -> Tensor:
    """Where the odds of the next size begin, ``int64[V - 2]``, in units of 2^-21."""
    sizes = torch.arange(1, max(2, number), dtype=torch.float64, device="cpu")
    odds = 1 / (sizes * (number - sizes)) if number > 1 else torch.ones_like(sizes)
    limits: Tensor = ((odds / odds.sum()).cumsum(0)[:-1] * 2**DIGITS).ceil()
    return limits.long()


def _one_after_the_other(count: int, number: int, seeds: Sequence[int], *, paired: bool) -> Tensor:
    """``bool[N, S, V]``: each variable with the probability that it is among those still wanted."""
    step = 1 + paired
    drawn = max(0, count - 2) // step
    uniform = _uniform(seeds, 1 + number, drawn, number)
    limits = _limits(number).to(uniform[0].dtype)
    # how many are still wanted, in the unit of the random numbers
    wanted = torch.searchsorted(limits, uniform[0], right=True).to(uniform[0].dtype).add_(1) * 2**DIGITS
    found = torch.empty(len(seeds), number, count, dtype=torch.bool)
    found[:, :, 0], found[:, :, 1:2] = True, False
    for i in range(number):
        taken = uniform[1 + i].mul_(number - i) < wanted
        found[:, i, 2 : 2 + step * drawn : step] = taken
        wanted.sub_(taken.to(wanted.dtype), alpha=2**DIGITS)
    if paired:
        found[:, :, 3::2] = ~found[:, :, 2 : count - 1 : 2]
        found[:, :, 2 + 2 * drawn :] = False
    return found.mT


def even_coalitions(count: int, number: int, seeds: Sequence[int]) -> Coalitions:
    """Coalitions in which each variable is present with probability one half, as LIME draws them.

    Each second one is the complement of the one before where there are four draws for each variable and ten more, which
    leaves less of what other variables do in a coefficient.

    Args:
        count: how many S.
        number: variables V.
        seeds: one per sample.
    """
    paired = count >= PAIRED * number + SPARE
    if number <= MOST_VARIABLES:
        words = torch.empty(len(seeds), count, dtype=torch.int32)
        if fast.takes(words):
            fast.draw_even(torch.tensor(list(seeds), dtype=torch.int64), number, words, paired=paired)
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
    """Whole numbers in [0, 2^21), ``[N, columns]`` for each row; of a type that holds ``factor`` times as much."""
    dtype = torch.int32 if factor < 2 ** (BITS - 1 - DIGITS) else torch.int64
    blocks = math.ceil(rows / THIRDS)
    words = random_words(seeds, blocks * columns).view(len(seeds), blocks, columns)
    return [((words[:, i // THIRDS] >> (DIGITS * (i % THIRDS))) & (2**DIGITS - 1)).to(dtype) for i in range(rows)]
