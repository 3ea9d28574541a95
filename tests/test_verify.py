"""What `python -m xai_lightning.verify` answers about files as they are, and about files that were tampered with."""

import contextlib
import copy
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.plugins.io import TorchCheckpointIO

import small
from xai_lightning import FairnessMonitor, GatedCheckpoint
from xai_lightning.callbacks._gate import evidence as gate_evidence
from xai_lightning.functional.fairness import METRICS
from xai_lightning.verify.__main__ import NOTE, main
from xai_lightning.verify.checkpoint import stored_texts
from xai_lightning.verify.evidence import understood
from xai_lightning.verify.judgement import best, by_words

BOUND = "fairness/sex/demographic_parity_difference/bound"
RATIO = "fairness/sex/demographic_parity_ratio/bound"
DOCUMENT = Path(__file__).parents[1] / "docs" / "verify.md"


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def ask(*arguments: object) -> Answer:
    """In this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def call(*arguments: object, **environment: str) -> Answer:
    """As a pipeline does."""
    command = [sys.executable, "-m", "xai_lightning.verify", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})
    assert b"Traceback" not in done.stderr
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


class Custom:
    """A class of the user's that torch does not know."""


class FolderIO(TorchCheckpointIO):
    """Writes a checkpoint as a folder: weights apart from the rest, as sharding strategies do."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint["state_dict"], Path(path) / "0_shard.pt")
        torch.save({key: value for key, value in checkpoint.items() if key != "state_dict"}, Path(path) / "meta.pt")
        (Path(path) / ".metadata").write_bytes(b"no archive")


def train(folder: Path, limit: float = 1.0, hparams: dict[str, Any] | None = None, **options: Any) -> Path:
    """A training of two validations, of which a gate with ``limit`` keeps all or none; the folder of its files."""
    gate = GatedCheckpoint(
        "val_loss", dirpath=folder, filename="{epoch}", save_top_k=-1, at_most={BOUND: limit}, utility_floor=False
    )
    model = small.Classifier()
    if hparams is not None:
        model.save_hyperparameters(hparams)
    small.fit(model, [FairnessMonitor({"sex": list(small.GROUPS)}), gate], folder, **options)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("größe ☃ run"))


@pytest.fixture
def files(run: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(run, tmp_path / "größe ☃ copy"))


@pytest.fixture
def kept(files: Path) -> Path:
    return files / "epoch=1.ckpt"


def side(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".verdict.json")


def record_of(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(side(checkpoint).read_text())
    return found


def rewrite(checkpoint: Path, edit: Callable[[dict[str, Any]], object], *, within: bool = True) -> None:
    """Edit the evidence as somebody could who may write both files: consistently, with the right hash."""
    record = record_of(checkpoint)
    edit(record)
    if within:
        content = torch.load(checkpoint, weights_only=True)
        inner = {key: value for key, value in record.items() if key not in ("file", "sha256")}
        torch.save({**content, "xai_lightning": json.dumps(inner)}, checkpoint)
    side(checkpoint).write_text(json.dumps({**record, "sha256": gate_evidence.sha256(checkpoint)}))


# --- files as they are


def test_what_a_gate_kept_passes(run: Path):
    for name in ("epoch=0.ckpt", "epoch=1.ckpt"):
        answer = call(run / name)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.endswith(f"PASSED by a gate\n{NOTE}\n")
        assert re.search(r"^record within +agrees$", answer.out, re.MULTILINE)


def test_the_tables_show_what_is_stamped(run: Path):
    record = record_of(run / "epoch=1.ckpt")
    out = ask(run / "epoch=1.ckpt").out
    fairness = record["monitors"][0]
    bound = fairness["metrics"]["sex"]["demographic_parity_difference"]["bound"]
    assert re.search(rf"^{BOUND} +at_most +1 +{bound:.4g} +yes$", out, re.MULTILINE)
    counts = torch.tensor(fairness["counts_group_actual_predicted"]["sex"]).sum(dim=(1, 2)).tolist()
    assert sum(counts) == 48
    for group, count in zip(fairness["groups"]["sex"], counts, strict=True):
        assert re.search(rf"^sex +{group} +{count}$", out, re.MULTILINE)
    for part in ("delta 0.05", "error_spent 0.05", "looks 2", record["promise"], record["sha256"], "look 2, epoch 1"):
        assert part in out


def test_last_is_not_passed_even_if_the_gate_was_open(run: Path):
    answer = call(run / "last.ckpt")
    assert record_of(run / "last.ckpt")["gate"] == "open"
    assert answer.code == 1
    assert "the role is 'last', not that of a file that a gate passed: Written at the end of every" in answer.out


@pytest.mark.filterwarnings("ignore:No checkpoint passed:UserWarning")
@pytest.mark.filterwarnings("ignore:Sample sizes:UserWarning")
def test_a_closed_gate_says_which_limit_failed(tmp_path: Path):
    answer = ask(train(tmp_path, limit=0.001) / "last.ckpt")
    assert answer.code == 1
    assert re.search(rf"the gate was closed: {BOUND} [\d.]+ exceeds 0.001 by", answer.out)


def test_a_folder_is_hashed_and_its_record_found_in_one_of_its_files(tmp_path: Path):
    folder = train(tmp_path, plugins=[FolderIO()]) / "epoch=1.ckpt"
    assert folder.is_dir()
    answer = ask(folder)
    assert answer.code == 0, answer
    assert re.search(r"^record within +agrees$", answer.out, re.MULTILINE)
    shard = folder / "0_shard.pt"
    shard.write_bytes(flipped(shard.read_bytes(), 700))
    assert ask(folder).code == 1
    side(folder).unlink()
    answer = ask(folder)
    assert (answer.code, "not compared: there is no side file" in answer.out) == (0, True)
    shutil.rmtree(folder)
    folder.mkdir()
    assert ask(folder).code == 2


def test_without_a_side_file_the_record_within_is_read(kept: Path):
    side(kept).unlink()
    answer = call(kept)
    assert answer.code == 0, answer
    assert re.search(r"^sha256 +not compared: there is no side file$", answer.out, re.MULTILINE)
    side(kept.with_name("last.ckpt")).unlink()
    assert ask(kept.with_name("last.ckpt")).code == 1


def test_hyperparameters_of_another_class_need_the_side_file(tmp_path: Path):
    checkpoint = (
        train(tmp_path, hparams={"thing": Custom(), "xai_lightning": "a text of the same name"}) / "epoch=1.ckpt"
    )
    answer = ask(checkpoint)
    assert (answer.code, "record within  agrees" in answer.out) == (0, True)
    side(checkpoint).unlink()
    answer = call(checkpoint)
    assert (answer.code, answer.out) == (2, "")
    assert f"{Custom.__module__}.{Custom.__qualname__}" in answer.err
    assert "weights_only=True" in answer.err
    assert "side file epoch=1.verdict.json" in answer.err


def test_nothing_is_unpickled(kept: Path, tmp_path: Path):
    """A pickle that would write a file if it were loaded, with and without a side file."""
    trace = tmp_path / "trace"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.write_text, (trace, "unpickled")

    content = torch.load(kept, weights_only=True)
    torch.save({**content, "trap": Trap()}, kept)
    assert ask(kept).code == 1
    rewrite(kept, lambda record: None, within=False)
    assert ask(kept).code == 0
    side(kept).unlink()
    assert ask(kept).code == 2
    assert not trace.exists()
    torch.load(kept, weights_only=False)
    assert trace.exists()


# --- files that were tampered with


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_one_byte_anywhere_in_the_checkpoint_is_seen(kept: Path):
    content = kept.read_bytes()
    for at in range(0, len(content), len(content) // 40):
        kept.write_bytes(flipped(content, at))
        assert ask(kept).code == 1, at
    kept.write_bytes(content[:-1])
    answer = call(kept)
    assert answer.code == 1
    assert "its side file records" in answer.out
    kept.write_bytes(content)
    assert ask(kept).code == 0


def test_swapped_side_files_are_seen(files: Path):
    first, second = files / "epoch=0.ckpt", files / "epoch=1.ckpt"
    other = side(first).read_text()
    shutil.move(side(second), side(first))
    side(second).write_text(other)
    assert [call(path).code for path in (first, second)] == [1, 1]


def test_a_renamed_checkpoint_is_told_by_its_side_file_and_read_without_it(files: Path):
    path, renamed = files / "epoch=1.ckpt", files / "model final.ckpt"
    path.rename(renamed)
    assert "not compared: there is no side file" in ask(renamed).out
    side(path).rename(side(renamed))
    answer = call(renamed)
    assert answer.code == 0
    assert re.search(r"^written as +epoch=1.ckpt$", answer.out, re.MULTILINE)
    assert call(path).code == 2


def test_last_under_the_name_of_another_is_still_last(files: Path):
    last, path = files / "last.ckpt", files / "epoch=7.ckpt"
    last.rename(path)
    side(last).rename(side(path))
    assert ask(path).code == 1


def deeper(record: dict[str, Any]) -> None:
    record["monitors"][0]["metrics"]["sex"]["accuracy_difference"]["bound"] = 0.0


@pytest.mark.parametrize(
    ("field", "edit"),
    [
        ("epoch", lambda record: record.update(epoch=99)),
        ("promise", lambda record: record.update(promise="fair")),
        ("promise", lambda record: record.pop("promise")),
        ("checks", lambda record: record["checks"][0].update(threshold=2.0)),
        ("monitors", deeper),
        ("approved", lambda record: record.update(approved=True)),
        ("certificate", lambda record: record.update(certificate=certificate("open"))),
    ],
)
def test_an_edited_side_file_differs_from_the_record_within(kept: Path, field: str, edit: Callable[[dict], object]):
    rewrite(kept, edit, within=False)
    answer = call(kept)
    assert answer.code == 1
    assert f"the side file and the record within the checkpoint differ in {field}\n" in answer.out


def test_a_checkpoint_without_a_record_is_not_that_of_its_side_file(kept: Path):
    torch.save({"state_dict": {}}, kept)
    rewrite(kept, lambda record: None, within=False)
    answer = ask(kept)
    assert answer.code == 1
    assert "the checkpoint holds no record of a gate" in answer.out


def test_a_format_in_which_no_record_can_be_seen_is_told(kept: Path):
    kept.write_bytes(b"weights in a format of the user's")
    rewrite(kept, lambda record: None, within=False)
    answer = ask(kept)
    assert answer.code == 0
    assert re.search(r"^record within +not compared: epoch=1.ckpt: File is not a zip file$", answer.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("held", "packed", "why"),
    [
        (["a", "b", "c", "d"], zipfile.ZIP_STORED, "no data.pkl in it, but 'a', 'b', 'c', …"),
        (["\x1b[2J" + 999 * "x"], zipfile.ZIP_STORED, rf"no data.pkl in it, but '\x1b[2J{36 * 'x'}'"),
        ([], zipfile.ZIP_STORED, "no data.pkl in it, but nothing"),
        (["x/data.pkl"], zipfile.ZIP_DEFLATED, "its data.pkl is compressed (method 8), which torch never does"),
    ],
    ids=["others", "hostile", "empty", "compressed"],
)
def test_an_archive_that_torch_did_not_write_is_told_by_what_it_holds(kept: Path, held, packed, why):
    with zipfile.ZipFile(kept, "w", packed) as archive:
        for name in held:
            archive.writestr(name, b"x")
    rewrite(kept, lambda record: None, within=False)
    assert f"not compared: epoch=1.ckpt: {why}\n" in ask(kept).out


def certificate(gate: str, **changes: Any) -> dict[str, Any]:
    check = {
        "name": "val_loss",
        "kind": "at_most",
        "threshold": 1.0,
        "value": 0.5,
        "passed": True,
        "reason": "it holds",
    }
    words = {"reason": "the reason", "promise": "Measured once."}
    return {"gate": gate, **words, "checks": [{**check, **changes}]}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda r: r.update(gate="closed", reason="because"), "the gate was closed: because"),
        (
            lambda r: r.update(role="fallback", note="INFEASIBLE: nothing"),
            "role is 'fallback', not .*: INFEASIBLE",
        ),
        (lambda r: r.update(kept="INFEASIBLE-epoch=1.ckpt"), "the field 'kept' says INFEASIBLE"),
        (lambda r: r.update(arbiter={"open": False, "reason": "a person"}), "the arbiter said no: a person"),
        (lambda r: r.update(checks=[]), "no limit was checked"),
        (lambda r: r["checks"][0].update(passed=False), "a limit does not hold: "),
        (lambda r: r["checks"][0].update(value=1.5), "bound 1.5 exceeds 1 by 0.5; the evidence says that it does"),
        (lambda r: r["checks"][0].update(value=None), "is NaN.*; the evidence says that it does"),
        (lambda r: r["checks"][0].update(threshold=None), "bound has no threshold; the evidence says that it does"),
        (lambda r: r["checks"][1].update(value=None), "val_loss is NaN.*; the evidence says that it does"),
        (
            lambda r: r.update(certificate=certificate("closed")),
            "certificate .* was refused: the reason",
        ),
        (lambda r: r.update(certificate=certificate("open", value=2.0)), "a limit of the certificate does not hold"),
    ],
)
def test_evidence_that_contradicts_itself_or_says_no_is_not_passed(
    kept: Path, edit: Callable[[dict], object], says: str
):
    """Though both files agree with each other."""
    rewrite(kept, edit)
    answer = ask(kept)
    assert answer.code == 1
    assert re.search(says, answer.out.partition("NOT PASSED:")[2])
    assert re.search(r"^record within +agrees$", answer.out, re.MULTILINE)


def test_fields_and_kinds_that_are_not_known_are_shown_and_let_be(kept: Path):
    extra = {"name": "arbiter", "kind": "opinion", "threshold": None, "value": None, "passed": True, "reason": "fine"}

    def edit(record: dict[str, Any]) -> None:
        record["checks"].append(extra)
        record |= {"approved_by": ["a", "b"], "certificate": certificate("open"), "fallback": None}

    rewrite(kept, edit)
    answer = ask(kept)
    assert answer.code == 0, answer
    for line in (r'approved_by +\["a", "b"\]', "arbiter +opinion +- +- +yes", "certificate  open: the reason"):
        assert re.search(f"^{line}$", answer.out, re.MULTILINE), line
    extra["passed"] = False
    rewrite(kept, lambda record: record["checks"].append(extra))
    assert ask(kept).code == 1


# --- what cannot be read

UNREADABLE: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "no object": lambda text: "[1]",
    "NaN": lambda text: text.replace('"look": 2', '"look": NaN'),
    "infinite": lambda text: text.replace('"look": 2', '"look": 1e999'),
    "many digits": lambda text: text.replace('"look": 2', f'"look": {"9" * 9999}'),
    "deep": lambda text: text.replace('"look": 2', f'"look": {"[" * 100_000}'),
    "a key twice": lambda text: text.replace('"look": 2', '"gate": "open"'),
    "no format": lambda text: text.replace('"format": 1', '"fromat": 1'),
    "another format": lambda text: text.replace('"format": 1', '"format": 2'),
    "a format of another type": lambda text: text.replace('"format": 1', '"format": true'),
    "another word": lambda text: text.replace('"gate": "open"', '"gate": "ajar"'),
    "a role that is no text": lambda text: text.replace('"role": "kept"', '"role": 1'),
    "no hash": lambda text: text.replace('"sha256"', '"sha255"'),
    "a value that is a truth": lambda text: re.sub(r'"value": 0[.\d]+', '"value": true', text, count=1),
    "a truth that is a number": lambda text: text.replace('"passed": true', '"passed": 1', 1),
    "a value that is a text": lambda text: re.sub(r'"value": 0[.\d]+', '"value": "0.5"', text, count=1),
    "monitors that are no list": lambda text: text.replace('"monitors": [', '"monitors": 1, "rest": ['),
    "a certificate that is none": lambda text: text.replace('"look": 2', '"look": 2, "certificate": true'),
}

BROKEN = ("empty", "cut", "no object", "NaN", "infinite", "many digits", "deep", "a key twice")


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_side_file_that_is_broken_is_unreadable_and_the_checkpoint_no_way_out(kept: Path, case: str):
    text = side(kept).read_text()
    assert UNREADABLE[case](text) != text
    side(kept).write_text(UNREADABLE[case](text))
    answer = ask(kept)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("UNREADABLE: ")
    assert answer.err.count("\n") == 1
    assert ("must hold one JSON object" in answer.err) == (case in BROKEN)


def test_files_that_are_not_there_or_no_checkpoint_are_unreadable(files: Path):
    (files / "notes.txt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, files / "plain.ckpt")
    torch.save([1], files / "list.ckpt")
    for name in ("nothing.ckpt", "notes.txt", "plain.ckpt", "list.ckpt", ".", "gate_audit.jsonl"):
        answer = ask(files / name)
        assert (answer.code, answer.out) == (2, ""), answer
    assert call(files / "notes.txt").code == 2
    side(files / "notes.txt").write_bytes(b"\xff")
    assert ask(files / "notes.txt").code == 2
    side(files / "notes.txt").unlink()
    side(files / "notes.txt").mkdir()
    assert ask(files / "notes.txt").code == 2


def test_a_side_file_beyond_all_size_is_not_read(kept: Path, monkeypatch: pytest.MonkeyPatch):
    with side(kept).open("r+b") as stream:
        stream.truncate((1 << 26) + 1)
    monkeypatch.setattr(Path, "read_text", lambda *args, **options: pytest.fail("it was read"))
    assert ask(kept).code == 2


BAD_ARGUMENTS = [
    [],
    ["--at-most", f"{BOUND}"],
    ["--at-most", f"{BOUND}="],
    ["--at-most", "=1"],
    ["--at-most", f"{BOUND}=a lot"],
    ["--at-most", f"{BOUND}=nan"],
    ["--at-least", "val_loss=inf"],
    ["--at-most", "val_loss=1", "--at-most", "val_loss=2"],
    ["--at-most", "val_loss=1", "--at-least", "val_loss=2"],
    ["--at-mos", "val_loss=1"],
    ["--at-most", f"{RATIO}=0.9"],
    ["--at-least", f"{BOUND}=0.1"],
    ["--at-most", "fairness/sex/worst_group_accuracy/value=0.9"],
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=str)
def test_arguments_that_cannot_be_are_refused(run: Path, arguments: list[str]):
    answer = ask(*([run / "epoch=1.ckpt", *arguments] if arguments else []))
    assert (answer.code, answer.out) == (2, "")
    assert not arguments or "got" in answer.err or "unrecognized" in answer.err


def test_a_pipeline_sees_refused_arguments_as_unreadable(run: Path):
    assert call(run / "epoch=1.ckpt", "--at-most", f"{RATIO}=0.9").code == 2
    assert call().code == 2


# --- further limits


def test_further_limits_are_held_against_what_is_stamped(run: Path):
    path = run / "epoch=1.ckpt"
    metrics = record_of(path)["monitors"][0]["metrics"]["sex"]
    loss, gap = record_of(path)["monitor"]["value"], metrics["demographic_parity_difference"]["bound"]
    accuracy = metrics["worst_group_accuracy"]["bound"]
    worst = "fairness/sex/worst_group_accuracy/bound"
    for arguments, code in (
        ([f"--at-most={BOUND}={gap!r}", "--at-least", f"{worst}={accuracy!r}", "--at-most", f"val_loss={loss!r}"], 0),
        ([f"--at-most={BOUND}={gap - 1e-9!r}"], 1),
        ([f"--at-least={worst}={accuracy + 1e-9!r}"], 1),
        ([f"--at-most={BOUND}={gap!r}", f"--at-most=val_loss={loss - 1e-9!r}"], 1),
    ):
        assert ask(path, *arguments).code == code, arguments
    assert call("--at-most", f"{BOUND}={gap!r}", path).code == 0
    answer = call(path, "--at-most", f"{BOUND}={gap - 1e-9!r}")
    assert (answer.code, f"asked for: {BOUND}" in answer.out) == (1, True)


def test_a_metric_that_is_not_stamped_is_not_passed_and_the_nearest_is_named(run: Path):
    answer = call(run / "epoch=1.ckpt", "--at-most", "fairness/sex/demographic_parity_diference/bound=0.5")
    assert answer.code == 1
    assert f"Did you mean '{BOUND}'?" in answer.out


def test_a_metric_that_was_undefined_is_not_passed(kept: Path):
    def edit(record: dict[str, Any]) -> None:
        record["monitors"][0]["metrics"]["sex"]["accuracy_difference"] = dict.fromkeys(("value", "bound"))

    rewrite(kept, edit)
    assert ask(kept).code == 0
    assert ask(kept, "--at-most", "fairness/sex/accuracy_difference/bound=1").code == 1


def test_a_name_that_is_stamped_twice_must_keep_the_limit_twice(kept: Path):
    rewrite(kept, lambda record: record["monitors"].append(copy.deepcopy(record["monitors"][0])))
    assert ask(kept, f"--at-most={BOUND}=0.99").code == 0
    rewrite(kept, lambda r: r["monitors"][1]["metrics"]["sex"]["demographic_parity_difference"].update(bound=1.0))
    assert ask(kept, f"--at-most={BOUND}=0.99").code == 1


def test_metrics_of_a_monitor_with_a_name_have_it_before_them(kept: Path):
    rewrite(kept, lambda record: record["monitors"][0].update(name="second"))
    assert ask(kept, "--at-most", "second/fairness/sex/accuracy_difference/bound=1").code == 0
    assert ask(kept, "--at-most", "fairness/sex/accuracy_difference/bound=1").code == 1


def single(metric: str, parts: dict[str, float | None], **more: Any) -> Any:
    monitor = {"monitor": "fairness", "metrics": {"sex": {metric: parts}}, **more}
    words = {"format": 1, "role": "kept", "gate": "open", "reason": "", "checks": []}
    return understood({**words, "monitors": [monitor]}, "side file")


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_known_to_be_good_where_the_table_says_so(name: str):
    good = METRICS[name].best
    assert by_words(name) in (None, good)
    bound = 0.6 if good == "low" else 0.4
    assert best(f"fairness/sex/{name}/bound", single(name, {"value": 0.5, "bound": bound})) == good


def test_which_values_are_good_is_never_guessed(kept: Path):
    tie = {"value": 0.0, "bound": 0.0}
    name = "fairness/sex/own_metric/bound"
    assert best(name, single("own_metric", tie)) is None
    assert best(name, single("own_metric", tie, definitions={"own_metric": {"best": "high"}})) == "high"
    rewrite(kept, lambda record: record["monitors"][0]["metrics"]["sex"].update(own_metric=tie))
    answer = ask(kept, "--at-most", f"{name}=0.1")
    assert (answer.code, "does not say whether low or high" in answer.err) == (2, True)


# --- how it is said


def test_json_is_one_object_with_the_same_answer(run: Path):
    answer = call(run / "epoch=1.ckpt", "--json", f"--at-most={BOUND}=0.001")
    found = json.loads(answer.out)
    assert (answer.code, found["exit_code"], found["passed"]) == (1, 1, False)
    assert found["evidence"] == record_of(run / "epoch=1.ckpt")
    assert found["asked"][0]["passed"] is False
    assert found["note"] == NOTE
    assert json.loads(ask(run / "epoch=1.ckpt", "--json").out)["against"] == []
    unread = call(run / "none.ckpt", "--json")
    assert (unread.code, json.loads(unread.out)["exit_code"]) == (2, 2)


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["tables", "json"])
def test_texts_cannot_steer_a_terminal_nor_break_an_encoding(kept: Path, form: list[str]):
    rewrite(kept, lambda record: record.update(promise="\x1b[2Jgröße\ud800\n", note="☃"))
    answer = call(kept, *form, PYTHONIOENCODING="ascii")
    assert answer.code == 0
    assert "\x1b" not in answer.out
    assert "2Jgr" in answer.out


@pytest.mark.skipif(sys.platform == "win32", reason="pipes differ")
def test_a_reader_that_has_gone_does_not_change_the_answer(run: Path):
    for name, code in (("epoch=1.ckpt", 0), ("last.ckpt", 1)):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "xai_lightning.verify", str(run / name)]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (code, b"")


LIGHT = """
import sys
from xai_lightning.verify.__main__ import main
code = main(sys.argv[1:])
heavy = {"torch", "numpy", "pytorch_lightning", "lightning", "lightning_fabric", "captum"} & set(sys.modules)
sys.stderr.write(repr((code, sorted(heavy))))
"""


def test_beside_a_side_file_neither_torch_nor_lightning_is_imported_and_without_it_only_torch(kept: Path):
    def heavy() -> tuple[int, list[str]]:
        command = [sys.executable, "-c", LIGHT, str(kept), f"--at-most={BOUND}=1"]
        found: tuple[int, list[str]] = eval(subprocess.run(command, capture_output=True, text=True, check=True).stderr)
        return found

    assert heavy() == (0, [])
    side(kept).unlink()
    code, modules = heavy()
    assert (code, set(modules) - {"numpy"}) == (0, {"torch"})


# --- any file at all

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["open", "kept", "last"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every part of a JSON value, itself first."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_no_edit_of_a_side_file_passes_and_none_is_a_traceback(run: Path, tmp_path_factory, data: st.DataObject):
    folder = tmp_path_factory.mktemp("edited")
    path = Path(shutil.copy(run / "epoch=1.ckpt", folder))
    record = record_of(run / "epoch=1.ckpt")
    at = data.draw(st.sampled_from(list(places(record))))
    edited = replaced(record, at, data.draw(JSON))
    side(path).write_text(json.dumps(edited))
    same = edited == record or at == ("file",)
    for form in ([], ["--json"]):
        code = ask(path, f"--at-most={BOUND}=1", *form).code
        assert code in ((0, 2) if same else (1, 2)), (at, code)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_no_evidence_at_all_is_a_traceback(run: Path, tmp_path_factory, data: st.DataObject):
    """Where nothing is there to compare it with, so that every edit is judged and shown."""
    path = tmp_path_factory.mktemp("edited") / "weights.bin"
    path.write_bytes(b"a format of the user's")
    edited = record_of(run / "epoch=1.ckpt") | {"sha256": gate_evidence.sha256(path)}
    for _ in range(data.draw(st.integers(1, 3))):
        edited = replaced(edited, data.draw(st.sampled_from(list(places(edited)))), data.draw(JSON))
        if not isinstance(edited, dict | list):
            break
    side(path).write_text(json.dumps(edited))
    assert ask(path, f"--at-most={BOUND}=1").code in (0, 1, 2)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(max_size=200) | JSON.map(json.dumps) | st.integers(1, 3000).map(lambda n: '{"a":' * n + "1" + "}" * n)
)
def test_no_text_at_all_is_more_than_unreadable(run: Path, tmp_path_factory, text: str):
    path = Path(shutil.copy(run / "epoch=1.ckpt", tmp_path_factory.mktemp("text")))
    side(path).write_bytes(text.encode("utf-8", "surrogatepass"))
    assert ask(path).code == 2


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_no_bytes_at_all_are_a_checkpoint(tmp_path_factory, data: bytes):
    path = tmp_path_factory.mktemp("bytes") / "model.ckpt"
    path.write_bytes(data)
    assert ask(path).code == 2


@given(
    value=st.recursive(
        st.text(max_size=3) | st.integers() | st.sampled_from(["key", "value"]),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3) | st.just("key"), inner),
        max_leaves=10,
    ),
    protocol=st.integers(1, 5),
)
def test_texts_are_found_in_a_pickle_wherever_they_stand(value: Any, protocol: int):
    """Against a walk through the value itself; words may repeat, so that pickle refers back to them."""

    def walk(part: Any) -> Iterator[str]:
        for key, inner in part.items() if isinstance(part, dict) else ():
            if key == "key" and isinstance(inner, str):
                yield inner
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from walk(inner)

    whole = {"key": "mine", "rest": value, "value": "key"}
    found = list(stored_texts(pickle.dumps(whole, protocol), "key"))
    missing = list(walk(whole))
    for text in found:
        if text in missing:
            missing.remove(text)
    assert missing == []


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["tables", "json"])
def test_lists_at_any_depth_are_no_traceback(kept: Path, form: list[str]):
    """Around the depth that can just be read, and no longer be compared or written."""
    text = side(kept).read_text()
    codes = set()
    for depth in range(sys.getrecursionlimit() - 250, sys.getrecursionlimit()):
        side(kept).write_text(text.replace('"look": 2', '"look": ' + "[" * depth + "]" * depth))
        codes.add(ask(kept, *form).code)
    assert codes == {1, 2}


# --- the document


def test_the_document_lists_the_exit_codes_as_they_are(run: Path):
    rows = re.findall(r"^\| (\d) \| ([\w ]+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    documented = {int(code): meaning for code, meaning, _ in rows}
    paths = [run / "epoch=1.ckpt", run / "last.ckpt", run / "nothing.ckpt"]
    answers = [ask(path) for path in paths]
    said = {answer.code: (answer.out.splitlines() or answer.err.splitlines()) for answer in answers}
    assert list(documented) == list(said) == [0, 1, 2]
    for code, meaning in documented.items():
        assert any(line.upper().startswith(meaning.upper()) for line in said[code]), meaning
    assert ask("--help").out.replace("\n", " ").count("0 passed, 1 not passed, 2 unreadable") == 1


def test_the_options_of_the_document_exist_and_every_option_is_there():
    text = DOCUMENT.read_text()
    options = set(re.findall(r"(--[a-z-]+)", ask("--help").out)) - {"--help"}
    assert set(re.findall(r"(?<![\w|-])(--[a-z][a-z-]+)", text)) == options


def test_the_document_names_the_fields_of_json(run: Path):
    line = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith("`--json`"))
    named = re.findall(r"`(\w+)`", line)
    assert named == list(json.loads(ask(run / "epoch=1.ckpt", "--json").out))


def test_the_document_says_that_evidence_is_no_signature():
    text = " ".join(DOCUMENT.read_text().split())
    assert NOTE.partition(":")[0].lower() in text.lower()
