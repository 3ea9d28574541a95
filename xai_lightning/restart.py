"""Resuming a killed run so that TensorBoard shows one value per step."""

from pathlib import Path

SHARDED = "meta.pt"


def purge_step(checkpoint: str | Path) -> int:
    """The first step that a run resumed from ``checkpoint`` logs; TensorBoard must discard the killed run from there.

    Steps between the last checkpoint and a kill are logged twice. A ``TensorBoardLogger`` with the killed run's
    ``version=`` and this number as ``purge_step=`` marks the place, so that TensorBoard shows one value per step
    (trap 68).

    Args:
        checkpoint: the file, or Lightning's sharded folder, that the run resumes from; it is read with
            ``weights_only=True``.

    Returns:
        The step; 0 if the checkpoint does not exist, so that a run killed before its first checkpoint starts afresh.

    Raises:
        ValueError: if the checkpoint does not record the progress of a training.

    Example:
        >>> purge_step("checkpoints/last.ckpt")
        0
    """
    import torch

    path = Path(checkpoint)
    if not path.exists():
        return 0
    file = path / SHARDED if path.is_dir() else path
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    try:
        loop = content["loops"]["fit_loop"]
        logged, epoch = loop["epoch_loop.state_dict"]["_batches_that_stepped"], loop["epoch_progress"]["current"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint must be one that Lightning saved during training; {path} records no training progress: "
            f"{error!r}"
        ) from error
    # saved at the end of an epoch, this is the next step; saved at a validation within an epoch, the last one
    return int(logged) + int(epoch["processed"] < epoch["ready"])
