"""One fit over gloo processes, started by test_distributed.py; prints what the callbacks saw as one line of JSON.

Usage: python distributed_run.py RANKS FOLDER
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from small import STOPWATCH
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, MemorySink

ROWS = 61


class People(Dataset[dict[str, Tensor]]):
    """A table whose length no number of ranks divides; one group sits in the first rows only."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(ROWS, 5, generator=generator)
        self.y = (self.x[:, 0] + 0.3 * torch.randn(ROWS, generator=generator) > 0).long()
        self.group = torch.where(torch.arange(ROWS) % 2 == 0, 0, 1)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index], "sex": self.group[index], "town": 30 - 10 * (index % 3)}


class Net(pl.LightningModule):
    """Weights that training does not change, so that any number of ranks validates the same model."""

    def __init__(self, fail_on: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
        self.fail_on = fail_on

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch["x"]), batch["y"])

    def validation_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self(batch["x"])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch["y"]), sync_dist=True, batch_size=len(logits))
        return {"logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class OnOneRank(IterableDataset):
    """Rows that rank zero alone gets."""

    def __iter__(self) -> Iterator[Any]:
        people = People()
        return (people[i] for i in range(len(people) * (torch.distributed.get_rank() == 0)))


class Silent(Net):
    """Logs nothing in validation, which ranks without a batch could not take part in."""

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self(batch["x"])}


def main() -> None:
    """Run, and print the records of rank zero."""
    ranks, folder, mode = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "plain"
    sink = MemorySink()
    attribution = AttributionMonitor("integrated_gradients", groups={"sex": ["F", "M"]}, probe_size=16, sinks=[sink])
    if mode == "fail":
        original = attribution._explain

        def failing(*args: object, **more: object) -> object:
            look = attribution._look
            if trainer.global_rank == 1 and look is not None and look.number == 2:
                raise ValueError("planted failure on rank 1")
            return original(*args, **more)

        attribution._explain = failing
    # ranks meet the towns in another order, and on two ranks each meets one sex only
    groups = {"sex": ["F", "M"], "town": "discover"}
    fairness = FairnessMonitor(groups, intersections=2, given={"sex": "town"}, sinks=[sink])
    neurons = ActivationMonitor(
        statistics="cheap", representation=True, probe_size=32, groups={"sex": ["F", "M"]}, sinks=[sink]
    )
    gate = GatedCheckpoint(
        "val_loss", dirpath=folder / "checkpoints", at_most={"fairness/sex/demographic_parity_difference/value": 0.9}
    )
    callbacks = [attribution, neurons, fairness, gate] if mode != "one" else [attribution, fairness]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        max_epochs=3,
        limit_train_batches=1,
        num_sanity_val_steps=0 if mode == "fail" else 1,
        callbacks=callbacks,
        logger=CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(People(), batch_size=7)
    one = mode == "one"
    trainer.fit(Silent() if one else Net(), loader, DataLoader(OnOneRank() if one else People(), batch_size=7))
    if trainer.is_global_zero:
        records = [[step, name, value] for step, name, value in sink.records if not STOPWATCH.fullmatch(name)]
        counts = {name: table.tolist() for name, table in fairness._total.counts.items()}
        maps = attribution._history.references.maps["first"].tolist()
        files = [] if one else sorted(path.name for path in (folder / "checkpoints").iterdir())
        print("RESULT " + json.dumps({"records": records, "counts": counts, "maps": maps, "files": files}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
