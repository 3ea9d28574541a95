"""Keeps the failures of a gate from ending the training; one that bears on a decision closes the gate (law 8)."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, ModelCheckpoint, OneHome, Trainer
from xai_lightning.callbacks._gate.files import discard, draft_of, take_place
from xai_lightning.callbacks._guard import described
from xai_lightning.callbacks._publish import log_sum
from xai_lightning.callbacks._record import OnError
from xai_lightning.callbacks._settings import check_on_error
from xai_lightning.callbacks._trainer import stage_of

T = TypeVar("T")
CLOSED, STANDS = "The gate is closed for this validation", "The decision stands"


class NotKeptError(RuntimeError):
    """A file that must not be kept: its weights were not validated, or it or its evidence cannot be written.

    Args:
        message: which file, and why.
        written: path of a file that was written and removed again, together with the one that it replaced.
    """

    def __init__(self, message: str, written: str = "") -> None:
        super().__init__(message)
        self.written = written


class EnduringCheckpoint(OneHome, ModelCheckpoint):
    """A checkpoint callback whose failures are warnings, and are counted in ``xai/errors`` of the next validation.

    Args:
        on_error: ``"warn"``, or ``"raise"`` to stop training.
        options: further arguments of ``ModelCheckpoint``.

    Raises:
        ValueError: if ``on_error`` is anything else.
    """

    def __init__(self, *, on_error: OnError = "warn", **options: Any) -> None:
        check_on_error(on_error)
        self.on_error = on_error
        self._obstacle, self._unfinished, self._look = "", False, 0
        self._error: Exception | None = None
        super().__init__(**options)

    def _attempt(self, what: str, action: Callable[..., T], *args: Any) -> T | None:
        """Run ``action``, which must hold no collective; if it fails, the coming decision is a no."""
        return self._try(what, action, *args, so=CLOSED)

    def _try(self, what: str, action: Callable[..., T], *args: Any, so: str = STANDS) -> T | None:
        """Run ``action``, which must hold no collective; no decision depends on it, unless ``so`` says otherwise."""
        try:
            return action(*args)
        except Exception as error:
            if self.on_error == "raise":
                raise
            failure = f"could not {what}: {described(error)}"
            if so == CLOSED:
                self._obstacle = self._obstacle or failure
            self._tell(failure, so)
            return None

    def _failure_of(self, what: str, action: Callable[..., object], *args: Any) -> str:
        """Run ``action(*args)``; returns why it failed, or an empty string. Ranks agree on it before it is reported."""
        try:
            action(*args)
        except Exception as error:  # noqa: BLE001 - `_complain` reports it, or raises it
            self._error = error
            return f"cannot {what}: {described(error)}"
        return ""

    def _complain(self, failure: str, so: str = CLOSED) -> None:
        """Report a failure on which ranks agree, or end the training with it."""
        error, self._error = self._error, None
        if self.on_error == "raise":
            raise error or RuntimeError(f"{failure}, on rank 0")
        self._tell(failure, so)

    def _tell(self, failure: str, so: str = CLOSED) -> None:
        self._unfinished = True
        warnings.warn(
            f"{self._label}, validation {self._look}: {failure}. {so}, and training continues; it is tried again at "
            f"the next validation, where {tags.ERRORS} counts the failure. Set on_error='raise' to stop the training "
            "instead.",
            stacklevel=2,
        )

    @property
    def _label(self) -> str:
        """What it is called in messages."""
        return type(self).__name__

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if stage_of(trainer) != "fit" or trainer.sanity_checking:
            return
        # writing fails where it is done, on rank zero
        unfinished = trainer.strategy.reduce_boolean_decision(self._unfinished, all=False)
        self._unfinished = False
        log_sum(pl_module, trainer, tags.ERRORS, float(unfinished))


@contextmanager
def writing(trainer: Trainer) -> Iterator[list[Exception]]:
    """Collect failures while a checkpoint is written: ranks meet after rank zero has written, successfully or not.

    Yields:
        The exceptions of this rank.
    """
    plugin = trainer.strategy.checkpoint_io
    save, failures = plugin.save_checkpoint, list[Exception]()

    def collecting(*args: Any, **kwargs: Any) -> None:
        try:
            save(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the caller reports it
            failures.append(error)

    # the user may have replaced the method on this instance
    before = {name: own for name, own in vars(plugin).items() if name == "save_checkpoint"}
    vars(plugin)["save_checkpoint"] = collecting
    try:
        yield failures
    finally:
        del vars(plugin)["save_checkpoint"]
        vars(plugin).update(before)


def settle(path: Path, failures: Sequence[Exception]) -> None:
    """Move the draft of ``path`` into its place; a draft that could not be written in full is removed.

    Raises:
        Exception: the first of ``failures``.
        OSError: if it cannot be moved.
    """
    try:
        if failures:
            raise failures[0]
        take_place(path)
    except BaseException:
        discard(draft_of(path))
        raise
