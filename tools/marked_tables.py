"""Tables between two marks of a page that are regenerated from their source."""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path


def between(marks: tuple[str, str], page: str, rows: list[str]) -> str:
    """The page with its table replaced by ``rows``.

    Raises:
        ValueError: if the marks around the table do not occur once each and in order.
    """
    before, first, rest = page.partition(marks[0])
    _, last, after = rest.partition(marks[1])
    if not (first and last) or any(mark in after for mark in marks):
        raise ValueError(f"the table's place in the page must be marked by {marks!r}, each once and in this order")
    return "\n".join([f"{before}{first}\n", *rows, f"\n{last}{after}"])


def write(wanted: Mapping[Path, str], script: str, *, check: bool) -> int:
    """Write the wanted pages of ``docs/``, or with ``check`` show how they differ and return 1 if they do, else 0."""
    found = 0
    for path, text in wanted.items():
        if not check:
            path.write_text(text, encoding="utf-8")
            continue
        names = (f"docs/{path.name}", f"what python tools/{script} writes")
        lines = path.read_text(encoding="utf-8").splitlines()
        difference = list(difflib.unified_diff(lines, text.splitlines(), *names, lineterm="", n=0))
        sys.stdout.writelines(f"{line}\n" for line in difference)
        found |= bool(difference)
    return int(found)
