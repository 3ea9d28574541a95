"""The tables of traps and laws are what tests and pages say; every trap has a test or a reason, every law has tests."""

import re
from pathlib import Path

import pytest
import traps_table
from traps_table import Trap, cited, every_test, found_tests, guards, law_rows, trap_rows, traps, with_table

ROOT = Path(__file__).parents[1]
PAGE, LAWS = ROOT / "docs" / "traps.md", ROOT / "docs" / "laws.md"
TESTS = every_test()
GUARDS = guards(TESTS)
TRAPS = traps(PAGE.read_text(encoding="utf-8"))


def test_the_tables_are_those_that_the_tests_and_the_pages_make(capsys):
    stale = "docs/traps.md or docs/laws.md is out of date: run python tools/traps_table.py\n"
    assert traps_table.main(check=True) == 0, stale + capsys.readouterr().out
    assert (traps_table.PAGE, traps_table.LAWS) == (PAGE, LAWS)


def test_a_stale_table_is_shown_and_refused(monkeypatch, tmp_path, capsys):
    page = PAGE.read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith("| 34 |"))
    monkeypatch.setattr(traps_table, "PAGE", tmp_path / "traps.md")
    monkeypatch.setattr(traps_table, "LAWS", tmp_path / "laws.md")
    traps_table.LAWS.write_text(LAWS.read_text(encoding="utf-8"), encoding="utf-8")
    traps_table.PAGE.write_text(page.replace(f"{line}\n", ""), encoding="utf-8")
    assert traps_table.main(check=True) == 1
    assert f"+{line}" in capsys.readouterr().out
    assert traps_table.main(check=False) == 0
    assert traps_table.PAGE.read_text(encoding="utf-8") == page


@pytest.mark.parametrize("page", ["no marks", "<!-- table -->", "<!-- end of the table --> <!-- table -->"])
def test_a_page_without_a_place_for_the_table_is_refused(page):
    with pytest.raises(ValueError, match="must be marked by"):
        with_table(page, [])


@pytest.mark.parametrize("number", range(1, 101))
def test_a_trap_has_a_test_or_a_reason_and_not_both(number):
    tests, reason = GUARDS.get(number, []), TRAPS[number].reason
    assert tests or reason, f"trap {number} has neither a test that cites it nor 'Not applicable because …'"
    assert not (tests and reason), f"trap {number} is not applicable because {reason}, but {tests} cite it"


@pytest.mark.parametrize("number", range(1, 11))
def test_a_law_has_a_test(number):
    assert guards(TESTS, "law").get(number)


@pytest.mark.parametrize(("page", "rows"), [(PAGE, 100), (LAWS, 10)], ids=["traps", "laws"])
def test_tests_that_a_table_names_exist(page, rows):
    """Found by name in the files themselves, not by what made the table."""
    cells = re.findall(r"^\| \d+ \| .* \| (.*) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    named = [name.split("::") for cell in cells for name in re.findall(r"`(tests/[^`]+)`", cell)]
    assert len(cells) == rows
    assert len(named) > rows
    lost = [path for path, *_, name in named if f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")]
    assert lost == []


# --- what code cites


def wrong_citations(text: str) -> set[int]:
    """Numbers of traps that do not exist, or that nothing guards."""
    return {number for number in cited(text) if number not in TRAPS or number not in GUARDS}


@pytest.mark.parametrize("folder", ["xai_lightning", "tests", "tools", "examples", "configs"])
def test_code_cites_only_traps_that_exist_and_are_guarded(folder):
    paths = [path for kind in ("*.py", "*.yaml") for path in (ROOT / folder).rglob(kind)]
    assert paths
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    found = {path.name: wrong_citations(text) for path, text in texts.items()}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [("34", set()), ("34 and 101", {101}), ("0", {0}), ("73", {73}), ("99 to 102", {101, 102})],
)
def test_a_wrong_number_is_found(numbers, wrong):
    """101 is none, and nothing guards 73."""
    assert wrong_citations(f"traps {numbers}") == wrong


# --- how it is read


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("(trap 7) Traps 3, 9 and 12: trap\n. trap 5, 6 rows", {3, 5, 6, 7, 9, 12}),
        ("Traps 19 to 22, and trap 1", {1, 19, 20, 21, 22}),
        ("traps 1,\n    2 and 3", {1, 2, 3}),
        ("traps 1, 2, and 3/4", {1, 2, 3, 4}),
        ("trapped 3, strap 4", set()),
    ],
)
def test_citations_are_read_as_they_are_written(text, numbers):
    assert cited(text) == numbers


def test_laws_are_read_alike():
    assert cited("laws 2 and 6, trap 3", "law") == {2, 6}


def test_only_docstrings_of_tests_count():
    source = '''
def test_a():
    """Traps 1 and 2."""

def helper():
    """Trap 3."""

def test_b():
    assert True, "trap 4"

class TestC:
    def test_d(self):
        """Trap 5."""
'''
    found = dict(found_tests(traps_table.ast.parse(source), "tests/test_x.py"))
    assert guards(found) == {
        1: ["tests/test_x.py::test_a"],
        2: ["tests/test_x.py::test_a"],
        5: ["tests/test_x.py::TestC::test_d"],
    }


def test_a_paragraph_gives_its_title_and_its_reason():
    first = "**1. It is\nbroken,** as said. *Here:* mended."
    page = f"{first}\n\n**2. So what.** Not applicable because\nof 2.6 being out. More."
    assert traps(page) == {1: Trap("It is broken", ""), 2: Trap("So what", "of 2.6 being out")}
    assert trap_rows(page, {1: ["tests/a.py::b", "tests/a.py::c"]})[2:] == [
        "| 1 | It is broken | `tests/a.py::b`, `tests/a.py::c` |",
        "| 2 | So what | not applicable because of 2.6 being out |",
    ]


def test_a_law_leads_to_its_section():
    page = "## 8. Fail early, and never lose a training\n\nWhy.\n"
    assert law_rows(page, {8: ["tests/a.py::b"]})[2:] == [
        "| 8 | [Fail early, and never lose a training](#8-fail-early-and-never-lose-a-training) | `tests/a.py::b` |"
    ]
