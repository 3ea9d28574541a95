"""Which of the tensors that a network returned is the output to explain (trap 5)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

OUTPUTS = ("logits", "preds", "probs", "y_hat", "out")


def output_tensor(output: Any, key: int | str | None = None) -> Tensor:
    """The tensor of a network's output: itself, or one of several.

    Args:
        output: a tensor, or a mapping, tuple, list or object that holds some.
        key: which one: its key, field or attribute, or its position among all values. By default the one called
            ``logits``, ``preds``, ``probs``, ``y_hat`` or ``out``, in this order; else the first.

    Raises:
        ValueError: if there is no tensor, or none at ``key``; says what came.

    Example:
        >>> import torch
        >>> output_tensor((torch.zeros(4, 16), torch.ones(4, 2)), 1).shape
        torch.Size([4, 2])
    """
    if key is not None:
        return _chosen(output, key)
    if isinstance(output, Tensor):
        return output
    for found in (*_known(output), *_parts(output)):
        if isinstance(found, Tensor):
            return found
    got = f"{type(output).__name__}: {output!r:.80}"
    raise ValueError(f"expected the network to return a tensor or a container that holds one; got {got}")


def _chosen(output: Any, key: int | str) -> Tensor:
    if isinstance(output, Tensor):
        raise ValueError(
            f"output_key={key!r} selects one of several tensors, but the network returned a single one, "
            f"{list(output.shape)}; leave out output_key"
        )
    found = None
    if isinstance(output, Mapping) and key in output:
        found = output[key]
    elif isinstance(key, str):
        found = getattr(output, key, None)
    elif -len(parts := _parts(output)) <= key < len(parts):
        found = parts[key]
    if isinstance(found, Tensor):
        return found
    raise ValueError(
        f"output_key={key!r} names no tensor in the {type(output).__name__} that the network returned: "
        f"{_listed(output)}"
    )


def unclear(output: Any, n: int) -> str | None:
    """The warning for a network of whose several possible outputs `output_tensor` takes the first.

    Args:
        output: what a network returned.
        n: number of samples; a tensor ``[N, ...]`` without a row for each is not a possible output.

    Returns:
        What the network returned and what to do; None if there is no choice, or a name makes it.

    Example:
        >>> import torch
        >>> unclear((torch.zeros(4, 16), torch.zeros(4, 3)), 4)[:64]
        'returned a tuple of 0: [4, 16], 1: [4, 3], of which the first is'
        >>> unclear({"logits": torch.zeros(4, 3), "features": torch.zeros(4, 16)}, 4)
    """
    if isinstance(output, Tensor) or any(isinstance(x, Tensor) for x in _known(output)):
        return None
    tensors = [x for x in _parts(output) if isinstance(x, Tensor) and x.is_floating_point()]
    rival = [x for x in tensors if x.ndim in (1, 2, 4) and len(x) == n]
    if len(rival) < 2 or rival[0] is not tensors[0]:
        return None
    return (
        f"returned a {type(output).__name__} of {_listed(output)}, of which the first is used. Choose one with "
        "output_key=..., its name or position (0 for the first), or return the right one under the name 'logits'"
    )


def rows(outputs: Tensor, n: int) -> Tensor:
    """``outputs`` with a row per sample, even where the network squeezed away that of a single sample.

    Args:
        outputs: what a network returned for ``n`` samples.
        n: number of samples.
    """
    if n == 1 and (outputs.ndim == 0 or (outputs.ndim == 1 and len(outputs) > 1)):
        return outputs.reshape(1, -1).squeeze(1) if outputs.ndim == 0 else outputs[None]
    return outputs


def _fields(output: Any) -> Mapping[Any, Any]:
    return output if isinstance(output, Mapping) else dict(getattr(output, "__dict__", {}))


def _known(output: Any) -> list[Any]:
    parts = _fields(output)
    return [parts.get(name, getattr(output, name, None)) for name in OUTPUTS]


def _parts(output: Any) -> list[Any]:
    return [*_fields(output).values(), *(output if isinstance(output, list | tuple) else ())]


def _listed(output: Any) -> str:
    """Names or positions of what came, with the shapes of tensors and the types of other values."""
    names = [repr(name) for name in (getattr(output, "_fields", None) or _fields(output))]
    parts = _parts(output)
    names = names if len(names) == len(parts) else [str(i) for i in range(len(parts))]
    shown = [list(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in parts]
    return ", ".join(f"{name}: {what}" for name, what in zip(names, shown, strict=True)) or "nothing"
