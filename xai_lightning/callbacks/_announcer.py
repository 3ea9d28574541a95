"""What every callback reports about itself: its settings and, once, what each of the Trainer's loggers can show."""

from collections.abc import Collection

from xai_lightning._lightning import Callback, MisconfigurationException, Trainer, rank_zero_info, rank_zero_warn
from xai_lightning.callbacks._trainer import callbacks_of, is_dry
from xai_lightning.sinks import logger_sinks


class Announcer(Callback):
    """Checks the Trainer's loggers before training starts."""

    _announced = False
    _settings = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings})"

    def _meet_loggers(self, trainer: Trainer, shared: Collection[str] = ()) -> None:
        """Let each logger refuse names, and report where pictures go, or that there are no validations to look at.

        Only the first of this package's callbacks reports, once for all of them.

        Raises:
            MisconfigurationException: if the Trainer logs nothing at all, or a logger cannot handle a name.
        """
        if trainer.barebones:
            raise MisconfigurationException(
                f"{type(self).__name__} logs through self.log, which Trainer(barebones=True) switches off; remove the "
                "callback, or barebones=True"
            )
        sinks = logger_sinks(trainer.loggers)
        for sink in sinks:
            sink.check(shared)
        first = next((other for other in callbacks_of(trainer) if isinstance(other, Announcer)), None)
        if first is not self or self._announced:
            return
        if trainer.state.fn == "fit" and not trainer.enable_validation:
            rank_zero_warn(
                f"{type(self).__name__} observes validations, but this Trainer runs none: it needs a validation_step, "
                f"a validation loader, and limit_val_batches above 0 (it is {trainer.limit_val_batches})"
            )
        # the loggers of a dry run drop everything
        if is_dry(trainer):
            return
        self._announced = True
        without = dict.fromkeys(type(sink.logger).__name__ for sink in sinks if not sink.takes_pictures)
        if not sinks:
            rank_zero_info(
                "xai_lightning: the Trainer has no logger; limits and callback_metrics still work, but pictures and "
                "other results that are only for viewing go nowhere, except to sinks=[...] of a monitor"
            )
        elif without:
            rank_zero_info(
                f"xai_lightning: pictures and histograms are not sent to {', '.join(without)}, for which only numbers "
                "are supported; TensorBoardLogger, WandbLogger and MLFlowLogger also receive pictures"
            )
