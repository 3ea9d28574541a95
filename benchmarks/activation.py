"""Time and memory of activation statistics: validations with and without them, and compared with storing all outputs.

    python benchmarks/activation.py [--repeats 9] [--batches 200] [--threads 2] [--operations]

On the network of the MNIST example (200 batches of 250 digits) and on one with the shape of ResNet-18 (12 batches of
32 x 3 x 96 x 96, since a batch takes 70 times as long).
Ratios are medians over alternating repeats of the time between the start and the end of a validation, including all
logging. "Stored" keeps every output of the same layers and computes the same numbers at the end of the epoch, as in a
straightforward implementation. The fixed cost of a validation, whatever its length, is reported separately: it is
mostly Lightning's logging. The growth of peak memory is measured in a separate process. ``--operations`` runs as if
numba were not installed.
"""

import argparse
import logging
import math
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from networks import residual

from mnist_shortcut import Reader
from xai_lightning import ActivationMonitor
from xai_lightning.functional.activation import fused

EVERY_LAYER = 10_000
SETTINGS: dict[str, dict[str, Any] | None] = {
    "without": None,
    "default set": {},
    "everything cheap": {"statistics": "cheap", "max_layers": EVERY_LAYER},
    "share=0.1": {"statistics": "cheap", "max_layers": EVERY_LAYER, "share": 0.1},
}
AIMS = {"default set": 1.15, "everything cheap": 1.5, "share=0.1": 1.1}


class Images(pl.LightningModule):
    """Validates the larger network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = residual()

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))


class Stored(pl.Callback):
    """Keeps every output, and reduces them at the end of the epoch.

    Args:
        settings: settings of the monitor whose layers and numbers it shares.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.kept, self.handles = settings, {}, []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        monitor = ActivationMonitor(**self.settings)
        monitor._set_up(trainer, pl_module)
        self.kept = {layer.name: [] for layer in monitor._layers}
        for name, outputs in self.kept.items():
            hook = lambda module, args, output, outputs=outputs: outputs.append(output.detach().clone())  # noqa: E731
            self.handles.append(pl_module.get_submodule(name).register_forward_hook(hook))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for handle in self.handles:
            handle.remove()
        for name, outputs in self.kept.items():
            self.log_dict({f"{name}/{key}": value for key, value in self.numbers(torch.cat(outputs)).items()})
        self.kept = {}

    def numbers(self, h: Tensor) -> dict[str, Tensor]:
        dims = [d for d in range(h.dim()) if d != 1]
        wide = h.double()
        found = {"mean": wide.mean(), "std": wide.std(), "rms": wide.square().mean().sqrt(), "abs": wide.abs().mean()}
        found |= {"minimum": h.min(), "maximum": h.max(), "zeros": (h == 0).double().mean()}
        found |= {"positives": (h > 0).double().mean(), "dead": (h.amax(dims) <= 0).double().mean()}
        if "statistics" in self.settings:
            z = (wide - wide.mean()) / wide.std()
            size, norm, units = wide.abs().sum(1), wide.square().sum(1).sqrt(), h.shape[1] ** 0.5
            found |= {"skew": (z**3).mean(), "kurtosis": (z**4).mean()}
            found["hoyer"] = ((units - size / norm) / (units - 1)).nanmean()
            torch.histogram(h.float().cpu(), 64)
        return found


class Clock(pl.Callback):
    """First in the list: records when the validation began."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = time.perf_counter()


class Bell(pl.Callback):
    """Last in the list: measures how long the validation took.

    Args:
        clock: the first callback.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.clock.began


class Windows(Dataset[Any]):
    """Overlapping rows of one long tensor: all are different, and those of long validations fit into memory.

    Args:
        x: the tensor.
        shape: shape of a row.
        length: number of rows.
    """

    def __init__(self, x: Tensor, shape: tuple[int, ...], length: int) -> None:
        self.rows, self.shape = x.unfold(0, math.prod(shape), 97)[:length], shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index].view(self.shape), index % 10


def problem(name: str, batches: int) -> tuple[pl.LightningModule, DataLoader[Any]]:
    """A model and its validation data."""
    torch.manual_seed(0)
    model = Reader() if name == "MNIST" else Images()
    size, shape = (250, (1, 28, 28)) if name == "MNIST" else (32, (3, 96, 96))
    x = torch.rand(97 * size * batches + math.prod(shape))
    return model, DataLoader(Windows(x, shape, size * batches), batch_size=size)


def seconds(model: pl.LightningModule, loader: DataLoader[Any], watching: list[pl.Callback]) -> float:
    """Time of one validation."""
    clock = Clock()
    bell = Bell(clock)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", callbacks=[clock, *watching, bell], logger=False, **quiet)
    trainer.validate(model, loader, verbose=False)
    return bell.seconds


def watchers(settings: dict[str, Any] | None) -> list[pl.Callback]:
    return [] if settings is None else [ActivationMonitor(**settings)]


def times(name: str, batches: int, repeats: int) -> dict[str, list[float]]:
    """Seconds for each setting, in alternating repeats."""
    model, loader = problem(name, batches)
    found: dict[str, list[float]] = {label: [] for label in SETTINGS}
    for _ in range(repeats + 1):
        for label, settings in SETTINGS.items():
            found[label].append(seconds(model, loader, watchers(settings)))
    return {label: values[1:] for label, values in found.items()}


def extra(model: pl.LightningModule, loader: DataLoader[Any], settings: dict[str, Any]) -> tuple[float, float]:
    """Extra seconds that the monitor takes, and that storing takes."""
    plain = seconds(model, loader, [])
    return seconds(model, loader, watchers(settings)) - plain, seconds(model, loader, [Stored(settings)]) - plain


def compare(name: str, batches: int, repeats: int) -> None:
    """Print the ratios for one network."""
    short, long = times(name, 2, repeats), times(name, batches, repeats)
    for label, aim in AIMS.items():
        ratio = statistics.median(a / b for a, b in zip(long[label], long["without"], strict=True))
        once, more = (statistics.median(t[label]) - statistics.median(t["without"]) for t in (short, long))
        each = (more - once) / (batches - 2)
        milliseconds = f"{1e3 * (once - 2 * each):.1f} ms once and {1e3 * each:.2f} ms per batch"
        print(f"{name}, {batches} batches, {label}: {ratio:.2f} times (aim {aim}); {milliseconds}", flush=True)
    model, loader = problem(name, batches)
    for label in ("default set", "everything cheap"):
        pairs = [extra(model, loader, SETTINGS[label] or {}) for _ in range(repeats)]
        ours, stored = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name}, {label}: {ours / stored:.2f} of the extra time of storing (aim 0.5)", flush=True)


def peak(batches: int) -> None:
    """Print the peak memory of this process, in MB, after a validation of ``batches`` batches."""
    model, loader = problem("ResNet-18", batches)
    seconds(model, loader, watchers(SETTINGS["everything cheap"]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main() -> None:
    """Print one line per network and setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batches", type=int, default=200, help="on MNIST; on ResNet-18 sixteen times fewer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--operations", action="store_true", help="as where numba is not installed")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    if given.operations:
        fused.takes = lambda values: False
    if given.peak:
        peak(given.peak)
        return
    # first, since a process inherits the peak of the one that started it
    sizes = {}
    for batches in (2, 200):
        command = [sys.executable, __file__, "--peak", str(batches), "--threads", str(given.threads)]
        command += ["--operations"] * given.operations
        sizes[batches] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    print(f"ResNet-18, everything cheap, peak memory after 2 and 200 batches: {' and '.join(sizes.values())} MB")
    for name, batches in (("MNIST", given.batches), ("ResNet-18", max(given.batches // 16, 4))):
        compare(name, batches, given.repeats)


if __name__ == "__main__":
    main()
