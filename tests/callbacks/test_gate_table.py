"""The files on the disk, as `docs/gate.md` says: the table is read there, and every row of it is run."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader

from learners import Items, Learner, cross_entropy, seeded, table, table_net
from xai_lightning import GatedCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:No checkpoint passed:UserWarning")

PAGE = Path(__file__).parents[2] / "docs" / "gate.md"
REFUSED = {
    "every_n_train_steps": 2,
    "train_time_interval": timedelta(seconds=1),
    "save_on_train_epoch_end": True,
    "save_weights_only": True,
}


class Logs(pl.Callback):
    """Logs ``gap``, and ``score``, which falls; from the third validation on perhaps something else."""

    def __init__(self, gap: float, third: dict[str, float | None] | None = None) -> None:
        self.gap, self.third, self.looks = gap, third or {}, 0

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.looks += not trainer.sanity_checking
        metrics = {"gap": self.gap, "score": 1.0 / (1 + self.looks)} | (self.third if self.looks > 2 else {})
        for name, value in metrics.items():
            if value is not None:
                pl_module.log(name, torch.tensor(value, dtype=torch.float64))


class Raises(pl.Callback):
    """Fails in the third epoch, in one hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.fail)

    def fail(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.current_epoch == 2:
            raise KeyError("planted")


class Manual(Learner):
    """Steps its optimizer itself."""

    automatic_optimization = False

    def training_step(self, batch: Any) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch))
        optimizer.step()


@dataclass(frozen=True)
class Setting:
    """What a row of the table sets."""

    gate: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[pl.Callback]] = list
    third: dict[str, float | None] = field(default_factory=dict)
    learner: type[Learner] = Learner
    raises: bool = False


SETTINGS = {
    "`save_last`, which is always on": Setting(),
    "`monitor=None`: the latest that passes": Setting({"monitor": None}),
    "an exception in the third epoch, before its validation": Setting(
        callbacks=lambda: [Raises("on_train_epoch_start")], raises=True
    ),
    "an exception after the third validation": Setting(callbacks=lambda: [Raises("on_train_epoch_end")], raises=True),
    "manual optimization": Setting(learner=Manual),
    **{f"`save_top_k={k}`": Setting({"save_top_k": k}) for k in (-1, 0, 1, 3)},
    "`val_check_interval` 0.5, `save_top_k=3`": Setting({"save_top_k": 3}, {"val_check_interval": 0.5}),
    "`check_val_every_n_epoch` 2, four epochs, `save_top_k=3`": Setting(
        {"save_top_k": 3}, {"check_val_every_n_epoch": 2, "max_epochs": 4}
    ),
    "the metric is NaN at the third validation": Setting(third={"gap": math.nan}),
    "the metric is not logged at the third validation (stale)": Setting(third={"gap": None}),
    "the monitored value is NaN at the third validation": Setting(third={"score": math.nan}),
    "averaged weights (EMA)": Setting(callbacks=lambda: [EMAWeightAveraging(decay=0.5)]),
    '`fallback="least_violation"`': Setting({"fallback": "least_violation"}),
    '`fallback="last"`': Setting({"fallback": "last"}),
    "an arbiter that says no": Setting({"arbiter": lambda metrics: (False, "no")}),
    "`fast_dev_run`": Setting(trainer={"fast_dev_run": True}),
}


def rows() -> dict[str, tuple[str, str]]:
    """Setting to what the page says of an open and of a closed gate."""
    text = PAGE.read_text(encoding="utf-8").split("## Table of behaviour")[1].split("\n## ")[0]
    found = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return {setting: (opened, closed) for setting, opened, closed in found if setting != "setting"}


ROWS = rows()
each_gate = pytest.mark.parametrize("gate", ["open", "closed"])


def test_every_row_of_the_page_is_run_and_nothing_else() -> None:
    refused = [name for name, cells in ROWS.items() if cells == ("refused", "refused")]
    assert [re.findall(r"`(\w+)`", name) for name in refused] == [list(REFUSED)]
    assert list(ROWS) == [*SETTINGS, *refused]


def run(folder: Path, setting: Setting, gap: float) -> GatedCheckpoint:
    settings = {"monitor": "score", "dirpath": folder / "kept", "filename": "e{epoch}s{step}"}
    gate = GatedCheckpoint(at_most={"gap": 0.1}, auto_insert_metric_name=False, **{**settings, **setting.gate})
    options = {"max_epochs": 3, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        callbacks=[Logs(gap, setting.third), *setting.callbacks(), gate],
        default_root_dir=folder,
        **{**options, **setting.trainer},
    )
    learner = setting.learner(seeded(table_net), cross_entropy)
    loaders = [DataLoader(Items(table, 16), batch_size=8) for _ in range(2)]
    if setting.raises:
        with pytest.raises(KeyError, match="planted"):
            trainer.fit(learner, *loaders)
    else:
        trainer.fit(learner, *loaders)
    return gate


@each_gate
@pytest.mark.parametrize("name", SETTINGS)
def test_the_files_are_those_of_the_table(name: str, gate: str, tmp_path: Path) -> None:
    """Traps 36 and 38."""
    cell = ROWS[name][gate == "closed"]
    kept = re.findall(r"`(\S+\.ckpt)`", cell)
    assert bool(kept) != (cell == "nothing")
    verdicts = [f"{file.removesuffix('.ckpt')}.verdict.json" for file in kept]
    callback = run(tmp_path, SETTINGS[name], 0.05 if gate == "open" else 0.5)
    found = sorted(str(path.relative_to(tmp_path / "kept")) for path in tmp_path.rglob("*") if path.is_file())
    assert found == sorted([*kept, *verdicts, *(["gate_audit.jsonl"] if kept else [])])
    best = Path(callback.best_model_path).name if callback.best_model_path else ""
    passed = [file for file in kept if file != "last.ckpt" and not file.startswith("INFEASIBLE")]
    assert best == (passed[-1] if passed else "")


@pytest.mark.parametrize("option", REFUSED)
def test_what_the_table_calls_refused_is_refused(option: str) -> None:
    """Trap 36."""
    with pytest.raises(ValueError, match=f"GatedCheckpoint refuses {option}="):
        GatedCheckpoint("score", at_most={"gap": 0.1}, **{option: REFUSED[option]})
