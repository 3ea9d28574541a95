"""Writes the tables of ``docs/traps.md`` and ``docs/laws.md``, which list guarding tests according to their docstrings.

``python tools/traps_table.py`` writes them; with ``--check`` it shows any difference, and exits with 1 if there is one.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from marked_tables import between, write

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "traps.md"
LAWS = ROOT / "docs" / "laws.md"
MARKS = ("<!-- table -->", "<!-- end of the table -->")

LIST = r"((?:\d+(?:, and |, | and | to |/)?)+)"
"""Matches numbers as they are written: ``3, 9 and 12``, ``19 to 22``."""


class Trap(NamedTuple):
    """One paragraph of the page: the title in its bold opening, and the reason why it is not applicable, if any."""

    title: str
    reason: str


def cited(text: str, kind: str = "trap") -> set[int]:
    """The numbers cited as ``trap 3``, ``Traps 3, 9 and 12``, ``traps 19 to 22``, ``laws 2 and 6``."""
    found: set[int] = set()
    for numbers in re.findall(rf"\b{kind}s? {LIST}", " ".join(text.split()), re.IGNORECASE):
        found |= {int(number) for number in re.findall(r"\d+", numbers)}
        for first, last in re.findall(r"(\d+) to (\d+)", numbers):
            found |= set(range(int(first), int(last) + 1))
    return found


def found_tests(tree: ast.AST, path: str) -> Iterator[tuple[str, str]]:
    """Name and docstring of each test in a module or class."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from found_tests(node, f"{path}::{node.name}")
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{path}::{node.name}", ast.get_docstring(node) or ""


def every_test(root: Path = ROOT) -> dict[str, str]:
    """Docstrings by the name that pytest accepts, such as ``tests/test_laws.py::test_…``."""
    paths = sorted((root / "tests").rglob("test_*.py"))
    trees = ((path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths)
    return {name: text for path, tree in trees for name, text in found_tests(tree, path)}


def guards(tests: dict[str, str], kind: str = "trap") -> dict[int, list[str]]:
    """Tests by the numbers that their docstrings cite."""
    found: dict[int, list[str]] = {}
    for name, text in tests.items():
        for number in cited(text, kind):
            found.setdefault(number, []).append(name)
    return found


def traps(page: str) -> dict[int, Trap]:
    """The paragraphs by number."""
    found = {}
    for number, title, rest in re.findall(r"^\*\*(\d+)\. (.+?)\*\*(.*?)(?=\n\n|\Z)", page, re.MULTILINE | re.DOTALL):
        reason = re.search(r"\bNot applicable because (.+?)\.(?= |$)", " ".join(rest.split()))
        found[int(number)] = Trap(" ".join(title.split()).rstrip(",.:"), reason.group(1) if reason else "")
    return found


def spans(names: list[str]) -> list[str]:
    """The names of tests as Markdown code."""
    return [f"`{name}`" for name in names]


def trap_rows(page: str, tests: dict[int, list[str]]) -> list[str]:
    """The table of traps, line by line."""
    lines = ["| | trap | tests |", "|---|---|---|"]
    for number, trap in traps(page).items():
        reason = [f"not applicable because {trap.reason}"] if trap.reason else []
        lines.append(f"| {number} | {trap.title} | {', '.join([*spans(tests.get(number, [])), *reason])} |")
    return lines


def law_rows(page: str, tests: dict[int, list[str]]) -> list[str]:
    """The table of laws, line by line; each links to its section."""
    lines = ["| | law | proved by |", "|---|---|---|"]
    for number, title in re.findall(r"^## (\d+)\. (.+)$", page, re.MULTILINE):
        anchor = f"{number}-{re.sub('[^a-z -]', '', title.lower()).replace(' ', '-')}"
        lines.append(f"| {number} | [{title}](#{anchor}) | {', '.join(spans(tests.get(int(number), [])))} |")
    return lines


with_table = partial(between, MARKS)
"""A page with its table replaced."""


def wanted() -> dict[Path, str]:
    """Both pages as they should be."""
    tests = every_test()
    pages = {path: path.read_text(encoding="utf-8") for path in (PAGE, LAWS)}
    trap_table, law_table = trap_rows(pages[PAGE], guards(tests)), law_rows(pages[LAWS], guards(tests, "law"))
    return {PAGE: with_table(pages[PAGE], trap_table), LAWS: with_table(pages[LAWS], law_table)}


def main(*, check: bool) -> int:
    """Write the tables, or show how the pages differ from what they should be."""
    return write(wanted(), "traps_table.py", check=check)


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
