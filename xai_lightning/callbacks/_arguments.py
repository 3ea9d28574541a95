"""Which tensors of a batch the network is called with, and which of those are explained."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from xai_lightning.functional.attribution import Signature
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Sample
from xai_lightning.readers.batch import describe


@dataclass(frozen=True)
class Arguments:
    """How samples become the arguments of one network.

    Args:
        further: names of the explained inputs other than the first.
        extras: names of arguments with one row per sample that are passed but not explained.
        signature: how the network is called with the first input, the further inputs and the extras.
    """

    further: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    signature: Signature = field(default_factory=Signature)

    @classmethod
    def of(cls, network: nn.Module, sample: Sample, wanted: Sequence[str]) -> "Arguments":
        """Derive the arguments from the first batch and the network's ``forward``.

        Args:
            network: the network to explain.
            sample: the sample of the first batch.
            wanted: names of batch entries to explain in addition to the first input.

        Raises:
            ValueError: if there is no such entry, or an explained input does not have one row per sample.
        """
        beside = {name: x for name, x in sample.extras.items() if x is not sample.inputs}
        further = (*sample.further, *(choose("input", name, [*beside, *sample.further]) for name in wanted))
        parameters = list(inspect.signature(network.forward).parameters.values())
        keyword = _keyword(parameters, sample, beside)
        known = {p.name for p in parameters if p.name != keyword} - {p.name for p in parameters[:1] if keyword is None}
        if parameters and parameters[0].kind is inspect.Parameter.VAR_KEYWORD:
            known = {name for name, x in beside.items() if isinstance(x, Tensor) and x is not sample.targets}
        held = {name: x for name, x in beside.items() if name in known and name not in further}
        rows = [name for name, x in held.items() if isinstance(x, Tensor) and x.ndim and len(x) == len(sample)]
        inputs = (keyword, *(name if name in known else None for name in further))
        shared = {name: _own(x) for name, x in held.items() if name not in rows}
        found = cls(tuple(further), tuple(rows), Signature(inputs, tuple(rows), shared))
        for name, x in zip(("input", *further), (sample.inputs, *found.columns(sample)), strict=False):
            if x.ndim < 2 or len(x) != len(sample):
                raise ValueError(
                    f"{name!r} must be a tensor [N, ...] with a row of numbers for each of {len(sample)} samples to "
                    f"be explained; got {describe(x)}. Reshape one number per sample to a column, [N, 1], or, if it "
                    "is not the first input, leave it out of inputs= so that it is passed along unexplained"
                )
        return found

    def columns(self, sample: Sample) -> list[Tensor]:
        """The further inputs of ``sample``, followed by its extras.

        Raises:
            ValueError: if it lacks an entry that the first batch had.
        """
        every: Mapping[str, Any] = {**sample.extras, **sample.further}
        return [every[choose("entry of the batch", name, list(every))] for name in (*self.further, *self.extras)]


def _keyword(parameters: Sequence[inspect.Parameter], sample: Sample, beside: Mapping[str, Any]) -> str | None:
    """The keyword by which the first input is passed; None if it is the first positional argument."""
    first = parameters[0] if parameters else None
    own = next((name for name, x in sample.extras.items() if x is sample.inputs), None)
    if first is None or (own == first.name and first.kind is first.POSITIONAL_OR_KEYWORD):
        return None
    if own is not None and (own in {p.name for p in parameters} or first.kind is first.VAR_KEYWORD):
        return own
    if first.kind is first.KEYWORD_ONLY:
        return first.name
    # the first parameter is named like another entry of the batch
    free = [p.name for p in parameters if p.name not in beside and p.kind is p.POSITIONAL_OR_KEYWORD]
    return free[0] if first.name in beside and free else None


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
