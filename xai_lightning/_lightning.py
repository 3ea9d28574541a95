"""The one place that decides between ``pytorch_lightning`` and ``lightning.pytorch``.

Each distribution defines its own copy of the same classes, and a ``Trainer`` of one does not recognise the callbacks of
the other (trap 50). The decision is made when a callback or a sink is first used: the one that the program imported
first; if it imported neither, the one that is installed; if both are, ``lightning``, since ``pytorch_lightning`` comes
with this package and somebody chose the other.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

HOMES = ("lightning.pytorch", "pytorch_lightning")
ROOTS = {"lightning.pytorch": ("lightning",), "pytorch_lightning": ("pytorch_lightning", "lightning_fabric")}
DISTRIBUTIONS = ("lightning", "pytorch-lightning")
MALICIOUS = ("2.6.2", "2.6.3")
"""Uploads that steal credentials when imported (trap 59)."""


def refuse_malicious() -> None:
    """Refuse the malicious releases before any part of them is imported.

    Raises:
        ImportError: if one of them is installed; says what to do.
    """
    for name in DISTRIBUTIONS:
        for found in importlib.metadata.distributions(name=name):
            if str(found.version).partition("+")[0] in MALICIOUS:
                raise ImportError(
                    f"xai_lightning refuses to import {name} {found.version}: this release steals credentials when "
                    "imported (GHSA-w37p-236h-pfx3). Install 2.6.4 or newer, or 2.6.1; if this one was ever imported, "
                    "replace the credentials of this machine. If it is your own build of Lightning's sources, give it "
                    "another number in src/version.info"
                )


def is_installed(home: str) -> bool:
    """Whether the package of that name can be imported, determined without importing any of it."""
    root, *below = home.split(".")
    spec = importlib.util.find_spec(root)
    folders = [] if spec is None else spec.submodule_search_locations or []
    # `find_spec` takes any folder of that name for a namespace package: look for the file
    return any(Path(folder, *below, "__init__.py").is_file() for folder in folders)


def choose() -> str:
    """Name of the package to use: the first that was imported, else the first of `HOMES` that is installed.

    Raises:
        ImportError: if neither is installed.
    """
    loaded = [name for name in sys.modules if name in HOMES]
    found = loaded or [name for name in HOMES if is_installed(name)]
    if not found:
        raise ImportError(
            f"xai_lightning needs {' or '.join(HOMES)}, but neither is installed; run `pip install lightning`"
        )
    return found[0]


refuse_malicious()
HOME = choose()

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.callbacks import (
        Checkpoint,
        GradientAccumulationScheduler,
        ModelCheckpoint,
        StochasticWeightAveraging,
    )
    from pytorch_lightning.callbacks.progress import RichProgressBar, TQDMProgressBar
    from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
    from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
    from pytorch_lightning.trainer.states import TrainerFn
    from pytorch_lightning.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
    from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
else:
    _pl = importlib.import_module(HOME)
    Callback, LightningModule, Trainer = _pl.Callback, _pl.LightningModule, _pl.Trainer
    _callbacks = importlib.import_module(f"{HOME}.callbacks")
    Checkpoint, ModelCheckpoint = _callbacks.Checkpoint, _callbacks.ModelCheckpoint
    GradientAccumulationScheduler = _callbacks.GradientAccumulationScheduler
    StochasticWeightAveraging = _callbacks.StochasticWeightAveraging
    RichProgressBar, TQDMProgressBar = _callbacks.RichProgressBar, _callbacks.TQDMProgressBar
    Tqdm = importlib.import_module(f"{HOME}.callbacks.progress.tqdm_progress").Tqdm
    _loggers = importlib.import_module(f"{HOME}.loggers")
    Logger, TensorBoardLogger = _loggers.Logger, _loggers.TensorBoardLogger
    MLFlowLogger, WandbLogger = _loggers.MLFlowLogger, _loggers.WandbLogger
    TrainerFn = importlib.import_module(f"{HOME}.trainer.states").TrainerFn
    MisconfigurationException = importlib.import_module(f"{HOME}.utilities.exceptions").MisconfigurationException
    _rank_zero = importlib.import_module(f"{HOME}.utilities.rank_zero")
    is_param_in_hook_signature = importlib.import_module(f"{HOME}.utilities.signature_utils").is_param_in_hook_signature
    rank_zero_info, rank_zero_warn = _rank_zero.rank_zero_info, _rank_zero.rank_zero_warn

__all__ = [
    "HOME",
    "Callback",
    "Checkpoint",
    "GradientAccumulationScheduler",
    "LightningModule",
    "Logger",
    "MLFlowLogger",
    "MisconfigurationException",
    "ModelCheckpoint",
    "OneHome",
    "RichProgressBar",
    "StochasticWeightAveraging",
    "TQDMProgressBar",
    "TensorBoardLogger",
    "Tqdm",
    "Trainer",
    "TrainerFn",
    "WandbLogger",
    "check_trainer",
    "is_param_in_hook_signature",
    "rank_zero_info",
    "rank_zero_warn",
]


class OneHome:
    """Mixin of each of our callbacks that raises a helpful error when a ``Trainer`` takes it for a list."""

    def __iter__(self) -> Iterator[Any]:
        # a `Trainer(callbacks=monitor)` of the other distribution does not recognise a callback, and iterates over it
        raise TypeError(
            f"{type(self).__name__} is one callback of {HOME!r}, not a list. If a Trainer of another distribution took "
            f"it for a list: {_advice(_other_home())}"
        )


def check_trainer(trainer: Any) -> None:
    """Refuse a ``Trainer`` of the other distribution, and the other's loggers and callbacks in a ``Trainer`` of ours.

    Raises:
        MisconfigurationException: if there is one; says which, and what to import.
    """
    if not isinstance(trainer, Trainer):
        theirs = home_of(trainer)
        raise MisconfigurationException(
            f"xai_lightning uses {HOME!r}, but the Trainer comes from {theirs or type(trainer).__module__!r}: "
            f"{_advice(theirs or _other_home())}"
        )
    # Lightning itself accepts these, but the loggers get no pictures, and the checkpoints run in the wrong order
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    for part in (part for part in (*trainer.loggers, *callbacks) if not isinstance(part, Logger | Callback)):
        if theirs := home_of(part):
            raise MisconfigurationException(
                f"{type(part).__name__} comes from {theirs!r}, but the Trainer comes from {HOME!r}: import both from "
                f"{HOME!r}, or both from {theirs!r} and before xai_lightning"
            )


def home_of(thing: object) -> str:
    """The distribution, other than the one in use, that a class of ``thing`` comes from; empty if there is none."""
    roots = {base.__module__.partition(".")[0] for base in type(thing).__mro__}
    return next((name for name in HOMES if name != HOME and roots & set(ROOTS[name])), "")


def _other_home() -> str:
    return next(name for name in HOMES if name != HOME)


def _advice(theirs: str) -> str:
    return (
        f"put `import {theirs}` before anything that imports {HOME} or uses xai_lightning, or import everything from "
        f"{HOME}"
    )
