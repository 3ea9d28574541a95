"""How much faster two processes explain than one: each explains its share of the probe and of a fresh sample.

    python benchmarks/ranks.py

A convolutional network on random pictures, integrated gradients with 50 steps, a probe of 128 samples and 64 fresh
ones. The set-ups run one after another: first one process, then two under DDP, then two with a sharded model; each
process has one thread. The time is that of the slowest process, from the last batch until its share is explained: for
the first validation, which draws the probe, and the median of the others.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from xai_lightning import AttributionMonitor

SAMPLES, VALIDATIONS = 128, 6
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


class Net(pl.LightningModule):
    """Three convolutions."""

    def __init__(self, *, sharded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in ((1, 16), (16, 32), (32, 32))]
        self.net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
        self.sharded = sharded

    def configure_model(self) -> None:
        if self.sharded and not hasattr(self.net, "unshard"):
            for module in (*self.net[:3], self.net):
                fully_shard(module, mesh=self.device_mesh["data_parallel"])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> dict[str, Tensor]:
        return {"logits": self(batch[0])}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Timed(AttributionMonitor):
    """Records how long each share took."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds: list[float] = []

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule, look: Any) -> None:
        began = time.perf_counter()
        super()._finish(trainer, pl_module, look)
        self.seconds.append(time.perf_counter() - began)


def measure(ranks: int, kind: str) -> None:
    """Train, and print the time of the slowest process at each validation."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(512, 1, 20, 20, generator=generator), torch.arange(512) % 10
    monitor = Timed("integrated_gradients", options={"tolerance": None}, probe_size=SAMPLES, sample_size=SAMPLES // 2)
    strategies = {"ddp": DDPStrategy(process_group_backend="gloo"), "sharded": ModelParallelStrategy(ranks, 1)}
    warnings.simplefilter("ignore")
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategies.get(kind, "auto"),
        max_epochs=VALIDATIONS,
        limit_train_batches=1,
        num_sanity_val_steps=0,
        callbacks=[monitor],
        **QUIET,  # type: ignore[arg-type]
    )
    data = DataLoader(TensorDataset(x, y), batch_size=64)
    trainer.fit(Net(sharded=kind == "sharded"), data, data)
    slowest = torch.tensor(monitor.seconds)
    if ranks > 1:
        torch.distributed.all_reduce(slowest, op=torch.distributed.ReduceOp.MAX)
    if trainer.is_global_zero:
        print("SECONDS " + json.dumps(slowest.tolist()), flush=True)


def main() -> None:
    """Measure one process, then two in two ways, and print the ratios."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found: dict[str, tuple[float, float]] = {}
    for kind, ranks in (("one process", 1), ("ddp", 2), ("sharded", 2)):
        command = [sys.executable, __file__, kind, str(ranks)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150, check=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("SECONDS "))
        first, *others = json.loads(line.removeprefix("SECONDS "))
        found[kind] = first, statistics.median(others)
        at_first, later = (ours / one for ours, one in zip(found[kind], found["one process"], strict=True))
        print(
            f"{kind}, {ranks} rank(s): {first:.3f} s at the first validation, {at_first:.2f} of one process; later "
            f"{found[kind][1]:.3f} s, {later:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    measure(int(sys.argv[2]), sys.argv[1]) if len(sys.argv) > 1 else main()
