"""The state of one layer, added to in place."""

import math
from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.activation.blocks import Workspace, along, blocks
from xai_lightning.functional.activation.histogram import binned
from xai_lightning.functional.activation.moments import Moments, empty, union

# Absolute values whose fourth powers, and those of a thousandth of them, float32 holds.
_FLOAT32 = (1e-6, 1e8)
# Squares of means beyond so many variances are taken out first: what would cancel else.
_FAR, _FAR_FOR_HIGHER = 16.0, 4.0
_CLOSED = 8


class Measured(NamedTuple):
    """What to observe beside mean, variance, extremes, zeros, positives and magnitudes.

    Attributes:
        higher: Third and fourth moments.
        histogram: The histogram.
        sparsity: Sparsity of the vectors over all units.
        limits: Low and high limit at or beyond which an element is saturated; None counts none.
    """

    higher: bool = False
    histogram: bool = False
    sparsity: bool = False
    limits: tuple[float, float] | None = None


#: All of them, but for saturation, which needs limits.
EVERYTHING = Measured(higher=True, histogram=True, sparsity=True)


class Powers:
    r"""Sums of powers around a shift, of blocks that are near it.

    .. math:: M_2 = S_2 - n \delta^2,\quad M_3 = S_3 - 3 \delta S_2 + 2 n \delta^3,\quad
       M_4 = S_4 - 4 \delta S_3 + 6 \delta^2 S_2 - 3 n \delta^4,\quad \delta = S_1 / n

    What cancels is a few times what is left at most, and so are the rounding errors of float32 sums.

    Args:
        shift: float64[U]; None for 0.
        units: How many.
        higher: Whether to add third and fourth powers.
        device: Where they live.
    """

    def __init__(self, shift: Tensor | None, units: int, higher: bool, device: torch.device) -> None:
        self.shift, self.count = shift, 0
        self.sums = torch.zeros(4 if higher else 2, units, dtype=torch.float64, device=device)
        self._most = _FAR_FOR_HIGHER if higher else _FAR

    def of(self, x: Tensor, workspace: Workspace) -> list[Tensor]:
        """Sums of powers of one block ``[A, U, R]``, float64[U] each."""
        if self.shift is not None:
            # exact in the type of x wherever it is near the mean (Sterbenz)
            x = torch.sub(x, self.shift.to(x.dtype)[:, None], out=workspace.like(x, "shifted"))
        powers = torch.mul(x, x, out=workspace.like(x, "powers"))
        sums = [along(x, "sum"), along(powers, "sum")]
        if len(self.sums) > len(sums):
            sums.append(along(torch.mul(powers, x, out=workspace.like(x, "scratch")), "sum"))
            sums.append(along(powers.mul_(powers), "sum"))
        return sums

    def slack(self, sums: Sequence[Tensor], count: int) -> Tensor:
        """Below 0 for units whose mean is far from the shift, as n delta^2 is to their M2: float64[U]."""
        return torch.addcmul(sums[1], sums[0], sums[0], value=-(1 + self._most) / (self._most * count))

    def add(self, sums: Sequence[Tensor], count: int) -> None:
        """Add the sums of one block."""
        self.count += count
        for own, new in zip(self.sums.unbind(), sums, strict=True):
            own.add_(new)

    def moments(self) -> Moments:
        """Mean and central moments; the rest is empty."""
        count, (s1, s2, *higher) = self.count, self.sums
        delta = s1 / count
        square = delta * delta
        m3 = m4 = torch.full_like(delta, math.nan)
        if higher:
            m3 = higher[0] - delta * (3 * s2 - 2 * count * square)
            m4 = higher[1] - 4 * delta * higher[0] + square * (6 * s2 - 3 * count * square)
        mean = delta if self.shift is None else delta + self.shift
        nothing = empty(len(mean), mean.device)
        m2 = (s2 - count * square).clamp_(min=0)
        return nothing._replace(count=torch.tensor(count, device=mean.device), mean=mean, m2=m2, m3=m3, m4=m4)

    def copy(self) -> "Powers":
        """One that can be added to alone."""
        found = copy(self)
        found.sums = self.sums.clone()
        return found


class Accumulator:
    """Adds up what is observed of one layer, at one width, in place: :func:`observe` of all batches together.

    Args:
        units: How many the layer has.
        measured: What to observe.
        device: Where activations live.
        workspace: That of other layers, to share.

    Example:
        >>> layer = Accumulator(1, Measured(), torch.device("cpu"))
        >>> for i in range(3):
        ...     layer.add(torch.tensor([[float(i)]]), unit_dim=1, samples=1)
        >>> layer.state().m2
        tensor([2.], dtype=torch.float64)

    References:
        T. F. Chan, G. H. Golub and R. J. LeVeque, Updating formulae and a pairwise algorithm for computing sample
        variances, Stanford technical report STAN-CS-79-773, 1979.
    """

    def __init__(
        self, units: int, measured: Measured, device: torch.device, workspace: Workspace | None = None
    ) -> None:
        self.units, self.measured, self.device = units, measured, device
        self._workspace = workspace or Workspace()
        self._powers = Powers(None, units, measured.higher, device)
        self._closed: list[Moments] = []
        self._minimum = self._maximum = torch.empty(0, device=device)
        self._zeros, self._positives, self._magnitude = torch.zeros(3, units, dtype=torch.float64, device=device)
        self._tables: dict[str, Tensor] = {}
        self._calls = self._samples = 0
        self._nonfinite = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, values: Tensor, unit_dim: int, samples: int, calls: int = 1) -> None:
        """Add one activation, or several in a row.

        Args:
            values: ``[N, ..., U, ...]``, real.
            unit_dim: Dimension of the units, not 0 and not negative.
            samples: How many these are.
            calls: How many calls these are of.
        """
        if values.numel() == 0:
            return
        parts = list(blocks(values, unit_dim))
        before = self._copied() if len(parts) > 1 else {}
        if all(self._add_block(self._workspace.widened(part)) for part in parts):
            self._samples, self._calls = self._samples + samples, self._calls + calls
            return
        vars(self).update(before)
        finite = values.isfinite()
        keep = finite.flatten(1).all(1)
        self._nonfinite = self._nonfinite + (~finite).sum()
        self.add(values[keep], unit_dim, min(samples, int(keep.sum())), calls)

    def _copied(self) -> dict[str, Any]:
        """What `_add_block` changes."""
        counts = {name: getattr(self, name).clone() for name in ("_zeros", "_positives", "_magnitude")}
        kept = {name: getattr(self, name) for name in ("_minimum", "_maximum")}
        return {
            **counts,
            **kept,
            "_powers": self._powers.copy(),
            "_closed": [*self._closed],
            "_tables": {**self._tables},
        }

    def _add_block(self, block: Tensor) -> bool:
        """Add ``[A, U, R]``; if anything in it is not finite, add nothing and say so."""
        minimum, maximum = along(block, "amin"), along(block, "amax")
        low, high = float(minimum.amin()), float(maximum.amax())
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        fresh = not len(self._minimum)
        self._minimum = minimum if fresh else torch.minimum(self._minimum, minimum)
        self._maximum = maximum if fresh else torch.maximum(self._maximum, maximum)
        # fourth powers of what lies outside would leave the range of float32
        fits = _FLOAT32[0] < max(-low, high) < _FLOAT32[1] or high == low == 0
        work = block if fits else self._workspace.widened(block, torch.float64)
        self._add_counts(work, low)
        if self.measured.histogram:
            self._tabulate("histogram", binned(block, self._workspace.like(block, "scratch")))
        if self.measured.limits:
            self._tabulate("saturated", _beyond(block, self.measured.limits))
        self._add_powers(work)
        return True

    def _add_counts(self, x: Tensor, low: float) -> None:
        """Comparisons are written as floats, which sum several times faster than bools."""
        scratch, count = self._workspace.like(x, "scratch"), x.numel() // self.units
        zeros = along(torch.eq(x, 0, out=scratch), "sum")
        self._zeros.add_(zeros)
        if low >= 0:
            self._positives.add_(zeros, alpha=-1).add_(count)
        else:
            self._positives.add_(along(torch.gt(x, 0, out=scratch), "sum"))
        size = x if low >= 0 else torch.abs(x, out=scratch)
        self._magnitude.add_(along(size, "sum"))
        if self.measured.sparsity and self.units > 1:
            self._tabulate("sparsity", _sparsity(x, size, self._workspace))

    def _tabulate(self, name: str, found: Tensor) -> None:
        self._tables[name] = self._tables[name] + found if name in self._tables else found

    def _add_powers(self, x: Tensor) -> None:
        count = x.numel() // self.units
        sums = self._powers.of(x, self._workspace)
        slack = self._powers.slack(sums, count)
        if float(slack.amin()) < 0:
            self._shift_to(sums[0] / count, slack < 0)
            sums = self._powers.of(x, self._workspace)
        self._powers.add(sums, count)

    def _shift_to(self, delta: Tensor, far: Tensor) -> None:
        """From here on, add powers around other means, of the units that are far from the ones so far."""
        old = torch.zeros_like(delta) if self._powers.shift is None else self._powers.shift
        # what float32 holds, every wider type holds too
        rounded = (old + delta).float().double()
        shift = torch.where(far & rounded.isfinite(), rounded, old)
        if self._powers.count:
            self._closed.append(self._powers.moments())
        self._powers = Powers(shift, self.units, self.measured.higher, self.device)
        if len(self._closed) > _CLOSED:
            self._closed = [union(self._closed)]

    def state(self) -> Moments:
        """Of all that was added."""
        parts = [*self._closed, *[self._powers.moments()] * (self._powers.count > 0)]
        if not parts:
            return empty(self.units, self.device)._replace(nonfinite=self._nonfinite)
        return union(parts)._replace(
            minimum=self._minimum.double(),
            maximum=self._maximum.double(),
            zeros=self._zeros.long(),
            positives=self._positives.long(),
            magnitude=self._magnitude.clone(),
            samples=self._number(self._samples),
            calls=self._number(self._calls),
            nonfinite=self._nonfinite,
            **self._tables,
        )

    def _number(self, value: int) -> Tensor:
        return torch.tensor(value, device=self.device)


def _beyond(block: Tensor, limits: tuple[float, float]) -> Tensor:
    return ((block <= limits[0]) | (block >= limits[1])).sum()


def _sparsity(x: Tensor, size: Tensor, workspace: Workspace) -> Tensor:
    """Vectors that are not zero, and the sums of their sparsities."""
    units = x.shape[1]
    square = torch.mul(x, x, out=workspace.like(x, "powers")).sum(1).double()
    ratio = size.sum(1).double().square() / square
    hoyer = (math.sqrt(units) - ratio.sqrt()) / (math.sqrt(units) - 1)
    treves = (1 - ratio / units) / (1 - 1 / units)
    return torch.stack([(square > 0).sum().double(), hoyer.nansum(), treves.nansum()])
