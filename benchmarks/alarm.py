"""How often the drift alarm rings falsely, and how often it finds a jump.

    python benchmarks/alarm.py [--seed 0] [--runs 2000]

A run is a course of log drift: a curve plus autocorrelated noise with a standard deviation of 0.3. Without a jump,
every alarm is false; the benchmark measures whether there is one within 50 validations, and within 200. A jump is
sixfold, as in the example that switches (`examples/mnist_shortcut.py`), and stays or lasts for one validation; the
benchmark measures whether the alarm rings at one of the three validations from the jump on. The alarm is the shipped
`functional.drift.advance`; only the network and its explanations are left out. Takes ten minutes on two cores.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional import drift

DEVIATION, JUMP, SOON = 0.3, math.log(6), 3
SHORT, LONG = 50, 200

Noise = Callable[[tuple[int, int], torch.Generator], Tensor]


def normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Normal noise."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def heavy(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Student's distribution with five degrees of freedom, in units of its standard deviation."""
    squares = sum(normal(shape, generator) ** 2 for _ in range(5))
    return normal(shape, generator) / torch.as_tensor(squares / 5).sqrt() / math.sqrt(5 / 3)


def skewed(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Gumbel's distribution of maxima, centred and in units of its standard deviation; its upper tail is the longer."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(min=1e-300)
    return (-(-uniform.log()).log() - 0.5772156649) / math.sqrt(math.pi**2 / 6)


CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "level": lambda t: 0 * t,
    "falling by 2 % each": lambda t: -0.02 * t,
    "falling by 10 % each": lambda t: -0.1 * t,
    "falling by 10 % each to a floor": lambda t: ((-0.1 * t).exp() + 0.05).log(),
    "falling as 1/t": lambda t: -t.log(),
    "falling as 1/t^2": lambda t: -2 * t.log(),
    "falling as 1/t to a floor": lambda t: (1 / t + 0.05).log(),
}
NOISES: dict[str, Noise] = {"normal": normal, "heavy-tailed": heavy, "skewed": skewed}


class World(NamedTuple):
    """The simulated truth.

    Args:
        carried: correlation of each value of the noise with the previous one.
        curve: a key of `CURVES`.
        noise: a key of `NOISES`.
    """

    carried: float
    curve: str = "level"
    noise: str = "normal"

    def courses(self, runs: int, length: int, seed: int) -> Tensor:
        """The log drift of all runs, float64[R, T]."""
        fresh = NOISES[self.noise]((runs, length), torch.Generator().manual_seed(seed))
        found = fresh.clone()
        for t in range(1, length):
            found[:, t] = self.carried * found[:, t - 1] + math.sqrt(1 - self.carried**2) * fresh[:, t]
        return DEVIATION * found + CURVES[self.curve](torch.arange(1, length + 1, dtype=torch.float64))

    def __str__(self) -> str:
        return f"{self.curve}, {self.noise} noise, correlation {self.carried:g}"


def rings(course: Sequence[float]) -> list[int]:
    """Numbers of the validations at which the alarm rings."""
    state, found = drift.Cusum(), []
    for number, value in enumerate(course, start=1):
        state = drift.advance(state, math.exp(value), 1)
        found += [number] if state.alarm else []
    return found


def all_rings(courses: Tensor) -> Iterable[list[int]]:
    """The `rings` of each run, computed in as many processes as there are cores."""
    with ProcessPoolExecutor() as processes:
        return list(processes.map(rings, courses.tolist(), chunksize=50))


def false_alarms(world: World, runs: int, seed: int) -> tuple[float, float]:
    """Share of runs without a jump in which the alarm rings within 50 validations, and within 200."""
    firsts = [min(found, default=LONG + 1) for found in all_rings(world.courses(runs, LONG, seed))]
    return sum(first <= SHORT for first in firsts) / runs, sum(first <= LONG for first in firsts) / runs


def jumps_found(world: World, at: Sequence[int], runs: int, seed: int, *, stays: bool = True) -> float:
    """Share of runs in which the last of the jumps, at the validations ``at``, is found within three validations."""
    last = at[-1]
    courses = world.courses(runs, last + SOON - 1, seed)
    for jump in at:
        courses[:, jump - 1 : None if stays else jump] += JUMP
    return sum(any(ring >= last for ring in found) for found in all_rings(courses)) / runs


def report(what: str, found: Sequence[float], promise: float | None, side: str) -> bool:
    """Print one line; returns whether the first share keeps the promise."""
    kept = promise is None or (found[0] <= promise if side == "at most" else found[0] >= promise)
    asked = "" if promise is None else f"; asked {side} {promise:.2f}: {'kept' if kept else 'BROKEN'}"
    print(f"{what}: {', '.join(f'{share:.4f}' for share in found)}{asked}", flush=True)
    return kept


def tell_false_alarms(runs: int, seed: int) -> bool:
    """Print how often the alarm rings falsely; returns whether the promises are kept."""
    print(f"false alarms within {SHORT} validations, and within {LONG}; share of {runs} runs")
    levels = {0.0: 0.01, 0.3: 0.01, 0.6: 0.02, 0.8: 0.04}
    asked: list[tuple[World, float | None]] = [(World(carried), most) for carried, most in levels.items()]
    asked += [(World(carried, curve), 0.01) for curve in list(CURVES)[1:] for carried in (0.0, 0.6)]
    asked += [(World(0.0, noise=noise), None) for noise in list(NOISES)[1:]]
    kept = [report(str(world), false_alarms(world, runs, seed), most, "at most") for world, most in asked]
    return all(kept)


def tell_jumps(carried: float, runs: int, seed: int) -> bool:
    """Print how often a jump is found; returns whether the promises are kept."""
    kept, level = [], World(carried)
    for at, promise in {12: None, 15: None, 20: 0.75, 35: 0.8}.items():
        found = jumps_found(level, [at], runs, seed)
        kept.append(report(f"{level}, it stays, at validation {at}", [found], promise, "at least"))
    found = jumps_found(level, [35], runs, seed, stays=False)
    report(f"{level}, of one validation, at validation 35", [found], None, "at least")
    for second in (40, 47, 56):
        found = jumps_found(level, [35, second], runs, seed)
        report(f"{level}, it stays, at validation {second} after one at 35", [found], None, "at least")
    for curve in list(CURVES)[1:]:
        world = World(carried, curve)
        shares = [jumps_found(world, [at], runs, seed) for at in (20, 35)]
        promise = 0.35 if curve.endswith("to a floor") and "1/t" in curve else None
        kept.append(report(f"{world}, it stays, at validations 20 and 35", shares, promise, "at least"))
    return all(kept)


def main() -> int:
    """Print the table; fails if a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    kept = [tell_false_alarms(given.runs, given.seed)]
    print(f"a sixfold jump found within {SOON} validations; share of {given.runs} runs")
    kept += [tell_jumps(carried, given.runs, given.seed) for carried in (0.0, 0.6)]
    print(f"{time.perf_counter() - began:.0f} s")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
