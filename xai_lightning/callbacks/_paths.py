"""Checks that names which become paths stay in their folder, on every system."""

from pathlib import Path, PureWindowsPath
from typing import IO

MOST_BYTES = 200
"""Limit for one part of a name: file systems allow 255, and a version, ``INFEASIBLE-`` and ``.verdict.json`` follow."""


def check_within(name: str, what: str) -> None:
    """Refuse a name that would leave its folder, or that no file can have.

    Backslashes, drives, and parts of only dots and spaces are checked on every system, because files move between
    systems.

    Args:
        name: a relative name, which may lead into subfolders.
        what: the setting's name, for the message.

    Raises:
        ValueError: shows the name and what is wrong with it.

    Example:
        >>> check_within("epoch=0-val/loss=0.51", "filename")
        >>> check_within("../x", "filename")
        Traceback (most recent call last):
        ValueError: filename must stay in its folder; got '../x'
    """
    path = PureWindowsPath(name)
    # pathlib takes only letters for drives, Windows any character before a colon
    if path.anchor or any(part[1:2] == ":" or not part.strip(" .") for part in path.parts):
        raise ValueError(f"{what} must stay in its folder; got {name!r}")
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in name):
        raise ValueError(f"{what} must not hold control characters or half characters; got {name!r}")
    longest = max((len(part.encode()) for part in path.parts), default=0)
    if longest > MOST_BYTES:
        raise ValueError(f"{what} must have parts of at most {MOST_BYTES} bytes; got {name[:60]!r}… with {longest}")


def new_file(path: Path) -> IO[bytes]:
    """Create and open a file; whatever is in its place, such as a link that leads elsewhere, is removed first.

    Raises:
        OSError: if it cannot be created, or if something else appears in its place meanwhile.
    """
    path.unlink(missing_ok=True)
    return path.open("xb")
