"""Nothing that is read runs, and nothing that is named leaves its folder."""

import ast
import json
import ntpath
import os
import pickle
import posixpath
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO

import gated
from small import Classifier, fit
from xai_lightning import ActivationMonitor, FairnessMonitor, GatedCheckpoint, tags
from xai_lightning.callbacks._gate import audit
from xai_lightning.callbacks._gate.certificate import read_checkpoint
from xai_lightning.callbacks._gate.evidence import sha256, write_verdict
from xai_lightning.callbacks._gate.files import verdict_path
from xai_lightning.callbacks._paths import check_within, new_file
from xai_lightning.verify.__main__ import UNREADABLE, main

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "xai_lightning").rglob("*.py"))
FILES = [
    *PACKAGE,
    *sorted(path for name in ("examples", "benchmarks", "tools") for path in (ROOT / name).rglob("*.py")),
]

pytestmark = pytest.mark.filterwarnings("ignore:No checkpoint passed the gate:UserWarning")


# --- what the sources may call

UNPICKLERS = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BY_TEXT = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pandas.read_pickle", "torch.hub.load"}
READERS = {"torch.load", "load_checkpoint", "load_from_checkpoint"}
RESUMERS = {"fit", "validate", "test", "predict"}
BY_NAME = {
    "xai_lightning/__init__.py": "public names",
    "xai_lightning/_lightning.py": "the two Lightnings",
    "xai_lightning/callbacks/_attribution/ways.py": "method='my_package.my_function', which the user wrote",
    "tools/alias_lightning.py": "the two Lightnings",
}
"""Files that may import a module by its name, and where that name comes from."""


def unsafe(text: str, may_import: bool = False) -> list[str]:
    """What a source calls that runs what it reads, as ``line: why``."""
    tree = ast.parse(text)
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {name.asname or name.name.split(".")[0]: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    return [f"{node.lineno}: {why}" for node in ast.walk(tree) for why in wrong(node, aliases, may_import)]


def wrong(node: ast.AST, aliases: dict[str, str], may_import: bool) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
        yield from (f"import of {name}" for name in modules if name.split(".")[0] in UNPICKLERS)
    if not isinstance(node, ast.Call):
        return
    name = dotted(node.func, aliases)
    last, given = name.rpartition(".")[2], {keyword.arg: keyword.value for keyword in node.keywords}
    if name in BY_TEXT:
        yield f"call of {name}"
    if name.startswith("yaml.") and not last.startswith("safe_"):
        yield f"call of {name}"
    if "shell" in given and not is_constant(given["shell"], False):
        yield "a shell"
    if "allow_pickle" in given and not is_constant(given["allow_pickle"], False):
        yield "allow_pickle"
    if last == "import_module" and not may_import:
        yield "a module by its name"
    reads = name in READERS or last in READERS or (last in RESUMERS and "ckpt_path" in given)
    if (reads or "weights_only" in given) and not is_constant(given.get("weights_only"), True):
        yield f"{name} without weights_only=True"


def dotted(node: ast.AST, aliases: dict[str, str]) -> str:
    """``a.b.c`` of an expression, with ``a`` as it was imported; what is no name is a question mark."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, aliases)}.{node.attr}"
    return aliases.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_what_it_reads(path: Path) -> None:
    """Trap 53: every checkpoint is read with ``weights_only=True``."""
    where = path.relative_to(ROOT).as_posix()
    assert unsafe(path.read_text(encoding="utf-8"), where in BY_NAME) == []


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(p)",
        "import torch as t\nt.load(p, weights_only=False)",
        "from torch import load as read\nread(p, weights_only=flag)",
        "io.load_checkpoint(p)",
        "Net.load_from_checkpoint(p, weights_only=None)",
        "trainer.fit(net, ckpt_path='last')",
        "read(p, weights_only=False)",
        "import pickle",
        "from cloudpickle import loads",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module\nimport_module(name)",
        "import yaml\nyaml.load(text, Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(p)",
        "import subprocess\nsubprocess.run(c, shell=True)",
        "import os\nos.system(c)",
    ],
)
def test_the_search_finds_each_kind(text: str) -> None:
    assert len(unsafe(text)) == 1


def test_the_package_reads_no_yaml_and_hands_nothing_to_hyperparameters() -> None:
    """Trap 58: YAML and what is kept of it are LightningCLI's affair."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in PACKAGE}
    for word in ("yaml", "save_hyperparameters", "log_hyperparams"):
        assert [name for name, text in texts.items() if word in text] == [], word


def test_a_checkpoint_has_hyperparameters_of_the_model_only(tmp_path: Path) -> None:
    gate = GatedCheckpoint(at_least={"val_acc": 0.0})
    fit(Classifier(), [ActivationMonitor(), gate], tmp_path, max_epochs=1)
    assert not {name for name in torch.load(gate.best_model_path, weights_only=True) if "hyper" in name}


# --- files that would run something


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


PLACES = {
    "a gate's state": lambda content, evil: next(iter(content["callbacks"].values()))["gate"].update(looks=evil),
    "another callback's state": lambda content, evil: content["callbacks"].update(Other=evil),
    "the record": lambda content, evil: content.update(xai_lightning=evil),
    "hyperparameters": lambda content, evil: content.update(hyper_parameters={"net": evil}),
}
each_place = pytest.mark.parametrize("place", PLACES)


def poisoned(folder: Path, place: str, **options: Any) -> tuple[Path, Path]:
    """A checkpoint of a gate that would touch a file, its side file renewed, and that other file."""
    _, gate = gated.fit(folder, [0.05])
    path, trace = Path(gate.best_model_path), folder / "it ran"
    content = torch.load(path, weights_only=True)
    record = json.loads(content["xai_lightning"])
    PLACES[place](content, Payload(trace))
    torch.save(content, path, **options)
    write_verdict(path, record)
    # that the payload is one
    torch.load(path, weights_only=False)
    assert trace.exists()
    trace.unlink()
    return path, trace


@each_place
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_a_resume_runs_nothing_of_a_checkpoint(place: str, tmp_path: Path) -> None:
    """Trap 53."""
    path, trace = poisoned(tmp_path, place)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        gated.fit(tmp_path, [0.05, 0.05], ckpt_path=path)
    assert not trace.exists()


@each_place
@pytest.mark.parametrize("beside", [True, False], ids=["side file", "alone"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_the_command_runs_nothing_of_a_checkpoint(
    place: str, beside: bool, new: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, trace = poisoned(tmp_path, place, _use_new_zipfile_serialization=new)
    if not beside:
        verdict_path(path).unlink()
    code = main([str(path)])
    assert beside or code == UNREADABLE
    assert not trace.exists()
    assert capsys.readouterr()


def test_the_command_runs_nothing_of_a_pickle_that_is_no_checkpoint(tmp_path: Path) -> None:
    path, trace = tmp_path / "x.ckpt", tmp_path / "it ran"
    path.write_bytes(pickle.dumps({"xai_lightning": Payload(trace)}))
    assert main([str(path)]) == UNREADABLE
    assert not trace.exists()


@each_place
def test_a_certificate_runs_nothing_of_a_checkpoint(place: str, tmp_path: Path) -> None:
    """Trap 53: although the side file agrees, for whoever can write one can write both."""
    path, trace = poisoned(tmp_path, place)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(checkpoint_io=TorchCheckpointIO()))
    assert json.loads(verdict_path(path).read_text())["sha256"] == sha256(path)
    with pytest.raises(ValueError, match=r"holds objects that cannot be loaded with weights_only=True.*pathlib\.Path"):
        read_checkpoint(trainer, path)
    assert not trace.exists()


# --- names that would leave their folder

HOSTILE = [
    "../../x",
    "/x",
    "//host/share/x",
    "..",
    "...",
    ". ./x",
    "..\\..\\x",
    "C:\\x",
    "C:x",
    "0:x",
    "ü:x",
    "./0:",
    "a/../../x",
    "a\0b",
    "a\nb",
    "\ud800",
    "x" * 300,
    "ü" * 150,
]
pieces = st.sampled_from(
    ["..", ".", "/", "\\", " ", "C:", "\0", "{", "}", "val", "ü", "\u202e", "con", ":", "|", "{epoch}"]
)
names = st.one_of(st.text(max_size=300), st.lists(pieces, max_size=12).map("".join))


def stays(inner: str) -> bool:
    """Whether a relative path stays below its folder, on either system, and can be one's name."""
    outcomes = []
    for system, folder in ((posixpath, "/a/b"), (ntpath, "C:\\a\\b")):
        whole = system.normpath(system.join(folder, inner))
        outcomes.append(whole.startswith(folder + system.sep))
    return all(outcomes) and "\0" not in inner


def files_of(gate: GatedCheckpoint, name: str) -> list[str]:
    """Every file that a gate would write for metrics of which one has that name, relative to its folder."""
    strategy = SimpleNamespace(reduce_boolean_decision=lambda found, **_: found)
    trainer: Any = SimpleNamespace(strategy=strategy, is_global_zero=True)
    metrics = {"epoch": torch.tensor(3), "step": torch.tensor(12), name: torch.tensor(0.25)}
    kept = [gate.format_checkpoint_name(dict(metrics), ver=version) for version in (None, 2)]
    kept.append(gate._fallback_name(trainer, dict(metrics)))
    paths = [*kept, *map(verdict_path, kept), gate.audit_path, gate.in_hand.path]
    assert gate.dirpath is not None
    return [str(path).removeprefix(str(gate.dirpath)).removeprefix("/") for path in paths]


def made(**settings: Any) -> GatedCheckpoint | None:
    """A gate, or None if it was refused in words of ours."""
    try:
        return GatedCheckpoint("val_loss", at_most={"val_loss": 1.0}, dirpath="/a/folder", **settings)
    except ValueError as error:
        if not any(word in str(error) for word in ("filename", "name must")):
            raise
        return None


@given(names, st.booleans())
@example("../../x", True)
@example("a/../../x", True)
@example("{epoch:/>4}", False)
@example("..\\x", True)
def test_files_named_after_metrics_stay_in_their_folder(name: str, inserts: bool) -> None:
    for template in (name, f"{{{name}}}", f"e{{epoch}}-{{{name}:.2f}}"):
        gate = made(filename=template, auto_insert_metric_name=inserts)
        if gate is not None:
            assert all(map(stays, files_of(gate, name))), template


@given(names)
def test_an_audit_file_stays_in_its_folder(name: str) -> None:
    gate = made(name=name)
    assert gate is None or all(map(stays, files_of(gate, "val_loss")))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_leave_their_folder_or_cannot_be_files_are_refused(name: str) -> None:
    # within a template, dots become part of a longer name, and what follows a colon is a format
    harmless = name in ("..", "...", "C:x", "ü:x", "./0:")
    assert (made(filename=f"{{{name}}}") is None) != harmless
    assert made(filename=f"{name}/{{epoch}}") is None
    assert made(name=name) is None
    with pytest.raises(ValueError, match="name must"):
        FairnessMonitor(groups={"sex": ["F", "M"]}, name=name)


@pytest.mark.parametrize("name", ["", "fair", "epoch=3-val/loss=0.25.ckpt", "Größe", "a..b", "a.b", "{epoch}"])
def test_other_names_are_not(name: str) -> None:
    check_within(name, "name")


@given(st.lists(names, min_size=1, max_size=4))
def test_no_part_of_a_tag_leads_out_of_a_folder(parts: list[str]) -> None:
    """A logger that stores pictures makes files of tags."""
    tag = tags.join("rate", *parts)
    assert tag.count("/") == len(parts)
    assert all(part.strip(".") for part in tag.split("/"))


def test_a_run_with_hostile_names_writes_below_its_folder_only(tmp_path: Path) -> None:
    """Groups, a metric in the file's name, and the names of monitors, on a real disk."""
    folder = tmp_path / "one" / "two" / "three"
    groups = {"../../attribute": ["../../group", "/root"], "..": ["..", "C:\\x"]}
    read = {name: lambda batch: batch["sex"] for name in groups}
    monitor = FairnessMonitor(groups=groups, groups_from=read, name="team/fair")
    wanted = "rate/.._.._attribute/selection_rate/_root"
    gate = GatedCheckpoint(
        at_least={"val_acc": 0.0}, filename=f"{{epoch}}-{{team/fair/{wanted}:.1f}}", name="team/gate", fallback="last"
    )
    logger = TensorBoardLogger(folder / "logs", name="")
    fit(Classifier(), [monitor, gate], folder, logger=logger, max_epochs=1)
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents]
    assert outside == []
    assert Path(gate.best_model_path).is_file()
    assert gate.audit_path.is_file()


# --- links and pipes

SYSTEM = pytest.mark.skipif(os.name == "nt", reason="needs pipes and /dev")


def kept(folder: Path) -> Path:
    return Path(gated.fit(folder, [0.05])[1].best_model_path)


@SYSTEM
@pytest.mark.parametrize("what", ["/dev/zero", "pipe", "folder", "/proc/self/environ", "nowhere"])
@pytest.mark.parametrize("which", ["side file", "checkpoint"])
def test_the_command_ends_whatever_stands_in_place_of_a_file(
    what: str, which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = kept(tmp_path / "run")
    target = tmp_path / "target"
    if what == "pipe":
        os.mkfifo(target)
    elif what == "folder":
        target.mkdir()
    elif what != "nowhere":
        target = Path(what)
    place = verdict_path(checkpoint) if which == "side file" else checkpoint
    place.unlink()
    place.symlink_to(target)
    code = main([str(checkpoint)])
    # a side file that leads nowhere is one that is not there
    assert (code == 0) == ((which, what) == ("side file", "nowhere"))
    assert "PATH=" not in "".join(capsys.readouterr())


def test_what_a_side_file_names_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = kept(tmp_path / "run")
    other = tmp_path / "other.ckpt"
    other.write_bytes(b"secret")
    record = json.loads(verdict_path(checkpoint).read_text())
    verdict_path(checkpoint).write_text(json.dumps({**record, "file": "../other.ckpt", "sha256": sha256(other)}))
    assert main([str(checkpoint)]) == 1
    assert f"the hash of the checkpoint is {sha256(checkpoint)}" in capsys.readouterr().out


@SYSTEM
def test_a_link_in_place_of_a_draft_is_not_followed(tmp_path: Path) -> None:
    """Files are first written under another name; whoever knows it may have left a link there."""
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    checkpoint = kept(folder)
    for draft in ("epoch=0-step=2.verdict.json.tmp", "gate_audit.jsonl.tmp"):
        (folder / draft).symlink_to(victim)
    assert checkpoint.name == "epoch=0-step=2.ckpt"
    write_verdict(checkpoint, {"format": 1})
    audit.cut_back(folder / "gate_audit.jsonl", 0)
    assert victim.read_text() == "precious"
    assert not verdict_path(checkpoint).is_symlink()
    assert not (folder / "gate_audit.jsonl").is_symlink()


def test_what_comes_into_the_place_of_a_draft_in_between_is_not_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    unlink = Path.unlink

    def planted(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok=missing_ok)
        self.symlink_to(theirs)

    monkeypatch.setattr(Path, "unlink", planted)
    with pytest.raises(FileExistsError):
        new_file(tmp_path / "draft")
    assert theirs.read_text() == "theirs"
