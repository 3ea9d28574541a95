"""Files and folders that take the place of others, killed between any two of their steps.

A kill is a copy of the folder as it is before a call of the system that renames or removes something. Each copy is put
in order as a restart would, which may be killed in the same way.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from xai_lightning.callbacks._gate import files
from xai_lightning.callbacks._gate.evidence import renew_verdict
from xai_lightning.callbacks._gate.files import InHand, draft_of, put_aside, replace, take_place, verdict_path

STEPS = ("rename", "replace", "unlink", "rmdir")
NOTE, OWNER, LOOK = "note.json", "a gate", 4
KINDS = ["file", "folder"]


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Of an action in a folder: copies of the folder before each of its steps, and after the last."""
    numbers = iter(range(10_000))

    @contextmanager
    def watched(folder: Path) -> Iterator[list[Path]]:
        found: list[Path] = []

        def copy() -> None:
            found.append(shutil.copytree(folder, tmp_path / "kills" / str(next(numbers)) / "here", symlinks=True))

        with monkeypatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, before(copy, getattr(os, name)))
            yield found
        copy()

    return watched


def before(note: Callable[[], None], call: Callable[..., Any]) -> Callable[..., Any]:
    """A call of the system that is noted first."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        note()
        return call(*args, **kwargs)

    return noted


def write(path: Path, text: str, kind: str) -> None:
    """A checkpoint of one file, or of a folder of two, one of them in a folder below."""
    if kind == "file":
        path.write_text(text)
        return
    (path / "below").mkdir(parents=True)
    for part in (path / "0", path / "below" / "1"):
        part.write_text(text)


def read(path: Path) -> str | None:
    """What a whole checkpoint says; None if there is none."""
    if not path.exists():
        return None
    parts = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    assert len(parts) in (1, 2)
    assert path.is_file() or len(parts) == 2, f"{path.name} is not whole: {parts}"
    (text,) = {part.read_text() for part in parts}
    return text


def note_of(folder: Path) -> InHand:
    return InHand(folder / NOTE, folder, OWNER)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def written(folder: Path, kind: str, old: str | None) -> Path:
    """A folder with a note, in which a draft is about to take the place of ``old``."""
    folder.mkdir()
    path = folder / "last.ckpt"
    note_of(folder).note(LOOK, path.name)
    if old is not None:
        write(path, old, kind)
    write(draft_of(path), "new", kind)
    return path


# --- taking the place of another


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", [None, "old"], ids=["nothing", "another"])
def test_a_kill_while_a_checkpoint_takes_its_place_leaves_the_old_one_or_the_new_one(
    old: str | None, kind: str, kills: Callable[..., Any], tmp_path: Path
) -> None:
    """Trap 52: whole, under its own name, and nothing else, once a restart has put the folder in order."""
    path = written(tmp_path / "kept", kind, old)
    with kills(path.parent) as killed:
        take_place(path)
    assert read(path) == "new"
    assert names(path.parent) == ["last.ckpt", NOTE]
    assert len(killed) >= (2 if kind == "file" else 3)
    found = [after_restart(folder, {"last.ckpt"}) for folder in killed]
    assert found == sorted(found, key=("old", None, "new").index), "once it is new it stays so"
    assert found[0] == old
    assert found[-1] == "new"


def after_restart(folder: Path, known: set[str], looks: int = LOOK - 1) -> str | None:
    note = note_of(folder)
    stay = note.undo(looks, known)
    assert [path.name for path in stay] == [name for name in sorted(known) if (folder / name).exists()]
    note.settle()
    assert set(names(folder)) <= known
    return read(folder / "last.ckpt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known", [{"last.ckpt"}, set()], ids=["known", "unknown"])
def test_a_restart_that_is_killed_as_well_is_done_by_the_next(
    known: set[str], kind: str, kills: Callable[..., Any], tmp_path: Path
) -> None:
    """Trap 52: to put a folder in order twice is to do it once; what the state does not know is gone."""
    path = written(tmp_path / "kept", kind, "old")
    with kills(path.parent) as killed:
        take_place(path)
    for folder in killed:
        once = shutil.copytree(folder, folder.parent / "once")
        with kills(folder) as again:
            note_of(folder).undo(LOOK - 1, known)
        expected = after_restart(once, known)
        assert (expected is not None) == bool(known)
        assert [after_restart(other, known) for other in again] == [expected] * len(again)


def test_a_folder_that_an_earlier_kill_left_aside_stays_until_another_is_in_its_place(
    kills: Callable[..., Any], tmp_path: Path
) -> None:
    """Trap 52: nobody has put the folder in order since, and it is the only whole one."""
    path = written(tmp_path / "kept", "folder", None)
    write(files._aside(path), "old", "folder")
    with kills(path.parent) as killed:
        take_place(path)
    assert names(path.parent) == ["last.ckpt", NOTE]
    found = [after_restart(folder, {"last.ckpt"}) for folder in killed]
    assert found == sorted(found, key=("old", "new").index)
    assert found[0] == "old"


def test_what_an_earlier_kill_left_aside_is_in_nobodys_way(tmp_path: Path) -> None:
    """Trap 52: it came after another had taken the place, and nobody has put the folder in order since."""
    path = written(tmp_path / "kept", "folder", "old")
    write(files._aside(path), "older", "folder")
    take_place(path)
    assert read(path) == "new"
    assert names(path.parent) == ["last.ckpt", NOTE]


@pytest.mark.parametrize("kind", [*KINDS, "content"])
def test_what_takes_a_place_is_on_the_disk_before(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trap 52: where the power fails, a name that leads to an empty file is worse than the old one."""
    synced: set[int] = set()
    moves: list[set[int]] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.add(os.fstat(file).st_ino), sync(file)))
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, before(lambda: moves.append(set(synced)), getattr(os, name)))
    if kind == "content":
        path = tmp_path / "last.verdict.json"
        replace(path, [b"new"])
    else:
        path = written(tmp_path / "kept", kind, None)
        moves.clear()
        take_place(path)
    parts = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    assert len(parts) == (2 if kind == "folder" else 1)
    assert {part.stat().st_ino for part in parts} <= moves[0]


def test_of_a_link_in_the_place_the_link_is_replaced(tmp_path: Path) -> None:
    path = written(tmp_path / "kept", "folder", None)
    write(tmp_path / "elsewhere", "theirs", "folder")
    path.symlink_to(tmp_path / "elsewhere")
    take_place(path)
    assert read(path) == "new"
    assert not path.is_symlink()
    assert read(tmp_path / "elsewhere") == "theirs"


def test_only_folders_whose_place_is_empty_count_as_put_aside(tmp_path: Path) -> None:
    for name in ("last.ckpt.old", "last-v1.ckpt.old", "last-v1.ckpt", "best.ckpt.old", "last.ckpt.tmp"):
        write(tmp_path / name, name, "folder")
    assert {path.name for path in put_aside(tmp_path, "last*.ckpt")} == {"last.ckpt.old"}


# --- content at once


def test_a_kill_while_a_file_gets_another_content_leaves_the_old_one_or_the_new_one(
    kills: Callable[..., Any], tmp_path: Path
) -> None:
    """Trap 52."""
    path = tmp_path / "kept" / "last.verdict.json"
    path.parent.mkdir()
    path.write_bytes(b"old")
    path.chmod(0o640)
    with kills(path.parent) as killed:
        replace(path, [b"n", b"ew"])
    assert [(folder / path.name).read_bytes() for folder in killed] == [b"old"] * (len(killed) - 1) + [b"new"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert names(path.parent) == [path.name]


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "last.verdict.json"
    path.write_bytes(b"old")

    def lines() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "no room")

    with pytest.raises(OSError, match="no room"):
        replace(path, lines())
    assert names(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("content", [b"no checkpoint", b""])
def test_a_file_without_a_record_gets_no_side_file_and_keeps_none_of_another(content: bytes, tmp_path: Path) -> None:
    """Trap 52: what a kill left there speaks of a file that is gone."""
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    verdict_path(path).write_text("{}")
    renew_verdict(path)
    assert names(tmp_path) == [path.name]


# --- what is in hand


def test_a_file_of_equal_name_in_another_folder_is_another_file(tmp_path: Path) -> None:
    """A template of names may hold folders: ``{epoch}/model``."""
    note = note_of(tmp_path)
    for name in ("epoch=1/model.ckpt", "epoch=2/model.ckpt"):
        (tmp_path / name).parent.mkdir()
        for path in (tmp_path / name, verdict_path(tmp_path / name)):
            path.touch()
    note.note(LOOK, "epoch=1/model.ckpt")
    note.note(LOOK, "epoch=2/model.ckpt")
    assert note.undo(LOOK - 1, {"epoch=1/model.ckpt"}) == [tmp_path / "epoch=1/model.ckpt"]
    assert names(tmp_path / "epoch=1") == ["model.ckpt", "model.verdict.json"]
    assert names(tmp_path / "epoch=2") == []


def test_a_note_may_stand_in_another_folder_than_the_files(tmp_path: Path) -> None:
    note = InHand(tmp_path / "mine" / NOTE, tmp_path, OWNER)
    (tmp_path / "a.ckpt").touch()
    note.note(LOOK, "a.ckpt")
    assert note.undo(LOOK - 1, set()) == []
    assert names(tmp_path) == ["mine"]


def test_a_note_is_of_one_validation(tmp_path: Path) -> None:
    note = note_of(tmp_path)
    for look, name in ((1, "a.ckpt"), (2, "b.ckpt"), (2, "c.ckpt")):
        note.note(look, name)
    assert json.loads((tmp_path / NOTE).read_bytes()) == {"owner": OWNER, "look": 2, "files": ["b.ckpt", "c.ckpt"]}
    note.settle()
    note.settle()
    assert note.undo(1, set()) == []
