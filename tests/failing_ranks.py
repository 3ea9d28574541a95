"""A training over two gloo processes in which something fails on one of them at most validations.

Run by `test_failures.py`; each rank writes down what it holds at the end.
"""

import errno
import hashlib
import json
import math
import os
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy

from faults import PLANTED
from small import GROUPS, Classifier, Ledger, loader, rows
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint

# At which validation which function fails on which rank.
FAILING = {
    2: (1, "PassingMonitor._close"),
    3: (1, "gather"),
    4: (1, "Tally.gather"),
    5: (1, "gathered"),
    6: (1, "judge"),
    7: (1, "History.follow"),
    8: (1, "CountingMonitor._conclude"),
    9: (0, "everywhere"),
    10: (0, "LoggerSink.scalars"),
    11: (1, "PassingMonitor._share_out"),
    12: (0, "share_out"),
    14: (1, "Probe.see"),
    15: (1, "CountingMonitor.measure"),
}
FULL = {7: "epoch", 8: "last"}
LOOKS = 15


class Plan(pl.Callback):
    """Plants what is due."""

    def __init__(self) -> None:
        self.looks, self.planted = 0, list[int]()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.looks += 1
        rank, name = FAILING.get(self.looks, (-1, ""))
        if rank != trainer.global_rank:
            return

        def plant(frame: FrameType, event: str, _: Any) -> None:
            if event == "call" and frame.f_code.co_qualname == name:
                self.planted.append(self.looks)
                raise ValueError(f"{PLANTED} in {name}")

        sys.setprofile(plant)


def main() -> None:
    """Train, and write down."""
    folder, plan = Path(sys.argv[1]), Plan()
    save = TorchCheckpointIO.save_checkpoint

    def crowded(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        if Path(path).name.startswith(FULL.get(plan.looks, "nothing")):
            raise OSError(errno.ENOSPC, PLANTED, str(path))
        save(self, checkpoint, path, storage_options)

    TorchCheckpointIO.save_checkpoint = crowded  # type: ignore[method-assign]
    limits = {"at_least": {"val_acc": 0.0}, "at_most": {"fairness/sex/demographic_parity_difference/value": 1.0}}
    files = {"dirpath": folder / "kept", "save_top_k": -1}
    gate = GatedCheckpoint(**limits, **files, utility_floor=False, certify=rows(8, seed=2))
    monitors: list[Any] = [
        AttributionMonitor(options={"n_steps": 4}, measures=["cosine"], probe_size=4),
        ActivationMonitor(),
        FairnessMonitor({"sex": GROUPS}, metrics=["demographic_parity_difference"]),
    ]
    model, ledger = Classifier(), Ledger()
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=LOOKS,
        limit_train_batches=1,
        num_sanity_val_steps=0,
        callbacks=[plan] if sys.argv[2] == "unwatched" else [plan, *monitors, gate],
        enable_checkpointing=sys.argv[2] != "unwatched",
        logger=[ledger],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer.fit(model, loader(rows(32), batch_size=8), loader(rows(31, seed=1), batch_size=8))
    state = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    found = {
        "weights": hashlib.sha256(state).hexdigest(),
        "said": [str(w.message) for w in seen if "validation " in str(w.message)],
        "looks": [{n: None if math.isnan(v) else v for n, v in look.items()} for look in ledger.validations()],
        "planted": plan.planted,
        "remembered": monitors[0]._history.course.numbers,
        "hooks": sum(len(v) for m in model.modules() for k, v in vars(m).items() if k.endswith("_hooks") and v),
    }
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    main()
