"""How much of the training time explanations take when `max_overhead` limits their share.

    python benchmarks/overhead.py [--share 0.05] [--validations 600]

The network and data of the MNIST example, with a validation every eight steps, including TensorBoard pictures. The time
inside every hook of the monitor is measured from outside, by a separate clock, and divided by the time of `fit`; the
picture of all validations, which is drawn once when training has ended, is reported separately. For comparison, the
same training without the limit, and without the monitor.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from adult_income import quiet
from mnist_data import read_digits, training_loader, validation_loader
from mnist_shortcut import EVERY, Reader
from xai_lightning import AttributionMonitor, MemorySink


class Stopwatch:
    """Adds up the time inside all hooks of a callback.

    Args:
        callback: the callback whose hooks are wrapped.
    """

    def __init__(self, callback: pl.Callback) -> None:
        self.seconds = self.ending = 0.0
        for name in dir(callback):
            if name.startswith("on_"):
                setattr(callback, name, self._timed(getattr(callback, name)))

    def _timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(hook)
        def timed(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return hook(*args, **more)
            finally:
                if hook.__name__ == "on_train_end":
                    self.ending += time.perf_counter() - began
                else:
                    self.seconds += time.perf_counter() - began

        return timed


def train(validations: int, monitor: AttributionMonitor | None) -> tuple[float, float, float]:
    """Seconds of ``fit``, those inside the monitor's hooks during it, and those inside its hook at the end."""
    pl.seed_everything(0, verbose=False)
    training, validation = read_digits()
    watch = None if monitor is None else Stopwatch(monitor)
    with tempfile.TemporaryDirectory() as folder, quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*", UserWarning)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=EVERY * validations,
            val_check_interval=EVERY,
            check_val_every_n_epoch=None,
            callbacks=[] if monitor is None else [monitor],
            logger=TensorBoardLogger(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
        )
        loaders = training_loader(training, (0.0, 0.0), 0), validation_loader(validation)
        began = time.perf_counter()
        trainer.fit(Reader(), *loaders)
        total = time.perf_counter() - began
        return (total, 0.0, 0.0) if watch is None else (total, watch.seconds, watch.ending)


def main() -> None:
    """Print one line per training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--validations", type=int, default=600)
    given = parser.parse_args()
    torch.set_num_threads(2)
    for label, share, count in (
        ("without a monitor", None, given.validations),
        ("explained at every validation", None, given.validations // 10),
        ("held", given.share, given.validations),
    ):
        sink = MemorySink()
        settings: dict[str, Any] = {"max_overhead": share, "sinks": [sink]}
        monitor = None if label == "without a monitor" else AttributionMonitor("integrated_gradients", **settings)
        total, inside, ending = train(count, monitor)
        explained = sum(name.endswith("probe_size") for _, name, _ in sink.records)
        ratio = f", {inside / total / given.share:.2f} times the share of {given.share:.0%}" if share else ""
        seen = f"{explained} of {count} explained; {ending:.2f} s at the end"
        print(f"{label}: {total:.1f} s, {inside / total:.1%} of it explaining{ratio}; {seen}", flush=True)


if __name__ == "__main__":
    main()
