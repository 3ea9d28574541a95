"""Law 2: the same answer however the data are cut over ranks. Real gloo processes, with a watchdog."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name("distributed_run.py")
WATCHDOG_SECONDS = 150


def run(ranks: int, folder: Path, mode: str = "plain") -> tuple[dict[str, Any], str]:
    """What rank zero printed, and everything that was printed."""
    command = [sys.executable, str(SCRIPT), str(ranks), str(folder), mode]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=WATCHDOG_SECONDS, env=environment, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert len(lines) == 1
    return json.loads(lines[0].removeprefix("RESULT ")), done.stdout + done.stderr


def by_name(result: dict[str, Any]) -> dict[str, list[float]]:
    """Values of each name in the order of the validations; steps differ with the number of ranks."""
    found: dict[str, list[float]] = {}
    for _, name, value in result["records"]:
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(1, tmp_path_factory.mktemp("single"))[0]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_give_the_counts_maps_and_metrics_of_one_process(
    ranks: int, single: dict[str, Any], tmp_path: Path
) -> None:
    """Traps 43, 44, 82, 97: 61 rows on 2 and 3 ranks, padded by the sampler, unequal in length."""
    result, _ = run(ranks, tmp_path)
    assert result["counts"] == single["counts"]
    largest = max(abs(value) for row in single["maps"] for value in row)
    assert len(result["maps"]) == len(single["maps"])
    for row, expected in zip(result["maps"], single["maps"], strict=True):
        assert row == pytest.approx(expected, abs=1e-6 * largest)
    ours, theirs = by_name(result), by_name(single)
    assert ours.keys() == theirs.keys()
    cost = {name for name in ours if name.endswith("_passes")}
    for name in ours.keys() - cost:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-6, nan_ok=True), name
    # each rank explains its own candidates for the fresh sample; of the probe only at the first validation
    # each as many as one process would; some take more passes than others
    for name in cost:
        assert all(one < several <= 1.5 * ranks * one for one, several in zip(theirs[name], ours[name], strict=True))
    assert result["files"] == single["files"]


def test_a_rank_without_a_batch_takes_part_all_the_same(single: dict[str, Any], tmp_path: Path) -> None:
    """Laws 2 and 4: it learns from the other what is logged, and which groups there are; nobody hangs."""
    result, _ = run(2, tmp_path, "one")
    assert result["counts"] == single["counts"]
    drift = by_name(result)["drift/integrated_gradients/cosine/first/mean"]
    assert len(drift) == 3
    assert drift[0] == 0
    assert by_name(result)["xai/integrated_gradients/probe_size"][0] > 0


def test_a_failure_on_one_rank_is_a_failure_of_all_and_nobody_hangs(tmp_path: Path) -> None:
    """Trap 45: the explanation fails on rank 1 of 2 in the second validation only."""
    result, printed = run(2, tmp_path, "fail")
    drift = by_name(result)["drift/integrated_gradients/cosine/first/mean"]
    assert [value == value for value in drift] == [True, False, True]
    assert "planted failure on rank 1" in printed
