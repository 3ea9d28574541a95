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


def run(ranks: int, folder: Path, *modes: str) -> dict[str, Any]:
    """What rank zero has of each mode, and everything that was printed; processes are started once."""
    command = [sys.executable, str(SCRIPT), str(ranks), str(folder), *modes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=WATCHDOG_SECONDS, env=environment, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert len(lines) == 1
    return {**json.loads(lines[0].removeprefix("RESULT ")), "printed": done.stdout + done.stderr, "ranks": ranks}


def by_name(result: dict[str, Any]) -> dict[str, list[float]]:
    """Values of each name in the order of the validations; steps differ with the number of ranks."""
    found: dict[str, list[float]] = {}
    for _, name, value in result["records"]:
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(1, tmp_path_factory.mktemp("single"), "plain", "shares", "guess", "neurons")


@pytest.fixture(scope="module", params=[2, 3])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(request.param, tmp_path_factory.mktemp("several"), "plain", "one", "fail", "shares", "guess", "neurons")


def test_ranks_give_the_counts_maps_and_metrics_of_one_process(several: dict[str, Any], single: dict[str, Any]) -> None:
    """Law 2, traps 43, 44, 82, 97: 61 rows on 2 and 3 ranks, padded by the sampler, unequal in length.

    On 2 ranks each meets one sex only, on 3 ranks one town only.
    """
    result, expected = several["plain"], single["plain"]
    assert result["counts"] == expected["counts"]
    largest = max(abs(value) for row in expected["maps"] for value in row)
    assert len(result["maps"]) == len(expected["maps"])
    for row, theirs in zip(result["maps"], expected["maps"], strict=True):
        assert row == pytest.approx(theirs, abs=1e-6 * largest)
    ours, theirs = by_name(result), by_name(expected)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values == pytest.approx(theirs[name], rel=1e-6, abs=1e-6, nan_ok=True), name
    assert result["files"] == expected["files"]


def test_ranks_without_a_batch_take_part_all_the_same(several: dict[str, Any], single: dict[str, Any]) -> None:
    """Laws 2 and 4, trap 43: they learn from the one that has all what is logged, and which groups there are."""
    result = several["one"]
    assert result["counts"] == single["plain"]["counts"]
    drift = by_name(result)["drift/integrated_gradients/cosine/first/mean"]
    assert len(drift) == 3
    assert drift[0] == 0
    assert by_name(result)["xai/integrated_gradients/probe_size"][0] > 0
    assert by_name(result)["xai/saliency/probe_size"] == [20] * 3, "given, and explained by whom it can be"
    assert by_name(result)["drift/saliency/cosine/first/mean"] == [0] * 3


def test_a_failure_on_one_rank_is_a_failure_of_all_and_nobody_hangs(several: dict[str, Any]) -> None:
    """Trap 45: the explanation fails on the last rank in the second validation only."""
    drift = by_name(several["fail"])["drift/integrated_gradients/cosine/first/mean"]
    assert [value == value for value in drift] == [True, False, True]
    assert "planted failure on the last rank" in several["printed"]


def test_ranks_share_the_passes_that_explain_the_probe_and_a_fresh_sample(
    several: dict[str, Any], single: dict[str, Any]
) -> None:
    """Each makes about its part, and together they make as many as one process, when they draw a probe too."""
    ranks, (alone,) = several["ranks"], single["shares"]
    assert len(several["shares"]) == ranks
    for number, expected in enumerate(alone):
        rows = [counted[number] for counted in several["shares"]]
        assert sum(rows) == expected
        assert all(0.6 / ranks < count / expected < 1.5 / ranks for count in rows), rows


def test_a_rank_whose_rows_are_fewer_than_it_declares_holds_nobody_up(
    several: dict[str, Any], single: dict[str, Any]
) -> None:
    """Traps 43 and 45: it does not know its last batch, so ranks share nothing out while they evaluate."""
    ours, theirs = by_name(several["guess"]), by_name(single["guess"])
    assert several["guess"]["counts"] == single["guess"]["counts"]
    cost = {name for name in ours if name.endswith("_passes")}
    for name in ours.keys() - cost:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-6, nan_ok=True), name
    for name in cost:
        assert all(one < more for one, more in zip(theirs[name], ours[name], strict=True)), name


def test_activations_of_a_share_of_the_samples_do_not_depend_on_ranks_and_batches(
    several: dict[str, Any], single: dict[str, Any]
) -> None:
    """Law 2, traps 44 and 97: batches of 5, 7 and all rows, of which a sampler repeats some; weights move."""
    expected = single["neurons"]["7"]
    found = {**several["neurons"], **{f"{size} alone": logged for size, logged in single["neurons"].items()}}
    assert len(found) == 6
    for cut, logged in found.items():
        assert logged.keys() == expected.keys(), cut
        for name, values in logged.items():
            assert values == pytest.approx(expected[name], rel=1e-6, abs=1e-6, nan_ok=True), (cut, name)
    moved = [name for name, values in expected.items() if len({*values}) == len(values) > 2]
    for what in ("/cka_first", "/effective_rank", "/mean"):
        assert any(name.startswith("activation/") and name.endswith(what) for name in moved), what
