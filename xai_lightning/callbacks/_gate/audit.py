"""The audit file: one JSON line per decision. A kill at any byte costs at most the line that was being written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xai_lightning.callbacks._gate.evidence import dumps
from xai_lightning.callbacks._gate.files import replace


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Append ``record`` as one line, and sync it to the disk.

    A torn last line that a killed process left is first replaced by ``{"event": "repaired", "lost_bytes": n}``; a last
    line that lacks only its line end is completed. Complete lines are never touched.

    Args:
        path: the audit file; it and its folder are created if they are missing.
        record: plain types, without NaN.

    Raises:
        OSError: if the file cannot be written; complete lines stay complete.
        ValueError: if ``record`` holds a number that JSON does not know; nothing is written then.
    """
    line = _line(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _ends_well(path):
        replace(path.resolve(), _repaired(path.read_bytes()))
    with path.open("ab") as stream:
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def mark(path: Path, step: int) -> None:
    """Say in a line that decisions are counted anew from here, if lines of another run precede it.

    Args:
        path: the audit file.
        step: the ``global_step`` at which the run begins.

    Raises:
        OSError: if the file cannot be written.
    """
    if path.is_file() and path.stat().st_size:
        append(path, {"event": "began", "global_step": step})


def cut_back(path: Path, step: int, made: Mapping[str, Any] | None = None) -> int:
    """Drop the decisions made after ``step``, which a run that is resumed there makes again, and say so in a line.

    The line ``{"event": "resumed", "global_step": step, "dropped": n}`` is written even if there is nothing to drop,
    and even into a new file. It and the cut take effect together or not at all. Lines that are not decisions stay.

    Args:
        path: the audit file.
        step: the ``global_step`` that the run resumes from.
        made: the decision that was made there; a process that was killed right afterwards may not have written it.

    Returns:
        How many decisions were dropped.

    Raises:
        OSError: if the file cannot be written; it is then unchanged.
    """
    lines = _repaired(path.read_bytes()) if path.exists() else []
    kept = [line for line in lines if not _is_later(line, step)]
    dropped = len(lines) - len(kept)
    if made is not None and not any(_is_of_look(line, made) for line in kept):
        kept.append(_line(made))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path.resolve(), [*kept, _line({"event": "resumed", "global_step": step, "dropped": dropped})])
    return dropped


def read(path: Path) -> list[dict[str, Any]]:
    """The records of the audit file in order, without a torn last line that a killed process left.

    Returns:
        One dict per line; none if there is no file yet.

    Raises:
        ValueError: if any other line is not a JSON object; says which.
    """
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    records = [_parsed(line) for line in [*lines, rest]]
    for number, (line, record) in enumerate(zip(lines, records, strict=False), start=1):
        if record is None:
            raise ValueError(f"line {number} of {path} must be a JSON object; got {line[:80]!r}")
    return [record for record in records if record is not None]


def _line(record: Mapping[str, Any]) -> bytes:
    return dumps(record).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None if there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _ends_well(path: Path) -> bool:
    if not path.exists():
        return True
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        if not size:
            return True
        stream.seek(size - 1)
        return stream.read(1) == b"\n"


def _repaired(content: bytes) -> list[bytes]:
    """The lines of an audit file, with a torn last line replaced by one that says how many bytes it had."""
    *lines, rest = content.split(b"\n")
    whole = [line + b"\n" for line in lines]
    if not rest:
        return whole
    torn = _parsed(rest) is None
    return [*whole, _line({"event": "repaired", "lost_bytes": len(rest)}) if torn else rest + b"\n"]


def _is_later(line: bytes, step: int) -> bool:
    """Whether a line is a decision made after ``step``."""
    record = _parsed(line)
    if record is None or "event" in record:
        return False
    made = record.get("global_step")
    return isinstance(made, int) and made > step


def _is_of_look(line: bytes, made: Mapping[str, Any]) -> bool:
    """Whether a line is the decision ``made``."""
    record = _parsed(line)
    return (
        record is not None and "event" not in record and all(record.get(k) == made[k] for k in ("look", "global_step"))
    )
