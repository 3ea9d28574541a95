"""Coalitions of variables, drawn for many samples at once, and inputs that have only the variables of a coalition."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xai_lightning.functional.rng import random_words

BITS, THIRDS, DIGITS = 32, 3, 21
_BITS = {4: torch.int32, 8: torch.int64}


def shapley_coalitions(count: int, number: int, seeds: Sequence[int]) -> Tensor:
    """Coalitions in proportion to KernelSHAP's weights: all variables, none, then random ones of random sizes.

    Args:
        count: how many S.
        number: variables V.
        seeds: one per sample.

    Returns:
        ``bool[N, S, V]``.

    Example:
        >>> shapley_coalitions(2, 3, seeds=[0]).tolist()
        [[[True, True, True], [False, False, False]]]
    """
    sizes = torch.arange(1, max(2, number), dtype=torch.float64)
    odds = 1 / (sizes * (number - sizes)) if number > 1 else torch.ones(1, dtype=torch.float64)
    uniform = _uniform(seeds, 1 + number, max(0, count - 2), number)
    limits = ((odds / odds.sum()).cumsum(0)[:-1] * 2**DIGITS).ceil().to(uniform[0].dtype)
    # how many are still wanted, in the unit of the random numbers
    wanted = torch.searchsorted(limits, uniform[0], right=True).to(uniform[0].dtype).add_(1) * 2**DIGITS
    found = torch.empty(len(seeds), number, count, dtype=torch.bool)
    found[:, :, 0], found[:, :, 1:2] = True, False
    # one variable after the other, with the probability that it is among those still wanted
    for i in range(number):
        taken = uniform[1 + i].mul_(number - i) < wanted
        found[:, i, 2:] = taken
        wanted.sub_(taken.to(wanted.dtype), alpha=2**DIGITS)
    return found.mT


def even_coalitions(count: int, number: int, seeds: Sequence[int]) -> Tensor:
    """Coalitions in which each variable is present with probability one half, as LIME draws them.

    Args:
        count: how many S.
        number: variables V.
        seeds: one per sample.

    Returns:
        ``bool[N, S, V]``.
    """
    words = random_words(seeds, count * math.ceil(number / BITS)).reshape(len(seeds), count, -1)
    bits = [(words[:, :, i // BITS] >> (i % BITS)) & 1 for i in range(number)]
    return torch.stack(bits, dim=1).bool().mT


def _uniform(seeds: Sequence[int], rows: int, columns: int, factor: int) -> list[Tensor]:
    """Whole numbers in [0, 2^21), ``[N, columns]`` for each row; of a type that holds ``factor`` times as much."""
    dtype = torch.int32 if factor < 2 ** (BITS - 1 - DIGITS) else torch.int64
    blocks = math.ceil(rows / THIRDS)
    words = random_words(seeds, blocks * columns).view(len(seeds), blocks, columns)
    return [((words[:, i // THIRDS] >> (DIGITS * (i % THIRDS))) & (2**DIGITS - 1)).to(dtype) for i in range(rows)]


def bits(inputs: Tensor, baselines: Tensor) -> torch.dtype | None:
    """The type of whole numbers of which both can be seen as bits; None if there is none.

    ``b ^ ((x ^ b) & inside)`` is x where all bits of ``inside`` are set and b where none is, whatever they are, and
    takes a fifth of the time that ``torch.where`` does.
    """
    return _BITS.get(inputs.element_size()) if inputs.dtype == baselines.dtype else None


class Mixture:
    """Inputs of which each coalition keeps some variables, and has the baseline's other ones.

    Args:
        inputs: ``[N, ...]``.
        baselines: like the inputs.
        mask: ``[1, ...]``, the variable of each number.
        design: ``float64[N, S, V]``, 1 where a variable is in a coalition.
        room: how many rows are mixed at once, at most; they are overwritten by the next ones.
    """

    def __init__(self, inputs: Tensor, baselines: Tensor, mask: Tensor, design: Tensor, room: int) -> None:
        self._inputs, self._baselines, self._mask, self._design = inputs, baselines, mask[0], design
        number = design.shape[2]
        # one bit for each variable, and the sign for none
        self._bits = bits(inputs, baselines) if number < BITS else None
        if self._bits:
            self._rows = inputs.new_empty(room, inputs[0].numel())
            powers = 2.0 ** torch.arange(number, dtype=torch.float64, device=design.device)
            self._packed = (design @ powers).to(self._bits)

    def of(self, samples: slice, drawn: slice) -> Tensor:
        """Inputs ``[N' * S', ...]`` of some samples with some of their coalitions."""
        x, b, shape = self._inputs[samples], self._baselines[samples], self._inputs.shape[1:]
        if not self._bits:
            inside = self._design[samples, drawn][:, :, self._mask] > 0
            return torch.where(inside, x[:, None], b[:, None]).flatten(0, 1)
        packed = self._packed[samples, drawn, None]
        x, b = (each.reshape(len(each), 1, -1).view(self._bits) for each in (x, b))
        rows = self._rows[: packed.numel()].view(*packed.shape[:2], -1)
        inside = rows.view(self._bits)
        # the variable's bit is shifted to the sign, and from there to all bits
        sign = torch.iinfo(self._bits).bits - 1
        torch.bitwise_left_shift(packed, (sign - self._mask.flatten()).to(self._bits), out=inside)
        inside.bitwise_right_shift_(sign).bitwise_and_(x ^ b).bitwise_xor_(b)
        return rows.view(-1, *shape)
