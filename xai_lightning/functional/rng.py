"""Own randomness: global generators seeded for a while, and put back; and draws of many seeds at once."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB
_MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)


@contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Restore the generators of torch (all devices), numpy and python on leaving, after an exception too (trap 34).

    Args:
        seed: seeds all three inside; captum draws from torch and numpy (trap 19). None leaves them as they are.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if seed is not None:
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)
                random.seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def mixed(words: Tensor) -> Tensor:
    """The finaliser of splitmix64 on ``int64``, in wrapping arithmetic, which is exact on every device.

    Args:
        words: ``int64``, of any shape.

    Returns:
        ``int64`` of that shape; a one-to-one map of all words.

    References:
        G. L. Steele, D. Lea, C. H. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    words = _folded(words, 30).mul_(_MIX[0])
    words = _folded(words, 27).mul_(_MIX[1])
    return _folded(words, 31)


def _folded(words: Tensor, by: int) -> Tensor:
    """The words, and by exclusive or themselves shifted right with zeros; new ones."""
    return (words >> by).bitwise_and_((1 << (64 - by)) - 1).bitwise_xor_(words)


def random_words(seeds: Sequence[int], count: int) -> Tensor:
    """The first ``count`` words of splitmix64 under each seed, ``int64[N, count]``.

    Example:
        >>> random_words([0], 1).tolist()  # e220a8397b1dcdaf
        [[-2152535657050944081]]
    """
    steps = torch.arange(1, count + 1, dtype=torch.int64, device="cpu") * GOLDEN
    return mixed(torch.tensor(list(seeds), dtype=torch.int64, device="cpu")[:, None] + steps)
