"""Private randomness: global generators seeded temporarily and then restored, and draws from many seeds at once."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB
_MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)


@contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Restore the generators of torch (all devices), numpy and python on leaving, after an exception too (trap 34).

    Args:
        seed: seeds all of them on entering; captum draws from torch and numpy (trap 19). None leaves them as they are.
    """
    generators = _generators()
    states = [each.read() for each in generators]
    try:
        for each in generators if seed is not None else ():
            each.seed(seed)
        yield
    finally:
        for each, state in zip(generators, states, strict=True):
            each.restore(state)


class _Generators(NamedTuple):
    """Functions that read, restore and seed the state of one kind of generator."""

    read: Callable[[], Any]
    restore: Callable[[Any], Any]
    seed: Callable[[Any], Any]


def _generators() -> list[_Generators]:
    """The generators of python, numpy, torch on the CPU, and all devices of the accelerator, if there is one."""
    cpu = torch.default_generator
    # `torch.manual_seed` seeds devices that are not read here, or takes a millisecond to defer that if there are none
    found = [
        _Generators(random.getstate, random.setstate, random.seed),
        _Generators(np.random.get_state, np.random.set_state, lambda seed: np.random.seed(seed % 2**32)),
        _Generators(cpu.get_state, cpu.set_state, cpu.manual_seed),
    ]
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        module = torch.get_device_module(accelerator)
        every = "_all" if hasattr(module, "get_rng_state_all") else ""
        names = f"get_rng_state{every}", f"set_rng_state{every}", f"manual_seed{every}"
        found.append(_Generators(*(getattr(module, name) for name in names)))
    return found


def mixed(words: Tensor) -> Tensor:
    """The finaliser of splitmix64 on ``int64``, in wrapping arithmetic, which is exact on every device.

    Args:
        words: ``int64``, of any shape.

    Returns:
        ``int64`` of the same shape; a one-to-one map of all words.

    References:
        G. L. Steele, D. Lea, C. H. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    words = _folded(words, 30).mul_(_MIX[0])
    words = _folded(words, 27).mul_(_MIX[1])
    return _folded(words, 31)


def _folded(words: Tensor, by: int) -> Tensor:
    """The words XORed with themselves shifted right, filled with zeros; a new tensor."""
    return (words >> by).bitwise_and_((1 << (64 - by)) - 1).bitwise_xor_(words)


def random_words(seeds: Sequence[int], count: int) -> Tensor:
    """The first ``count`` words of splitmix64 for each seed, ``int64[N, count]``.

    Example:
        >>> random_words([0], 1).tolist()  # e220a8397b1dcdaf
        [[-2152535657050944081]]
    """
    steps = torch.arange(1, count + 1, dtype=torch.int64, device="cpu") * GOLDEN
    return mixed(torch.tensor(list(seeds), dtype=torch.int64, device="cpu")[:, None] + steps)
