"""The running state of one layer, updated in place."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from xai_lightning.functional.activation import fused, operations
from xai_lightning.functional.activation.blocks import Workspace, blocks, rows
from xai_lightning.functional.activation.moments import Moments, empty, union
from xai_lightning.functional.activation.table import (
    ADDED,
    FAR,
    HOYER,
    MAGNITUDE,
    MAXIMUM,
    MINIMUM,
    NOT_FINITE,
    POSITIVES,
    S4,
    SATURATED,
    UNFIT,
    VECTORS,
    ZEROS,
    Measured,
    Table,
    slack,
)

Method = TypeVar("Method", bound=Callable[..., Any])


def outside_inference(method: Method) -> Method:
    """Leave inference mode, since tensors created in it could not be updated in place outside of it (trap 1)."""

    @wraps(method)
    def outside(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return method(*args, **kwargs)

    return cast(Method, outside)


class Accumulator:
    """Accumulates the state of one layer, at one width, in place: that of :func:`observe` on all batches together.

    Args:
        units: Number of units of the layer.
        measured: The optional statistics to observe.
        device: Device of the activations.
        workspace: Workspace to share with other layers.

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

    @outside_inference
    def __init__(
        self, units: int, measured: Measured, device: torch.device, workspace: Workspace | None = None
    ) -> None:
        self.units, self.measured, self.device = units, measured, device
        self._dtype: torch.dtype | None = None
        self._measured = measured
        self._workspace = workspace or Workspace()
        self._table = Table(units, device)
        self._closed: Moments | None = None
        self._calls = self._samples = 0
        self._nonfinite = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, values: Tensor, unit_dim: int, samples: int, calls: int = 1) -> None:
        """Add one activation, or those of several calls, concatenated.

        Args:
            values: ``[N, ..., U, ...]``, real.
            unit_dim: Dimension of the units, not 0 and not negative.
            samples: Number of samples.
            calls: Number of calls that they come from.
        """
        if values.numel() == 0:
            return
        if values.dtype != self._dtype:
            self._dtype, self._measured = values.dtype, self.measured.of(values.dtype)
        whole = values.dtype == torch.float32 and fused.takes(values)
        outcome = self._add_block(rows(values, unit_dim), fused.add_block) if whole else UNFIT
        if outcome == UNFIT:
            outcome = self._add_in_blocks(values, unit_dim)
        if outcome == ADDED:
            self._samples, self._calls = self._samples + samples, self._calls + calls
        else:
            self._add_finite(values, unit_dim, samples, calls)

    @outside_inference
    def _add_finite(self, values: Tensor, unit_dim: int, samples: int, calls: int) -> None:
        """Add the samples that are finite, and count non-finite values."""
        finite = values.isfinite()
        keep = finite.flatten(1).all(1)
        self._nonfinite = self._nonfinite + (~finite).sum()
        if not keep.any():
            self._calls += calls
        self.add(values[keep], unit_dim, min(samples, int(keep.sum())), calls)

    @outside_inference
    def _add_in_blocks(self, values: Tensor, unit_dim: int) -> int:
        """Add all values or none, in blocks that fit the cache."""
        before = self._table.copy(), self._closed
        for part in blocks(values, unit_dim):
            block = self._workspace.widened(part)
            outcome = self._add_block(block, fused.add_block) if fused.takes(block) else UNFIT
            if outcome == UNFIT:
                outcome = self._add_block(block, operations.add_block)
            if outcome == NOT_FINITE:
                self._table, self._closed = before
                return NOT_FINITE
        return ADDED

    def _add_block(self, block: Tensor, add: Callable[..., int]) -> int:
        """Add ``[A, U, R]`` or nothing; if its means are far from the shift, move the shift first."""
        outcome = add(block, self._table, self._measured, self._workspace)
        if outcome == FAR:
            self._shift(block.numel() // self.units)
            outcome = add(block, self._table, self._measured, self._workspace, anyway=True)
        return outcome

    @outside_inference
    def _shift(self, count: int) -> None:
        """From here on, centre powers on new means, for the units that are far from their current shift."""
        table, (s1, s2) = self._table, self._table.found
        # rounded to float32, which every wider dtype represents exactly
        mean = (table.shift + s1 / count).float().double()
        far = slack(s1, s2, count, self.measured.most) < 0
        self._closed = self._moments()
        table.shift_to(torch.where(far & mean.isfinite(), mean, table.shift))

    def _moments(self) -> Moments | None:
        """Mean and central moments of everything added, around any shift; the other fields are empty."""
        if self._table.count == 0 or self._closed is None:
            return self._closed if self._table.count == 0 else self._central()
        return union([self._closed, self._central()])

    def _central(self) -> Moments:
        r"""Mean and central moments of the values added around the current shift.

        .. math:: M_2 = S_2 - n \delta^2,\quad M_3 = S_3 - 3 \delta S_2 + 2 n \delta^3,\quad
           M_4 = S_4 - 4 \delta S_3 + 6 \delta^2 S_2 - 3 n \delta^4,\quad \delta = S_1 / n

        The terms that cancel are at most a few times the result, so that cancellation amplifies the rounding errors of
        float32 sums by no more than that.
        """
        table = self._table
        count, (s1, s2, s3, s4) = table.count, table.sums[:-1, : S4 + 1].unbind(1)
        delta = s1 / count
        square = delta * delta
        m3 = m4 = torch.full_like(delta, math.nan)
        if self.measured.higher:
            m3 = s3 - delta * (3 * s2 - 2 * count * square)
            m4 = s4 - 4 * delta * s3 + square * (6 * s2 - 3 * count * square)
        m2 = (s2 - count * square).clamp_(min=0)
        mean = delta + table.shift
        return empty(self.units, self.device)._replace(count=self._number(count), mean=mean, m2=m2, m3=m3, m4=m4)

    def state(self) -> Moments:
        """The state of everything added so far."""
        moments = self._moments()
        if moments is None:
            return empty(self.units, self.device)._replace(nonfinite=self._nonfinite)
        units, all_units = self._table.sums[:-1], self._table.sums[-1]
        return moments._replace(
            minimum=units[:, MINIMUM].clone(),
            maximum=units[:, MAXIMUM].clone(),
            zeros=units[:, ZEROS].long(),
            positives=units[:, POSITIVES].long(),
            magnitude=units[:, MAGNITUDE].clone(),
            histogram=self._table.histogram.clone(),
            saturated=all_units[SATURATED].long(),
            sparsity=all_units[VECTORS : HOYER + 2].clone(),
            samples=self._number(self._samples),
            calls=self._number(self._calls),
            nonfinite=self._nonfinite,
        )

    def _number(self, value: int) -> Tensor:
        return torch.tensor(value, device=self.device)
