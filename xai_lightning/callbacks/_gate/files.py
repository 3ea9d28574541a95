"""Files that replace others atomically, and a note of those in hand, so that a kill at any moment loses nothing."""

import json
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from xai_lightning.callbacks._paths import new_file

CHECKPOINT = ".ckpt"


def draft_of(path: Path) -> Path:
    """The name under which a file is written before it takes its place: in the same folder, hence on the same disk."""
    return path.with_name(f"{path.name}.tmp")


def replace(path: Path, lines: Iterable[bytes]) -> None:
    """Replace the content of a file atomically: a kill leaves the old one or the new one."""
    draft = draft_of(path)
    try:
        with new_file(draft) as stream:
            stream.writelines(lines)
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            shutil.copymode(path, draft)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def take_place(path: Path) -> None:
    """Sync the draft of ``path``, a file or a folder, to the disk and move it into place; a file atomically."""
    draft, aside = draft_of(path), _aside(path)
    for part in [draft] if draft.is_file() else [part for part in draft.rglob("*") if part.is_file()]:
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
    if not draft.is_dir():
        draft.replace(path)
        return
    # a folder cannot replace another: one of them exists at any moment, in place or put aside
    if path.exists():
        discard(aside)
        path.rename(aside)
    draft.rename(path)
    discard(aside)


def discard(path: Path) -> None:
    """Remove a file or a folder, if it exists; of a link, only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    """Where a folder is kept while another takes its place."""
    return path.with_name(f"{path.name}.old")


def put_aside(folder: Path, pattern: str) -> set[Path]:
    """Where folders were put aside when a kill came before another took their place.

    Args:
        folder: where to look.
        pattern: glob pattern of the names that they had.
    """
    places = (path.with_suffix("") for path in folder.glob(_aside(Path(pattern)).name))
    return {_aside(path) for path in places if not path.exists()}


class InHand:
    """A note on the disk, kept while the files of one validation are written: which are new, which become obsolete.

    A file counts once ``last.ckpt`` says so. One that the state of the resumed run does not know was either begun after
    that state was written, or has become obsolete.

    Args:
        path: path of the note.
        folder: folder of the files.
        owner: who writes the files; nobody else may remove them.
    """

    def __init__(self, path: Path, folder: Path, owner: str) -> None:
        self.path, self.folder, self.owner = path, folder, owner

    def note(self, look: int, name: str = "") -> None:
        """Note the file ``name``, relative to the folder, before validation ``look`` touches it.

        Raises:
            OSError: if the note cannot be written.
        """
        found = self.read()
        names = found["files"] if (found.get("owner"), found.get("look")) == (self.owner, look) else []
        record = {"owner": self.owner, "look": look, "files": [*names, *[name] * bool(name)]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace(self.path, [json.dumps(record).encode() + b"\n"])

    def read(self) -> dict[str, Any]:
        """The content of the note; empty without a note, or if the file is something else."""
        try:
            found = json.loads(self.path.read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        ours = isinstance(found, dict) and isinstance(found.get("look"), int) and isinstance(found.get("files"), list)
        return found if ours else {}

    def settle(self) -> None:
        """Remove the note, as all files are in their places."""
        self.path.unlink(missing_ok=True)

    def undo(self, looks: int, known: Collection[str]) -> list[Path]:
        """Remove what a killed process had in hand, as far as a run that goes on after ``looks`` validations may.

        Args:
            looks: how many validations the state that is resumed from had judged.
            known: the files that this state knows, named as they were noted.

        Returns:
            The files that stay, whose side files may be from another moment.
        """
        found = self.read()
        # with any other number, the user resumed from elsewhere on purpose, and may want the files
        ours = found.get("owner") == self.owner and found["look"] - looks in (0, 1)
        noted = {path: name for name in found.get("files", ()) if (path := self._within(name)) is not None}
        for path, name in noted.items():
            if _aside(path).exists() and not path.exists():
                _aside(path).rename(path)
            if ours and name not in known:
                discard(path)
                verdict_path(path).unlink(missing_ok=True)
            # unfinished files count nowhere
            for file in (_aside(path), draft_of(path), draft_of(verdict_path(path))):
                discard(file)
        return [path for path in noted if path.exists()]

    def _within(self, name: object) -> Path | None:
        """The checkpoint of that name in the folder; None for anything else."""
        folder = self.folder.resolve()
        path = (folder / str(name)).resolve()
        return path if path.suffix == CHECKPOINT and path.is_relative_to(folder) else None


def verdict_path(checkpoint: str | Path) -> Path:
    """The side file of a checkpoint: ``<name>.verdict.json``."""
    path = Path(checkpoint)
    # a folder may be called "val=0.51", whose decimals are not a suffix
    stem = path.stem if path.suffix == CHECKPOINT else path.name
    return path.with_name(f"{stem}.verdict.json")
