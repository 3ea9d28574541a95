"""The one scalar per sample that is explained, so that captum always gets ``target=None`` (trap 4)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from xai_lightning.functional.precision import widest

Task = Literal["classification", "multilabel", "segmentation", "regression"]
Kind = Literal["margin", "centred"]
PROBABILITY_FLOOR = 1e-7


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-odds of the target: ``z_c - logsumexp of the others``; for a single logit z, +z for class 1 and -z for 0.

    Unlike a raw logit, the margin does not change when the same function is added to all logits, which changes no
    prediction; unlike a probability, it does not saturate with confidence.

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
        return _towards(targets, single)
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
        return _towards(targets, single)
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.mean(dim=1)


def _towards(targets: Tensor, single: Tensor) -> Tensor:
    """A single logit, with the sign of the class."""
    # a factor, since the gradient of a choice takes five operations
    return single * torch.where(targets == 1, 1.0, -1.0).to(single)


def _single(outputs: Tensor) -> Tensor | None:
    if outputs.ndim == 1:
        return outputs
    if outputs.ndim != 2:
        raise ValueError(f"can explain outputs of shape [N], [N, 1] and [N, K]; got {list(outputs.shape)}")
    return outputs.squeeze(1) if outputs.shape[1] == 1 else None


def log_odds(probabilities: Tensor, task: Task = "classification") -> Tensor:
    """Logits of independent probabilities (``[N]``, ``[N, 1]``, labels); logarithms for several classes.

    The margin of these logarithms is the log-odds.
    """
    p = probabilities.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return p.log() if task != "multilabel" and p.ndim > 1 and p.shape[1] > 1 else torch.logit(p)


def label_logit(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of one of several labels that may hold together.

    Args:
        logits: floating ``[N, L]``.
        targets: ``int64[N]``, the label that is explained for each sample.

    Returns:
        ``[N]``, logits.

    Example:
        >>> label_logit(torch.tensor([[2.0, -1.0]]), torch.tensor([1]))
        tensor([-1.])
    """
    if logits.ndim != 2:
        raise ValueError(f"multilabel outputs must have the shape [N, L]; got {list(logits.shape)}")
    return logits.gather(1, targets[:, None]).squeeze(1)


def masked_sum(logits: Tensor, targets: Tensor, masks: Tensor, kind: Kind) -> Tensor:
    """Sum of the target class's scalar over a region of the output.

    Args:
        logits: floating ``[N, K, H, W]``, for each pixel; coarser ones are interpolated, as for their loss.
        targets: ``int64[N]``, class indices.
        masks: ``bool[N, H, W]``, the region; freeze it, or its change counts as drift.
        kind: which scalar of a pixel.

    Returns:
        ``[N]``, in units of the scalar times pixels.

    Example:
        >>> logits = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 3)
        >>> masked_sum(logits, torch.tensor([0]), torch.ones(1, 3, 3, dtype=torch.bool), "centred")
        tensor([9.])
    """
    if logits.ndim == 4 == masks.ndim + 1 and _coarser(logits.shape[2:], masks.shape[1:]):
        logits = interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=False)
    if logits.ndim != 4 or masks.shape != (len(logits), *logits.shape[2:]):
        got = f"{list(logits.shape)} and {list(masks.shape)}"
        raise ValueError(f"segmentation needs outputs [N, K, H, W] and masks [N, H, W]; got {got}")
    pixels = logits.movedim(1, -1)
    classes = targets[:, None, None].expand(masks.shape)
    each = KINDS[kind](pixels.flatten(0, 2), classes.flatten()).reshape(masks.shape)
    return (each * masks).flatten(1).sum(dim=1)


def _coarser(grid: Sequence[int], masks: Sequence[int]) -> bool:
    return tuple(grid) != tuple(masks) and all(0 < few <= many for few, many in zip(grid, masks, strict=True))


def scalar(task: Task, kind: Kind, outputs: Tensor, targets: Tensor, masks: Tensor | None = None) -> Tensor:
    """The explained scalar of each sample.

    Args:
        task: ``classification``: margin or centred logit; ``multilabel``: one label's logit; ``segmentation``: the sum
            over a mask; ``regression``: the only output.
        kind: which scalar of a classifier.
        outputs: logits, or values of a regression.
        targets: ``int64[N]``.
        masks: ``bool[N, H, W]``, for segmentation.

    Returns:
        ``[N]``; float64 (float32 on devices without it) where outputs are integers, since attributions are fractions.

    Raises:
        ValueError: if the outputs do not have the shape that the task needs.
    """
    outputs = outputs if outputs.is_floating_point() or outputs.is_complex() else outputs.to(widest(outputs.device))
    if task == "multilabel":
        return label_logit(outputs, targets)
    if task == "segmentation" and masks is not None:
        return masked_sum(outputs, targets, masks, kind)
    if task == "regression":
        single = _single(outputs)
        if single is None:
            raise ValueError(
                f"regression needs one output per sample, or target= as the index of one; got {list(outputs.shape)}"
            )
        return single
    return KINDS[kind](outputs, targets)


KINDS: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {"margin": margin, "centred": centred}
