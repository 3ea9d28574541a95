"""Regions whose share of the attribution is logged."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xai_lightning.callbacks._attribution.canonical import Canon
from xai_lightning.functional.regions import Mass, box, mass
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Sample

Place = Tensor | tuple[int, ...] | str
"""A mask, the edges of a box, or the name of an entry of the batch that holds a mask for each sample."""
Region = Place | tuple[str, Place]
"""A place in the first input; or the name of another input, and a place in that."""


class Regions:
    """Regions by name.

    Args:
        regions: name to region.
    """

    def __init__(self, regions: Mapping[str, Region]) -> None:
        parts = {name: _parted(region) for name, region in regions.items()}
        self.names = tuple(regions)
        self._inputs = {name: found[0] for name, found in parts.items()}
        self._places = {name: found[1] for name, found in parts.items()}
        self._fixed: dict[str, Tensor] = {}
        self._at: dict[str, int] = {}

    @property
    def elsewhere(self) -> dict[str, str]:
        """Regions that lie in an input other than the first, with the name of that input."""
        return {name: given for name, given in self._inputs.items() if given is not None and self._at.get(name)}

    def learn(self, shapes: Sequence[Sequence[int]], sample: Sample, further: Sequence[str]) -> None:
        """Find the input of each region, and make its mask.

        Args:
            shapes: shape of the positions of each input: ``(H, W)``, ``(T,)`` or ``(D,)``.
            sample: the sample of the first batch.
            further: names of the inputs after the first.

        Raises:
            ValueError: if a region does not fit, or its input is not explained.
        """
        first = [name for name, x in sample.extras.items() if x is sample.inputs]
        order = {**dict.fromkeys(first, 0), **{name: i for i, name in enumerate(further, start=1)}}
        for name, place in self._places.items():
            given = self._inputs[name]
            self._at[name] = 0 if given is None else order[choose("explained input", given, list(order))]
            if isinstance(place, str):
                choose("entry of the batch", place, list(sample.extras))
            else:
                self._fixed[name] = _fixed(name, place, tuple(shapes[self._at[name]]), further)

    def columns(self, sample: Sample) -> list[Tensor]:
        """The masks that come with the batch.

        Raises:
            ValueError: if one is missing.
        """
        wanted = [place for place in self._places.values() if isinstance(place, str)]
        known, device = list(sample.extras), sample.inputs.device
        masks = [sample.extras[choose("entry of the batch", region, known)] for region in wanted]
        return [torch.as_tensor(mask, device=device).bool() for mask in masks]

    def mass(self, canon: Canon | None, values: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Absolute attribution in each region, then in all inputs, ``float64[M, R + 1]``; ``[M, 0]`` without any."""
        if not self.names or canon is None:
            return torch.zeros(len(values[0]), 0, device="cpu")
        maps, own = [canon.spatial(x, i) for i, x in enumerate(values)], iter(masks)
        inside = []
        for name in self.names:
            mask = self._fixed[name] if name in self._fixed else next(own)
            inside.append(_mass(name, maps[self._at[name]], mask).inside)
        everywhere = [mass(x, x.new_ones(x.shape[1:], dtype=torch.bool)).total for x in maps]
        return torch.stack([*inside, torch.stack(everywhere).sum(dim=0)], dim=1)


def _parted(region: object) -> tuple[str | None, object]:
    """The name of the input, None for the first, and the place in it."""
    pair = isinstance(region, list | tuple) and len(region) == 2 and isinstance(region[0], str)
    return (region[0], region[1]) if pair else (None, region)  # type: ignore[index]


def _fixed(name: str, place: object, shape: tuple[int, ...], further: Sequence[str]) -> Tensor:
    hint = f"; for another input than the first, write ({further[0]!r}, region)" if further else ""
    if isinstance(place, Tensor):
        if place.shape != shape:
            raise ValueError(f"regions[{name!r}] must have the shape {list(shape)}; got {list(place.shape)}{hint}")
        return place.bool()
    if not isinstance(place, Sequence) or not all(isinstance(edge, int) for edge in place):
        raise ValueError(
            f"regions[{name!r}] must be a mask (a tensor), the edges of a box, or the name of an entry of the batch; "
            f"got {place!r:.50}"
        )
    try:
        return box(shape, tuple(place))
    except ValueError as error:
        raise ValueError(f"regions[{name!r}]: {error}{hint}") from error


def _mass(name: str, maps: Tensor, mask: Tensor) -> Mass:
    try:
        return mass(maps, mask)
    except ValueError as error:
        raise ValueError(f"regions[{name!r}]: {error}") from error
