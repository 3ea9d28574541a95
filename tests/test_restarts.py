"""Restarts: a run that is killed at any moment and resumed leaves what one leaves that was never killed.

Real processes are killed with SIGKILL. The training that is watched can be resumed exactly without us, which the first
test proves; so all is compared bit for bit, and only seconds may differ.
"""

import functools
import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from small import Classifier, Ledger, events, fit, loader, rows
from traced import bits
from xai_lightning import purge_step
from xai_lightning.callbacks._gate.files import InHand
from xai_lightning.verify.__main__ import find, main

SCRIPT = Path(__file__).with_name("restarted_run.py")
TIMED = re.compile(r"(newest/)?xai/.*/(seconds|time_share)")
KILLED = -9
EPOCHS = 6
FEW = ["fairness", "gate"]
"""Where no picture and no map is looked at."""
Start = Callable[..., int]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Train in a folder, in a fork of a process that has imported everything; gives the exit status."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(SCRIPT)], env=environment, **pipes) as server:

        def order(folder: Path, **settings: Any) -> int:
            server.stdin.write(json.dumps({"folder": str(folder), **settings}) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield order
        server.stdin.close()


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder) == 0, output(folder)
    return folder


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text()[-3000:]


# --- what a run left


def numbers(folder: Path) -> dict[tuple[int, str], set[str]]:
    """All values that were logged under a step and a name, by whichever process; NaN is equal to itself as a text."""
    found: dict[tuple[int, str], set[str]] = {}
    for line in (folder / "lines.jsonl").read_text().splitlines():
        try:
            _, step, name, value = json.loads(line)
        except ValueError:
            # the record of this test is torn by the kill too
            continue
        found.setdefault((step, name), set()).add("some time" if TIMED.fullmatch(name) else str(value))
    return found


def shown(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """What TensorBoard shows: of each name the steps and values, of pictures their bytes."""
    board = events(folder / "board" / "version_0")
    tags = board.Tags()
    found: dict[str, list[tuple[int, Any]]] = {}
    for name in tags["scalars"]:
        found[name] = [(event.step, str(event.value)) for event in board.Scalars(name)]
    # of the inputs nothing is kept, so that a run killed after its last validation cannot draw them again
    for name in (name for name in tags["images"] if "top_samples" not in name):
        found[name] = [(event.step, event.encoded_image_string) for event in board.Images(name)]
    for name in tags["histograms"]:
        found[name] = [(event.step, str(event.histogram_value)) for event in board.Histograms(name)]
    return {name: values for name, values in found.items() if not TIMED.fullmatch(name)}


def decisions(folder: Path) -> list[dict[str, Any]]:
    """The lines of the audit file, each of which must be whole, without the events between them."""
    lines = (folder / "checkpoints" / "gate_audit.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "event" not in record]


def state(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    """Everything in a checkpoint, bit for bit, but for the folder and what was timed."""
    content = torch.load(folder / "checkpoints" / name, weights_only=True)
    for own in content["callbacks"].values():
        own.pop("clock", None)
    return without(str(folder), bits(content))


def without(folder: str, value: Any) -> Any:
    """``value`` without the name of a folder in its texts."""
    if isinstance(value, Mapping):
        return {without(folder, key): without(folder, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without(folder, item) for item in value]
    return value.replace(folder, "") if isinstance(value, str) else value


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def check_files(folder: Path) -> None:
    """No file is torn: every checkpoint loads, belongs to its side file, and is accepted or refused for what it is."""
    found = list((folder / "checkpoints").glob("*.ckpt"))
    for path in found:
        torch.load(path, weights_only=True)
        assert find(path).against == [], path.name
        assert main([str(path)]) == path.name.startswith(("last", "INFEASIBLE")), path.name
    assert found


def check_kept(folder: Path) -> None:
    """Right after a kill: the file for resuming is whole, and so is each file that it calls the best."""
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():
        callbacks = torch.load(last, weights_only=True)["callbacks"]
        [gate] = [own for name, own in callbacks.items() if name.startswith("GatedCheckpoint")]
        for path in filter(None, [gate["best_model_path"], gate["gate"]["candidate"].get("path")]):
            assert torch.load(path, weights_only=True)["global_step"] > 0


def differing(ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> list[Any]:
    """Names of what is not equal; short, where pytest would print every byte."""
    return [key for key in {**ours, **theirs} if ours.get(key, "-") != theirs.get(key, "-")]


@functools.cache
def left_by(folder: Path) -> tuple[Any, ...]:
    """What the uninterrupted run has left, which is read once."""
    return numbers(folder), shown(folder), decisions(folder), state(folder), files(folder)


def check_equal(folder: Path, whole: Path) -> None:
    """A run that was killed and resumed has left what the uninterrupted one has, exactly."""
    logged, board, decided, last, names = left_by(whole)
    assert differing(numbers(folder), logged) == []
    assert all(len(values) == 1 for values in logged.values())
    assert differing(shown(folder), board) == []
    assert decisions(folder) == decided
    ours = state(folder)
    assert differing(ours["callbacks"], last["callbacks"]) == []
    assert differing(ours, last) == []
    assert files(folder) == names
    check_files(folder)


# --- the training by itself


@pytest.fixture(scope="module")
def plain(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the uninterrupted run without a callback of ours."""
    folder = tmp_path_factory.mktemp("plain")
    assert start(folder, watched=False) == 0, output(folder)
    return folder


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("hook", [9, 40, 71, 88, 131])
def test_the_training_by_itself_resumes_exactly(hook: int, start: Start, plain: Path, tmp_path: Path) -> None:
    """Without a callback of ours; else nothing below would show anything."""
    assert start(tmp_path, watched=False, kill={"hook": hook}) == KILLED
    assert start(tmp_path, watched=False) == 0, output(tmp_path)
    assert differing(numbers(tmp_path), numbers(plain)) == []
    assert differing(state(tmp_path), state(plain)) == []
    assert differing(shown(tmp_path), shown(plain)) == []


# --- twenty moments

PER_EPOCH = 2 + 4 * 3 + 9
"""Hooks that are counted: of the epoch, of four batches, and of the validation with three."""
HOOKS_IN_ALL = 1 + EPOCHS * PER_EPOCH


def inside(file: str, nth: int, byte: int, **more: Any) -> dict[str, Any]:
    return {"file": file, "nth": nth, "byte": byte, **more}


def at(when: str, file: str, nth: int) -> dict[str, Any]:
    return {"file": file, "nth": nth, "when": when}


draw = random.Random(6)
MOMENTS: dict[str, dict[str, Any]] = {
    **{f"hook {n}": {"hook": n} for n in sorted(draw.sample(range(1, HOOKS_IN_ALL), 6))},
    "within a checkpoint as Lightning writes it": inside("tmp*", draw.randint(3, 9), draw.randint(1, 5000)),
    "within a checkpoint that is copied from another disk": inside(
        "*.ckpt*", draw.randint(3, 9), draw.randint(1, 5000), another_disk=True
    ),
    "before the file for resuming takes its place": at("before", "last.ckpt", draw.randint(1, 6)),
    "after the first file for resuming took its place": at("after", "last.ckpt", 1),
    "after the file for resuming took its place": at("after", "last.ckpt", draw.choice((3, 5, 6))),
    "before the side file of the file for resuming": inside("last.verdict.json*", 6, 20),
    "after the fallback took its place": at("after", "INFEASIBLE-*.ckpt", 2),
    "after the best took its place": at("after", "epoch=*.ckpt", 2),
    "within the side file of the best": inside("epoch=*.verdict.json*", 1, draw.randint(1, 500)),
    "before the best of before is removed": at("before", "epoch=*.ckpt", 3),
    "before the side file of the best of before is removed": at("before", "epoch=*.verdict.json", 3),
    "within a line of the audit file": inside("gate_audit.jsonl", draw.choice((2, 4, 6)), draw.randint(1, 300)),
    "within the note of what is in hand": inside("gate_in_hand.json*", draw.randint(3, 9), draw.randint(1, 20)),
    "within an event for TensorBoard": inside("events.out*", draw.randint(20, 60), draw.randint(1, 100)),
}


def test_there_are_twenty_moments() -> None:
    assert len(MOMENTS) == 20


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_and_resumed_is_the_uninterrupted_one(
    moment: str, start: Start, whole: Path, tmp_path: Path
) -> None:
    """Traps 53, 68, 69: curves, pictures, decisions, error spent, probe and references, and not one torn file."""
    assert start(tmp_path, kill=MOMENTS[moment]) == KILLED, output(tmp_path)
    check_kept(tmp_path)
    assert start(tmp_path) == 0, output(tmp_path)
    check_equal(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_may_be_killed_again_while_it_is_being_resumed(start: Start, whole: Path, tmp_path: Path) -> None:
    """The second kill comes while the audit file is cut back, the third in the validation after."""
    assert start(tmp_path, kill=at("after", "last.ckpt", 3)) == KILLED
    assert start(tmp_path, kill=at("before", "gate_audit.jsonl", 1)) == KILLED
    assert start(tmp_path, kill=at("after", "epoch=*.ckpt", 1)) == KILLED
    assert start(tmp_path) == 0, output(tmp_path)
    check_equal(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.distributed
def test_gates_in_one_folder_leave_each_others_files_alone(start: Start, tmp_path: Path) -> None:
    """The kill comes when the file for resuming of the first is there, and both have files in hand."""
    both = {"callbacks": FEW, "another_gate": True}
    cut, uncut = tmp_path / "cut", tmp_path / "uncut"
    assert start(uncut, **both) == 0, output(uncut)
    assert start(cut, **both, kill=at("after", "last.ckpt", EPOCHS)) == KILLED
    assert start(cut, **both) == 0, output(cut)
    assert "newest-epoch=5.ckpt" in files(cut)
    check_equal(cut, uncut)


# --- resumed by another training


def from_step(found: Mapping[tuple[int, str], Any], step: int) -> dict[tuple[int, str], Any]:
    return {key: value for key, value in found.items() if key[0] >= step}


def told(folder: Path, words: str) -> int:
    return (folder / "output.txt").read_text().count(words)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_goes_on_without_a_callback_and_with_an_additional_one(start: Start, whole: Path, tmp_path: Path) -> None:
    """What the others log is what the uninterrupted run logs."""
    assert start(tmp_path, callbacks=["neurons", "fairness", "gate"], kill=at("after", "last.ckpt", 2)) == KILLED
    assert start(tmp_path, callbacks=["maps", "fairness", "gate"], kill=at("after", "last.ckpt", 2)) == KILLED
    assert start(tmp_path, callbacks=["fairness", "gate"]) == 0, output(tmp_path)
    assert told(tmp_path, "callbacks used to create the checkpoint need to be provided") == 2
    expected, found = numbers(whole), numbers(tmp_path)
    shared = {key: value for key, value in expected.items() if key[1].startswith(("fairness/", "val_", "gate/"))}
    assert shared
    assert differing({key: found.get(key) for key in shared}, shared) == []
    assert [line["gate"] for line in decisions(tmp_path)] == [line["gate"] for line in decisions(whole)]
    drift = {step: value for (step, name), value in found.items() if name == "drift/gradient_shap/cosine/first/mean"}
    assert drift[min(drift)] == {"0.0"}
    assert len(drift) == 2


@pytest.mark.slow
@pytest.mark.distributed
def test_other_limits_make_another_gate_whose_decisions_are_marked(start: Start, tmp_path: Path) -> None:
    assert start(tmp_path, callbacks=FEW, kill=at("after", "last.ckpt", 3)) == KILLED
    assert start(tmp_path, callbacks=FEW, limits={"val_loss": 0.69}) == 0, output(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "checkpoints" / "gate_audit.jsonl").read_text().splitlines()]
    assert [line.get("event", line.get("look")) for line in lines] == [1, 2, "began", 1, 2, 3]
    assert [line["global_step"] for line in lines] == [4, 8, 12, 16, 20, 24]
    check_files(tmp_path)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_that_goes_on_from_the_best_file_leaves_the_others_alone(start: Start, tmp_path: Path) -> None:
    assert start(tmp_path, callbacks=FEW, kill=at("after", "last.ckpt", 6)) == KILLED
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").glob("*.ckpt")}
    best = str(tmp_path / "checkpoints" / "epoch=3-step=16.ckpt")
    assert start(tmp_path, callbacks=FEW, resume=best) == 0, output(tmp_path)
    after = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").glob("*.ckpt")}
    assert {name for name in before if before[name] != after.get(name)} == {"last.ckpt"}
    assert [line["look"] for line in decisions(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert decisions(tmp_path)[-1]["guarantee"] != "holds"
    check_files(tmp_path)


@pytest.mark.slow
@pytest.mark.distributed
def test_other_validation_data_are_told_and_drift_begins_anew(start: Start, tmp_path: Path) -> None:
    """Trap 99: the hashes of the probe find other samples."""
    assert start(tmp_path, callbacks=["maps", "fairness", "gate"], kill=at("after", "last.ckpt", 3)) == KILLED
    assert start(tmp_path, callbacks=["maps", "fairness", "gate"], data=2) == 0, output(tmp_path)
    assert told(tmp_path, "the validation data changed since the references were made") == 1
    steps = range(3, 24, 4)
    for name in ("drift/gradient_shap/cosine/first/mean", "drift/gradient_shap/cosine/previous/mean"):
        drift = [numbers(tmp_path).get((step, name), {"0.0"}) for step in steps]
        assert [value <= {"0.0", "nan"} for value in drift] == [True, False, False, True, False, False], name


@pytest.mark.slow
@pytest.mark.distributed
def test_a_checkpoint_of_the_first_release_is_resumed(start: Start, tmp_path: Path) -> None:
    """Trap 53: written two validations into this very training, before states knew of decisions."""
    stored = Path(__file__).with_name("data") / "state_v1.ckpt.gz"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(gzip.decompress(stored.read_bytes()))
    assert start(tmp_path) == 0, output(tmp_path)
    assert told(tmp_path, "ignored") == told(tmp_path, "the validation data changed") == 0, output(tmp_path)
    lines = decisions(tmp_path)
    assert [line["look"] for line in lines] == [3, 4, 5, 6]
    spent = [line["monitors"][0]["error_spent"] for line in lines]
    assert spent == pytest.approx([0.05 * look / EPOCHS for look in (3, 4, 5, 6)])
    drift = numbers(tmp_path)[11, "drift/gradient_shap/cosine/first/mean"]
    assert float(*drift) > 0


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_that_has_nothing_left_to_do_is_put_in_order_too(start: Start, tmp_path: Path) -> None:
    """Lightning skips the start of a training whose steps are done; the last line and side file are missing."""
    done = {"callbacks": FEW, "epochs": -1, "options": {"max_steps": 8}}
    assert start(tmp_path, kill=at("after", "last.ckpt", 2), **done) == KILLED
    assert [line["look"] for line in decisions(tmp_path)] == [1]
    assert start(tmp_path, **done) == 0, output(tmp_path)
    assert [line["look"] for line in decisions(tmp_path)] == [1, 2]
    check_files(tmp_path)


def test_the_step_to_purge_from_is_0_without_a_file_and_refused_of_another_file(tmp_path: Path) -> None:
    """Trap 68."""
    assert purge_step(tmp_path / "last.ckpt") == 0
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    with pytest.raises(
        ValueError, match=r"must be one that Lightning saved.*weights.ckpt records no training progress: KeyError"
    ):
        purge_step(tmp_path / "weights.ckpt")


@pytest.mark.filterwarnings("ignore:Be aware that when using:UserWarning")
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"val_check_interval": 2}], ids=str)
@pytest.mark.parametrize("at_end_of_epoch", [False, True], ids=["validation", "epoch"])
def test_the_step_to_purge_from_is_the_first_that_the_resumed_run_logs(
    options: dict[str, Any], at_end_of_epoch: bool, tmp_path: Path
) -> None:
    """Trap 68."""
    keeps = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=at_end_of_epoch)
    more = {"train": loader(rows(64)), "log_every_n_steps": 1, **options}
    fit(Classifier(), [keeps], tmp_path, max_epochs=2, logger=Ledger(), **more)
    ledger = Ledger()
    fit(Classifier(), [], tmp_path, max_epochs=3, logger=ledger, ckpt_path=tmp_path / "last.ckpt", **more)
    assert min(ledger.numbers) == purge_step(tmp_path / "last.ckpt")


# --- what is in hand


@pytest.mark.parametrize(
    ("looks", "left"),
    [
        (3, ["a.ckpt", "a.verdict.json"]),
        (4, ["a.ckpt", "a.verdict.json"]),
        (2, ["a.ckpt", "a.verdict.json", "b.ckpt", "b.verdict.json"]),
        (5, ["a.ckpt", "a.verdict.json", "b.ckpt", "b.verdict.json"]),
    ],
)
def test_only_a_restart_at_the_kill_removes_what_was_in_hand(looks: int, left: list[str], tmp_path: Path) -> None:
    note = InHand(tmp_path / "note.json", tmp_path, "gate")
    for name in ("a", "b"):
        note.note(4, f"{name}.ckpt")
        (tmp_path / f"{name}.ckpt").touch()
        (tmp_path / f"{name}.verdict.json").touch()
    stay = note.undo(looks, {"a.ckpt"})
    assert [f"{path.stem}.ckpt" for path in stay] == [name for name in left if name.endswith(".ckpt")]
    note.settle()
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_nobody_removes_what_another_has_in_hand(tmp_path: Path) -> None:
    """Such as a gate with other limits, which knows none of the files; what was being written goes."""
    InHand(tmp_path / "note.json", tmp_path, "gate").note(1, "a.ckpt")
    for name in ("a.ckpt", "a.ckpt.tmp", "a.verdict.json", "a.verdict.json.tmp"):
        (tmp_path / name).touch()
    note = InHand(tmp_path / "note.json", tmp_path, "another")
    assert note.undo(0, set()) == [tmp_path / "a.ckpt"]
    note.note(1, "b.ckpt")
    assert note.read()["files"] == ["b.ckpt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "a.verdict.json", "note.json"]


@pytest.mark.parametrize("name", ["../out.ckpt", "/etc/out.ckpt", "notes.txt", "..", "sub/../../out.ckpt"])
def test_a_note_leads_to_no_file_outside_and_to_checkpoints_only(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for path in (tmp_path / "out.ckpt", folder / "notes.txt"):
        path.touch()
    note = InHand(folder / "note.json", folder, "gate")
    note.note(1, name)
    assert note.undo(0, set()) == []
    assert (tmp_path / "out.ckpt").exists()
    assert (folder / "notes.txt").exists()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"\xff", b"[" * 100_000),
        *(b'{"owner": "gate", "look": "1", "files": []}', b'{"owner": "gate", "look": 1, "files": 7}'),
    ],
)
def test_a_note_that_is_none_of_ours_is_nothing(content: bytes, tmp_path: Path) -> None:
    note = InHand(tmp_path / "note.json", tmp_path, "gate")
    note.path.write_bytes(content)
    assert note.undo(0, set()) == []
    note.note(1, "a.ckpt")
    assert note.read() == {"owner": "gate", "look": 1, "files": ["a.ckpt"]}
