"""A model that `fully_shard` spreads over gloo processes, and its Trainer: what the sharded runs have in common."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.data import DataLoader

from distributed_run import Net, People
from xai_lightning import GatedCheckpoint, MemorySink

FLOOR = "fairness/sex/demographic_parity_difference/value"


class Numbers(MemorySink):
    """In memory, without pictures, which take long."""

    takes_pictures = False


class Sharded(Net):
    """A block and the network around it, each sharded; weights move by their own rule, unless they are trained."""

    def __init__(self, *, moving: bool = True) -> None:
        super().__init__(moving=moving)
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 7), nn.Tanh()), nn.Linear(7, 2))
        self.policy: MixedPrecisionPolicy | None = None
        self.calls = 0

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not hasattr(self.net, "unshard"):
            mesh = self.device_mesh["data_parallel"]
            how = {"mesh": mesh} if self.policy is None else {"mesh": mesh, "mp_policy": self.policy}
            fully_shard(self.net[2], **how)
            fully_shard(self.net, **how)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.0 if self.moving else 0.01)


def trainer(ranks: int, folder: Path, callbacks: list[Any], **more: Any) -> pl.Trainer:
    """Sharded over ``ranks`` processes, or plain for one."""
    sharded = ModelParallelStrategy(ranks, 1, save_distributed_checkpoint=False, process_group_backend="gloo")
    options = {"max_epochs": 3, "limit_train_batches": 2, "num_sanity_val_steps": 1, "enable_checkpointing": False}
    if any(isinstance(callback, GatedCheckpoint) for callback in callbacks):
        options["enable_checkpointing"] = True
    return pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=sharded if ranks > 1 else "auto",
        callbacks=callbacks,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**options, **more},
    )


def loader() -> DataLoader[dict[str, Tensor]]:
    """61 rows, which no number of ranks divides."""
    return DataLoader(People(), batch_size=16)
