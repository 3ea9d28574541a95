"""Regions whose share of the attribution is watched."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xai_lightning.callbacks._attribution.canonical import Canon
from xai_lightning.functional.regions import Mass, box, mass
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Sample

Region = Tensor | tuple[int, ...] | str
"""A mask, the edges of a box, or the name of an entry of the batch that holds a mask for each sample."""


class Regions:
    """Regions by name.

    Args:
        regions: name to region.
    """

    def __init__(self, regions: Mapping[str, Region]) -> None:
        self._given = dict(regions)
        self.names = tuple(regions)
        self._fixed: dict[str, Tensor] = {}

    def learn(self, shape: Sequence[int], sample: Sample) -> None:
        """Make masks of ``shape``.

        Raises:
            ValueError: if a region does not fit.
        """
        for name, region in self._given.items():
            if isinstance(region, str):
                choose("entry of the batch", region, list(sample.extras))
            else:
                self._fixed[name] = _fixed(name, region, tuple(shape))

    def columns(self, sample: Sample) -> list[Tensor]:
        """The masks that come with the batch.

        Raises:
            ValueError: if one does not.
        """
        wanted = [region for region in self._given.values() if isinstance(region, str)]
        known = list(sample.extras)
        return [torch.as_tensor(sample.extras[choose("entry of the batch", r, known)]).bool() for r in wanted]

    def mass(self, canon: Canon | None, values: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """``float64[M, R + 1]``: absolute attribution in each region, then in all; no columns without regions."""
        if not self.names or canon is None:
            return torch.zeros(len(values[0]), 0)
        maps, own = canon.spatial(values[0]), iter(masks)
        found = [_mass(name, maps, self._fixed[name] if name in self._fixed else next(own)) for name in self.names]
        return torch.stack([*(each.inside for each in found), found[0].total], dim=1)


def _fixed(name: str, region: object, shape: tuple[int, ...]) -> Tensor:
    if isinstance(region, Tensor):
        if region.shape != shape:
            raise ValueError(f"regions[{name!r}] must have the shape {list(shape)}; got {list(region.shape)}")
        return region.bool()
    if not isinstance(region, Sequence) or not all(isinstance(edge, int) for edge in region):
        raise ValueError(
            f"regions[{name!r}] must be a mask (a tensor), the edges of a box, or the name of an entry of the batch; "
            f"got {region!r:.50}"
        )
    return box(shape, tuple(region))


def _mass(name: str, maps: Tensor, mask: Tensor) -> Mass:
    try:
        return mass(maps, mask)
    except ValueError as error:
        raise ValueError(f"regions[{name!r}]: {error}") from error
