"""A gate over gloo processes, run by `callbacks/test_gate_ranks.py`; each writes down what it holds at the end."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader, Dataset

from gated import LOADER, Scripted
from xai_lightning import FairnessMonitor, GatedCheckpoint

BOUND = "fairness/sex/accuracy_difference/bound"
PEOPLE = [{"x": torch.tensor([float(i)]), "y": i % 2, "sex": i // 2 % 2} for i in range(40)]


class Learns(Scripted):
    """Predicts, and logs a gap that the last rank alone sees exceed its limit, at the second validation."""

    def validation_step(self, batch: Any) -> torch.Tensor:
        super().validation_step(batch)
        logits = batch["x"][:, 0] - 20.0
        return torch.stack([-logits, logits], dim=1)

    def on_validation_epoch_end(self) -> None:
        self.gaps = [0.05, 0.5 if self.global_rank == self.trainer.world_size - 1 else 0.05, 0.05, 0.05]
        super().on_validation_epoch_end()


def main() -> None:
    """Train, and write down."""
    folder, ranks = Path(sys.argv[1]), int(sys.argv[2])
    asked: list[int] = []

    def arbiter(metrics: Any) -> tuple[bool, str]:
        asked.append(trainer.global_rank)
        return len(asked) != 2, "not the second time"

    gate = GatedCheckpoint(
        "val_loss",
        dirpath=folder / "kept",
        at_most={"gap": 0.1, BOUND: 2.0},
        utility_floor=False,
        arbiter=arbiter,
        certify=PEOPLE_ROWS,
        fallback="least_violation",
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=4,
        callbacks=[FairnessMonitor({"sex": ["F", "M"]}), gate],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    model = Learns([], [0.9, 0.5, 0.4, 0.3])
    trainer.fit(model, LOADER, DataLoader(PEOPLE_ROWS, batch_size=8))
    found = {
        "asked": asked,
        "best": gate.best_model_path,
        "fallback": gate.fallback_model_path,
        "memory": gate._memory.state(),
        "weight": float(model.weight.detach()),
    }
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))


class Rows(Dataset):
    """The people."""

    def __len__(self) -> int:
        return len(PEOPLE)

    def __getitem__(self, i: int) -> Any:
        return PEOPLE[i]


PEOPLE_ROWS = Rows()

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
