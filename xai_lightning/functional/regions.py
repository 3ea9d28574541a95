"""How much of an explanation lies in a region, so that reliance on a shortcut shows as a curve."""

from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact


class Mass(NamedTuple):
    """Absolute attribution of each sample, in units of the explained scalar.

    Attributes:
        inside: ``float64[N]``, the sum within the region.
        total: ``float64[N]``, the sum over the whole map.
    """

    inside: Tensor
    total: Tensor


def mass(maps: Tensor, mask: Tensor) -> Mass:
    """Absolute attribution inside a region.

    Args:
        maps: floating ``[N, H, W]`` (channels summed), ``[N, T]`` or ``[N, D]``.
        mask: ``bool[H, W]``, ``[T]`` or ``[D]`` for all samples, or one for each sample, in the shape of ``maps``.

    Returns:
        The sums inside and in total; NaN for a map that is not finite.

    Raises:
        ValueError: if the shape of the mask does not fit.

    Example:
        >>> mass(torch.tensor([[1.0, -3.0]]), torch.tensor([False, True])).inside
        tensor([3.], dtype=torch.float64)
    """
    if mask.shape not in (maps.shape, maps.shape[1:]):
        raise ValueError(
            f"a region must have the shape {list(maps.shape[1:])}, or one per sample; got {list(mask.shape)}"
        )
    size = exact(maps.detach()).abs()
    size = size.masked_fill(~size.isfinite(), torch.nan)
    return Mass((size * mask.to(size.device)).flatten(1).sum(dim=1), size.flatten(1).sum(dim=1))


def box(shape: tuple[int, ...], edges: tuple[int, ...]) -> Tensor:
    """A mask that is True within a box.

    Args:
        shape: ``(H, W)`` of an image, or ``(T,)`` of a series.
        edges: ``(top, left, bottom, right)``, or ``(begin, end)``; bottom, right and end are exclusive.

    Raises:
        ValueError: if the box is empty or does not lie within ``shape``.

    Example:
        >>> box((3,), (1, 3))
        tensor([False,  True,  True])
    """
    half = len(edges) // 2
    fits = len(edges) == 2 * len(shape) and all(
        0 <= a < b <= n for a, b, n in zip(edges[:half], edges[half:], shape, strict=True)
    )
    if not fits:
        what = "(top, left, bottom, right)" if len(shape) == 2 else "(begin, end)"
        raise ValueError(f"a box must be {what} within {list(shape)}; got {edges}")
    mask = torch.zeros(shape, dtype=torch.bool, device="cpu")
    mask[tuple(slice(a, b) for a, b in zip(edges[:half], edges[half:], strict=True))] = True
    return mask
