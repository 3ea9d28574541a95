"""Turns what a step or a network returned into predicted classes, scores or numbers."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact
from xai_lightning.readers.batch import describe

Space = Literal["logits", "probabilities", "labels", "values"]
SPACES = ("logits", "probabilities", "labels", "values")
STEP_KEYS = ("preds", "logits", "probs", "y_hat")


class Outputs(NamedTuple):
    """How outputs become predictions; see `of`, which fills in the threshold.

    Attributes:
        space: what the outputs are: logits, probabilities, class numbers, or values of a regression.
        threshold: a single output above this is class 1; in units of ``space``.
    """

    space: Space
    threshold: float

    @classmethod
    def of(cls, space: Space, threshold: float | None) -> "Outputs":
        """Fill in the threshold of ``space``: 0 for logits, .5 for probabilities.

        Args:
            space: one of `SPACES`.
            threshold: None for the default.

        Raises:
            ValueError: on an unknown space, a threshold out of range, or a threshold for outputs that have none.
        """
        if space not in SPACES:
            raise ValueError(f"outputs must be one of {', '.join(SPACES)}; got {space!r}")
        if threshold is not None and (space in ("labels", "values") or not math.isfinite(threshold)):
            raise ValueError(
                f"threshold must be finite, and is for outputs='logits' or 'probabilities' only; got {threshold!r} "
                f"with outputs={space!r}"
            )
        threshold = (0.5 if space == "probabilities" else 0.0) if threshold is None else float(threshold)
        if space == "probabilities" and not 0 < threshold < 1:
            raise ValueError(f"the threshold of outputs='probabilities' must lie between 0 and 1; got {threshold}")
        return cls(space, threshold)


class Decision(NamedTuple):
    """Predicted classes of a batch.

    Attributes:
        classes: ``int64[N]``.
        finite: ``bool[N]``, whether the outputs behind each prediction are finite.
        n_classes: number of classes K.
    """

    classes: Tensor
    finite: Tensor
    n_classes: int


def step_output(outputs: Any, n: int, key: int | str | None = None) -> Tensor | None:
    """The predictions among what ``validation_step`` returned, or None.

    Args:
        outputs: the step's return value: a mapping with one of ``preds``, ``logits``, ``probs``, ``y_hat``, or a
            tensor.
        n: size of the batch; a tensor whose first dimension differs (such as a loss) holds no predictions.
        key: the only key to look up; a position refers to the network's output and finds nothing here.
    """
    found = outputs
    if key is not None:
        found = outputs.get(key) if isinstance(outputs, Mapping) else None
    elif isinstance(outputs, Mapping):
        found = next((outputs[key] for key in STEP_KEYS if key in outputs), None)
    return found if isinstance(found, Tensor) and found.ndim > 0 and len(found) == n else None


def _flat(outputs: Tensor) -> Tensor:
    flat = outputs.squeeze(1) if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs
    if flat.ndim not in (1, 2) or outputs.is_complex() or (flat.ndim == 2 and not flat.shape[1]):
        raise ValueError(f"expected real outputs of shape [N], [N, 1] or [N, K]; got {describe(outputs)}")
    # argmax over classes needs numbers instead of booleans
    return flat.detach().to(torch.uint8) if flat.dtype == torch.bool and flat.ndim == 2 else flat.detach()


def check_space(outputs: Tensor, space: Space, *, multi_label: bool = False) -> None:
    """Refuse outputs that cannot be, or plainly are not, in the declared space.

    Single outputs between 0 and 1 on both sides of one half are taken for probabilities: as logits they would all be
    the same class. Values that are not finite are left to the caller.

    Args:
        outputs: ``[N]``, ``[N, 1]`` or ``[N, K]``.
        space: the declared space.
        multi_label: whether each output is a label of its own, ``[N, L]``, so that rows need not sum to 1.

    Raises:
        ValueError: if they are in another space; names that space and the option to set.
    """
    flat = outputs.detach().flatten() if multi_label else _flat(outputs)
    if space == "labels":
        if flat.is_floating_point() or flat.ndim != 1:
            raise ValueError(f"outputs='labels' needs integer classes [N]; got {describe(outputs)}")
        return
    if space == "values" and flat.ndim != 1:
        raise ValueError(
            f"outputs='values' needs one number per sample, [N] or [N, 1]; got {describe(outputs)}. If there are "
            "several, return the one to compare from the step as 'preds', and read its target with "
            "reader={'input': ..., 'target': ...}"
        )
    if not flat.is_floating_point():
        raise ValueError(
            f"outputs={space!r} needs floating-point outputs; got {describe(outputs)}. For predicted classes set "
            "outputs='labels'."
        )
    values = flat[flat.isfinite()] if flat.ndim == 1 else flat[flat.isfinite().all(dim=1)]
    if values.numel() == 0 or space == "values":
        return
    if space == "probabilities":
        _check_probabilities(values.float())
    elif _looks_like_probabilities(values.float(), torch.finfo(values.dtype).eps):
        raise ValueError(
            f"outputs='logits', but these look like probabilities (all in [{values.min():.3g}, {values.max():.3g}]"
            f"{', rows sum to 1' if values.ndim == 2 else ', on both sides of one half'}); set outputs='probabilities'"
        )


def _looks_like_probabilities(values: Tensor, eps: float) -> bool:
    if bool(values.min() < 0) or bool(values.max() > 1):
        return False
    if values.ndim == 2:
        # in half precision, rows sum to 1 only roughly
        return bool(((values.sum(dim=1) - 1).abs() < max(1e-3, eps / 2)).all())
    # some logits lie between 0 and 1 by chance; without row sums as evidence, values on both sides of 0.5 are needed
    return bool(values.min() < 0.5) and bool(values.max() > 0.5)


def _check_probabilities(values: Tensor) -> None:
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"outputs='probabilities', but values reach from {low:.4g} to {high:.4g}; set outputs='logits'"
        )
    if values.ndim == 2 and bool(((values.sum(dim=1) - 1).abs() > 1e-2).any()):
        worst = values.sum(dim=1)[(values.sum(dim=1) - 1).abs().argmax()].item()
        raise ValueError(f"outputs='probabilities', but a row sums to {worst:.4g} instead of 1")


def decide(outputs: Tensor, how: Outputs, *, n_classes: int | None = None) -> Decision:
    """Predicted classes.

    A single output is class 1 if it exceeds the threshold; for several outputs, the class of the largest is predicted.

    Args:
        outputs: ``[N]``, ``[N, 1]`` or ``[N, K]``, in the space of ``how``.
        how: space and threshold.
        n_classes: number of classes for ``outputs="labels"`` (default 2).

    Returns:
        The `Decision`; samples whose outputs are not finite have class 0 and are marked in ``finite``.

    Raises:
        ValueError: on another shape or space, or if a threshold was set and there are outputs of several classes.
    """
    flat = _flat(outputs)
    if how.space == "probabilities":
        _check_range(flat)
    if how.space == "labels":
        check_space(outputs, how.space)
        return Decision(flat.to(torch.int64), torch.ones_like(flat, dtype=torch.bool), n_classes or 2)
    if flat.ndim == 2 and how != Outputs.of(how.space, None):
        raise ValueError(
            f"threshold={how.threshold:g} is for a single output; got outputs of {flat.shape[1]} classes, of which the "
            "largest is predicted. Return the output of the favourable class only, or leave out threshold."
        )
    finite = flat.isfinite() if flat.ndim == 1 else flat.isfinite().all(dim=1)
    if flat.ndim == 1:
        return Decision(torch.where(finite, flat > how.threshold, False).to(torch.int64), finite, 2)
    return Decision(torch.where(finite, flat.argmax(dim=1), 0), finite, int(flat.shape[1]))


def decide_labels(outputs: Tensor, how: Outputs) -> Decision:
    """Whether each of several labels is predicted, independently of the others.

    Args:
        outputs: ``[N, L]``, in the space of ``how``; 0 or 1 for ``"labels"``.
        how: space and threshold.

    Returns:
        The `Decision` with 2 classes: ``int64[N, L]``, 1 where a label is predicted; a sample with any output that is
        not finite is marked as a whole.

    Raises:
        ValueError: on another shape, or labels that are not integers.
    """
    flat = outputs.detach()
    if flat.ndim != 2 or flat.is_complex():
        raise ValueError(f"multi_label=True needs one real output per label, [N, L]; got {describe(outputs)}")
    if how.space == "labels":
        check_space(flat, how.space, multi_label=True)
        return Decision(flat.to(torch.int64), torch.ones(len(flat), dtype=torch.bool, device=flat.device), 2)
    if how.space == "probabilities":
        _check_range(flat)
    finite = flat.isfinite().all(dim=1)
    return Decision((flat > how.threshold).to(torch.int64), finite, 2)


def scores_of(outputs: Tensor, how: Outputs, positive: int) -> Tensor:
    """The probability of one class, in ``float64[N]`` so that the vectorisation of a batch leaves no trace (law 2).

    Args:
        outputs: ``[N]``, ``[N, 1]`` or ``[N, K]``, logits or probabilities.
        how: says which of these they are.
        positive: the class; for a single output, 1 is the class it stands for and 0 the other.

    Raises:
        ValueError: if outputs declared as probabilities lie outside 0 to 1.
    """
    flat = exact(_flat(outputs))
    if how.space == "probabilities":
        _check_range(flat)
    if flat.ndim == 1:
        single = flat.sigmoid() if how.space == "logits" else flat.clamp(0, 1)
        return single if positive == 1 else 1 - single
    shares = flat.softmax(dim=1) if how.space == "logits" else flat.clamp(0, 1)
    return shares[:, positive]


def numbers_of(values: Tensor, what: str) -> Tensor:
    """Predicted or true numbers, ``float64[N]``.

    Raises:
        ValueError: if there is not one real number per sample.
    """
    flat = values.squeeze(1) if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1 or flat.is_complex():
        raise ValueError(f"expected one {what} per sample, [N] or [N, 1]; got {describe(values)}")
    return exact(flat.detach())


def labels_of(targets: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Which labels each sample has, ``int64[N, L]``.

    Raises:
        ValueError: if their shape differs from that of the outputs, or one is neither 0 nor 1.
    """
    if tuple(targets.shape) != shape or targets.is_complex():
        raise ValueError(
            f"multi_label=True needs targets of the shape of the outputs, {list(shape)}; got {describe(targets)}"
        )
    wrong = (targets != 0) & (targets != 1)
    if bool(wrong.any()):
        raise ValueError(f"expected each label to be 0 or 1; got {targets[wrong][0].item():g}")
    return targets.detach().to(torch.int64)


def _check_range(outputs: Tensor) -> None:
    """Check every batch: a later one in another space would be counted differently from the earlier ones (trap 84)."""
    wrong = outputs.isfinite() & ((outputs < -1e-6) | (outputs > 1 + 1e-6))
    if bool(wrong.any()):
        raise ValueError(
            f"outputs='probabilities', but a value is {outputs[wrong][0].item():.4g}; set outputs='logits'"
        )


def targets_of(targets: Tensor, n_classes: int) -> Tensor:
    """Targets as class indices ``int64[N]``, checked on the CPU before any GPU kernel can fail on them (trap 4).

    Raises:
        ValueError: if one is not an integer in ``0 .. n_classes - 1``; the value is shown.
    """
    flat = targets.squeeze(1) if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if flat.ndim != 1 or flat.is_complex():
        raise ValueError(f"expected one class index per sample; got {describe(targets)}")
    numbers = flat.detach().cpu().double()
    wrong = ~((numbers >= 0) & (numbers < n_classes) & (numbers == numbers.round()))
    if bool(wrong.any()):
        allowed = "0 or 1" if n_classes == 2 else f"an integer in 0 .. {n_classes - 1}"
        raise ValueError(f"expected each target to be {allowed}; got {numbers[wrong][0].item():g}")
    return flat.detach().to(torch.int64)
