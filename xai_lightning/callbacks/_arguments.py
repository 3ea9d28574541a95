"""Which tensors of a batch the network is called with, and which of them are explained."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from xai_lightning.functional.attribution import Signature
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Sample


@dataclass(frozen=True)
class Arguments:
    """How samples become arguments of one network.

    Args:
        further: names of explained inputs beside the first.
        extras: names of arguments with a row per sample that go along unexplained.
        signature: how the network is called with the first input, the further ones and the extras.
    """

    further: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    signature: Signature = field(default_factory=Signature)

    @classmethod
    def of(cls, network: nn.Module, sample: Sample, wanted: Sequence[str]) -> "Arguments":
        """Read them off the first batch and the network's ``forward``.

        Args:
            network: the network that is explained.
            sample: of the first batch.
            wanted: names of entries of the batch to be explained beside the first input.

        Raises:
            ValueError: if there is no such entry, or it has no row per sample.
        """
        further = (*sample.further, *(choose("input", name, [*sample.extras, *sample.further]) for name in wanted))
        parameters = list(inspect.signature(network.forward).parameters.values())
        known = {p.name for p in parameters[1:]}
        held = {name: x for name, x in sample.extras.items() if name in known and name not in further}
        held = {name: x for name, x in held.items() if x is not sample.inputs}
        rows = [name for name, x in held.items() if isinstance(x, Tensor) and x.ndim and len(x) == len(sample)]
        first = parameters[0] if parameters else None
        keyword = first.name if first is not None and first.kind is first.KEYWORD_ONLY else None
        inputs = (keyword, *(name if name in known else None for name in further))
        shared = {name: _own(x) for name, x in held.items() if name not in rows}
        found = cls(tuple(further), tuple(rows), Signature(inputs, tuple(rows), shared))
        for name, x in zip(further, found.columns(sample), strict=False):
            if x.ndim == 0 or len(x) != len(sample):
                raise ValueError(f"input {name!r} must be a tensor with one row for each of {len(sample)} samples")
        return found

    def columns(self, sample: Sample) -> list[Tensor]:
        """The further inputs of ``sample``, then its extras.

        Raises:
            ValueError: if it lacks one that the first batch had.
        """
        every: Mapping[str, Any] = {**sample.extras, **sample.further}
        return [every[choose("entry of the batch", name, list(every))] for name in (*self.further, *self.extras)]


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
