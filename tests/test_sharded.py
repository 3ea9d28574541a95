"""Laws 1, 2, 8 and 10 for models whose weights are spread over ranks. Real gloo processes, with a watchdog."""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import sharded_run
from xai_lightning.verify.__main__ import main

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name("sharded_run.py")
WATCHDOG_SECONDS = 150
TOLERANCE = 1e-5


def start(ranks: int, folder: Path, *scenarios: str) -> subprocess.CompletedProcess[str]:
    """Run scenarios, one after the other, in one start of processes."""
    command = [sys.executable, str(SCRIPT), str(ranks), str(folder), *scenarios]
    paths = os.pathsep.join([str(SCRIPT.parents[1]), str(SCRIPT.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=WATCHDOG_SECONDS, env=environment, check=False
    )


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks found."""
    done = start(2, tmp_path_factory.mktemp("sharded"), "values", "untouched", "failing", "resumed")
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    assert len(lines) == 1
    return {**json.loads(lines[0].removeprefix("RESULT ")), "printed": done.stdout + done.stderr}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds of the same model, not sharded."""
    with warnings.catch_warnings():
        # weights move by a rule of their own, which a gate says
        warnings.simplefilter("ignore")
        found: dict[str, Any] = json.loads(json.dumps(sharded_run.values(1, tmp_path_factory.mktemp("alone"))))
    return found


def by_name(result: dict[str, Any]) -> dict[str, list[float]]:
    """Values of each name in the order of the validations."""
    found: dict[str, list[float]] = {}
    for name, value in result["records"]:
        found.setdefault(name, []).append(value)
    return found


def test_a_sharded_model_gives_the_records_counts_maps_and_files_of_one_process(
    together: dict[str, Any], alone: dict[str, Any]
) -> None:
    """Law 2, traps 23, 43 and 44: padded rows, unequal shares, as many nodes as a sample needs, blocks by shape."""
    result = together["values"]
    assert result["counts"] == alone["counts"]
    assert result["failures"] == alone["failures"] == [0] * len(alone["failures"])
    for ours, theirs in zip(result["maps"], alone["maps"], strict=True):
        largest = max(abs(value) for row in theirs for value in row)
        assert len(ours) == len(theirs) == 16
        for row, expected in zip(ours, theirs, strict=True):
            assert row == pytest.approx(expected, abs=TOLERANCE * largest)
    ours, theirs = by_name(result), by_name(alone)
    assert any(name.startswith("alone/importance") for name in ours)
    assert ours.keys() == theirs.keys()
    for name in {name for name in ours if not name.endswith("_passes")}:
        assert ours[name] == pytest.approx(theirs[name], rel=TOLERANCE, abs=TOLERANCE, nan_ok=True), name
    moved = [n for n in ours if n.endswith(("cosine/first/mean", "relative_update"))]
    assert len(moved) > 5
    assert all(ours[name][-1] > 0 for name in moved), "values that are equal because nothing moved prove nothing"
    assert result["files"] == alone["files"]


def test_a_sharded_training_ends_in_the_same_bits_on_each_rank(together: dict[str, Any]) -> None:
    """Law 1 with everything attached: weights, optimizer, random states, metrics, flags and hooks."""
    assert together["untouched"] == dict.fromkeys(together["untouched"], True)
    assert len(together["untouched"]) == 8


def test_a_failure_on_one_rank_of_a_sharded_model_is_one_of_all_and_nobody_hangs(together: dict[str, Any]) -> None:
    """Trap 45: while a batch is read, and between passes, with a fixed number of nodes and with another per sample."""
    failed = [True, False, True]
    expected = {"reading": failed, "between": failed, "adaptive": failed, "whole": [True, True, True]}
    assert together["failing"] == expected
    assert "planted failure on the last rank" in together["printed"]


def test_a_sharded_training_goes_on_from_the_last_checkpoint_as_if_never_stopped(together: dict[str, Any]) -> None:
    """Laws 2 and 10: decisions, weights and drift of two epochs and two more are those of four."""
    whole, halves = together["resumed"]["whole"], together["resumed"]["halves"]
    assert halves["weights"] == whole["weights"]
    assert halves["drift"] == pytest.approx(whole["drift"], abs=TOLERANCE, nan_ok=True)
    assert halves["best"] == whole["best"]
    for key in ("gate", "look", "step", "kept", "reason"):
        assert [line[key] for line in halves["audit"]] == [line[key] for line in whole["audit"]], key
    assert len(whole["audit"]) == 4


def test_files_of_a_sharded_model_carry_their_verdicts(together: dict[str, Any]) -> None:
    """Law 10: one file each, whose hash the verdict beside it holds; anybody can verify the kept one."""
    folder = Path(together["resumed"]["halves"]["folder"])
    written = sorted(folder.glob("*.ckpt"))
    assert len(written) == 2
    for path in written:
        verdict = json.loads(path.with_suffix(".verdict.json").read_text())
        assert verdict["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert verdict["gate"] == "open"
        assert main([str(path)]) == (1 if path.name == "last.ckpt" else 0)


def test_a_failure_inside_a_pass_ends_the_training_of_all_ranks_with_a_sentence(tmp_path: Path) -> None:
    """Traps 23 and 45: the others wait inside of that pass, so the training cannot go on; but nobody hangs."""
    done = start(2, tmp_path, "broken")
    assert done.returncode != 0
    assert "an explanation failed inside a pass through a sharded model" in done.stdout + done.stderr
    assert "planted failure inside of a pass" in done.stdout + done.stderr
