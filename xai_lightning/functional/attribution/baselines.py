"""Baselines: what stands for "absent". Attributions are relative to a baseline, so it is chosen, and logged."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact, exact_device

BASELINES = ("zero", "mean", "background", "blur", "uniform", "pad")
"""Named baselines; ``mean`` and ``background`` (16 rows) are taken from the data, once."""


def black(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The value of a black pixel after normalisation: 0 in normalised space is the *mean* image (trap 28).

    Args:
        mean: mean of each channel, in pixel units, as given to the normalisation.
        std: standard deviation of each channel, likewise.

    Returns:
        float32[C, 1, 1], to be given as ``baseline=``.

    Raises:
        ValueError: if there is not one deviation above 0 for each mean.

    Example:
        >>> black([0.5], [0.25]).flatten()
        tensor([-2.])
    """
    if len(mean) != len(std) or not all(deviation > 0 for deviation in std):
        raise ValueError(
            f"`mean` and `std` must have the same length, and `std` must be above 0; got {list(mean)}, {list(std)}"
        )
    given = torch.tensor([list(mean), list(std)], dtype=torch.float32, device="cpu")[..., None, None]
    return -given[0] / given[1]


def blurred(inputs: Tensor, dims: Sequence[int]) -> Tensor:
    """Each sample without detail: smoothed by a Gaussian with a deviation of a tenth of each side.

    Args:
        inputs: floating ``[N, ...]``.
        dims: which dimensions to smooth over (height and width, or time); edges are repeated.

    Returns:
        Like the inputs; a constant input stays as it is.

    Example:
        >>> blurred(torch.ones(1, 1, 4, 4), (2, 3)).unique()
        tensor([1.])
    """
    found = inputs
    for dim in dims:
        side = inputs.shape[dim]
        device = exact_device(inputs.device)
        place = torch.arange(side, dtype=torch.float64, device=device)
        reach = torch.arange(-side, 2 * side, device=device)
        weights = (-((reach[None] - place[:, None]) ** 2) / (2 * (side / 10) ** 2)).exp()
        kernel = torch.zeros(side, side, dtype=torch.float64, device=device)
        kernel.index_add_(1, reach.clamp(0, side - 1), weights / weights.sum(dim=1, keepdim=True))
        found = (exact(found.movedim(dim, -1)) @ kernel.T).to(inputs).movedim(-1, dim)
    return found


def uniform(inputs: Tensor, seeds: Sequence[int]) -> Tensor:
    """Noise, uniformly distributed over the range of each sample, from a private generator for each.

    Args:
        inputs: floating ``[N, ...]``.
        seeds: one per sample.

    Returns:
        Like the inputs, the same for a sample in any batch.
    """
    rows = []
    for x, seed in zip(inputs, seeds, strict=True):
        drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
        low, high = exact(x.min()), exact(x.max())
        rows.append((low + (high - low) * drawn.to(low.device)).to(x))
    return torch.stack(rows)


def padded(ids: Tensor, pad_token: int, kept: Tensor) -> Tensor:
    """Token ids replaced by padding, except those to keep (special tokens).

    Args:
        ids: integer ``[N, T]``.
        pad_token: the id of padding.
        kept: ``bool[N, T]``, which tokens to keep.

    Returns:
        Like the ids.

    Example:
        >>> padded(torch.tensor([[101, 7, 8]]), 0, torch.tensor([[True, False, False]]))
        tensor([[101,   0,   0]])
    """
    return torch.where(kept, ids, torch.full_like(ids, pad_token))
