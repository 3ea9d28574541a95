"""How many rows there are to explain."""

from typing import Any

from torch.utils.data import DataLoader

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._trainer import is_counted, loaders_of


def available(trainer: Trainer, dataloader_idx: int) -> int | None:
    """The most rows of a loader that one evaluation reads, over all ranks; None if that is not known beforehand."""
    loaders, limits = loaders_of(trainer), trainer.num_test_batches if trainer.testing else trainer.num_val_batches
    if dataloader_idx >= min(len(loaders), len(limits)):
        return None
    loader = loaders[dataloader_idx]
    try:
        # before Lightning has made the loaders there is None
        if not isinstance(loader, DataLoader) or not is_counted(loader):
            return None
        batches: Any = loader.batch_sampler
        if batches is None:
            return None
        dataset: Any = loader.dataset
        own = min(len(batches.sampler), int(limits[dataloader_idx]) * int(batches.batch_size))
        return min(own * trainer.world_size, len(dataset))
    except (TypeError, NotImplementedError):
        # the length of a dataset or a sampler that has none raises one or the other
        return None
