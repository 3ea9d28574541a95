"""The real TensorBoard, over a real log: its HTTP interface knows every documented name, and a browser shows it."""

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from screenshot import browser, missing_browser, tensorboard
from screenshot_log import train_digits, train_sentences
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from settings_table import PAGES

import motion_series
from adult_income import train

ROOT = Path(__file__).parents[1]

TITLES = "return [...document.querySelectorAll('card-view [title]')].map(e => e.getAttribute('title'))"
NAME = re.compile(r"`([a-z_]+(?:/[A-Za-z0-9_<>]+)+)`")


def documented() -> list[str]:
    """Names in the first column of what the pages of the callbacks say is logged, as patterns."""
    texts = [(ROOT / "docs" / page).read_text() for page in PAGES]
    sections = [text.split("## What is logged")[1].split("\n## ")[0] for text in texts]
    rows = [line.split("|")[1] for text in sections for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in NAME.findall(row)]


def pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<[a-z]+>", "[^/]+", name) + "$")


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short trainings that log every kind of name: a table with groups, images, texts and series."""
    folder = tmp_path_factory.mktemp("log")
    train(penalty=5.0, epochs=2, out=folder / "adult")
    train_digits(folder)
    train_sentences(folder)
    motion_series.train(0, 2, folder / "motion")
    return folder


@pytest.fixture(scope="module")
def address(log: Path) -> Iterator[str]:
    with tensorboard(log, "--samples_per_plugin", "images=500") as found:
        yield found


def logged(address: str) -> set[str]:
    """All names that TensorBoard knows, over its runs and plugins."""
    found: set[str] = set()
    for plugin in ("scalars", "images", "histograms"):
        for tags in get(f"{address}data/plugin/{plugin}/tags").values():
            found |= set(tags)
    return found


@pytest.mark.slow
def test_tensorboard_knows_every_documented_name_and_no_other_of_ours(address: str) -> None:
    names = logged(address)
    assert documented(), "the tables of the pages were not found"
    unknown = [name for name in documented() if not any(pattern(name).match(tag) for tag in names)]
    assert not unknown, f"documented but not logged: {unknown}"
    ours = re.compile("(fairness|rate|count|utility|drift|importance|attribution|activation|activation_max|gate|xai)/")
    stray = [tag for tag in names if ours.match(tag) and not any(pattern(name).match(tag) for name in documented())]
    assert not stray, f"logged but not documented: {stray}"


@pytest.mark.slow
def test_all_names_of_a_validation_stand_at_the_step_of_val_loss(address: str) -> None:
    """Law 5, trap 54."""
    runs = get(f"{address}data/plugin/scalars/tags")
    for run, tags in runs.items():
        steps = {}
        for tag in (
            t for t in tags if "val_loss" in t or t.startswith(("fairness", "drift", "rate", "gate", "activation"))
        ):
            query = f"run={urllib.parse.quote(run)}&tag={urllib.parse.quote(tag)}"
            steps[tag] = [point[1] for point in get(f"{address}data/plugin/scalars/scalars?{query}")]
        expected = steps["val_loss"]
        assert all(found in (expected, expected[1:]) for tag, found in steps.items())
        late = {tag for tag, found in steps.items() if found != expected}
        assert all("/previous/" in tag for tag in late)


@pytest.mark.browser
def test_a_browser_shows_the_curves_and_pictures(address: str) -> None:
    """In headless Chromium: a card per name, and pictures that load."""
    reason = missing_browser()
    if reason:
        pytest.skip(reason)
    with browser() as driver:
        driver.get(
            f"{address}?tagFilter=attribution/.*/(importance|maps)|demographic_parity_difference/bound#timeseries"
        )
        wait = WebDriverWait(driver, 60)
        wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "card-view")) >= 3)
        loaded = "return [...document.querySelectorAll('image-card-component img')].map(i => i.naturalWidth)"
        wait.until(lambda d: (widths := d.execute_script(loaded)) and all(width > 100 for width in widths))
        titles = driver.execute_script(TITLES)
        assert "fairness/sex/demographic_parity_difference/bound" in titles
        assert "attribution/integrated_gradients/maps" in titles
