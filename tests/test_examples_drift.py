"""What the drift examples claim: a shortcut shows, the alarm rings in time and not otherwise, stories are told."""

import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import mnist_shortcut
import motion_series
import text_sentiment
from text_data import ARCHIVE, INNER, SNIPPETS

SHORT, NONE = (mnist_shortcut.SHORTCUT,) * 2, (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_shortcut_shows_as_a_rising_share_and_its_absence_as_a_flat_one(seed: int) -> None:
    count = mnist_shortcut.VALIDATIONS
    taken = mnist_shortcut.train("shortcut", SHORT, seed=seed, validations=count, switch=None, out=None)
    assert taken.shares[-1] - taken.shares[0] >= 0.10
    left = mnist_shortcut.train("none", NONE, seed=seed, validations=count, switch=None, out=None)
    assert max(abs(share - left.shares[0]) for share in left.shares) <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("switch", [15, mnist_shortcut.SWITCH])
def test_the_alarm_rings_within_three_validations_of_a_switch_in_four_of_five_seeds(switch: int) -> None:
    """Also while drift still falls steeply."""
    soon = 0
    for seed in range(5):
        shares = (0.0, mnist_shortcut.SHORTCUT)
        story = mnist_shortcut.train("s", shares, seed=seed, validations=switch + 4, switch=switch, out=None)
        soon += any(switch < alarm <= switch + 3 for alarm in story.alarms)
    assert soon >= 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_without_a_switch_there_is_no_alarm_in_forty_validations(seed: int) -> None:
    story = mnist_shortcut.train("none", NONE, seed=seed, validations=40, switch=None, out=None)
    assert story.alarms == []


def write_reviews(folder: Path) -> None:
    """An archive in the form of the real one, of made-up reviews."""
    rows = [
        f"{i}\t{2 if i % 2 else -2}\tthe film was {'good' if i % 2 else 'bad'} , number {i % 7}" for i in range(1800)
    ]
    inner, content = io.BytesIO(), "\n".join(rows).encode()
    with tarfile.open(fileobj=inner, mode="w:gz") as packed:
        entry = tarfile.TarInfo(SNIPPETS)
        entry.size = len(content)
        packed.addfile(entry, io.BytesIO(content))
    with tarfile.open(folder / ARCHIVE, mode="w:gz") as packed:
        entry = tarfile.TarInfo(f"vaderSentiment-3.3.2/{INNER}")
        entry.size = len(inner.getvalue())
        packed.addfile(entry, io.BytesIO(inner.getvalue()))


Tell = Callable[..., str]


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Runs the program of a module with arguments, and returns what it printed."""

    def run(main: Callable[[], None], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["example", *arguments])
        main()
        return capsys.readouterr().out

    return run


def test_the_text_example_tells_its_story(tell: Tell, tmp_path: Path) -> None:
    write_reviews(tmp_path)
    told = tell(text_sentiment.main, "--epochs", "1", "--out", str(tmp_path / "log"), "--cache", str(tmp_path))
    assert "Accuracy went from" in told
    assert "rest on other words than before" in told
    assert "settled" in told
    assert list((tmp_path / "log").glob("events*"))


def test_the_series_example_tells_its_story(tell: Tell, tmp_path: Path) -> None:
    told = tell(motion_series.main, "--epochs", "3", "--out", str(tmp_path))
    assert "recordings are recognised" in told
    assert "The share of the three rotations went from" in told
    assert "0 is unchanged" in told


@pytest.mark.parametrize(("last", "says"), [(0.25, "a shortcut"), (0.1, "does not come to rely on the patch")])
def test_the_shortcut_example_says_what_a_share_means(
    last: float, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mnist_shortcut.tell("run", mnist_shortcut.Story([0.08, last], [0.1, 0.1], [], (0.9, 0.9, 0.9)))
    assert says in capsys.readouterr().out


@pytest.mark.slow
def test_the_shortcut_example_tells_its_story(tell: Tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_shortcut, "VALIDATIONS", 3)
    monkeypatch.setattr(mnist_shortcut, "SWITCH", 2)
    told = tell(mnist_shortcut.main, "--out", str(tmp_path))
    assert told.count("Share of the explanation on the patch") == 3
    assert "The switch was made after validation 2" in told
