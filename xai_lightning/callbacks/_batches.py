"""A batch as the monitors read it: sample, groups, positions, and the outputs that were made of it."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from xai_lightning.callbacks._guard import Hooks
from xai_lightning.callbacks._trainer import Positions
from xai_lightning.functional.attribution.scalars import output_tensor, rows
from xai_lightning.readers import GroupSource, Reader, Sample, read, step_output, vocabularies
from xai_lightning.readers.groups import Declared, Vocabulary, group_values


class Reading(NamedTuple):
    """One batch: its sample, which of its samples are real (not padded in) ``bool[N]``, and group rows by attribute."""

    sample: Sample
    real: Tensor
    groups: dict[str, Tensor]


class Batches:
    """Reads the batches of one loader in order.

    Args:
        reader: see `xai_lightning.readers.read`.
        groups: declared groups by attribute.
        groups_from: where they are, if not in the batch.
        undeclared: what an undeclared group value is.
    """

    def __init__(
        self,
        reader: Reader | None,
        groups: Mapping[str, Declared],
        groups_from: Mapping[str, GroupSource] | GroupSource | None,
        undeclared: Literal["error", "unknown"],
    ) -> None:
        self.vocabularies: dict[str, Vocabulary] = vocabularies(groups, undeclared)
        self.reader, self._source = reader, groups_from
        self._positions = Positions(None)

    def open(self, loader: Any) -> None:
        """Begin at the first batch of ``loader``."""
        self._positions = Positions(loader)

    def sample(self, batch: Any) -> Sample:
        """The sample in ``batch``, without moving on."""
        return read(batch, self.reader)

    def advance(self, batch: Any) -> tuple[Sample, Tensor]:
        """The sample in the next batch, and which of its rows are real, ``bool[N]``, without the groups."""
        sample = read(batch, self.reader)
        return sample, self._positions.advance(len(sample)).to(sample.inputs.device)

    def read(self, batch: Any) -> Reading:
        """Read the next batch.

        Raises:
            ValueError: if it cannot be read, or holds an undeclared group value.
        """
        sample, real = self.advance(batch)
        n, device = len(sample), sample.inputs.device
        if "" in sample.groups and len(self.vocabularies) > 1:
            raise ValueError(
                f"the batch's third part holds one attribute, but {len(self.vocabularies)} are declared "
                f"({', '.join(self.vocabularies)}); make it a dict from attribute to values"
            )
        groups = {}
        for attribute, vocabulary in self.vocabularies.items():
            values = group_values(
                sample, batch, attribute, source=self._source, positions=lambda: self._positions.rows(n)
            )
            groups[attribute] = vocabulary.encode(values).to(device)
        return Reading(sample, real, groups)


class NetworkOutput:
    """Catches what the network returned for a batch: its last call on the batch's input, given first or by keyword.

    Args:
        label: how to call the network in messages.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._input: Tensor | None = None
        self._output: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_input": None, "_output": None}

    def listen(self, hooks: Hooks, network: nn.Module, inputs: Tensor) -> None:
        """Listen during the coming step, for calls of ``network`` on ``inputs``."""
        self._input, self._output = inputs, None
        hooks.add(network, self._hear)

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        given = [*args[:1], *kwargs.values()]
        wanted = self._input
        if wanted is not None and any(isinstance(x, Tensor) and _same(x, wanted) for x in given):
            self._output = output

    def take(self, returned: Any, n: int) -> Tensor:
        """The outputs ``[N, ...]``: from what the step returned, else from the network; nothing is kept.

        Raises:
            ValueError: if neither has any.
        """
        output, self._output, self._input = self._output, None, None
        found = step_output(returned, n)
        if found is not None:
            return found
        if output is None:
            raise ValueError(
                f"no predictions: the step returned none (preds, logits, probs, y_hat, or a tensor of {n} rows), and "
                f"{self._label} was not called with the batch's input. Return them from the step, or name the "
                "network with network=..."
            )
        tensor = rows(output_tensor(output), n)
        if tensor.ndim == 0 or len(tensor) != n:
            raise ValueError(
                f"{self._label} returned {tuple(tensor.shape)} for a batch of {n}; expected one row per sample"
            )
        return tensor


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether ``a`` is ``b``, or a view of the same data (a flattened picture, say)."""
    return (
        a is b
        or (a.data_ptr() == b.data_ptr() and a.numel() == b.numel())
        or (a.shape == b.shape and bool(torch.equal(a, b)))
    )
