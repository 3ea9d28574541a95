"""Names that become paths: they stay in their folder, on every system."""

from pathlib import Path, PureWindowsPath
from typing import IO

MOST_BYTES = 200
"""Of one part of a name: file systems take 255, and a version, ``INFEASIBLE-`` and ``.verdict.json`` are added."""


def check_within(name: str, what: str) -> None:
    """Refuse a name that would leave its folder, or that no file can have.

    Backslashes, drives, and dots with spaces count on every system, for files move between systems.

    Args:
        name: relative, may lead to folders below.
        what: what it is, for the message.

    Raises:
        ValueError: shows the name, and what is wrong with it.

    Example:
        >>> check_within("epoch=0-val/loss=0.51", "filename")
        >>> check_within("../x", "filename")
        Traceback (most recent call last):
        ValueError: filename must stay in its folder; got '../x'
    """
    path = PureWindowsPath(name)
    # pathlib knows letters as drives only, Windows anything before a colon
    if path.anchor or any(part[1:2] == ":" or not part.strip(" .") for part in path.parts):
        raise ValueError(f"{what} must stay in its folder; got {name!r}")
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in name):
        raise ValueError(f"{what} must not hold control characters or half characters; got {name!r}")
    longest = max((len(part.encode()) for part in path.parts), default=0)
    if longest > MOST_BYTES:
        raise ValueError(f"{what} must have parts of at most {MOST_BYTES} bytes; got {name[:60]!r}… with {longest}")


def new_file(path: Path) -> IO[bytes]:
    """Open a file that is not there; what is in its place, such as a link that leads elsewhere, is removed first.

    Raises:
        OSError: if it cannot be made, or something came into its place in between.
    """
    path.unlink(missing_ok=True)
    return path.open("xb")
