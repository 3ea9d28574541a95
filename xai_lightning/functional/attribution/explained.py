"""A network followed by the scalar that is explained: what captum sees as the model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from xai_lightning.functional.attribution.returned import output_tensor, rows
from xai_lightning.functional.attribution.scalars import Kind, Task, log_odds, scalar

Pass = Literal["outputs", "embedded", "scalars", "gradient", "whole"]
"""Kind of pass: forward without a gradient, for three purposes; forward and backward; forward, captum goes backward."""


class Signature(NamedTuple):
    """How the network is called.

    Args:
        inputs: keyword of each explained input, None for a positional one.
        extras: keyword of each further argument that has a row per sample, None for a positional one.
        shared: arguments without a sample dimension; bound here, since captum would repeat them (trap 26).
    """

    inputs: tuple[str | None, ...] = (None,)
    extras: tuple[str | None, ...] = ()
    shared: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _State:
    """What changes with each pass: apart, since a module takes a microsecond to set an attribute.

    Shallow copies of an `Explained` share it.

    Args:
        rows: how many went forward.
        gradients: how many went backward.
        announced: whether `passing` was told of the present pass by its caller.
        counted: whether its rows that go backward are counted without a hook.
    """

    rows: int = 0
    gradients: int = 0
    announced: bool = False
    counted: bool = False


class Explained(nn.Module):
    """A network and the scalar of each sample.

    Called with the explained inputs ``[N, ...]``, targets ``[N]``, masks ``[N, H, W]`` (segmentation only), then the
    extras; returns ``[N]``. It counts the rows that go through it, so that the logged passes are those that were made;
    ``told`` is called with the number of rows of each pass.

    Args:
        network: maps inputs to outputs.
        task: what its outputs are, see `scalars.scalar`.
        kind: which scalar of a classifier.
        probabilities: whether the outputs are probabilities, not logits.
        signature: how the network is called.
        embedding: a submodule whose *output* is the first explained input; the ids that the network takes come as the
            first extra. So token ids are explained through their embedding, and no module is replaced (trap 25).
        output: which of several outputs of a regression.
        output_key: which of several tensors that the network returns, see `output_tensor`.
        writes: whether the network writes into its inputs; then it is given copies.
        passing: a context manager entered around each pass, given its kind.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        task: Task = "classification",
        kind: Kind = "margin",
        probabilities: bool = False,
        signature: Signature | None = None,
        embedding: nn.Module | None = None,
        output: int | None = None,
        output_key: int | str | None = None,
        writes: bool = False,
        passing: Callable[[Pass], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__()
        self._writes, self._passing, self._key = writes, passing, output_key
        self.network, self.head = network, Head(task, kind, probabilities, output)
        self.signature, self.task = signature or Signature(), task
        self._embedding = [] if embedding is None else [embedding]
        self._state = _State()
        self.types: tuple[torch.dtype, ...] = ()
        self.told: Callable[[int], None] | None = None

    @property
    def rows(self) -> int:
        """How many rows went forward."""
        return self._state.rows

    @property
    def gradients(self) -> int:
        """How many rows went backward."""
        return self._state.gradients

    @property
    def announced(self) -> bool:
        """Whether `passing` is told of each pass, and may expect the same passes for any samples."""
        return self._passing is not nullcontext

    def forward(self, *arguments: Any) -> Tensor:
        """The scalar ``[N]`` of each sample."""
        count = len(self.signature.inputs)
        inputs, targets, rest = arguments[:count], arguments[count], arguments[count + 1 :]
        # captum's GradientShap draws in single precision, which a network in half precision does not accept
        inputs = tuple(x.to(t) for x, t in zip(inputs, self.types, strict=True)) if self.types else inputs
        masks, rest = (rest[0], rest[1:]) if self.task == "segmentation" else (None, rest)
        self._note(len(inputs[0]))
        announced = self._state.announced
        with nullcontext() if announced else self._passing("whole" if torch.is_grad_enabled() else "scalars"):
            outputs = self._chosen(self._call(inputs, rest), len(inputs[0]))
        scalars: Tensor = self.head(outputs, targets, masks)
        return self._counted(scalars, inputs)

    def differentiate(self, inputs: tuple[Tensor, ...], *beside: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The scalars ``[N]`` and their gradients, in one forward pass and its backward pass.

        Args:
            inputs: ``[N, ...]`` each, which require gradients.
            beside: targets and the further arguments of `forward`.

        Returns:
            The scalars, detached, and one gradient ``[N, ...]`` per input.
        """
        state = self._state
        state.announced = state.counted = True
        try:
            with self._passing("gradient"), torch.enable_grad():
                scalars = self(*inputs, *beside)
                state.gradients += len(scalars)
                # a tensor of its own, since a network may write into the gradient; that of a sum is one expanded number
                return scalars.detach(), torch.autograd.grad(scalars, inputs, torch.ones_like(scalars))
        finally:
            state.announced = state.counted = False

    @contextmanager
    def unannounced(self) -> Iterator[None]:
        """Context for passes that are part of one already announced."""
        self._state.announced = True
        try:
            yield
        finally:
            self._state.announced = False

    def _call(self, inputs: tuple[Tensor, ...], extras: tuple[Any, ...]) -> Any:
        if not self._embedding:
            return self._network(inputs, extras)
        given = inputs[0]
        # a copy: positions are often added to it in place
        handle = self._embedding[0].register_forward_hook(lambda module, args, output: given.clone())
        try:
            return self._network((extras[0], *inputs[1:]), extras[1:])
        finally:
            handle.remove()

    def _network(self, inputs: tuple[Tensor, ...], extras: tuple[Any, ...]) -> Any:
        inputs, extras = tuple(map(_laid_out, inputs)), tuple(map(_laid_out, extras))
        names = (*self.signature.inputs, *self.signature.extras)
        if self._writes:
            inputs, extras = tuple(x.clone() for x in inputs), tuple(_copied(x) for x in extras)
        given = list(zip(names, (*inputs, *extras), strict=True))
        positional = [value for name, value in given if name is None]
        named = {name: value for name, value in given if name is not None}
        return self.network(*positional, **named, **(self.signature.shared or {}))

    def _counted(self, scalars: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        if not scalars.requires_grad:
            return scalars
        if not self._state.counted:
            scalars.register_hook(self._count)  # type: ignore[no-untyped-call]
        # one input of several may be unused: its gradient is zeros, where autograd would raise (trap 27)
        return scalars if len(inputs) == 1 else _Tied.apply(scalars, *inputs)  # type: ignore[no-untyped-call]

    def _note(self, rows: int) -> None:
        self._state.rows += rows
        if self.told is not None:
            self.told(rows)

    def _count(self, gradient: Tensor) -> None:
        self._state.gradients += len(gradient)

    def outputs(self, *arguments: Any) -> Tensor:
        """The network's output for the inputs and extras, ``[N, ...]``, without a gradient."""
        count = len(self.signature.inputs)
        self._note(len(arguments[0]))
        with self._passing("outputs"), torch.no_grad():
            return self._chosen(self._network(arguments[:count], arguments[count:]), len(arguments[0]))

    def _chosen(self, output: Any, n: int) -> Tensor:
        return rows(output_tensor(output, self._key), n)

    def embedded(self, *arguments: Any, replaced: Tensor | None = None) -> Tensor:
        """The embedding's output when the network is called with the ids themselves: ``[N, T, E]``, detached.

        Args:
            arguments: inputs and extras.
            replaced: ids ``[N, T]`` that only the embedding sees, since a network may refuse such a text as a whole.
                Lengths and masks remain those of ``arguments``, as in `forward`.
        """
        caught, swapped = self._caught(arguments, replaced)
        if replaced is not None and not swapped:
            caught, _ = self._caught((replaced, *arguments[1:]), None)
        if len(caught) != 1 or caught[0].shape[:-1] != arguments[0].shape:
            shapes = [list(found.shape) for found in caught]
            raise ValueError(
                f"embedding= must name a module that is called once per forward pass and returns [N, T, E] for token "
                f"ids [N, T], here {list(arguments[0].shape)}; it returned {shapes}. Name the layer that receives the "
                "token ids; if that layer sums over tokens (EmbeddingBag) or puts time first, leave out embedding= and "
                "use a method that switches tokens off, such as 'feature_ablation' or 'kernel_shap'"
            )
        return caught[0].detach()

    def _caught(self, arguments: tuple[Any, ...], replaced: Tensor | None) -> tuple[list[Tensor], bool]:
        """The embedding's outputs, and whether it was given the replaced ids."""
        caught: list[Tensor] = []
        swaps: list[bool] = []

        def swap(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if replaced is None:
                return None
            same = partial(_swapped, ids=arguments[0], replaced=replaced)
            swaps.extend(same(x) is not x for x in (*args, *kwargs.values()))
            return tuple(map(same, args)), {name: same(x) for name, x in kwargs.items()}

        hooks = [
            self._embedding[0].register_forward_pre_hook(swap, with_kwargs=True),
            self._embedding[0].register_forward_hook(lambda module, args, output: caught.append(output)),
        ]
        count = len(self.signature.inputs)
        self._note(len(arguments[0]))
        try:
            with self._passing("embedded"), torch.no_grad():
                self._network(arguments[:count], arguments[count:])
        finally:
            for hook in hooks:
                hook.remove()
        return caught, any(swaps)


def _swapped(x: Any, ids: Tensor, replaced: Tensor) -> Any:
    """``replaced`` if ``x`` is the ids or a copy of them, else ``x``."""
    return replaced if isinstance(x, Tensor) and x.shape == ids.shape and torch.equal(x, ids) else x


def _laid_out(x: Any) -> Any:
    """An expanded row as separate rows in memory, since networks may view them in another shape."""
    strided = isinstance(x, Tensor) and x.layout == torch.strided and x.ndim > 0
    return x.contiguous() if strided and x.stride(0) == 0 else x


def _copied(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


class Head(nn.Module):
    """Maps outputs to the scalar; a module of its own, so that layer-wise relevance can be given a rule for it."""

    def __init__(self, task: Task, kind: Kind, probabilities: bool, output: int | None) -> None:
        super().__init__()
        self.task, self.kind, self.probabilities, self.output = task, kind, probabilities, output

    def forward(self, outputs: Tensor, targets: Tensor, masks: Tensor | None) -> Tensor:
        """The scalar ``[N]``."""
        if self.probabilities and self.task != "regression":
            outputs = log_odds(outputs, self.task)
        if self.task == "regression" and self.output is not None and outputs.ndim == 2:
            outputs = outputs[:, self.output]
        return scalar(self.task, self.kind, outputs, targets, masks)


class _Tied(torch.autograd.Function):
    """The scalars, with a gradient of zero added for each input, so that no input is unused."""

    @staticmethod
    def forward(ctx: FunctionCtx, scalars: Tensor, *inputs: Tensor) -> Tensor:
        ctx.inputs = [(x.shape, x.dtype, x.device) if x.requires_grad else None for x in inputs]  # type: ignore[attr-defined]
        return scalars.view_as(scalars)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        zeros = [None if x is None else gradient.new_zeros(()).to(x[1]).expand(x[0]) for x in ctx.inputs]
        return gradient, *zeros
