"""Trainings that are killed at a given moment and resumed, for test_restarts.py.

One process imports everything once and forks per training, so that a killed training costs a second. It reads one JSON
object per line (``folder``, ``kill``, and settings of `train`) and answers each with the exit status of its fork.

Usage: python restarted_run.py
"""

import builtins
import errno
import fnmatch
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.utils.tensorboard
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from torch import nn
from torch.utils.data import Sampler

sys.path.insert(0, str(Path(__file__).parent))
from small import Classifier, loader, network, rows, trainer
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, purge_step

EPOCHS = 6
METRICS = ["demographic_parity_difference", "equal_opportunity_difference"]
LIMITS = {"val_loss": 0.705, "fairness/sex/demographic_parity_difference/value": 0.13}
HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
)


class Shuffled(Sampler[int]):
    """An order that is a function of the seed and the epoch, which Lightning tells it."""

    def __init__(self, length: int, seed: int = 0) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        return iter(torch.randperm(self.length, generator=generator).tolist())


class Lines(Logger):
    """Appends every number to a file of its own, at once, with the process that logged it."""

    name, version = "lines", 0

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.path.open("a") as stream:
            stream.write("".join(f"\n{json.dumps([os.getpid(), step, *item])}\n" for item in metrics.items()))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to keep."""


def kill() -> None:
    """End this process as the kernel does when memory runs out: no handler, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


class Moments(pl.Callback):
    """Kills at the n-th call of a hook, all hooks counted together."""

    def __init__(self, at: int) -> None:
        self.at = at

    def count(self, *args: Any, **kwargs: Any) -> None:
        self.at -= 1
        if self.at == 0:
            kill()


for hook in HOOKS:
    setattr(Moments, hook, Moments.count)


class Torn:
    """A file of which a write ends after so many bytes, and with it the process."""

    def __init__(self, stream: Any, byte: int) -> None:
        self.stream, self.byte = stream, byte

    def write(self, data: Any) -> int:
        self.stream.write(data[: self.byte])
        self.stream.flush()
        kill()
        return 0

    def writelines(self, lines: Iterable[bytes]) -> None:
        self.write(b"".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *args: object) -> None:
        self.stream.close()


def counted(pattern: str, nth: int) -> Callable[[Any], bool]:
    """Whether a path is the n-th one whose name fits."""
    left = nth

    def hit(path: Any) -> bool:
        nonlocal left
        fits = fnmatch.fnmatch(Path(str(path)).name, pattern)
        left -= fits
        return fits and left == 0

    return hit


def kill_in_write(file: str, nth: int, byte: int) -> None:
    """Kill within the n-th opening for writing of a file whose name fits, once ``byte`` bytes are on the disk."""
    original, hit = io.open, counted(file, nth)

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        stream = original(path, mode, *args, **kwargs)
        return Torn(stream, byte) if set(mode) & set("wax") and hit(path) else stream

    io.open = builtins.open = opened


def kill_at_change(file: str, nth: int, when: str) -> None:
    """Kill right before or after the n-th time that a file whose name fits is put in its place, or removed."""

    def wrapped(original: Callable[..., Any], place: int, hit: Callable[[Any], bool]) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            due = hit(args[place])
            if due and when == "before":
                kill()
            done = original(*args, **kwargs)
            if due:
                kill()
            return done

        return act

    hit = counted(file, nth)
    for name, place in (("replace", 1), ("rename", 1), ("remove", 0), ("unlink", 0)):
        setattr(os, name, wrapped(getattr(os, name), place, hit))


def another_disk() -> None:
    """Let the folder for temporary files be on another disk, so that moving a file from there copies it."""
    original = os.rename

    def rename(source: Any, target: Any, **kwargs: Any) -> None:
        if Path(source).parent == Path(tempfile.gettempdir()):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        original(source, target, **kwargs)

    os.rename = rename
    shutil._USE_CP_SENDFILE = False


def prepare(moment: Mapping[str, Any] | None) -> list[pl.Callback]:
    """Make the moment certain; callbacks that do."""
    if moment is None:
        return []
    if "hook" in moment:
        return [Moments(moment["hook"])]
    if moment.get("another_disk"):
        another_disk()
    place = {key: moment[key] for key in ("file", "nth")}
    if "byte" in moment:
        kill_in_write(**place, byte=moment["byte"])
    else:
        kill_at_change(**place, when=moment["when"])
    return []


def plain_network() -> nn.Module:
    """Without dropout, which would draw from a generator that Lightning does not save."""
    return nn.Sequential(*(layer for layer in network() if not isinstance(layer, nn.Dropout)))


def watching(folder: Path, settings: Mapping[str, Any]) -> list[pl.Callback]:
    """All monitors, and a gate: closed twice with ever better fallbacks, open twice with ever better models, closed."""
    groups = {"sex": ["Female", "Male"]}
    made: dict[str, Any] = {
        "maps": AttributionMonitor(
            "gradient_shap",
            options={"n_samples": 4},
            measures=["cosine"],
            groups=groups,
            probe_size=8,
            best_of=("val_loss", "min"),
            seed=5,
        ),
        "neurons": ActivationMonitor(representation=True, probe_size=16, groups=groups),
        "fairness": FairnessMonitor(groups, metrics=METRICS),
        "gate": GatedCheckpoint(
            "val_loss",
            dirpath=folder / "checkpoints",
            at_most=settings.get("limits", LIMITS),
            utility_floor=False,
            save_top_k=settings.get("save_top_k", 1),
            fallback="least_violation",
        ),
    }
    chosen = [made[name] for name in settings.get("callbacks", made)]
    if settings.get("another_gate"):
        also = {"dirpath": folder / "checkpoints", "filename": "newest-{epoch}", "name": "newest"}
        chosen.append(GatedCheckpoint(at_least={"val_acc": 0.0}, **also))
    return chosen


def train(folder: Path, moment: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
    """One training in ``folder``, resumed if there is something to resume from."""
    pl.seed_everything(0, verbose=False)
    checkpoints = folder / "checkpoints"
    if settings.get("watched", True):
        callbacks = watching(folder, settings)
    else:
        callbacks = [ModelCheckpoint(checkpoints, save_last=True, save_on_train_epoch_end=False)]
    tensorboard = TensorBoardLogger(folder, name="board", version=0, purge_step=purge_step(checkpoints / "last.ckpt"))
    train = loader(rows(64), sampler=Shuffled(64))
    made = trainer(
        [*callbacks, *prepare(moment)],
        folder,
        max_epochs=settings.get("epochs", EPOCHS),
        **settings.get("options", {}),
        logger=[tensorboard, Lines(folder / "lines.jsonl")],
    )
    model = Classifier(net=plain_network, lr=settings.get("lr", 0.02))
    made.fit(model, train, loader(rows(seed=settings.get("data", 1))), ckpt_path=settings.get("resume", "last"))
    torch.save(made.strategy.lightning_module_state_dict(), folder / "weights.pt")


def run(order: Mapping[str, Any]) -> int:
    """The exit status of a fork that trains; negative if it was killed."""
    folder = Path(order["folder"])
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    warnings.simplefilter("default")
    try:
        train(folder, order.get("kill"), order)
    except BaseException:  # noqa: BLE001 - the fork must not go on as a second server
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for text in sys.stdin:
        sys.__stdout__.write(f"{run(json.loads(text))}\n")
        sys.__stdout__.flush()
