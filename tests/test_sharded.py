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
import torch

import sharded_methods
import sharded_run
from xai_lightning import AttributionMonitor, MemorySink
from xai_lightning.callbacks._attribution.in_step import UNCOPIED
from xai_lightning.functional.attribution import METHODS
from xai_lightning.verify.__main__ import main

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name("sharded_run.py")
WATCHDOG_SECONDS = 150
TOLERANCE = 1e-5
SHARED = ("values", "untouched", "failing")


def start(ranks: int, folder: Path, *scenarios: str) -> subprocess.CompletedProcess[str]:
    """Run scenarios, one after the other, in one start of processes."""
    command = [sys.executable, str(SCRIPT), str(ranks), str(folder), *scenarios]
    paths = os.pathsep.join([str(SCRIPT.parents[1]), str(SCRIPT.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=WATCHDOG_SECONDS, env=environment, check=False
    )


def found_by(ranks: int, folder: Path, *scenarios: str) -> dict[str, Any]:
    """What so many ranks found, and everything that was printed."""
    done = start(ranks, folder, *scenarios)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    assert len(lines) == 1
    return {**json.loads(lines[0].removeprefix("RESULT ")), "printed": done.stdout + done.stderr}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return found_by(2, tmp_path_factory.mktemp("two"), *SHARED, "resumed")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return found_by(3, tmp_path_factory.mktemp("three"), *SHARED, *sharded_methods.SCENARIOS)


@pytest.fixture(params=["two", "three"])
def together(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What two and three ranks found."""
    found: dict[str, Any] = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds of the same models, not sharded."""
    names = ("values", "methods", "tokens", "precise", "averaged")
    with warnings.catch_warnings():
        # weights move by a rule of their own, which a gate says
        warnings.simplefilter("ignore")
        folder = tmp_path_factory.mktemp("alone")
        found = {name: sharded_run.SCENARIOS[name](1, folder / name) for name in names}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


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
    result, alone = together["values"], alone["values"]
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


def test_a_sharded_training_goes_on_from_the_last_checkpoint_as_if_never_stopped(two: dict[str, Any]) -> None:
    """Laws 2 and 10: decisions, weights and drift of two epochs and two more are those of four."""
    whole, halves = two["resumed"]["whole"], two["resumed"]["halves"]
    assert halves["weights"] == whole["weights"]
    assert halves["drift"] == pytest.approx(whole["drift"], abs=TOLERANCE, nan_ok=True)
    assert halves["best"] == whole["best"]
    for key in ("gate", "look", "step", "kept", "reason"):
        assert [line[key] for line in halves["audit"]] == [line[key] for line in whole["audit"]], key
    assert len(whole["audit"]) == 4


def test_files_of_a_sharded_model_carry_their_verdicts(two: dict[str, Any]) -> None:
    """Law 10: one file each, whose hash the verdict beside it holds; anybody can verify the kept one."""
    folder = Path(two["resumed"]["halves"]["folder"])
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


PARTS = 1e-3
ROUNDING = 0.05
"""Of the largest value: bfloat16 keeps 8 bits, and a map is what several layers of it leave."""


def far(one: list[list[float]], other: list[list[float]]) -> float:
    """The largest difference of two monitors' maps, as a part of the largest value."""
    ours, theirs = torch.tensor(one), torch.tensor(other)
    assert ours.shape == theirs.shape
    assert len(theirs) > 3
    return float((ours - theirs).abs().max() / theirs.abs().max())


def check_records(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same names, and values that are equal."""
    assert ours["failures"] == theirs["failures"] == dict.fromkeys(ours["failures"], 0)
    ours, theirs = by_name(ours), by_name(theirs)
    assert ours.keys() == theirs.keys()
    for name in {name for name in ours if not name.endswith("_passes")}:
        assert ours[name] == pytest.approx(theirs[name], rel=TOLERANCE, abs=TOLERANCE, nan_ok=True), name


@pytest.mark.parametrize("scenario", ["methods", "tokens", "averaged"])
def test_each_method_explains_a_sharded_model_as_one_process_does(
    scenario: str, three: dict[str, Any], alone: dict[str, Any]
) -> None:
    """Laws 2 and 4, trap 23: hooks of rules and layers, switches and draws; tokens; weights that an average replaces.

    Of a probe of four samples rank zero may hold none, and colours are told all the same.
    """
    ours, theirs = three[scenario], alone[scenario]
    assert ours["maps"].keys() == theirs["maps"].keys()
    for name, maps in ours["maps"].items():
        assert far(maps, theirs["maps"][name]) < TOLERANCE, name
    check_records(ours, theirs)


def test_every_method_was_run_on_a_sharded_model_or_is_refused_there() -> None:
    """Trap 23: a new row of METHODS is run here too."""
    monitors = sharded_run.everything(Path(), MemorySink())
    run = {monitor._explainer.ways.method for monitor in monitors if isinstance(monitor, AttributionMonitor)}
    run |= {name.split()[0] for name in sharded_methods.METHODS}
    assert run == METHODS.keys() - UNCOPIED


def test_half_precision_of_a_sharded_model_is_that_of_one_process(three: dict[str, Any], alone: dict[str, Any]) -> None:
    """Traps 20 and 23: autocast, weights in bfloat16, and weights that are rounded where they are gathered."""
    ours, theirs = three["precise"], alone["precise"]
    for name, result in ours.items():
        assert result["failures"] == theirs[name]["failures"] == dict.fromkeys(result["failures"], 0)
        assert by_name(result).keys() == by_name(theirs[name]).keys()
        assert len(result["kept"]) == len(theirs[name]["kept"]) == 2
        for method, maps in result["maps"].items():
            assert far(maps, theirs[name]["maps"][method]) < ROUNDING, (name, method)
    # without autocast=True mixed precision is explained in single precision
    for method in ("saliency", "adaptive", "lift"):
        assert far(ours["mixed"]["maps"][method], theirs["mixed"]["maps"][method]) < TOLERANCE
        assert far(ours["policy"]["maps"][method], theirs["policy"]["maps"][method]) > PARTS, "nothing was rounded"
    assert far(ours["mixed"]["maps"]["autocast"], ours["mixed"]["maps"]["saliency"]) > PARTS, "nothing was rounded"


def test_weights_that_were_not_validated_are_not_kept_of_a_sharded_model(
    three: dict[str, Any], alone: dict[str, Any]
) -> None:
    """Law 10: an average was validated, and the file would hold what is trained."""
    decisions = three["averaged"]["decisions"]
    assert decisions == alone["averaged"]["decisions"]
    assert [kept is None for _, kept, _ in decisions] == [False, True, True]


def test_lightning_itself_cannot_average_sharded_weights(three: dict[str, Any]) -> None:
    """``docs/limits.md`` says so: if this fails, prove ours there."""
    ends = three["averaging"]
    assert "FSDP does not support deepcopy" in ends["EMAWeightAveraging"]
    assert "mixed torch.Tensor and DTensor" in ends["StochasticWeightAveraging"]
