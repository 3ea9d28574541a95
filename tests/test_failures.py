"""Law 8: whatever of ours fails, wherever, the training goes on, says so once, counts it, and is the same to the bit.

Failures are planted in functions that are found by what a training calls (`faults`), so that a callback or a stage
that is added later is in by being there. First the monitors, then what they write to, then the gate.
"""

import errno
import inspect
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

import xai_lightning
from faults import LOOKS, PLANTED, RICH, Outcome, Place, Watch, called, errors, failing, train
from small import Classifier, fit
from traced import ARGUMENTS, MONITORS, NAMES
from xai_lightning import AttributionMonitor, GatedCheckpoint, MemorySink

# What carries all else: the hooks proper, and what catches.
FRAME = (
    "_enduring.py",
    "_evaluation.py",
    "_stopwatch.py",
    "_monitor.py:Monitor._start",
    "_monitor.py:Monitor._batch_start",
    "_monitor.py:Monitor._batch_end",
    "_monitor.py:Monitor._epoch_end",
    "_monitor.py:Monitor._end",
    "_timed.py",
    "_guard.py:Hooks",
    "_guard.py:described",
    "_guard.py:_named",
)
# What puts the model back must not fail itself.
UNDOES = ("_guard.py", "_restored.py", "_trainer.py:meet", "_trainer.py:together")
OTHERS = ("xai", "gate")
# Enough for one validation before a failure and one after.
SHORT = 3
AT_THE_END = ("_after_training", "at_end", "similarity")
each_monitor = pytest.mark.parametrize("name", MONITORS)


class Planted(Exception):
    """None that anything of ours expects."""


KINDS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: ValueError(PLANTED),
    "memory": lambda: torch.OutOfMemoryError(f"CUDA out of memory ({PLANTED})"),
    "memory of another device": lambda: RuntimeError(f"MPS backend out of memory ({PLANTED})"),
    "disk": lambda: OSError(errno.ENOSPC, PLANTED),
}


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Weights after so many validations of a training that nobody watches."""
    folder = tmp_path_factory.mktemp("unwatched")
    return {looks: train([], folder, looks=looks).weights for looks in (2, SHORT, LOOKS)}


def build(name: str, folder: Path, **more: Any) -> pl.Callback:
    """One callback under settings in which it calls much."""
    settings = {**ARGUMENTS[name], **RICH[name], **more}
    if name not in MONITORS:
        settings["dirpath"] = folder / "kept"
    return getattr(xai_lightning, name)(**settings)


def stages(name: str, folder: Path) -> list[Place]:
    """Methods of a callback that are called in a validation or after it, and are no part of the frame."""
    own = {
        method.__code__
        for cls in getattr(xai_lightning, name).__mro__
        if cls.__module__.startswith("xai_lightning")
        for method in vars(cls).values()
        if inspect.isfunction(method)
    }
    found = called([build(name, folder)], folder, looks=SHORT)
    return [where for where in found if where.code in own and not carries(where)]


def carries(where: Place) -> bool:
    """Whether it is what all else stands on: a hook proper, what catches, what puts the model back."""
    name = where.name.split("callbacks/")[-1]
    return hasattr(pl.Callback, where.code.co_name) or name.startswith((*FRAME, *UNDOES))


def judge(outcome: Outcome, where: Place, expected: Any) -> list[str]:
    """What is wrong with a training in which ``where`` failed once."""
    wrong = []
    if outcome.raised is not None:
        wrong.append(f"it ended with {outcome.raised!r}")
    elif outcome.weights != expected:
        wrong.append("it has other weights")
    if outcome.hooks:
        wrong.append(f"{outcome.hooks} hooks are left")
    if len(outcome.told) != 1:
        wrong.append(f"said {outcome.told}")
    # what fails once the last validation has logged can be told, and counted no more
    late = any(f"in validation {len(outcome.looks)}" in text for text in outcome.told)
    if outcome.raised is None and sum(errors(outcome)) != 1 and not late:
        wrong.append(f"errors were {errors(outcome)}")
    return [f"{where.name}: {text}" for text in wrong]


@each_monitor
def test_a_stage_that_fails_costs_one_validation_and_is_told_and_counted_once(name, unwatched, tmp_path):
    """Traps 16, 45, 49: each stage of each monitor fails in the second validation, in turn."""
    found = stages(name, tmp_path)
    assert len(found) > 8
    wrong = []
    for where in found:
        outcome = failing([build(name, tmp_path)], tmp_path, where, ValueError(PLANTED), looks=SHORT)
        wrong += judge(outcome, where, unwatched[SHORT])
    assert wrong == []


@pytest.mark.slow
@each_monitor
@pytest.mark.parametrize("kind", list(KINDS)[1:])
def test_whatever_kind_of_failure_it_is(kind, name, unwatched, tmp_path):
    """Traps 16, 49: memory runs out, or a disk, after a step, after the last batch and at the end."""
    found = [where for where in stages(name, tmp_path) if where.code.co_name in ("_before", "_close", "_conclude")]
    assert found
    wrong = []
    for where in found:
        outcome = failing([build(name, tmp_path)], tmp_path, where, KINDS[kind](), looks=SHORT)
        wrong += judge(outcome, where, unwatched[SHORT])
    assert wrong == []


@pytest.mark.slow
@each_monitor
def test_every_function_that_a_monitor_calls_may_fail(name, unwatched, tmp_path):
    """Traps 9, 45, 49: not only the stages, but all that they call."""
    everything = called([build(name, tmp_path)], tmp_path, looks=SHORT)
    found = [where for where in everything if not carries(where)]
    assert len(found) > 30
    wrong = []
    for where in found:
        outcome = failing([build(name, tmp_path)], tmp_path, where, Planted(PLANTED), looks=SHORT)
        wrong += judge(outcome, where, unwatched[SHORT])
    assert wrong == []


@pytest.mark.slow
@each_monitor
def test_an_interruption_ends_the_training_and_leaves_no_trace(name, unwatched, tmp_path):
    """Trap 57: Ctrl+C within any stage is Lightning's to handle."""
    wrong = []
    for where in stages(name, tmp_path):
        outcome = failing([build(name, tmp_path)], tmp_path, where, KeyboardInterrupt(PLANTED), looks=SHORT)
        after = SHORT if where.code.co_name in AT_THE_END else 2
        if not isinstance(outcome.raised, SystemExit | KeyboardInterrupt):
            wrong.append(f"{where.name}: ended with {outcome.raised!r}")
        if outcome.weights != unwatched[after] or outcome.hooks or outcome.told:
            wrong.append(f"{where.name}: left a trace, {outcome.hooks} hooks, said {outcome.told}")
    assert wrong == []


@pytest.mark.slow
@each_monitor
def test_raising_on_error_ends_the_training_with_the_very_error(name, unwatched, tmp_path):
    """Trap 49: no other exception in its place, no hooks left, and the weights those of the moment."""
    wrong = []
    for where in stages(name, tmp_path):
        error = ValueError(PLANTED)
        outcome = failing([build(name, tmp_path, on_error="raise")], tmp_path, where, error, looks=SHORT)
        after = SHORT if where.code.co_name in AT_THE_END else 2
        if outcome.raised is not error or outcome.hooks or outcome.weights != unwatched[after] or outcome.told:
            wrong.append(f"{where.name}: {outcome.raised!r}, {outcome.hooks} hooks, said {outcome.told}")
    assert wrong == []


def a_shared_name(name: str, folder: Path) -> str:
    """A name that a gate can limit, with a finite value at every validation."""
    monitor = build(name, folder)
    looks = train([monitor], folder).looks
    finite = [x for x in monitor.full_names() if all(math.isfinite(look.get(x, math.nan)) for look in looks)]
    return min(x for x in finite if x in monitor.logged_names()[0] and not x.startswith(("fairness/", "xai/")))


@each_monitor
def test_a_failed_validation_logs_nan_under_all_names_and_closes_a_gate_that_needs_one(name, tmp_path):
    """Laws 3, 4: names of a failure are those of ever after; the reason says what is missing."""
    limited = a_shared_name(name, tmp_path)
    for where in [w for w in stages(name, tmp_path) if w.code.co_name in ("_close", "_conclude")]:
        gate = GatedCheckpoint(at_most={limited: 1e9}, utility_floor=False, dirpath=tmp_path / where.code.co_name)
        outcome = failing([build(name, tmp_path), gate], tmp_path, where, ValueError(PLANTED), number=3)
        own = [
            {n: v for n, v in look.items() if "/" in n and n.partition("/")[0] not in OTHERS} for look in outcome.looks
        ]
        assert own[2].keys() == own[3].keys()
        assert all(math.isnan(value) for value in own[2].values())
        decided = [json.loads(line) for line in gate.audit_path.read_text().splitlines()]
        assert [line["gate"] for line in decided] == ["open", "open", "closed", "open"]
        assert decided[2]["reason"] == f"{limited} is NaN: undefined, or not computed"


@each_monitor
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_not_finite_is_no_failure_and_closes_the_gate(value, name, monkeypatch, tmp_path):
    """Law 3: a number that nobody can compare opens nothing."""
    limited = a_shared_name(name, tmp_path)
    conclude = getattr(xai_lightning, name)._conclude

    def spoilt(self, trainer, look, gathered):
        record = conclude(self, trainer, look, gathered)
        record.shared[limited] = value if look.number == 3 else 0.0
        return record

    monkeypatch.setattr(getattr(xai_lightning, name), "_conclude", spoilt)
    gate = GatedCheckpoint(at_most={limited: 1e9}, utility_floor=False, dirpath=tmp_path / "kept")
    outcome = train([build(name, tmp_path), gate], tmp_path)
    decided = [json.loads(line) for line in gate.audit_path.read_text().splitlines()]
    assert [line["gate"] for line in decided] == ["open", "open", "closed", "open"]
    assert decided[2]["reason"].startswith(f"{limited} is {'NaN' if math.isnan(value) else 'inf'}")
    assert errors(outcome) == [0, 0, 0, 0]


# --- where results go


@pytest.mark.parametrize("method", ["scalars", "picture", "histogram", "flush"])
def test_a_sink_that_fails_is_told_and_counted_and_another_gets_everything(method, unwatched, tmp_path):
    """Traps 49, 69: the disk of a sink is full at the second and third validation, and has room again at the fourth."""

    class Full(MemorySink):
        """Where there is no room."""

    broken, good = Full(), MemorySink()
    original = getattr(MemorySink, method)

    def write(self, *args):
        if self is broken and seen.looks in (2, 3):
            raise OSError(errno.ENOSPC, PLANTED)
        return original(self, *args)

    seen = Watch(99, lambda *_: None)
    setattr(Full, method, write)
    pictured = method in ("picture", "histogram")
    monitor = xai_lightning.ActivationMonitor(
        statistics="cheap", representation=pictured, probe_size=8, sinks=[broken, good]
    )
    outcome = train([seen, monitor], tmp_path)
    assert outcome.weights == unwatched[LOOKS]
    assert [text.partition(":")[0] for text in outcome.told] == [
        f"ActivationMonitor could not write to Full in validation {number}" for number in numbers(method)
    ]
    assert errors(outcome) == [0, 0, *(1.0 if n in numbers(method) else 0.0 for n in (2, 3))]
    assert len({step for step, _, _ in good.records}) == LOOKS


def numbers(method: str) -> list[int]:
    """At which validations of the two something is written by that method: pictures at powers of two only."""
    return [2] if method == "picture" else [2, 3]


@each_monitor
def test_errors_that_can_be_known_at_once_are_raised_at_once(name, tmp_path):
    """Law 8: in ``setup`` or at the first batch, with the very error; never later."""
    monitor = build(name, tmp_path)
    early = called([monitor], tmp_path, number=1)
    for where in [w for w in early if w.code.co_name in ("_open", "_before", "_after")]:
        error = ValueError(PLANTED)
        outcome = failing([build(name, tmp_path)], tmp_path, where, error, number=1)
        assert outcome.raised is error
        assert outcome.hooks == 0
        assert outcome.looks == []


# --- the gate

GATES = [name for name in NAMES if name not in MONITORS]


def decisions(folder: Path) -> list[dict[str, Any]]:
    """The audit file, without events."""
    lines = [json.loads(line) for line in (folder / "gate_audit.jsonl").read_text().splitlines()]
    return [line for line in lines if "event" not in line]


def in_turn(names: tuple[str, ...], folder: Path) -> list[Place]:
    """Functions of those names that a gate calls in a validation."""
    found = [where for where in called([build("GatedCheckpoint", folder)], folder) if where.code.co_name in names]
    assert len(found) >= len(names)
    return found


def test_a_gate_that_fails_to_judge_is_closed_and_keeps_what_it_kept(unwatched, tmp_path):
    """Laws 3, 8; trap 49: whatever it lacks to decide, the weights of that validation are not the best."""
    wrong = []
    names = ("judge", "validation_ends", "all_limits", "decide", "coverage", "promise", "evidence_of", "fingerprint")
    for number, where in enumerate(in_turn(names, tmp_path)):
        folder = tmp_path / str(number)
        gate = build("GatedCheckpoint", folder, save_top_k=-1)
        outcome = failing([gate], folder, where, ValueError(PLANTED))
        found = decisions(folder / "kept")
        wrong += judge(outcome, where, unwatched[LOOKS])
        if [line["gate"] for line in found] != ["open", "closed", "open", "open"] or PLANTED not in found[1]["reason"]:
            wrong.append(f"{where.name}: {[(line['gate'], line['reason']) for line in found]}")
        if found[1]["kept"] is not None or len(list((folder / "kept").glob("epoch=*.ckpt"))) != 3:
            wrong.append(f"{where.name}: kept {sorted(path.name for path in (folder / 'kept').iterdir())}")
    assert wrong == []


def test_a_gate_that_fails_to_say_something_decides_all_the_same(unwatched, tmp_path):
    """Trap 49: reports, its timeline and what it writes to loggers are not worth a decision."""
    wrong = []
    for number, where in enumerate(in_turn(("_report_sizes", "_show"), tmp_path)):
        folder = tmp_path / str(number)
        outcome = failing([build("GatedCheckpoint", folder)], folder, where, ValueError(PLANTED))
        wrong += judge(outcome, where, unwatched[LOOKS])
        wrong += [line["reason"] for line in decisions(folder / "kept") if line["gate"] != "open"]
    assert wrong == []


@pytest.mark.parametrize("name", GATES)
def test_a_gate_that_is_to_raise_ends_the_training_with_the_very_error(name, unwatched, tmp_path):
    """Trap 49: judging, writing a checkpoint, a verdict, or the audit file."""
    wrong = []
    for where in in_turn(("judge", "write_verdict", "append", "prove_room", "fingerprint", "_show"), tmp_path):
        error = OSError(errno.ENOSPC, PLANTED)
        folder = tmp_path / where.code.co_name
        outcome = failing([build(name, folder, on_error="raise")], folder, where, error)
        if outcome.raised is not error or outcome.weights != unwatched[2] or outcome.told:
            wrong.append(f"{where.name}: {outcome.raised!r}, said {outcome.told}")
    assert wrong == []


def test_an_interruption_of_a_gate_is_lightnings_to_handle(unwatched, tmp_path):
    """Trap 57: and no file is left half written."""
    for where in in_turn(("judge", "write_verdict", "append", "prove_room"), tmp_path):
        folder = tmp_path / where.code.co_name
        outcome = failing([build("GatedCheckpoint", folder)], folder, where, KeyboardInterrupt(PLANTED))
        assert isinstance(outcome.raised, SystemExit | KeyboardInterrupt)
        assert outcome.weights == unwatched[2]
        for path in (folder / "kept").glob("*.ckpt"):
            torch.load(path, weights_only=True)


class Disk:
    """Lightning's writer of checkpoints on a disk that is full at chosen validations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, watch: Watch, full: Callable[[int, str], bool]) -> None:
        original = TorchCheckpointIO.save_checkpoint

        def save(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            if full(watch.looks, Path(path).name):
                Path(path).write_bytes(b"half")
                raise OSError(errno.ENOSPC, PLANTED, str(path))
            original(self, checkpoint, path, storage_options)

        monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", save)


def test_a_disk_without_room_for_the_best_closes_the_gate_until_there_is(monkeypatch, unwatched, tmp_path):
    """At hour 20: the training goes on, the file kept before stays, and the next validation tries again."""
    watch = Watch(99, lambda *_: None)
    Disk(monkeypatch, watch, lambda look, name: look in (2, 3) and name.startswith("epoch"))
    gate = build("GatedCheckpoint", tmp_path, save_top_k=1, monitor=None)
    outcome = train([watch, gate], tmp_path)
    assert outcome.weights == unwatched[LOOKS]
    assert [line["gate"] for line in decisions(tmp_path / "kept")] == ["open", "closed", "closed", "open"]
    assert [text.partition(": cannot write epoch=")[0] for text in outcome.told] == [
        "GatedCheckpoint, validation 2",
        "GatedCheckpoint, validation 3",
    ]
    assert errors(outcome) == [0, 0, 1, 1]
    assert torch.load(gate.best_model_path, weights_only=True)["epoch"] == 3
    assert len(list((tmp_path / "kept").glob("epoch=*.ckpt*"))) == 1, "nothing half written is left"


def test_a_disk_without_room_for_the_last_costs_no_training_and_not_the_one_before(monkeypatch, unwatched, tmp_path):
    """Law 8: the run can be resumed from the validation before."""
    watch = Watch(99, lambda *_: None)
    Disk(monkeypatch, watch, lambda look, name: look == 4 and name.startswith("last"))
    gate = build("GatedCheckpoint", tmp_path, save_top_k=0, fallback="none")
    outcome = train([watch, gate], tmp_path)
    assert outcome.weights == unwatched[LOOKS]
    (told,) = outcome.told
    assert "The file to resume from is that of an earlier validation, and training continues" in told
    assert torch.load(gate.last_model_path, weights_only=True)["epoch"] == 2
    assert [line["gate"] for line in decisions(tmp_path / "kept")] == ["open"] * 4


def test_an_audit_file_on_a_full_disk_closes_the_gate(unwatched, tmp_path):
    """Law 3: no room for the evidence, no best file; the device is Linux' own full one."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "gate_audit.jsonl").symlink_to("/dev/full")
    gate = build("GatedCheckpoint", tmp_path)
    outcome = train([gate], tmp_path)
    assert outcome.weights == unwatched[LOOKS]
    said = [
        text
        for text in outcome.said
        if "cannot write evidence to gate_audit.jsonl: OSError(28" in text and "validation" in text
    ]
    assert len([text for text in said if text.startswith("GatedCheckpoint, validation")]) == LOOKS
    assert errors(outcome) == [0, 1, 1, 1]
    assert gate.best_model_path == ""
    assert Path(gate.last_model_path).exists()


def test_a_validation_that_failed_at_its_end_is_no_reference(monkeypatch, tmp_path):
    """Trap 45: ranks of which one failed would compare with different ones; the scale of targets is found again."""
    monitor = AttributionMonitor("saliency", task="regression", measures=["cosine"], sinks=[sink := MemorySink()])
    draw = type(monitor)._draw

    def failing(self: Any, *args: Any) -> None:
        draw(self, *args)
        if self._look.number == 1:
            raise ValueError(PLANTED)

    monkeypatch.setattr(type(monitor), "_draw", failing)
    with pytest.warns(UserWarning, match=PLANTED):
        fit(Classifier(classes=1), [monitor], tmp_path, max_epochs=3)
    drift = [value for _, name, value in sink.records if name == "drift/saliency/cosine/first/mean"]
    assert math.isnan(drift[0])
    assert drift[1] == 0 < drift[2]
    assert monitor._history.course.numbers == [2, 3]
    assert monitor._history.target_scale == pytest.approx(0.5, abs=0.02)


# --- ranks


def ranks(folder: Path, mode: str) -> list[dict[str, Any]]:
    """What each of two processes wrote down."""
    folder.mkdir()
    script = Path(__file__).with_name("failing_ranks.py")
    paths = os.pathsep.join([str(script.parents[1]), str(script.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(script), str(folder), mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.distributed
def test_a_failure_on_one_rank_is_one_of_all_wherever_it_is_and_nobody_hangs(tmp_path):
    """Traps 45, 49: between two exchanges too, and where rank zero alone cannot write."""
    watched, plain = ranks(tmp_path / "watched", "watched"), ranks(tmp_path / "plain", "unwatched")
    assert {rank["weights"] for rank in watched} == {rank["weights"] for rank in plain}
    assert [rank["hooks"] for rank in watched] == [0, 0]
    assert sorted(watched[0]["planted"] + watched[1]["planted"]) == [*range(2, 13), 14, 15]
    looks = watched[0]["looks"]
    assert [look["xai/errors"] for look in looks] == [0, 1, 1, 1, 1, 0, 2, 2, 2, 0, 1, 1, 0, 1, 0]
    failures = {"importance": {2, 3, 7, 9, 11, 12, 14}, "activation_max": {5, 9}, "fairness": {4, 8, 9}}
    for prefix, failed in failures.items():
        nan = [i for i, look in enumerate(looks, 1) if {look[n] for n in look if n.startswith(prefix + "/")} == {None}]
        assert set(nan) >= failed - {9}, (prefix, nan)
    assert [rank["remembered"] for rank in watched] == [[1, 4, 5, 6, 8, 10, 13, 15]] * 2, "what failed on one is not"
    said = [[text for text in rank["said"] if "planted" in text] for rank in watched]
    assert len([text for text in said[1] if "AttributionMonitor" in text]) >= 2
    decided = [line["gate"] for line in decisions(tmp_path / "watched" / "kept")]
    assert [i for i, gate in enumerate(decided, 1) if gate == "closed"] == [4, 6, 7, 8]
    kept = sorted((tmp_path / "watched" / "kept").glob("epoch=*.ckpt"))
    assert len(kept) == 11
    lines = [json.loads(line) for line in (tmp_path / "watched" / "kept" / "gate_audit.jsonl").read_text().splitlines()]
    (certified,) = [line for line in lines if line.get("event") == "certificate"]
    assert certified["gate"] == "closed"
    assert certified["reason"] == "ValueError('planted failure in CountingMonitor.measure'), on rank 1"
