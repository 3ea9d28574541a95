"""The one scalar per sample that is explained, so that captum always gets ``target=None`` (trap 4)."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Task = Literal["classification", "regression"]
Kind = Literal["margin", "centred"]
PROBABILITY_FLOOR = 1e-7


def output_tensor(output: Any) -> Tensor:
    """The tensor of a network's output: itself, ``.logits``, ``["logits"]``, or the first tensor of a tuple (trap 5).

    Raises:
        ValueError: if there is none; says what came.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    first = output[0] if isinstance(output, list | tuple) and output else None
    for found in (named, first):
        if isinstance(found, Tensor):
            return found
    raise ValueError(f"expected the network to return a tensor, or something with .logits; got {type(output).__name__}")


def rows(outputs: Tensor, n: int) -> Tensor:
    """``outputs`` with a row per sample also where the network squeezed away the only one.

    Args:
        outputs: what a network returned for ``n`` samples.
        n: number of samples.
    """
    if n == 1 and (outputs.ndim == 0 or (outputs.ndim == 1 and len(outputs) > 1)):
        return outputs.reshape(1, -1).squeeze(1) if outputs.ndim == 0 else outputs[None]
    return outputs


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-odds of the target: ``z_c - logsumexp of the others``; of a single logit z, +z for class 1 and -z for 0.

    Adding the same function to all logits changes no prediction and leaves the margin as it is, unlike a raw logit;
    and it does not saturate with confidence, unlike a probability.

    Args:
        logits: floating ``[N]``, ``[N, 1]`` or ``[N, K]``.
        targets: ``int64[N]``, class indices.

    Returns:
        ``[N]``, log-odds.

    Example:
        >>> margin(torch.tensor([[2.0, 0.5]]), torch.tensor([0]))
        tensor([1.5000])

    References:
        S. Srinivas, F. Fleuret, Rethinking the role of gradient-based attribution methods for model interpretability,
        ICLR 2021.
    """
    single = _single(logits)
    if single is not None:
        return torch.where(targets == 1, single, -single)
    chosen = targets[:, None]
    others = logits.scatter(1, chosen, float("-inf"))
    return logits.gather(1, chosen).squeeze(1) - others.logsumexp(dim=1)


def centred(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit minus the mean of all logits: linear in the logits, for methods with layer rules.

    The margin's logsumexp would break such rules: their completeness error grows with the number of classes. For a
    single logit it is the margin.

    Args:
        logits: floating ``[N]``, ``[N, 1]`` or ``[N, K]``.
        targets: ``int64[N]``, class indices.

    Returns:
        ``[N]``, logits.

    Example:
        >>> centred(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]))
        tensor([1.])
    """
    single = _single(logits)
    if single is not None:
        return torch.where(targets == 1, single, -single)
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.mean(dim=1)


def _single(outputs: Tensor) -> Tensor | None:
    if outputs.ndim == 1:
        return outputs
    if outputs.ndim != 2:
        raise ValueError(f"can explain outputs of shape [N], [N, 1] and [N, K]; got {list(outputs.shape)}")
    return outputs[:, 0] if outputs.shape[1] == 1 else None


def log_odds(probabilities: Tensor) -> Tensor:
    """Logits of ``[N]`` or ``[N, 1]`` probabilities; logarithms of ``[N, K]``, whose margin is the log-odds."""
    p = probabilities.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return p.log() if p.ndim == 2 and p.shape[1] > 1 else torch.logit(p)


KINDS: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {"margin": margin, "centred": centred}


class Explained(nn.Module):
    """A network followed by the scalar that is explained.

    Called with inputs ``[N, ...]``, targets ``[N]`` and any extras; returns ``[N]``.

    Args:
        network: maps inputs to outputs.
        task: ``classification``, or ``regression`` (the single output).
        kind: which scalar of a classifier.
        probabilities: the outputs are probabilities, not logits.
        names: keyword names of the extras, in order.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        task: Task = "classification",
        kind: Kind = "margin",
        probabilities: bool = False,
        names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.network, self.task, self.kind = network, task, kind
        self.probabilities, self.names = probabilities, names
        self.rows = 0
        self.nonfinite = False

    def forward(self, inputs: Tensor, targets: Tensor, *extras: Any) -> Tensor:
        """The scalar ``[N]`` of each sample."""
        self.rows += len(inputs)
        named = dict(zip(self.names, extras, strict=True))
        outputs = rows(output_tensor(self.network(inputs, **named)), len(inputs))
        if self.task == "regression":
            single = _single(outputs)
            if single is None:
                raise ValueError(f"regression needs one output per sample; got {list(outputs.shape)}")
            return self._noted(single)
        return self._noted(KINDS[self.kind](log_odds(outputs) if self.probabilities else outputs, targets))

    def _noted(self, scalars: Tensor) -> Tensor:
        self.nonfinite |= not bool(scalars.isfinite().all())
        return scalars
