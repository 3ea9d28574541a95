"""What is kept as the target of each sample."""

import torch
from torch import Tensor

from xai_lightning.callbacks._attribution.ways import Target
from xai_lightning.functional.attribution import Task
from xai_lightning.functional.precision import exact
from xai_lightning.readers import Sample, target_of, targets_of
from xai_lightning.readers.batch import describe


def explained_targets(sample: Sample, task: Task, target: Target, n_classes: int) -> Tensor:
    """The class of each sample, or the fixed one, ``int64[N]``; ``float64[N]`` for regression, masks for segmentation.

    Samples are told apart by their targets, so a number must have the same bits on every device.

    Args:
        sample: the sample in a batch.
        task: what the outputs are.
        target: see `AttributionMonitor`.
        n_classes: how many classes there are.

    Raises:
        ValueError: if a target is out of range (checked on the CPU, trap 4), or there is none.
    """
    if task == "regression":
        return _numbers(sample, target)
    if task == "segmentation":
        return _masks(sample)
    if isinstance(target, int):
        return targets_of(torch.full((len(sample),), target, device="cpu"), n_classes)
    if target != "label":
        # the predicted class takes its place
        return torch.zeros(len(sample), dtype=torch.int64, device="cpu")
    return _classes(target_of(sample, ", or explain predictions with target='reference_prediction'"), n_classes)


def explainable(real: Tensor, targets: Tensor, task: Task, target: Target) -> Tensor:
    """Which samples have something to explain, ``bool[N]``: in a segmentation those whose mask of the class has pixels.

    The sum over an empty mask is 0 whatever the network does, so its map would be 0 at every validation: no drift.

    Args:
        real: ``bool[N]``, which rows are samples rather than padding.
        targets: what `explained_targets` returns.
        task: what the outputs are.
        target: the class of a segmentation.
    """
    if task != "segmentation":
        return real
    return real & targets.eq(int(target)).flatten(1).any(dim=1).to(real.device)


def why_none(task: Task, target: Target, loader: int) -> str:
    """Why there was no sample to explain in a whole validation."""
    if task == "segmentation":
        return f"no mask of loader {loader} has a pixel of class {target}, or none was read in this validation"
    return f"no sample of loader {loader} was read in this validation"


def _masks(sample: Sample) -> Tensor:
    given = sample.targets
    given = given.squeeze(1) if given is not None and given.ndim == 4 else given
    if given is None or given.ndim != 3:
        got = "none" if sample.targets is None else describe(sample.targets)
        raise ValueError(
            "task='segmentation' needs the class index of each pixel as targets, [N, H, W] or [N, 1, H, W]; got "
            f"{got} for the input {describe(sample.inputs)}. Name both with reader={{'input': ..., 'target': ...}}"
        )
    return given.detach().to(torch.int64)


def _numbers(sample: Sample, target: Target) -> Tensor:
    given = target_of(sample)
    if isinstance(target, int) and given.ndim == 2 and target >= given.shape[1]:
        raise ValueError(f"target={target} is none of the {given.shape[1]} targets of a sample, numbered from 0")
    chosen = given[:, target] if isinstance(target, int) and given.ndim == 2 else given
    if chosen.numel() != len(sample):
        raise ValueError(
            f"task='regression' needs one target per sample, or target= as the index of one; got {describe(given)}"
        )
    return exact(chosen.detach().flatten())


def _classes(given: Tensor, n_classes: int) -> Tensor:
    try:
        return targets_of(given, n_classes)
    except ValueError as error:
        raise ValueError(f"{error}. {_meant(given, n_classes)}") from error


def _meant(given: Tensor, n_classes: int) -> str:
    """What targets that are not classes may be, and which setting they then need."""
    if given.ndim == 2 and given.shape[1] == n_classes:
        return (
            "For one-hot classes, read their number with reader={'input': 0, 'target': lambda batch: "
            "batch[1].argmax(1)}; for several labels set task='multilabel', for numbers task='regression'"
        )
    if given.is_floating_point():
        return "If they are not classes, set task='regression' for numbers, or task='multilabel' for several labels"
    return (
        "If some samples have no label, explain target='reference_prediction', or one class by its number; classes "
        "beyond the outputs belong to another network, to be named with network=..."
    )
