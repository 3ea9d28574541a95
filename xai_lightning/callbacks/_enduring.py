"""Keeps a monitor's failures from stopping the training (law 8)."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._guard import Hooks, described, out_of_memory
from xai_lightning.callbacks._observer import Observer
from xai_lightning.callbacks._record import FAILURES_IN_A_ROW, Look, OnError
from xai_lightning.callbacks._settings import check_on_error
from xai_lightning.callbacks._sharded import BrokenPassError
from xai_lightning.callbacks._trainer import OtherRankError, together

T = TypeVar("T")
MOMENTS = {
    "_open": ", at its start",
    "_before": ", before a step",
    "_after": ", after a step",
    "_share_out_together": ", while ranks divided the samples",
    "_close": ", after the last batch",
    "_memory": ", before ranks exchanged results",
    "_gather_together": ", while ranks exchanged results",
    "_conclude_in_sight": ", at its end",
    "reduce": ", in a hook on a layer",
    "_hear": ", in a hook on the network",
}


@contextmanager
def _outside_inference() -> Iterator[None]:
    # tensors made in inference mode could not be used in a later explanation (trap 1)
    with torch.inference_mode(False), torch.no_grad():
        yield


class Enduring(Observer):
    """An observer whose failures become warnings once it has handled a real batch.

    Args:
        kind: its name below ``xai/``.
        name: prefix of all names that it logs.
        on_error: ``"warn"``, or ``"raise"`` to stop training.
    """

    dataloader_idx: int

    def __init__(self, kind: str, *, name: str, on_error: OnError) -> None:
        super().__init__()
        check_on_error(on_error)
        self.kind, self.name, self.on_error = kind, name, on_error
        self._hooks = Hooks(attempt=self._attempt)
        self._look: Look | None = None
        self._failures = 0
        self._number = 0
        self._proved = self._unfinished = False
        self._entry = "fit"

    def _active(self, dataloader_idx: int | None = None) -> bool:
        look = self._look
        if look is None or not look.due or look.failure is not None or self._failures >= FAILURES_IN_A_ROW:
            return False
        return dataloader_idx is None or dataloader_idx == self.dataloader_idx

    def _attempt(self, action: Callable[..., Any], *args: Any) -> Any:
        """Run ``action``; once a real batch was handled, an exception only fails this validation (law 8)."""
        look = self._look
        if look is None or not self._active():
            return None
        try:
            with self._watch, _outside_inference():
                return action(*args)
        except Exception as error:
            if self._must_raise(error):
                raise
            self._note_failure(look, action, error)

    def _attempt_as_it_is(self, action: Callable[..., Any], *args: Any) -> Any:
        """Like `_attempt`, but in the step's own mode, for actions so quick that leaving it would take as long."""
        with self._watch:
            return self._attempt_in_a_hook(action, *args)

    def _attempt_in_a_hook(self, action: Callable[..., Any], *args: Any) -> Any:
        """Like `_attempt_as_it_is`, but within a Lightning hook, which is timed as a whole."""
        look = self._look
        if look is None or not self._active():
            return None
        try:
            return action(*args)
        except Exception as error:
            if self._must_raise(error):
                raise
            self._note_failure(look, action, error)

    def _at_a_step(self, action: Callable[..., Any], *args: Any) -> Any:
        """Run ``_before`` or ``_after``."""
        return self._attempt(action, *args)

    def _note_failure(self, look: Look, action: Callable[..., Any], error: Exception) -> None:
        # hooks stay until the step is over: removing one while torch runs hooks makes torch call it wrongly
        look.failure, look.moment = error, MOMENTS.get(action.__name__, "")

    def _must_raise(self, error: Exception) -> bool:
        lenient = self._proved or out_of_memory(error) or isinstance(error, OtherRankError)
        return self.on_error == "raise" or not lenient or isinstance(error, BrokenPassError)

    @override
    def _run(self, trainer: Trainer, moment: Callable[..., None], *args: Any) -> None:
        # the few failures outside `_attempt`
        try:
            moment(*args)
        except Exception as error:
            # where ranks meet, the others would wait for a rank that went on alone
            meeting = trainer.world_size > 1 and moment.__name__ in ("_start", "_epoch_end")
            if meeting or self._must_raise(error):
                raise
            look = self._look
            if look is not None and look.record is None and not look.sanity and moment.__name__ != "_epoch_end":
                look.failure = look.failure or error
            else:
                self._tell_unfinished("finish logging", error)

    def _try(self, what: str, action: Callable[..., T], *args: Any) -> T | None:
        """Run ``action``, which changes nothing that was logged; a failure is retried at the next validation."""
        try:
            return action(*args)
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._tell_unfinished(what, error)
            return None

    def _tell_unfinished(self, what: str, error: Exception) -> None:
        self._unfinished = True
        number = self._number if self._entry == "fit" else 0
        warnings.warn(
            f"{self._label} could not {what}{_within(number)}: {described(error)}. Training continues, and "
            f"{tags.ERRORS} counts this at the next validation; set on_error='raise' to stop the training instead.",
            stacklevel=2,
        )

    @property
    def _label(self) -> str:
        """Its name in messages, which tells several monitors of one kind apart."""
        own = [repr(self.kind)] if self.kind not in type(self).__name__.lower() else []
        own += [f"name={self.name!r}"] if self.name else []
        return type(self).__name__ + (f"({', '.join(own)})" if own else "")

    def _share_out_together(self, trainer: Trainer) -> None:
        together(trainer, self._share_out, trainer)

    def _unanimous(self, trainer: Trainer, look: Look) -> bool:
        ok = look.failure is None and self._failures < FAILURES_IN_A_ROW
        return bool(trainer.strategy.reduce_boolean_decision(ok, all=True))

    def _count_failure(self, look: Look) -> None:
        if look.failure is None:
            self._failures *= self._failures >= FAILURES_IN_A_ROW
            return
        self._failures += 1
        moment = f"{look.moment}," if look.moment else ""
        last = self._failures == FAILURES_IN_A_ROW
        end = "It stops here, after three failures in a row, and logs NaN" if last else "It tries again at the next one"
        warnings.warn(
            f"{self._label} failed{_within(look.number)}{moment} and logged NaN: {described(look.failure)}. {end}. "
            "Training continues; set on_error='raise' to stop it instead.",
            stacklevel=2,
        )


def _within(number: int) -> str:
    return f" in validation {number}" if number else " in this evaluation"
