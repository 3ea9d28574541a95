"""Reads batches of any form into a `Sample`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

INPUT_NAMES = ("x", "input", "inputs", "image", "pixel_values", "input_ids")
TARGET_NAMES = ("y", "label", "labels", "target")

Field = str | int | Callable[[Any], Any]
Reader = Mapping[str, Field] | Callable[[Any], "Sample"]


@dataclass(frozen=True)
class Sample:
    """What the monitors need from a batch.

    Args:
        inputs: ``[N, ...]``, the tensor that the network receives first.
        targets: ``[N]`` class indices, 0/1 labels or regression targets; ``None`` if the batch has none.
        groups: values of sensitive attributes by name, one per sample: tensors, arrays or lists.
        extras: entries of a dict batch by name, and anything else that a reader names; those that the network's
            ``forward`` accepts are passed to it. If the input is among them, it is passed by its name.
        further: further inputs that the network receives after the first, by name; they are explained with it.
    """

    inputs: Tensor
    targets: Tensor | None = None
    groups: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.inputs.shape[0])


def describe(value: object, depth: int = 2) -> str:
    """A short description of ``value``: types, names and shapes, never values."""
    if isinstance(value, Tensor):
        return f"Tensor{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping) and depth:
        return "{" + ", ".join(f"{k!r}: {describe(v, depth - 1)}" for k, v in list(value.items())[:12]) + "}"
    if isinstance(value, list | tuple) and depth:
        return f"{type(value).__name__} of {len(value)} (" + ", ".join(describe(v, depth - 1) for v in value[:4]) + ")"
    return type(value).__name__


def unreadable(batch: object, missing: str) -> ValueError:
    """The error for a batch without ``missing``, which shows the batch and explains how to describe it."""
    return ValueError(
        f"cannot find the {missing} in this batch: {describe(batch)}. No reader is needed for (x, y), (x, y, "
        f"groups) and dicts with an input named {'|'.join(INPUT_NAMES)} and a target named {'|'.join(TARGET_NAMES)}. "
        "For anything else pass reader={'input': 'my_input', 'target': 'my_label'} (names, positions or callables), or "
        "a callable as reader= that returns xai_lightning.Sample(inputs, targets, groups)."
    )


def _pick(batch: Any, where: Field, role: str) -> Any:
    if callable(where):
        return where(batch)
    if isinstance(batch, Tensor) and not isinstance(where, int):
        raise unreadable(batch, f"{role} (reader says {where!r})")
    try:
        return batch[where]
    except (KeyError, IndexError, TypeError) as error:
        raise unreadable(batch, f"{role} (reader says {where!r})") from error


def _by_reader(batch: Any, reader: Mapping[str, Field]) -> Sample:
    if "input" not in reader:
        raise ValueError(f"reader must name the 'input'; got the keys {sorted(reader)}")
    picked = {role: _pick(batch, where, role) for role, where in reader.items()}
    inputs, targets = picked.pop("input"), picked.pop("target", None)
    extras = {k: v for k, v in batch.items() if isinstance(k, str)} if isinstance(batch, Mapping) else {}
    return Sample(inputs, targets, {**extras, **picked}, {**extras, **picked})


def _by_name(batch: Mapping[str, Any]) -> Sample:
    inputs = next((batch[name] for name in INPUT_NAMES if name in batch), None)
    if inputs is None:
        raise unreadable(batch, "input")
    targets = next((batch[name] for name in TARGET_NAMES if name in batch), None)
    name = next(n for n in INPUT_NAMES if n in batch)
    extras = {key: value for key, value in batch.items() if key not in (name, *TARGET_NAMES)}
    return Sample(inputs, targets, extras, {name: inputs, **extras})


def _by_position(batch: list[Any] | tuple[Any, ...]) -> Sample:
    if len(batch) not in (2, 3):
        raise unreadable(batch, "input and target")
    groups = batch[2] if len(batch) == 3 else {}
    inputs, further = _several(batch[0])
    return Sample(inputs, batch[1], groups if isinstance(groups, Mapping) else {"": groups}, further=further)


def _several(inputs: Any) -> tuple[Any, dict[str, Tensor]]:
    """The first input, and any others named by number, for a batch that holds several."""
    if not isinstance(inputs, list | tuple) or not inputs or not all(isinstance(x, Tensor) for x in inputs):
        return inputs, {}
    return inputs[0], {f"input_{i}": x for i, x in enumerate(inputs[1:], start=2)}


def read(batch: Any, reader: Reader | None = None) -> Sample:
    """The `Sample` in ``batch``.

    ``(x, y)``, ``(x, y, groups)`` and dicts need no reader; ``x`` may be several tensors. In a triple, ``groups`` is a
    mapping from attribute to values, or the values of the only declared attribute (stored under the empty name).

    Args:
        batch: what the loader yields.
        reader: ``None``; a mapping from ``"input"``, optionally ``"target"``, and names of attributes to names,
            positions or callables; or a callable that returns a `Sample`.

    Returns:
        The sample; inputs and targets are the batch's own tensors, not copies.

    Raises:
        ValueError: if no input tensor is found, or there is not one target per sample; shows what was found.

    Example:
        >>> read({"pixel_values": torch.zeros(4, 3, 8, 8), "labels": torch.zeros(4)}).inputs.shape
        torch.Size([4, 3, 8, 8])
    """
    return _checked(_found(batch, reader), batch)


def read_inputs(batch: Any, reader: Reader | None = None) -> Tensor:
    """Only the inputs of `read`, in a fraction of the time: targets are not examined.

    Args:
        batch: what the loader yields.
        reader: as in `read`.

    Returns:
        The batch's own tensor.

    Raises:
        ValueError: if no input tensor is found.

    Example:
        >>> read_inputs((torch.zeros(4, 8), None)).shape
        torch.Size([4, 8])
    """
    paired = reader is None and isinstance(batch, list | tuple) and len(batch) in (2, 3)
    inputs = batch[0] if paired and isinstance(batch[0], Tensor) else _found(batch, reader).inputs
    _check_inputs(inputs, batch)
    return inputs


def target_of(sample: Sample, instead: str = "") -> Tensor:
    """The targets of a sample.

    Args:
        sample: the sample of a batch.
        instead: an alternative to recommend in the message if there are none.

    Returns:
        The sample's own tensor.

    Raises:
        ValueError: if there are none; shows what the batch holds.

    Example:
        >>> target_of(Sample(torch.zeros(2, 8), torch.ones(2))).tolist()
        [1.0, 1.0]
    """
    if sample.targets is None:
        beside = {name: x for name, x in sample.extras.items() if x is not sample.inputs}
        got = describe(sample.inputs) + (f" and {describe(beside)}" if beside else "")
        raise ValueError(
            f"this batch has no target, only the input {got}; name the target with "
            f"reader={{'input': ..., 'target': ...}}{instead}"
        )
    return sample.targets


def _found(batch: Any, reader: Reader | None) -> Sample:
    if callable(reader):
        sample = reader(batch)
        if not isinstance(sample, Sample):
            raise ValueError(f"reader must return xai_lightning.Sample; {reader!r} returned {describe(sample)}")
        return sample
    if reader is not None:
        return _by_reader(batch, reader)
    if isinstance(batch, Mapping):
        return _by_name(batch)
    if isinstance(batch, list | tuple):
        return _by_position(batch)
    raise unreadable(batch, "input and target")


def _check_inputs(inputs: object, batch: object) -> None:
    if not isinstance(inputs, Tensor) or inputs.ndim == 0:
        raise unreadable(batch, f"input tensor (found {describe(inputs)})")


def _checked(sample: Sample, batch: object) -> Sample:
    _check_inputs(sample.inputs, batch)
    if sample.targets is None:
        return sample
    try:
        targets = torch.as_tensor(sample.targets, device=sample.inputs.device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise unreadable(batch, f"numeric targets (found {describe(sample.targets)})") from error
    if targets.ndim == 0 or len(targets) != len(sample):
        raise ValueError(f"expected one target for each of {len(sample)} samples; got {describe(targets)}")
    return replace(sample, targets=targets)
