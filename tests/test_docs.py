"""What the documents say exists: files, numbers, names, arguments."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import settings_table
import yaml
from traps_table import cited

import xai_lightning
from xai_lightning.callbacks._attribution.references import REFERENCES
from xai_lightning.callbacks._fairness.asked import CLASS_METRICS, LOGGED_RATES, SCORE_METRICS
from xai_lightning.functional.attribution import METHODS
from xai_lightning.functional.drift import IMAGE_MEASURES, MEASURES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SOURCES = sorted(path for folder in ("xai_lightning", "tests") for path in (ROOT / folder).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TABLES = {
    "Methods": METHODS,
    "Measures": MEASURES,
    "Measures of images,": IMAGE_MEASURES,
    "References": REFERENCES,
    "Rates": LOGGED_RATES,
    "Metrics": (*CLASS_METRICS, *SCORE_METRICS, "flip_rate"),
}
PAGES = {page: (ROOT / "docs" / page).read_text() for page in settings_table.PAGES}
"""One of each callback."""
MOST = {"trap": 100, "law": 10}
OURS = [name for name in xai_lightning.__all__ if isinstance(getattr(xai_lightning, name), type)]

named = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def test_the_documents_were_found():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "laws.md", "traps.md"} <= {path.name for path in DOCUMENTS}
    assert len(CONFIGS) == 5


# --- files


@named
def test_every_file_that_a_document_names_is_there(path):
    """In code spans: what begins with a folder of ours, and what lies below the package."""
    folders = "tests|docs|tools|examples|configs|functional|xai_lightning"
    found = re.findall(rf"`(?:[^`\s]* )?((?:{folders})/[\w./-]*\w)[`:]", path.read_text())
    homes = (ROOT, ROOT / "xai_lightning")
    assert [name for name in found if not any((home / name).exists() for home in homes)] == []


def test_files_are_found_in_the_documents():
    """The pattern above must not go blind."""
    assert "`tests/test_laws.py`" in (ROOT / "docs" / "laws.md").read_text()


@named
def test_every_relative_link_leads_somewhere(path):
    targets = re.findall(r"\]\(([^)]+)\)", path.read_text())
    local = [target for target in targets if not target.startswith(("http", "#"))]
    assert [target for target in local if not (path.parent / target.partition("#")[0]).exists()] == []


def test_every_law_names_tests_that_exist():
    rows = re.findall(r"^\| (\d+) \|.*\| (.+) \|$", (ROOT / "docs" / "laws.md").read_text(), re.MULTILINE)
    tests = {int(number): re.findall(r"`(tests/[^`]+\.py)::", cell) for number, cell in rows}
    assert list(tests) == list(range(1, 11))
    assert all(tests.values())
    assert [name for names in tests.values() for name in names if not (ROOT / name).is_file()] == []


# --- numbers


def test_the_hundred_traps_stand_there_once_and_in_order():
    text = (ROOT / "docs" / "traps.md").read_text()
    assert [int(number) for number in re.findall(r"^\*\*(\d+)\. ", text, re.MULTILINE)] == list(range(1, 101))


def test_every_trap_says_what_is_done_about_it():
    entries = re.split(r"^\*\*(?=\d+\. )", (ROOT / "docs" / "traps.md").read_text(), flags=re.MULTILINE)[1:]
    silent = [e.partition(".")[0] for e in entries if not re.search(r"\*Here:\*|Not (applicable|handled)", e)]
    assert silent == []


def test_the_ten_laws_stand_there_once_and_in_order():
    text = (ROOT / "docs" / "laws.md").read_text()
    assert [int(number) for number in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)] == list(range(1, 11))


@pytest.mark.parametrize("kind", MOST)
def test_only_traps_and_laws_that_exist_are_cited(kind):
    everywhere = {path: cited(path.read_text(), kind) for path in [*SOURCES, *DOCUMENTS]}
    assert set().union(*everywhere.values())
    wrong = {path.name: numbers - set(range(1, MOST[kind] + 1)) for path, numbers in everywhere.items()}
    assert {name: numbers for name, numbers in wrong.items() if numbers} == {}


# --- names


@pytest.mark.parametrize("kind", TABLES)
def test_the_pages_list_each_table_as_it_is(kind):
    """One point per table, with every row in its order; ``at_least`` is not a row but what to do with one."""
    text = "\n".join(PAGES.values())
    points = re.findall(rf"^\* \*\*{kind}:?\*\*(.*?)(?=^\* |^$)", text, re.MULTILINE | re.DOTALL)
    assert len(points) == 1
    listed = re.findall(r"`(\w+)`", points[0])
    assert [name for name in listed if name != "at_least"] == list(TABLES[kind])


@pytest.mark.parametrize("page", settings_table.PAGES)
def test_settings_of_a_page_are_those_of_the_signature_and_the_docstring(page):
    stale = f"docs/{page} is not what the docstring says: run python tools/settings_table.py"
    table = settings_table.rows(settings_table.PAGES[page])
    assert PAGES[page] == settings_table.with_table(PAGES[page], table), stale


def test_every_callback_has_a_page_that_says_what_is_logged_what_it_means_and_what_can_be_set():
    callbacks = {name for name in OURS if hasattr(getattr(xai_lightning, name), "setup")}
    assert set(settings_table.PAGES.values()) == callbacks
    for text in PAGES.values():
        assert "## What is logged" in text
        assert "| you may |" in text


def test_the_documents_name_every_public_name():
    text = "\n".join(path.read_text() for path in DOCUMENTS if path.name != "CHANGELOG.md")
    internal = {"__version__", "MemorySink", "Sink"}
    assert [name for name in xai_lightning.__all__ if name not in internal and name not in text] == []


# --- code


def blocks() -> list[str]:
    texts = [path.read_text() for path in (README, *sorted((ROOT / "docs").glob("*.md")))]
    return [code for text in texts for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def calls(code: str) -> Iterator[tuple[str, set[str], int]]:
    """Calls of public classes in ``code``: name, keywords, number of positional arguments."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OURS:
            yield node.func.id, {keyword.arg or "**" for keyword in node.keywords}, len(node.args)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(xai_lightning, name)).parameters)


@pytest.mark.parametrize("code", blocks(), ids=range(len(blocks())))
def test_code_of_the_documents_calls_what_there_is(code):
    for name, keywords, positional in calls(code):
        known = parameters(name)
        assert keywords <= set(known), f"{name} has no {keywords - set(known)}"
        by_position = [p for p in known.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        assert positional <= len(by_position), f"{name} takes {len(by_position)} by position"


def test_code_of_the_documents_shows_every_callback():
    shown = {name for code in blocks() for name, _, _ in calls(code)}
    assert shown >= {"ActivationMonitor", "AttributionMonitor", "Column", "FairnessMonitor", "GatedCheckpoint", "Table"}


def test_arguments_that_the_documents_name_exist():
    """Code spans such as `utility_floor=False`: an argument of ours, or one of these that belong to others."""
    known = {argument for name in OURS for argument in parameters(name)}
    of_lightning = {
        "purge_step",
        "version",
        "inference_mode",
        "weights_only",
        "ckpt_path",
        "logger",
        "callbacks",
        "barebones",
        "deterministic",
    }
    of_lightning |= {"save_distributed_checkpoint"}
    of_torch = {"enforce_sorted"}
    of_loggers = {"log_model", "offline", "run_id", "tracking_uri", "MLFLOW_ALLOW_FILE_STORE"}
    of_commands = {"DEVICE", "PORT", "LOGDIR", "PART", "PYTHON", "images"}
    spans = [span for path in DOCUMENTS for span in re.findall(r"`([^`\n]+)`", path.read_text())]
    written = {found for span in spans for found in re.findall(r"(?<![\w./-])([A-Za-z_]\w*)=", span)}
    assert {"utility_floor", "outputs", "network"} <= written
    assert sorted(written - known - of_lightning - of_torch - of_loggers - of_commands) == []


def entries(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())["trainer"]["callbacks+"]
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_set_arguments_that_exist(path):
    assert entries(path)
    for entry in entries(path):
        module, _, name = entry["class_path"].rpartition(".")
        assert getattr(xai_lightning, name).__module__ == module
        assert set(entry.get("init_args", {})) <= set(parameters(name))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_settings_that_configurations_leave_in_comments_exist_too(path):
    """Lines such as ``# features: {age: 0}`` below ``init_args``."""
    arguments = {argument for entry in entries(path) for argument in parameters(entry["class_path"].rpartition(".")[2])}
    commented = re.findall(r"^ {8}# (\w+): [{\[]", path.read_text(), re.MULTILINE)
    assert set(commented) <= arguments
