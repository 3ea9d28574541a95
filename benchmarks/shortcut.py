"""What the shortcut example claims, over many seeds: shares on the patch, and when the alarm rings.

python benchmarks/shortcut.py            # 5 seeds of three trainings, 20 seeds of 50 validations without a switch
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from mnist_shortcut import SHORTCUT, SWITCH, VALIDATIONS, train

CLEAN, SHORT = (0.0, 0.0), (SHORTCUT, SHORTCUT)


def main() -> None:
    """Print one line per seed, then the counts."""
    torch.set_num_threads(1)
    rose = flat = soon = silent = 0
    for seed in range(5):
        arguments = {"seed": seed, "validations": VALIDATIONS, "out": None}
        shortcut = train("shortcut", SHORT, switch=None, **arguments)  # type: ignore[arg-type]
        without = train("without", CLEAN, switch=None, **arguments)  # type: ignore[arg-type]
        switched = train("switched", (0.0, SHORTCUT), switch=SWITCH, **arguments)  # type: ignore[arg-type]
        gain = shortcut.shares[-1] - shortcut.shares[0]
        change = max(abs(share - without.shares[0]) for share in without.shares)
        rose, flat = rose + (gain >= 0.10), flat + (change <= 0.02)
        soon += any(SWITCH < alarm <= SWITCH + 3 for alarm in switched.alarms)
        print(f"seed {seed}: share rises by {gain:.3f}, without a shortcut it moves by {change:.3f} at most;", end=" ")
        print(f"alarms after the switch at {SWITCH}: {switched.alarms}", flush=True)
    for seed in range(20):
        story = train("without", CLEAN, seed=seed, validations=50, switch=None, out=None)
        silent += not story.alarms
        print(f"seed {seed}, 50 validations without a switch: alarms {story.alarms}", flush=True)
    print(f"rises by .10 or more: {rose} of 5; within .02 without a shortcut: {flat} of 5")
    print(f"alarm within three validations of the switch: {soon} of 5; no alarm without a switch: {silent} of 20")


if __name__ == "__main__":
    main()
