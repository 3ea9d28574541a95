"""What a run that was killed needs to know before it goes on."""

from pathlib import Path

SHARDED = "meta.pt"


def purge_step(checkpoint: str | Path) -> int:
    """The first step that a run resumed from ``checkpoint`` logs: what TensorBoard must forget of the killed one.

    Steps between the last checkpoint and a kill are logged twice. With ``version=`` of the killed run and this number
    as ``purge_step=`` a ``TensorBoardLogger`` marks the place, and TensorBoard shows one value per step (trap 68).

    Args:
        checkpoint: what the run is resumed from, a file or a sharded folder of Lightning; it is read with
            ``weights_only=True``.

    Returns:
        The step; 0 if there is no such file yet, so that a run that was killed before its first one begins anew.

    Raises:
        ValueError: if the file holds no progress of a training.

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
        raise ValueError(f"checkpoint must hold the progress of a training; {path} does not: {error!r}") from error
    # at the end of an epoch this is the next step, at the end of a validation within one the last
    return int(logged) + int(epoch["processed"] < epoch["ready"])
