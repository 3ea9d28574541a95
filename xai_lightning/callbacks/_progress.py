"""Shows the progress of work that takes more than two seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from xai_lightning._lightning import RichProgressBar, Tqdm, TQDMProgressBar, Trainer, rank_zero_info, rank_zero_warn

AFTER, EVERY = 2.0, 0.1
"""Seconds of work after which its progress is shown, and between two updates."""
OURS = "xai_lightning"


class Display(Protocol):
    """Where progress is shown."""

    def show(self, done: int, seconds: float) -> None:
        """Show that ``done`` steps are finished after ``seconds``."""

    def close(self) -> None:
        """Remove the display, so that nothing is left of a bar."""


class _TqdmBar:
    """A bar below those of Lightning's ``TQDMProgressBar``; tqdm itself finds a free line."""

    def __init__(self, text: str, total: int | None) -> None:
        self._bar = Tqdm(desc=text, total=total, leave=False, dynamic_ncols=True, file=sys.stdout)
        # the work began before the bar was shown; a bar that the environment disables has no start time
        if not self._bar.disable:
            self._bar.start_t -= AFTER

    def show(self, done: int, seconds: float) -> None:
        self._bar.n = done
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


class _RichTask:
    """A line in Lightning's ``RichProgressBar``, which finds its own by position, so this one is hidden and reused."""

    def __init__(self, progress: Any, text: str, total: int | None) -> None:
        self._progress = progress
        known = [task.id for task in progress.tasks if OURS in task.fields]
        self._task = known[0] if known else progress.add_task(text, **{OURS: True})
        progress.reset(self._task, total=total, description=text, visible=True)

    def show(self, done: int, seconds: float) -> None:
        self._progress.update(self._task, completed=done)
        self._progress.refresh()

    def close(self) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.refresh()


class _Lines:
    """Lines in the log, each after twice the time of the one before."""

    def __init__(self, text: str, total: int | None) -> None:
        self._text, self._of = text, "" if total is None else f" of {total:,}"
        self._next = AFTER

    def show(self, done: int, seconds: float) -> None:
        if seconds >= self._next:
            rank_zero_info(f"{self._text}: {done:,}{self._of} after {seconds:.0f} s")
            self._next = 2 * seconds

    def close(self) -> None:
        return None


def display(trainer: Trainer, text: str, total: int | None) -> Display:
    """The display for a Trainer: its progress bar, if that is enabled and of a supported kind, else the log."""
    bar: Any = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        return _TqdmBar(text, total)
    if (
        isinstance(bar, RichProgressBar)
        and bar.is_enabled
        and bar.progress is not None
        and bar.progress.live.is_started
    ):
        return _RichTask(bar.progress, text, total)
    return _Lines(text, total)


class _Work:
    """Work in progress.

    Args:
        trainer: the trainer.
        text: describes the work.
        total: how many steps it takes at most; None if unknown.
    """

    def __init__(self, trainer: Trainer, text: str, total: int | None) -> None:
        self._trainer, self._text, self._total = trainer, text, total
        self._began = self._shown = time.perf_counter()
        self._done, self._hidden = 0, not trainer.is_global_zero
        self._display: Display | None = None

    def step(self, number: int) -> None:
        """Count ``number`` more steps as done."""
        self._done += number
        now = time.perf_counter()
        if self._hidden or now - self._began < AFTER or (self._display is not None and now - self._shown < EVERY):
            return
        self._shown = now
        try:
            if self._display is None:
                self._display = display(self._trainer, self._text, self._total)
            self._display.show(self._done, now - self._began)
        except Exception as error:  # noqa: BLE001 - work continues whether it can be shown or not
            self._hide(error)

    def close(self) -> None:
        """The work is over."""
        try:
            if self._display is not None and not self._hidden:
                self._display.close()
        except Exception as error:  # noqa: BLE001 - likewise
            self._hide(error)

    def _hide(self, error: Exception) -> None:
        self._hidden = True
        rank_zero_warn(f"xai_lightning: the progress of {self._text!r} cannot be shown: {error!r}")


_WORK: ContextVar[_Work | None] = ContextVar("work", default=None)


@contextmanager
def working(trainer: Trainer, text: str, total: int | None = None) -> Iterator[None]:
    """Count every `step` of some work, and show the progress on rank zero once it has taken two seconds.

    Args:
        trainer: the trainer.
        text: describes the work.
        total: how many steps it takes at most; None if unknown.
    """
    work = _Work(trainer, text, total)
    token = _WORK.set(work)
    try:
        yield
    finally:
        _WORK.reset(token)
        work.close()


def step(number: int = 1) -> None:
    """Count ``number`` more steps of the current work as done."""
    work = _WORK.get()
    if work is not None:
        work.step(number)
