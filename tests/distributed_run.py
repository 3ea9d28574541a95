"""Fits over gloo processes, started by test_distributed.py; prints what the callbacks saw as one line of JSON.

Usage: python distributed_run.py RANKS FOLDER MODE...
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
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from small import STOPWATCH
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, MemorySink
from xai_lightning.callbacks import _guard

ROWS = 61
SIZES = (5, 7, 61)


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
    """Weights that training does not change, so that any number of ranks validates the same model.

    Args:
        moving: whether they move by a rule of their own between validations.
    """

    def __init__(self, *, moving: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
        self.moving = moving

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_train_epoch_start(self) -> None:
        with torch.no_grad():
            for weight in self.parameters() if self.moving else ():
                weight.add_(0.3 * (5 * weight).sin())

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


class Guessed(IterableDataset):
    """Every rank's part of the rows, of which each declares that it has as many as the first."""

    def __len__(self) -> int:
        return -(-ROWS // self._ranks()[1])

    def __iter__(self) -> Iterator[Any]:
        people, (rank, ranks) = People(), self._ranks()
        return (people[i] for i in range(rank, ROWS, ranks))

    def _ranks(self) -> tuple[int, int]:
        if not torch.distributed.is_initialized():
            return 0, 1
        return torch.distributed.get_rank(), torch.distributed.get_world_size()


class Silent(Net):
    """Logs nothing in validation, which ranks without a batch could not take part in."""

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self(batch["x"])}


def shares(ranks: int, folder: Path) -> list[list[int]]:
    """Rows that each rank sent forward to explain, at each validation; counted by a hook."""
    features = {f"column {i}": i for i in range(5)}
    options = {"tolerance": None}
    monitor = AttributionMonitor(
        "integrated_gradients", options=options, probe_size=32, sample_size=24, features=features
    )
    model, counted = Net(), dict.fromkeys(range(5), 0)

    def count(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        # of the first batch each rank explains a row to see whether it can
        if _guard._EXPLAINING.get() and monitor._look is not None and monitor._look.closed:
            counted[monitor._look.number] += len(output)

    model.net.register_forward_hook(count)
    fit_on(ranks, folder, [monitor], sanity=0).fit(model, rows(), rows())
    every: list[Any] = [None] * ranks
    if ranks == 1:
        return [[counted[number] for number in (1, 2, 3)]]
    torch.distributed.all_gather_object(every, [counted[number] for number in (1, 2, 3)])
    return every


def neurons(ranks: int, folder: Path) -> dict[int, dict[str, list[float]]]:
    """What is logged of activations and representations of a share of the samples, by size of the batches."""
    found: dict[int, dict[str, list[float]]] = {}
    for size in SIZES:
        sink, logged = MemorySink(), found.setdefault(size, {})
        monitor = ActivationMonitor(
            statistics="cheap", share=0.3, representation=True, probe_size=16, groups={"sex": ["F", "M"]}, sinks=[sink]
        )
        fit_on(ranks, folder, [monitor], sanity=0).fit(Net(moving=True), rows(), rows(size))
        for _, name, value in sink.records:
            if not STOPWATCH.fullmatch(name):
                logged.setdefault(name, []).append(value)
    return found


def rows(size: int = 7) -> DataLoader[Any]:
    """The table, in order."""
    return DataLoader(People(), batch_size=size)


def fit_on(ranks: int, folder: Path, callbacks: list[Any], *, sanity: int) -> pl.Trainer:
    """A Trainer of three short epochs."""
    return pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        max_epochs=3,
        limit_train_batches=1,
        num_sanity_val_steps=sanity,
        callbacks=callbacks,
        logger=CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def watched(ranks: int, folder: Path, mode: str) -> dict[str, Any]:
    """What the callbacks recorded, counted, explained and kept."""
    sink = MemorySink()
    attribution = AttributionMonitor("integrated_gradients", groups={"sex": ["F", "M"]}, probe_size=16, sinks=[sink])
    if mode == "fail":
        original = attribution._explain

        def failing(*args: object, **more: object) -> object:
            look = attribution._look
            if trainer.global_rank == ranks - 1 and look is not None and look.number == 2:
                raise ValueError("planted failure on the last rank")
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
    callbacks = [attribution, neurons, fairness, gate]
    if mode in ("one", "guess"):
        # several that share out, so that the order in which ranks meet matters
        given = Subset(People(), range(20, 40))
        callbacks = [attribution, fairness, AttributionMonitor("saliency", probe=given, sinks=[sink])]
    trainer = fit_on(ranks, folder, callbacks, sanity=0 if mode == "fail" else 1)
    data = {"one": OnOneRank, "guess": Guessed}.get(mode)
    loader = rows() if data is None else DataLoader(data(), batch_size=7 if mode == "one" else 1)
    trainer.fit(Silent() if mode == "one" else Net(), rows(), loader)
    records = [[step, name, value] for step, name, value in sink.records if not STOPWATCH.fullmatch(name)]
    counts = {name: table.tolist() for name, table in fairness._total.counts.items()}
    maps = attribution._history.references.maps["first"].tolist()
    files = [] if data else sorted(path.name for path in (folder / "checkpoints").iterdir())
    return {"records": records, "counts": counts, "maps": maps, "files": files}


def main() -> None:
    """Fit once for each mode, and print what rank zero has of each."""
    ranks, folder, modes = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    found: dict[str, Any] = {}
    for mode in modes:
        own = folder / mode
        own_way = {"shares": shares, "neurons": neurons}.get(mode)
        found[mode] = watched(ranks, own, mode) if own_way is None else own_way(ranks, own)
    if rank_zero_only.rank == 0:
        print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
