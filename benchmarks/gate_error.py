"""How often the gate opens for an unfair model, and how often for a nearly fair one.

    python benchmarks/gate_error.py [--seed 0] [--runs 2000] [--power-runs 500]

A run is 50 validations of two groups on the same rows. From one validation to the next, each prediction is redrawn with
probability ``change`` from its group's true selection rate, so that every model has the same true gap and successive
models share most of their predictions. The benchmark measures whether the gate opens at any validation (error), or at
one of the first five (power).

The decision is made by the shipped code: `FairnessMonitor` divides its error probability and draws conclusions from
counts, and `functional.gate` compares these with the limit; only the Trainer's loop and the network are left out. For
comparison, on the same counts: a gate on the plain value, and one on the bound at the full error probability at every
validation. The utility floor is left out, since it can only close a gate. Every target is 1, since demographic parity
ignores targets; there are then so few distinct counts that each is evaluated only once.
"""

import argparse
import sys
import time
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning import FairnessMonitor
from xai_lightning.callbacks._fairness.tally import Tally
from xai_lightning.callbacks._record import Look
from xai_lightning.functional import fairness, gate

METRIC = "fairness/sex/demographic_parity_difference"
LIMIT, DELTA, HORIZON, SOON = 0.10, 0.05, 50, 5
GATES = ("shipped", "point estimate", "bound at delta")


class World(NamedTuple):
    """The simulated truth.

    Args:
        rates: selection rates of the two groups.
        size: rows per group.
        change: probability that a prediction is redrawn from one validation to the next.
    """

    rates: tuple[float, float]
    size: int
    change: float


class Gates:
    """The three gates; each pair of counts and error is evaluated only once."""

    def __init__(self) -> None:
        names = [METRIC.rpartition("/")[2]]
        self.monitor = FairnessMonitor(
            {"sex": ["Female", "Male"]}, metrics=names, delta=DELTA, horizon=HORIZON, pictures=False
        )
        self._limits = {part: gate.limits(at_most={f"{METRIC}/{part}": LIMIT}) for part in ("value", "bound")}
        self._known: dict[tuple[object, ...], tuple[bool, bool]] = {}

    def errors(self) -> list[float]:
        """The error that each validation of a ``fit`` may spend, as the monitor divides it."""
        spending = self.monitor._spending
        spending.spent = 0.0
        found = []
        for number in range(1, HORIZON + 1):
            spending.spend(Look("fit", False, number, {}, True))
            found.append(spending.error)
        return found

    def open(self, counts: Tensor, error: float) -> tuple[bool, bool]:
        """Whether the value and the bound of ``counts``, int64[R, 2, 2] in the monitor's rows, pass the limit."""
        key = (error, *counts.flatten().tolist())
        if key not in self._known:
            shared = self.monitor._concluded(Tally(counts={"sex": counts}, n_classes=2), error).record.shared
            verdicts = [gate.decide(limits, shared, shared) for limits in self._limits.values()]
            self._known[key] = verdicts[0].open, verdicts[1].open
        return self._known[key]


def counted(world: World, generator: torch.Generator) -> Tensor:
    """Counts of all validations of one run, int64[T, R, 2, 2]; the last rows are for samples without a group."""
    rates = torch.tensor(world.rates).repeat_interleave(world.size)
    predictions = torch.empty(HORIZON, len(rates), dtype=torch.int64)
    now = torch.rand(len(rates), generator=generator) < rates
    for t in range(HORIZON):
        predictions[t] = now
        fresh = torch.rand(len(rates), generator=generator) < rates
        now = torch.where(torch.rand(len(rates), generator=generator) < world.change, fresh, now)
    places = torch.arange(2).repeat_interleave(world.size) + 4 * torch.arange(HORIZON)[:, None]
    targets = torch.ones_like(predictions)
    return fairness.count(predictions, targets, places, classes=2, n_groups=4 * HORIZON).reshape(HORIZON, 4, 2, 2)


def opened(gates: Gates, world: World, seed: int) -> list[int]:
    """The first validation at which each of the three gates opens in one run; one after the last if it never does."""
    generator = torch.Generator().manual_seed(seed)
    first = [HORIZON + 1] * len(GATES)
    for t, (counts, error) in enumerate(zip(counted(world, generator), gates.errors(), strict=True), start=1):
        value, bound = gates.open(counts, error)
        for i, passed in enumerate((bound, value, gates.open(counts, DELTA)[1])):
            first[i] = min(first[i], t) if passed else first[i]
    return first


def shares(gates: Gates, world: World, runs: int, seed: int, by: int) -> list[float]:
    """Share of runs in which each gate has opened by validation ``by``."""
    firsts = torch.tensor([opened(gates, world, seed + run) for run in range(runs)])
    return (firsts <= by).double().mean(dim=0).tolist()


def main() -> int:
    """Print the table; fails if a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--power-runs", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    unfair, barely, fair = (0.46, 0.34), (0.4505, 0.3495), (0.41, 0.39)
    asked = (
        ("error", World(unfair, 500, 0.05), given.runs, HORIZON, "at most", 0.05),
        ("error", World(unfair, 500, 0.30), given.runs, HORIZON, "at most", 0.05),
        ("error", World(barely, 500, 1.00), given.runs, HORIZON, "at most", 0.05),
        ("power", World(fair, 2000, 0.05), given.power_runs, SOON, "at least", 0.95),
        ("power", World(fair, 2000, 0.30), given.power_runs, SOON, "at least", 0.95),
        ("power", World(fair, 1149, 0.05), given.power_runs, SOON, "at least", 0.75),
        ("power", World(fair, 1149, 0.30), given.power_runs, SOON, "at least", 0.75),
    )
    gates, kept = Gates(), True
    print(f"limit {LIMIT} on {METRIC}, delta {DELTA}, {HORIZON} validations; share of the runs in which a gate opened")
    for i, (kind, world, runs, by, side, promise) in enumerate(asked):
        began = time.perf_counter()
        found = shares(gates, world, runs, given.seed + 1_000_000 * i, by)
        holds = found[0] <= promise if side == "at most" else found[0] >= promise
        kept &= holds
        gap = world.rates[0] - world.rates[1]
        told = ", ".join(f"{name} {share:.4f}" for name, share in zip(GATES, found, strict=True))
        print(
            f"{kind}: gap {gap:.3g}, {world.size} per group, {world.change:.0%} drawn anew, by validation {by}, {runs} "
            f"runs: {told}; asked of the shipped {side} {promise:.2f}: {'kept' if holds else 'BROKEN'} "
            f"({time.perf_counter() - began:.0f} s)",
            flush=True,
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
