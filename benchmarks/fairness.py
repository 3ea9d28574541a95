"""Time of fairness statistics compared with fairlearn's, and the time that counting adds to a validation epoch.

    python benchmarks/fairness.py [--rows 10000000] [--repeats 5] [--validations 60] [--skip memory|fairlearn|epoch ...]

Everything is measured in one run, with one thread, two classes and four groups. Ours: the rows are counted in batches
of 65,536, then every metric of counts is estimated, with its interval and its bound; medians of repeats. Peak memory is
that of a fresh process which generates its batches on the fly. fairlearn: `MetricFrame` of the plain rates it has, on
the same rows, once; it computes no bounds without a bootstrap. One of its replicates is timed on a tenth of the rows,
and the time of a thousand, which would take days, is extrapolated from that: the time of the whole frame, multiplied by
one plus a thousand times the replicate's share of the smaller frame's time.

The epoch is `Trainer.validate` of the MNIST example's network on its 1,000 digits, alternately with and without a
monitor of two groups. Separate clocks measure adding the counts; everything done for them in each batch (listening to
the network, reading, judging, adding); and the work done once at the end (statistics, and logging them).
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from adult_income import quiet
from mnist_data import planted, read_digits, validation_loader
from mnist_shortcut import Reader
from xai_lightning import FairnessMonitor
from xai_lightning.callbacks._fairness.tally import Tally
from xai_lightning.callbacks._fairness.waiting import Waiting
from xai_lightning.functional.fairness import METRICS, confusion, count, estimate, is_resampled

BATCH, GROUPS, REPLICATES = 65_536, 4, 1000
ERROR = 0.001
COUNTED = [name for name, metric in METRICS.items() if metric.needs == "counts"]
CLOSED = [name for name in COUNTED if not is_resampled(METRICS[name])]


def batches(rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of predictions, targets and groups, drawn on the fly."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, rows, BATCH):
        n = min(BATCH, rows - start)
        groups = torch.randint(GROUPS, (n,), generator=generator)
        targets = (torch.rand(n, generator=generator) < 0.3 + 0.1 * groups).long()
        yield (torch.rand(n, generator=generator) < 0.2 + 0.5 * targets).long(), targets, groups


def counts_of(stream: Iterator[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The summed counts of all batches."""
    total = torch.zeros(GROUPS, 2, 2, dtype=torch.int64)
    for predictions, targets, groups in stream:
        total += count(predictions, targets, groups, classes=2, n_groups=GROUPS)
    return total


def estimated(counts: Tensor, names: list[str]) -> None:
    """Estimate the value, interval and bound of each metric."""
    evidence = confusion(counts, positive=1)
    for name in names:
        estimate(METRICS[name], evidence, error=ERROR, replicates=REPLICATES)


def seconds(action: Callable[[], Any]) -> float:
    """Time of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


# --- memory


def peak(rows: int) -> tuple[float, float]:
    """Peak memory of this process, in MB, before and after all statistics of ``rows`` rows."""
    torch.set_num_threads(1)
    estimated(counts_of(batches(BATCH)), COUNTED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    estimated(counts_of(batches(rows)), COUNTED)
    return before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(rows: int) -> None:
    """Print the peak memory for a tenth of the rows, and for all of them."""
    for n in (rows // 10, rows):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, after = pool.apply(peak, (n,))
        print(f"memory: peak {after:.1f} MB after {n:,} rows, {before:.1f} MB after one batch", flush=True)


# --- fairlearn


def frame(rows: list[np.ndarray], replicates: int | None = None) -> Any:
    """fairlearn's frame of the plain rates that it has."""
    from fairlearn import metrics as peer
    from sklearn.metrics import accuracy_score, precision_score

    rates = [peer.selection_rate, peer.true_positive_rate, peer.false_positive_rate, peer.false_negative_rate]
    named = {rate.__name__: rate for rate in (*rates, peer.true_negative_rate, accuracy_score, precision_score)}
    more: dict[str, Any] = {}
    if replicates is not None:
        more = {"n_boot": replicates, "ci_quantiles": [0.025, 0.975], "random_state": 0}
    predictions, targets, groups = rows
    found = peer.MetricFrame(metrics=named, y_true=targets, y_pred=predictions, sensitive_features=groups, **more)
    for method in ("between_groups", "to_overall"):
        found.difference(method=method), found.ratio(method=method)
    return found


def beside(rows: int, repeats: int, *, peer: bool) -> None:
    """Print the time of this package, and fairlearn's for the same rows."""
    columns = [torch.cat(parts) for parts in zip(*batches(rows), strict=True)]

    def counted() -> Tensor:
        return counts_of(zip(*(column.split(BATCH) for column in columns), strict=True))

    counts = counted()
    actions = {
        "counting": counted,
        "closed": lambda: estimated(counts, CLOSED),
        "all": lambda: estimated(counts, COUNTED),
    }
    taken = [{name: seconds(action) for name, action in actions.items()} for _ in range(repeats)]
    median = {name: statistics.median(times[name] for times in taken) for name in actions}
    plain, resampled = (median["counting"] + median[name] for name in ("closed", "all"))
    print(f"ours: {rows:,} rows counted in {median['counting']:.3f} s", flush=True)
    print(f"ours: and {len(CLOSED)} metrics with bounds in closed form: {plain:.3f} s")
    print(f"ours: and all {len(COUNTED)}, the others of {REPLICATES:,} replicates: {resampled:.3f} s", flush=True)
    if not peer:
        return
    arrays = [column.numpy() for column in columns]
    fewer = [array[: rows // 10] for array in arrays]
    once, one = seconds(lambda: frame(fewer)), seconds(lambda: frame(fewer, 1))
    share = (one - once) / once
    print(f"fairlearn: {rows // 10:,} rows, 7 rates: {once:.1f} s; one replicate more: {share:.2f} of that", flush=True)
    whole = seconds(lambda: frame(arrays))
    print(f"fairlearn: {rows:,} rows, 7 rates: {whole:.1f} s, {whole / plain:,.0f} times ours in closed form")
    many = whole * (1 + REPLICATES * share)
    told = f"{many:,.0f} s, {many / resampled:,.0f} times ours"
    print(f"fairlearn: with {REPLICATES:,} replicates, reckoned and not measured: {told}", flush=True)


# --- an epoch


class Stopwatch:
    """Adds up the time inside functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: object, *names: str) -> None:
        """Measure the time of methods of ``owner`` from now on."""
        for name in names:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        name = f"{function.__module__}.{function.__name__}"

        @wraps(function)
        def timed(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        return timed

    def within(self, *parts: str) -> float:
        """Seconds spent in functions whose name ends with one of ``parts``."""
        return sum(taken for name, taken in self.seconds.items() if name.endswith(parts))


def trainer_with(*callbacks: pl.Callback) -> pl.Trainer:
    """A Trainer that only validates."""
    return pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def epoch(validations: int) -> None:
    """Print the shares of a validation epoch that counting and statistics take."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    _, digits = read_digits()
    size = validation_loader(digits).batch_size
    sex = torch.randint(2, digits.labels.shape, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(planted(*digits), digits.labels, sex), batch_size=size)
    monitor = FairnessMonitor({"sex": ["Female", "Male"]}, positive_class=1, pictures=False)
    watch = Stopwatch()
    watch.watch(monitor, "on_validation_batch_start", "on_validation_batch_end", "on_validation_epoch_end")
    watch.watch(Waiting, "add", "take")
    watch.watch(Tally, "add")
    taken = []
    with quiet():
        model, without, having = Reader(), trainer_with(), trainer_with(monitor)
        for _ in range(validations):
            watch.seconds.clear()
            bare, full = (seconds(lambda t=t: t.validate(model, loader, verbose=False)) for t in (without, having))
            # counts that are added only at the end of the epoch are not part of its statistics
            late = watch.within(".waiting.take", ".tally.add")
            hooks, ending = watch.within("batch_start", "batch_end") + late, watch.within("epoch_end") - late
            taken.append((bare, full, late + watch.within(".waiting.add"), hooks, ending))
    bare, full, adding, hooks, ending = (statistics.median(column) for column in zip(*taken, strict=True))
    print(f"epoch: {1e3 * bare:.2f} ms without the monitor, {1e3 * full:.2f} ms with it; medians of {validations}")
    print(f"epoch: adding counts {1e3 * adding:.2f} ms, {adding / bare:.1%} of the epoch")
    print(f"epoch: all of counting (listening, reading, judging, adding) {1e3 * hooks:.2f} ms, {hooks / bare:.1%}")
    print(f"epoch: statistics at its end {1e3 * ending:.2f} ms, {ending / bare:.1%}, whatever the number of rows")


def main() -> None:
    """Run the benchmark and print its lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--validations", type=int, default=60)
    parser.add_argument("--skip", nargs="*", default=[], choices=["memory", "fairlearn", "epoch"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    if "memory" not in given.skip:
        memory(given.rows)
    if "epoch" not in given.skip:
        epoch(given.validations)
    beside(given.rows, given.repeats, peer="fairlearn" not in given.skip)


if __name__ == "__main__":
    main()
