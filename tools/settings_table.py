"""Writes the tables of settings in ``docs/`` from the signatures and docstrings of the callbacks.

``python tools/settings_table.py`` writes them; with ``--check`` it shows any difference, and exits with 1 if there is
one.
"""

import inspect
import re
import sys
from functools import partial
from pathlib import Path

from marked_tables import between, write

import xai_lightning

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    "attribution.md": "AttributionMonitor",
    "activation.md": "ActivationMonitor",
    "fairness.md": "FairnessMonitor",
    "gate.md": "GatedCheckpoint",
}
MARKS = ("<!-- settings -->", "<!-- end of the settings -->")
REQUIRED = "required"


def described(name: str) -> dict[str, str]:
    """The description of each argument in a class's docstring, on one line."""
    text = inspect.getdoc(getattr(xai_lightning, name)) or ""
    section = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section, re.MULTILINE | re.DOTALL)
    return {argument: " ".join(words.split()) for argument, words in found}


def in_markdown(text: str) -> str:
    """A docstring's text as a table cell: code in single backticks, bars escaped, names without their module path."""
    code = re.sub(r"``(.+?)``", r"`\1`", text)
    return re.sub(r"`xai_lightning\.(?:\w+\.)*(\w+)`", r"`\1`", code).replace("|", r"\|")


def rows(name: str) -> list[str]:
    """The table of one callback, line by line, in the order of its signature."""
    words = described(name)
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for argument, parameter in inspect.signature(getattr(xai_lightning, name)).parameters.items():
        given = parameter.default is not inspect.Parameter.empty
        default = f"`{parameter.default!r}`" if given else REQUIRED
        lines.append(f"| `{argument}` | {default} | {in_markdown(words[argument])} |")
    return lines


with_table = partial(between, MARKS)
"""A page with its table replaced."""


def main(*, check: bool) -> int:
    """Write the tables, or show how the pages differ from what they should be."""
    pages = {DOCS / page: name for page, name in PAGES.items()}
    wanted = {path: with_table(path.read_text(encoding="utf-8"), rows(name)) for path, name in pages.items()}
    return write(wanted, "settings_table.py", check=check)


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
