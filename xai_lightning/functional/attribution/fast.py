"""Coalitions where numba is installed: see :mod:`xai_lightning.functional.attribution.kernels`.

Each function returns what torch operations return, to the last bit except for sums in another order.
"""

from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.compiled import usable
from xai_lightning.functional.rng import random_words

#: A word has a bit for each variable, and does not use the sign bit.
MOST_VARIABLES = 31
_LOW = 43


class Subsets(NamedTuple):
    """Subsets of few variables, sorted by size, for a range of sizes.

    Args:
        limits: int64[number of sizes - 1], where the odds of the next size begin, in units of 2^-21.
        first: int64[number of sizes], where the subsets of each size begin.
        many: int64[number of sizes], how many subsets of each size there are.
        words: int32[...], the bits of the subsets.
    """

    limits: Tensor
    first: Tensor
    many: Tensor
    words: Tensor


@cache
def kernels() -> ModuleType | None:
    """The compiled loops; None where numba cannot be used, with a warning if it failed.

    The first call compiles them, which takes about four seconds, or loads what an earlier process compiled.
    """
    return usable(_kernels, _check, "KernelSHAP, LIME, ablation and occlusion take")


def _kernels() -> ModuleType:
    from xai_lightning.functional.attribution import kernels as loops

    return loops


def _check(loops: Any) -> None:
    """Compare the loops with torch operations on a few samples and two variables."""
    with torch.device("cpu"):
        same = {
            "drawn": _draws_as_torch(loops),
            "mixed": _mixes_as_torch(loops),
            "left out": _leaves_out_as_torch(loops),
            "fitted": _fits_a_line(loops),
            "weighted": _weighs_by_angles(loops),
        }
    if not all(same.values()):
        raise RuntimeError(f"known coalitions were wrongly {' and '.join(key for key in same if not same[key])}")


def _draws_as_torch(loops: Any) -> bool:
    one, random = torch.ones(1, dtype=torch.int64), random_words([5], 4).cpu()
    subsets = Subsets(one[:0], one * 0, one * 2, torch.tensor([1, 2], dtype=torch.int32))
    shapley, even = torch.full((2, 2, 1, 4), 3, dtype=torch.int32)
    for paired in (False, True):
        drawn = torch.tensor([2, 1, 2] if paired else [2, 2, 1])
        draw_shapley(one * 5, drawn, subsets, shapley[int(paired)], loops=loops)
        draw_even(one * 5, 2, even[int(paired)], paired=paired, loops=loops)
    single, few = (1 + ((random[0] & (2**_LOW - 1)) * 2 >> _LOW)).tolist(), (random[0] & 3).tolist()
    known = [*single[:2], single[0], 3 - single[0], *few, few[0], 3 - few[0], few[1], 3 - few[1]]
    return torch.cat((shapley[:, 0, 2:].flatten(), even.flatten())).tolist() == known


def _known() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Samples, baselines, the variable of each number, and words."""
    x = torch.arange(6, dtype=torch.float32).view(2, 3)
    return x, x.new_ones(2, 3), torch.tensor([0, 1, 0]), torch.tensor([[3, 0, 1, 2]] * 2, dtype=torch.int32)


def _mixes_as_torch(loops: Any) -> bool:
    x, b, mask, words = _known()
    rows, inside = x.new_empty(8, 3), (words[..., None] >> mask & 1) > 0
    Mixer(*(each.view(torch.int32) for each in (x, b, 31 - mask.int(), words, rows)), loops=loops)(0, 2)
    return torch.equal(rows, torch.where(inside, x[:, None], b[:, None]).flatten(0, 1))


def _leaves_out_as_torch(loops: Any) -> bool:
    x, b, mask, _ = _known()
    forms, rows = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]]), x.new_empty(4, 3)
    bits = [each.view(torch.int32) for each in (x, b, mask.int(), rows)]
    Leaver(*forms, *bits, loops=loops)(range(4))
    found = effective(bits[0], bits[1], bits[2], torch.tensor([True, True, False]), loops=loops)
    # the first sample's second number equals the baseline's
    known = torch.equal(found, torch.tensor([[True, False, False], [True, True, False]]))
    return known and torch.equal(rows.view(2, 2, 3), torch.stack([torch.where(mask == v, b, x) for v in (0, 1)], dim=1))


def _fits_a_line(loops: Any) -> bool:
    words = _known()[3]
    values = words.double() * 3 + 1
    slopes, ones = values.new_tensor([3.0, 6.0]).expand(2, 2), torch.ones_like(values)
    fits = [fit(words, values, weights, 2, 1e-5, loops=loops) for weights in (ones, ones[:1])]
    return all(bool(sound.all()) and torch.allclose(found, slopes) for found, sound in fits)


def _weighs_by_angles(loops: Any) -> bool:
    x, b, mask, words = _known()
    sums = products(x, b, mask, 2, loops=loops)
    added = sums.tolist() == [[[4.0, 2.0, 2.0], [1.0, 1.0, 1.0]], [[34.0, 8.0, 2.0], [16.0, 4.0, 1.0]]]
    near = nearness(words, sums.new_tensor([1.0, 0.0, 0.0]).repeat(2, 2, 1), 1e-8, loops=loops)
    cosines = sums.new_tensor([1.0, 0.0, 0.5**0.5, 0.5**0.5])
    return added and torch.allclose(near, -((1 - cosines) ** 2 / 2).expand(2, 4))


def takes(*tensors: Tensor, size: int = 4) -> bool:
    """Whether the loops can work on these: plain tensors on the CPU, with ``size`` bytes per number."""
    plain = all(type(x) is Tensor and x.device.type == "cpu" and x.element_size() == size for x in tensors)
    return plain and not any(x.is_complex() or x.is_neg() for x in tensors) and kernels() is not None


def _working(loops: Any) -> Any:
    """The given loops, which are being checked, or the verified ones."""
    return loops or kernels()


def draw_shapley(seeds: Tensor, drawn: Tensor, subsets: Subsets, words: Tensor, *, loops: Any = None) -> None:
    """Draw coalitions into ``int32[N, S]``, a subset or a pair of complements for each random word of each seed.

    Args:
        seeds: int64[N].
        drawn: int64[3], the place of the first draw, the number of draws, and 2 if each is followed by its complement.
        subsets: the subsets to draw from.
        words: coalitions, that of all variables first; those to be drawn are overwritten.
        loops: the loops while they are being checked.
    """
    _working(loops).draw_shapley.on(seeds, drawn, *subsets, words)(len(seeds))


def draw_even(seeds: Tensor, number: int, words: Tensor, *, paired: bool, loops: Any = None) -> None:
    """Draw coalitions ``int32[N, S]`` uniformly from all subsets of ``number`` variables, or pairs of complements."""
    given = (seeds.new_tensor([value]) for value in (int(paired), 2**number - 1))
    _working(loops).draw_even.on(seeds, *given, words)(len(seeds))


class Mixer:
    """Mixes the numbers of samples and baselines: see `kernels.mix`.

    Args:
        x: int32[N, W], the bits of the samples.
        b: int32[N or 1, W], the bits of the baselines.
        shift: int32[W], by which the bit of each number's variable is shifted to the sign.
        words: int32[N, S], the coalitions.
        rows: int32[R, W], to be overwritten, with room for all rows of one call.
    """

    def __init__(self, x: Tensor, b: Tensor, shift: Tensor, words: Tensor, rows: Tensor, *, loops: Any = None) -> None:
        first = shift.new_zeros(1, dtype=torch.int64)
        self._mix, self._first = _working(loops).mix.on(first, x, b, shift, words, rows), first.numpy()

    def __call__(self, first: int, count: int) -> None:
        """Write the rows of all coalitions of ``count`` samples, beginning with ``first``."""
        self._first[0] = first
        self._mix(count)


class Leaver:
    """Leaves single variables out: see `kernels.leave_out`.

    Args:
        samples: int64[F], the sample of each form.
        variables: int64[F], the variable that it lacks.
        x: int32[N, W], the bits of the samples.
        b: int32[N or 1, W], the bits of the baselines.
        owner: int32[W], the variable of each number.
        rows: int32[R, W], to be overwritten, with room for all rows of one call.
    """

    def __init__(
        self,
        samples: Tensor,
        variables: Tensor,
        x: Tensor,
        b: Tensor,
        owner: Tensor,
        rows: Tensor,
        *,
        loops: Any = None,
    ) -> None:
        first = samples.new_zeros(1)
        self._leave_out = _working(loops).leave_out.on(first, samples, variables, x, b, owner, rows)
        self._first = first.numpy()

    def __call__(self, forms: range) -> None:
        """Write some of the forms."""
        self._first[0] = forms.start
        self._leave_out(len(forms))


def effective(x: Tensor, b: Tensor, owner: Tensor, has: Tensor, *, loops: Any = None) -> Tensor:
    """Which variables differ from the baseline, ``bool[N, V]``: see `kernels.effective`."""
    found = has.new_empty(len(x), len(has))
    _working(loops).effective.on(x, b, owner, has, found)(len(x))
    return found


def products(x: Tensor, b: Tensor, mask: Tensor, number: int, *, loops: Any = None) -> Tensor:
    """Sums ``float64[N, V, 3]`` of x * x, x * b and b * b: see `kernels.add_products`."""
    sums = x.new_zeros(len(x), number, 3, dtype=torch.float64)
    _working(loops).add_products.on(*(each.contiguous() for each in (x, b, mask.long(), sums)))(len(x))
    return sums


def nearness(words: Tensor, products: Tensor, shortest: float, *, loops: Any = None) -> Tensor:
    """Exponents of LIME's weights, ``float64[N, S]``: see `kernels.nearness`."""
    exponents = words.new_empty(words.shape, dtype=torch.float64)
    _working(loops).nearness.on(words, products, exponents.new_tensor([shortest]), exponents)(len(words))
    return exponents


def fit(
    words: Tensor, values: Tensor, weights: Tensor, number: int, least: float, *, loops: Any = None
) -> tuple[Tensor, Tensor]:
    """Coefficients ``float64[N, V]``, and whether the equations determine them ``bool[N]``: see `kernels.fit`.

    Args:
        words: int32[N, S].
        values: float64[N, S].
        weights: float64[N or 1, S].
        number: the number of variables V.
        least: the smallest ratio of the extremes of a Cholesky factor's diagonal that counts as determined.
        loops: the loops while they are being checked.
    """
    found, sound = values.new_empty(len(words), number), words.new_empty(len(words), dtype=torch.bool)
    _working(loops).fit.on(words, values, weights, values.new_tensor([least]), found, sound)(len(words))
    return found, sound
