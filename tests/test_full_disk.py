"""Law 8 on a real file system without room: what goes on, and what Lightning itself ends."""

import errno
import json
import shutil
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

import xai_lightning
from faults import LOOKS, PACKAGE, RICH, errors, train
from traced import ARGUMENTS, MONITORS
from xai_lightning import GatedCheckpoint
from xai_lightning.sinks.tensorboard import TensorBoardSink

NO_ROOM = "No space left on device"
# TensorBoard writes in a thread of its own, which an error ends
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` here")
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"only root can mount a file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Fills(pl.Callback):
    """Leaves no room from the second validation on; Lightning logs more than a block of a file takes."""

    def __init__(self, disk: Path) -> None:
        self.disk, self.looks = disk, 0

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log_dict({f"filling_{number}": 0.0 for number in range(200)})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.looks += 1
        if self.looks != 2:
            return
        with (self.disk / "filling").open("wb", buffering=0) as stream:
            for size in (1 << 16, 1):
                with suppress(OSError):
                    while True:
                        stream.write(bytes(size))
        assert shutil.disk_usage(self.disk).free == 0


def monitors(**more: Any) -> list[pl.Callback]:
    """Each of ours, in which much is written."""
    return [getattr(xai_lightning, name)(**{**ARGUMENTS[name], **RICH[name], **more}) for name in MONITORS]


def test_files_of_ours_on_a_full_disk_cost_no_training(disk: Path, tmp_path: Path) -> None:
    """Trap 49: pictures, numbers, checkpoints and the audit file; what was written before there was no room stays."""
    sink = TensorBoardSink(TensorBoardLogger(disk))
    gate = GatedCheckpoint("val_loss", at_least={"val_acc": 0.0}, dirpath=disk / "kept")
    outcome = train([Fills(disk), *monitors(sinks=[sink]), gate], tmp_path)
    assert outcome.raised is None
    assert outcome.weights == train([], tmp_path).weights
    assert outcome.hooks == 0
    told = [text for text in outcome.said if NO_ROOM in text]
    assert {text.split(" ")[0].split("(")[0].rstrip(",") for text in told} == {*MONITORS, "GatedCheckpoint"}
    assert errors(outcome) == [0, 0, *[len(MONITORS) + 1] * (LOOKS - 2)]
    assert [torch.load(path, weights_only=True)["epoch"] for path in (gate.best_model_path, gate.last_model_path)] == [
        0,
        0,
    ]
    # a last line without its end is repaired by the next one that finds room
    lines = (disk / "kept" / "gate_audit.jsonl").read_text().split("\n")[:-1]
    first, *others = [json.loads(line)["gate"] for line in lines]
    assert first == "open"
    assert set(others) <= {"closed"}
    assert list((disk / "kept").glob("*.tmp")) == []


@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
def test_numbers_of_lightnings_own_on_a_full_disk_end_the_training_watched_or_not(
    watched: bool, disk: Path, tmp_path: Path
) -> None:
    """Law 8: the error is one of Lightning's own call of its logger, and nothing of ours stands between."""
    fills, logger = Fills(disk), TensorBoardLogger(disk)
    ours = [*monitors(), GatedCheckpoint("val_loss", at_least={"val_acc": 0.0}, dirpath=tmp_path / "kept")]
    outcome = train([fills, *(ours if watched else [])], tmp_path, logger=[logger])
    assert isinstance(outcome.raised, OSError)
    assert outcome.raised.errno == errno.ENOSPC
    assert outcome.raised.__context__ is not None
    told = [outcome.raised, outcome.raised.__context__]
    files = [frame.filename for error in told for frame in traceback.extract_tb(error.__traceback__)]
    assert any(name.endswith("pytorch_lightning/loggers/tensorboard.py") for name in files)
    assert not any(name.startswith(PACKAGE) for name in files)
    assert (fills.looks, outcome.hooks, outcome.said) == (2, 0, [])
