"""Integer counts of samples per group, which add up over batches and ranks."""

from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact

SQUARE_LIMIT = 64
"""Up to this many classes, counts hold every pair of actual and predicted class."""


def count(predictions: Tensor, targets: Tensor, groups: Tensor, *, classes: int, n_groups: int) -> Tensor:
    """Number of samples per group, actual and predicted class.

    The counts of several batches or ranks add up to the counts of all samples together; rates and metrics do not. Each
    group has its own entry whether or not it occurs, so a batch without samples of a group leaves its counts unchanged.

    Args:
        predictions: Integer or bool [N] (or any shape that all three share), predicted classes in 0..K-1.
        targets: Like ``predictions``, actual classes in 0..K-1.
        groups: Like ``predictions``, groups in 0..G-1.
        classes: Number of classes K, at least 2.
        n_groups: Number of groups G, at least 1.

    Returns:
        int64[G, K, K] on the device of the arguments, indexed [group, actual, predicted]; above 64 classes int64[G, K,
        3] with, per class, the numbers of samples that are correct, that are predicted as it, and that are of it.

    Raises:
        ValueError: If shapes differ, a class or group is outside its range, or ``classes`` or ``n_groups`` is too
            small.
        TypeError: If a tensor is neither integer nor bool.

    Example:
        >>> import torch
        >>> predictions, targets = torch.tensor([1, 0, 1, 1]), torch.tensor([1, 1, 0, 1])
        >>> groups = torch.tensor([0, 0, 1, 1])
        >>> count(predictions, targets, groups, classes=2, n_groups=2).tolist()
        [[[0, 0], [1, 1]], [[0, 1], [0, 1]]]
    """
    _check_sizes(classes, n_groups)
    _check_samples({"predictions": predictions, "targets": targets, "groups": groups}, (classes, classes, n_groups))
    predicted, actual, group = (x.reshape(-1).long() for x in (predictions, targets, groups))
    if classes > SQUARE_LIMIT:
        return _margins(predicted, actual, group, (n_groups, classes, 3))
    cells = torch.bincount((group * classes + actual) * classes + predicted, minlength=n_groups * classes**2)
    return cells.reshape(n_groups, classes, classes)


def weigh(
    predictions: Tensor, targets: Tensor, groups: Tensor, weights: Tensor, *, classes: int, n_groups: int
) -> Tensor:
    """Sum of the weights, and of their squares, per group, actual and predicted class.

    Sums of several batches or ranks add up, though only up to rounding (relative error 1e-12 or better), whereas counts
    are exact. The second sum tells how many equally weighted samples the weighted ones are worth.

    Args:
        predictions: Integer or bool [N], predicted classes in 0..K-1.
        targets: Like ``predictions``, actual classes in 0..K-1.
        groups: Like ``predictions``, groups in 0..G-1.
        weights: Floating point [N], finite and not negative.
        classes: Number of classes K, 2 to 64.
        n_groups: Number of groups G, at least 1.

    Returns:
        float64[2, G, K, K]: sums of weights, and of squared weights.

    Raises:
        ValueError: As :func:`count`; if a weight is negative or not finite; or above 64 classes.
        TypeError: As :func:`count`.

    Example:
        >>> import torch
        >>> one = torch.tensor([1, 1])
        >>> weigh(one, one, torch.tensor([0, 0]), torch.tensor([2.0, 3.0]), classes=2, n_groups=1)[:, 0, 1, 1].tolist()
        [5.0, 13.0]
    """
    _check_sizes(classes, n_groups)
    if classes > SQUARE_LIMIT:
        raise ValueError(f"weighted samples need at most {SQUARE_LIMIT} classes, got {classes}")
    _check_samples({"predictions": predictions, "targets": targets, "groups": groups}, (classes, classes, n_groups))
    heavy = exact(weights.reshape(-1))
    if heavy.shape != predictions.reshape(-1).shape:
        raise ValueError(
            f"weights must hold one value for each of {predictions.numel()} samples, got {list(weights.shape)}"
        )
    wrong = ~(heavy.isfinite() & (heavy >= 0))
    if bool(wrong.any()):
        raise ValueError(f"weights must be finite and not negative, got {heavy[wrong][0].item()!r}")
    predicted, actual, group = (x.reshape(-1).long().to(heavy.device) for x in (predictions, targets, groups))
    cells = (group * classes + actual) * classes + predicted
    # CUDA refuses `bincount` with weights under deterministic algorithms
    none = heavy.new_zeros(n_groups * classes**2)
    sums = [none.index_add(0, cells, w) for w in (heavy, heavy.square())]
    return torch.stack(sums).reshape(2, n_groups, classes, classes)


class Confusion(NamedTuple):
    """Counts of one favourable class against all others, each int64[..., G].

    Attributes:
        tp: Samples of the class that were predicted as it.
        fp: Samples of other classes that were predicted as it.
        fn: Samples of the class that were predicted as another.
        tn: Samples of other classes that were predicted as another.
        correct: Correctly predicted samples of all classes; with two classes tp + tn.
        total: All samples.
        cells: The counts that they were computed from, int64[..., G, K, K]; metrics over all classes need them.
        squares: For weighted samples, the same sums of squared weights; None if every sample counts once.
        positive: The favourable class.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor
    correct: Tensor
    total: Tensor
    cells: Tensor | None = None
    squares: "Confusion | None" = None
    positive: int = 1


def confusion(counts: Tensor, positive: int, squares: Tensor | None = None) -> Confusion:
    """Counts of the favourable class ``positive`` against all others.

    Args:
        counts: int64[..., G, K, K] or int64[..., G, K, 3], as made by :func:`count`.
        positive: The favourable class, in 0..K-1.
        squares: For weighted samples, their sums of squared weights, as made by :func:`weigh`.

    Returns:
        Six counts, each int64[..., G] (sums of weights float64[..., G]), and the counts that they were computed from.

    Raises:
        ValueError: If ``counts`` has another layout, or ``positive`` is not one of its classes.

    Example:
        >>> import torch
        >>> counts = torch.tensor([[[2, 1], [0, 3]]])
        >>> [int(part) for part in confusion(counts, positive=1)[:6]]
        [3, 1, 0, 2, 5, 6]
    """
    correct, predicted, actual = per_class(counts)
    if not 0 <= positive < correct.shape[-1]:
        raise ValueError(f"positive must be a class in 0..{correct.shape[-1] - 1}, got {positive!r}")
    tp, total = correct[..., positive], actual.sum(dim=-1)
    fp, fn = predicted[..., positive] - tp, actual[..., positive] - tp
    squared = None if squares is None else confusion(squares, positive)
    return Confusion(tp, fp, fn, total - tp - fp - fn, correct.sum(dim=-1), total, counts, squared, positive)


def per_class(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Samples per class that are correct, that are predicted as it, and that are of it, from either layout of counts.

    Args:
        counts: int64[..., K, K] or int64[..., K, 3].

    Returns:
        Three counts, each int64[..., K].

    Raises:
        ValueError: If ``counts`` has another layout.

    Example:
        >>> import torch
        >>> [part.tolist() for part in per_class(torch.tensor([[2, 1], [0, 3]]))]
        [[2, 3], [2, 4], [3, 3]]
    """
    if counts.ndim >= 2 and counts.shape[-1] == counts.shape[-2]:
        return counts.diagonal(dim1=-2, dim2=-1), counts.sum(dim=-2), counts.sum(dim=-1)
    if counts.ndim >= 2 and counts.shape[-1] == 3 and counts.shape[-2] > SQUARE_LIMIT:
        return counts[..., 0], counts[..., 1], counts[..., 2]
    raise ValueError(
        f"counts must end in [K, K], or in [K, 3] above {SQUARE_LIMIT} classes, got shape {list(counts.shape)}"
    )


def cells_of(confusion: Confusion, what: str) -> Tensor:
    """The counts of all classes from which ``confusion`` was computed.

    Args:
        confusion: Counts, each int64[..., G].
        what: What needs them, for the error message.

    Returns:
        int64[..., G, K, K] or int64[..., G, K, 3].

    Raises:
        ValueError: If ``confusion`` holds counts of the favourable class only.

    Example:
        >>> import torch
        >>> cells_of(confusion(torch.tensor([[[2, 1], [0, 3]]]), positive=1), "a rate per class").tolist()
        [[[2, 1], [0, 3]]]
    """
    if confusion.cells is None:
        raise ValueError(
            f"{what} needs counts of all classes, got those of class {confusion.positive} against the others; "
            "compute them with confusion(counts, positive)"
        )
    return confusion.cells


def _margins(predicted: Tensor, actual: Tensor, group: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Correct, predicted and actual per class in one `bincount`; wrong predictions fall into an extra last bin."""
    n_groups, classes, columns = shape
    size = n_groups * classes * columns
    row = (group * classes + actual) * columns
    correct = torch.where(predicted == actual, row, size)
    cells = torch.cat([correct, (group * classes + predicted) * columns + 1, row + 2])
    return torch.bincount(cells, minlength=size + 1)[:size].reshape(shape)


def _check_sizes(classes: int, n_groups: int) -> None:
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes!r}; a single output has the classes 0 and 1")
    if n_groups < 1:
        raise ValueError(f"n_groups must be at least 1, got {n_groups!r}")


def _check_samples(named: dict[str, Tensor], sizes: tuple[int, ...]) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in named.items()}
    if len({tensor.shape for tensor in named.values()}) > 1:
        raise ValueError(f"predictions, targets and groups must have the same shape, got {shapes}")
    for name, tensor in named.items():
        if tensor.is_floating_point() or tensor.is_complex():
            raise TypeError(f"{name} must be integer indices, got dtype {tensor.dtype}; threshold or argmax them first")
    if next(iter(named.values())).numel() == 0:
        return
    # One transfer for all six edges: each transfer synchronises with the device.
    edges = torch.stack([edge.long() for tensor in named.values() for edge in tensor.aminmax()]).tolist()
    for name, size, low, high in zip(named, sizes, edges[::2], edges[1::2], strict=True):
        if low < 0 or high >= size:
            raise ValueError(f"{name} must lie in 0..{size - 1}, got {low if low < 0 else high}")
