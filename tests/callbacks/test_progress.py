"""Progress of work that takes more than two seconds, by a clock that the test turns."""

import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from rich.progress import Progress

from small import GROUPS, Classifier, fit, loader, rows
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint
from xai_lightning.callbacks import _progress as progress

LIMITED = "fairness/sex/demographic_parity_difference/value"


def by_steps(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let each step of any work take so long."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    original = progress._Work.step

    def slow(self: Any, number: int) -> None:
        clock.now += seconds
        original(self, number)

    monkeypatch.setattr(progress._Work, "step", slow)


def stand_in(bar: Any = None, *, zero: bool = True) -> Any:
    return SimpleNamespace(progress_bar_callback=bar, is_global_zero=zero)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if " after " in r.getMessage() and " s" in r.getMessage()]


def work(trainer: Any, steps: int) -> None:
    with progress.working(trainer, "saliency: explaining", steps):
        for _ in range(steps):
            progress.step()


def test_nothing_is_shown_of_two_seconds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    by_steps(monkeypatch, 0.25)
    work(stand_in(), 7)
    assert lines(caplog) == []


def test_lines_come_after_two_seconds_and_each_after_twice_as_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    by_steps(monkeypatch, 1.0)
    work(stand_in(), 40)
    assert lines(caplog) == [f"saliency: explaining: {n} of 40 after {n} s" for n in (2, 4, 8, 16, 32)]


def test_other_ranks_show_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    by_steps(monkeypatch, 1.0)
    work(stand_in(zero=False), 40)
    assert lines(caplog) == []


def test_steps_count_for_the_innermost_work_and_outside_of_any_for_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    by_steps(monkeypatch, 1.0)
    progress.step(3)
    with progress.working(stand_in(), "outer", 8):
        work(stand_in(), 3)
        progress.step(8)
    progress.step(30)
    assert lines(caplog) == ["saliency: explaining: 2 of 3 after 2 s", "outer: 8 of 8 after 4 s"]


def test_what_is_shown_changes_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    bar = SimpleNamespace(show=lambda done, seconds: shown.append(done), close=lambda: None)
    monkeypatch.setattr(progress, "display", lambda *_: bar)
    by_steps(monkeypatch, 1 / 64)
    work(stand_in(), 256)
    assert shown == list(range(128, 257, 7)), "the first after two seconds, then each seventh of 64 per second"


def test_a_bar_of_rich_that_is_not_live_shows_nothing_so_lines_do() -> None:
    bar = RichProgressBar()
    for live in (False, True):
        bar.progress = Progress()
        if live:
            bar.progress.start()
        found = progress.display(stand_in(bar), "saliency: explaining", 8)
        bar.progress.stop()
        assert isinstance(found, progress._RichTask if live else progress._Lines)


def test_progress_that_cannot_be_shown_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise BrokenPipeError(32, "nobody reads")

    monkeypatch.setattr(progress, "display", broken)
    by_steps(monkeypatch, 1.0)
    with pytest.warns(UserWarning, match="explaining' cannot be shown: BrokenPipeError") as found:
        work(stand_in(), 10)
    assert len(found) == 1


def test_a_bar_that_the_environment_disables_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(progress, "display", lambda _, *rest: progress._TqdmBar(*rest))
    by_steps(monkeypatch, 1.0)
    work(stand_in(), 10)


def test_work_that_fails_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    shown = SimpleNamespace(show=lambda *_: None, close=lambda: closed.append(True))
    monkeypatch.setattr(progress, "display", lambda *_: shown)
    by_steps(monkeypatch, 3.0)
    with pytest.raises(ZeroDivisionError):
        failing_work()
    assert closed == [True]
    progress.step()


def failing_work() -> None:
    with progress.working(stand_in(), "saliency: explaining"):
        progress.step()
        raise ZeroDivisionError


def monitors() -> list[pl.Callback]:
    return [
        AttributionMonitor("saliency", measures=["cosine"], probe_size=8),
        ActivationMonitor(statistics="cheap", representation=True),
        FairnessMonitor({"sex": GROUPS}, metrics=["demographic_parity_difference"]),
        GatedCheckpoint("val_loss", at_most={LIMITED: 0.999}, utility_floor=False, certify=loader(rows(seed=2))),
    ]


EXPECTED = {
    "saliency: explaining",
    "saliency: drawing",
    "activation: concluding",
    "activation: drawing",
    "fairness: concluding",
    "fairness: drawing",
    "gate: certifying",
}


def trained(folder: Path, bar: Any, **more: Any) -> None:
    """A training with pictures, with a bar or none."""
    logger = TensorBoardLogger(folder, name="", version="")
    callbacks = [*monitors(), *([] if bar is None else [bar])]
    fit(Classifier(), callbacks, folder, logger=logger, enable_progress_bar=bar is not None, **more)


@pytest.mark.filterwarnings("ignore:The certificate of .* is CLOSED")
def test_without_a_bar_lines_tell_of_all_that_takes_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    by_steps(monkeypatch, 2.5)
    trained(tmp_path, None)
    assert {line.rsplit(": ", 1)[0] for line in lines(caplog)} == EXPECTED
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:The certificate of .* is CLOSED")
@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar], ids=lambda x: x.__name__)
def test_with_a_bar_it_shows_all_that_takes_long_and_no_line_comes_between(
    bar: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    texts = shown_by(bar, monkeypatch)
    by_steps(monkeypatch, 2.5)
    trained(tmp_path, bar())
    assert texts == EXPECTED
    assert lines(caplog) == []


def shown_by(bar: Any, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Texts of what a bar is asked to show."""
    texts: set[str] = set()
    name = "_TqdmBar" if bar is TQDMProgressBar else "_RichTask"
    original = getattr(progress, name)

    def noting(*args: Any) -> Any:
        texts.add(next(x for x in args if isinstance(x, str)))
        return original(*args)

    monkeypatch.setattr(progress, name, noting)
    return texts


def test_quick_work_leaves_the_terminal_as_it_is_without_us(capsys: Any, tmp_path: Path) -> None:
    fit(Classifier(), [*monitors()[:3], TQDMProgressBar()], tmp_path, enable_progress_bar=True)
    out = capsys.readouterr().out
    assert "Validation DataLoader 0: 100%" in out
    assert not re.search("explaining|drawing|concluding", out)


@pytest.mark.parametrize("refresh_rate", [0, 1])
def test_a_bar_that_is_off_is_none(
    refresh_rate: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    caplog.set_level(logging.INFO)
    by_steps(monkeypatch, 3.0)
    work(stand_in(TQDMProgressBar(refresh_rate=refresh_rate)), 2)
    assert bool(lines(caplog)) == (refresh_rate == 0)
    assert bool(capsys.readouterr().out) == (refresh_rate == 1)


def test_rich_keeps_one_line_of_ours_however_often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    by_steps(monkeypatch, 2.5)
    bar, monitor = RichProgressBar(), monitors()[0]
    counted = []

    class Looks(Classifier):
        def on_validation_end(self) -> None:
            tasks = [task for task in bar.progress.tasks if progress.OURS in task.fields]
            counted.append([task.visible for task in tasks])

    fit(Looks(), [monitor, bar], tmp_path, enable_progress_bar=True, max_epochs=3)
    assert counted == [[False]] * 3
    assert torch.is_grad_enabled()
