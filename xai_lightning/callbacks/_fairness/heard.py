"""Predictions as the step or the network returned them, without an extra forward pass."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xai_lightning._lightning import rank_zero_warn
from xai_lightning.callbacks._guard import Hooks
from xai_lightning.functional.attribution.returned import output_tensor, rows, unclear
from xai_lightning.readers import step_output


class NetworkOutput:
    """Captures the network's output for a batch: of its last call with the batch's input as first or keyword argument.

    Args:
        label: name of the network in messages.
        key: which of several tensors to take; None: the usual one, see `step_output` and `output_tensor`.
    """

    def __init__(self, label: str, key: int | str | None = None) -> None:
        self._label, self._key = label, key
        self._input: Tensor | None = None
        self._output: Any = None
        self._hidden = self._told = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_input": None, "_output": None}

    def listen(self, hooks: Hooks | None, network: nn.Module, inputs: Tensor) -> None:
        """Listen in the coming step for calls of ``network`` on ``inputs``; without hooks no call can be observed."""
        self._input, self._output, self._hidden = inputs, None, hooks is None
        if hooks is not None:
            hooks.add(network, self._hear)

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        given = [*args[:1], *kwargs.values()]
        wanted = self._input
        if wanted is not None and any(isinstance(x, Tensor) and _same(x, wanted) for x in given):
            self._output = output

    def take(self, returned: Any, n: int) -> Tensor:
        """The outputs ``[N, ...]`` from the step, else from the network; neither is kept here.

        Raises:
            ValueError: if neither has returned any, or they do not have one row per sample.
        """
        output, self._output, self._input = self._output, None, None
        found = step_output(returned, n, self._key)
        if found is not None:
            return found
        if output is None:
            why, way = ("was not called with the batch's input", "name the network with network=...")
            if self._hidden:
                why, way = ("is called inside compiled code, where hooks do not fire", "compile a smaller part")
            usual = f"preds, logits, probs, y_hat, or a tensor of {n} rows"
            looked_for = usual if self._key is None else f"output_key={self._key!r}, of {n} rows"
            raise ValueError(
                f"no predictions: the step returned none ({looked_for}), and {self._label} {why}. Return them from the "
                f"step, or {way}"
            )
        self._tell(output, n)
        tensor = rows(output_tensor(output, self._key), n)
        if tensor.ndim == 0 or len(tensor) != n:
            raise ValueError(
                f"{self._label} returned {tuple(tensor.shape)} for a batch of {n}; expected one row per sample"
            )
        return tensor

    def _tell(self, output: Any, n: int) -> None:
        choice = None if self._told or self._key is not None else unclear(output, n)
        if choice is not None:
            rank_zero_warn(f"predictions are read from the output of {self._label}: it {choice}")
        self._told = True


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether ``a`` is ``b``, a view of the same data (such as a flattened picture), or equal to it."""
    return (
        a is b
        or (a.data_ptr() == b.data_ptr() and a.numel() == b.numel())
        or (a.shape == b.shape and bool(torch.equal(a, b)))
    )
