"""Failures planted anywhere in the package, found by what a training calls, and what they must not cost.

A function of the package fails where it is called: the interpreter's own profiler raises, so that nothing has to be
patched, and what is added later is found too.
"""

import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytorch_lightning as pl
from torch import nn

import xai_lightning
from small import Classifier, Ledger, fit, loader, rows
from traced import bits
from xai_lightning import tags

PACKAGE = str(Path(xai_lightning.__file__).parent)
LOOKS = 4
PLANTED = "planted failure"

# Settings under which as much as possible is called.
RICH: dict[str, dict[str, Any]] = {
    "ActivationMonitor": {"statistics": "cheap", "representation": True, "probe_size": 8},
    "AttributionMonitor": {"method": "gradient_shap", "options": {"n_samples": 2}, "probe_size": 4, "sample_size": 4},
    "FairnessMonitor": {"consistency_features": [0, 1], "pictures": True},
    "GatedCheckpoint": {"fallback": "least_violation"},
}


class Place(NamedTuple):
    """Where a failure is planted.

    Args:
        code: of the function that fails.
        name: its file and qualified name.
    """

    code: CodeType
    name: str


def place(code: CodeType) -> Place:
    """The place of a function of the package."""
    return Place(code, f"{Path(code.co_filename).relative_to(PACKAGE)}:{code.co_qualname}")


class Watch(pl.Callback):
    """From validation ``number`` on tells of each call; before all other callbacks, so that it misses none."""

    def __init__(self, number: int, tell: Callable[[FrameType, str, Any], None]) -> None:
        self.number, self.tell, self.looks = number, tell, 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.looks += 1
        if self.looks == self.number:
            sys.setprofile(self.tell)


class Left(pl.Callback):
    """Counts the hooks that stand while the model trains."""

    def __init__(self) -> None:
        self.hooks = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.hooks = max(self.hooks, count_hooks(pl_module))


class Outcome(NamedTuple):
    """What a training did.

    Args:
        weights: bits of the model at the end.
        said: every warning.
        looks: what was logged at each validation.
        raised: what ended it.
        hooks: how many hooks were left, at the end or while the model trained.
    """

    weights: Any
    said: list[str]
    looks: list[dict[str, float]]
    raised: BaseException | None
    hooks: int

    @property
    def told(self) -> list[str]:
        """The warnings of what was planted."""
        return [text for text in self.said if PLANTED in text]


def train(callbacks: Sequence[pl.Callback], folder: Path, *, looks: int = LOOKS, **options: Any) -> Outcome:
    """A small training with ``looks`` validations; whatever it ends with is caught."""
    model, ledger, left, raised = Classifier(lr=0.1), Ledger(), Left(), None
    interrupt = signal.getsignal(signal.SIGINT)
    chosen = {"max_epochs": looks, "logger": [ledger], "limit_train_batches": 1, **options}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            data = {"train": loader(rows(16)), "val": loader(rows(16, seed=1), batch_size=8)}
            fit(model, [*callbacks, left], folder, **data, **chosen)
        except BaseException as error:  # noqa: BLE001 - an interruption is among what is planted
            raised = error
        finally:
            sys.setprofile(None)
            # Lightning ignores the signal once it was interrupted
            signal.signal(signal.SIGINT, interrupt)
    said = [str(w.message) for w in seen if issubclass(w.category, UserWarning)]
    hooks = max(left.hooks, count_hooks(model))
    return Outcome(bits(model.state_dict()), said, ledger.validations(), raised, hooks)


def count_hooks(model: nn.Module) -> int:
    """How many hooks stand on the modules."""
    return sum(len(v) for m in model.modules() for key, v in vars(m).items() if key.endswith("_hooks") and v)


def called(callbacks: Sequence[pl.Callback], folder: Path, number: int = 2, **options: Any) -> list[Place]:
    """The functions of the package that are called from validation ``number`` to the end."""
    found: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            found.setdefault(frame.f_code)

    outcome = train([Watch(number, note), *callbacks], folder, **options)
    assert outcome.raised is None, outcome.raised
    return [place(code) for code in found if "<" not in code.co_name]


def failing(
    callbacks: Sequence[pl.Callback],
    folder: Path,
    where: Place,
    error: BaseException,
    number: int = 2,
    **options: Any,
) -> Outcome:
    """A training in which the first call of ``where`` from validation ``number`` on raises ``error``."""

    def plant(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is where.code:
            raise error

    return train([Watch(number, plant), *callbacks], folder, **options)


def errors(outcome: Outcome) -> list[float]:
    """``xai/errors`` of each validation."""
    return [look.get(tags.ERRORS, 0.0) for look in outcome.looks]
