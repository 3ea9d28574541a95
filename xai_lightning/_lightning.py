"""The one place that decides between ``pytorch_lightning`` and ``lightning.pytorch``.

Both distributions define the same classes twice, and a ``Trainer`` of one does not know the callbacks of the other
(trap 50). Whichever the program has already imported wins; with neither, whichever is installed.
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING

HOMES = ("pytorch_lightning", "lightning.pytorch")


def home() -> str:
    """Name of the distribution in use: the one that is already imported, else the first that is installed."""
    loaded = [name for name in HOMES if name in sys.modules]
    installed = [name for name in HOMES if importlib.util.find_spec(name.partition(".")[0]) is not None]
    if not installed:
        raise ImportError(f"xai_lightning needs one of {', '.join(HOMES)}; neither is installed")
    return (loaded or installed)[0]


HOME = home()

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


def check_trainer(trainer: object) -> None:
    """Refuse a ``Trainer`` of the other distribution.

    Raises:
        MisconfigurationException: if ``trainer`` is not the ``Trainer`` of the distribution in use.
    """
    if not isinstance(trainer, Trainer):
        raise MisconfigurationException(
            f"xai_lightning was imported with {HOME!r}, but the Trainer comes from {type(trainer).__module__!r}. "
            "Import Lightning from one place, and before xai_lightning."
        )
