"""MLflow: scalars and pictures of a run, under names that every store accepts."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from typing_extensions import override

from xai_lightning._lightning import MisconfigurationException
from xai_lightning.sinks.logger import LoggerSink
from xai_lightning.sinks.protocol import Picture

MOST = 250
"""The most characters that MLflow accepts in a metric's name."""
MOST_OF_A_PICTURE = 140
"""The most characters in a picture's name: it becomes part of a file name, with step, time and a random identifier."""
_STRANGE = re.compile(r"[^a-zA-Z0-9_. -]+")


class MLFlowSink(LoggerSink):
    """Writes scalars and pictures to the run of an ``MLFlowLogger``; histograms, which MLflow lacks, are left out.

    The scalars of a validation are sent in one request, and each picture is stored as an artifact with its step. NaN
    stays NaN in every store.

    Args:
        logger: the logger.
    """

    takes_pictures = True

    @override
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log ``values`` under names that MLflow accepts."""
        room = MOST - len(self._full(""))
        self.logger.log_metrics({accepted(name, room): value for name, value in values.items()}, step=step)

    @override
    def picture(self, name: str, image: Picture, step: int) -> None:
        """Store the picture; MLflow shows it with a slider over the steps."""
        logger: Any = self.logger
        key = accepted(self._full(name), MOST_OF_A_PICTURE)
        logger.experiment.log_image(logger.run_id, image, key=key, step=step)

    @override
    def check(self, names: Collection[str]) -> None:
        """Refuse names on which Lightning's own logging would fail.

        Args:
            names: names that go through ``self.log``, where Lightning's logger drops characters that MLflow does not
                accept.

        Raises:
            MisconfigurationException: If a name is too long or looks like a path, either of which would end the
                training, or if two names would become one.
        """
        written = {name: re.sub(r"[^a-zA-Z0-9_/. -]+", "", self._full(name)) for name in names}
        wrong = next((n for n, text in written.items() if len(text) > MOST or _is_path(text)), None)
        if wrong is not None:
            raise MisconfigurationException(
                f"MLflow accepts names of at most {MOST} characters without parts like '..'; got {wrong!r}. Shorten or "
                "rename the attribute, group or region in it."
            )
        shared = next((text for text, count in Counter(written.values()).items() if count > 1), None)
        if shared is not None:
            twins = [name for name, text in written.items() if text == shared]
            raise MisconfigurationException(
                f"Lightning's MLFlowLogger would log all of {twins} as {shared!r}, because it drops characters that "
                "MLflow does not accept; rename all but one of them."
            )


def accepted(name: str, most: int = MOST) -> str:
    """``name`` in a form that MLflow accepts: letters, digits, ``_``, ``-``, ``.``, spaces and slashes.

    Other characters are dropped from a part of the name, which then gets a digest of its original text appended, so
    that distinct names stay distinct.

    Args:
        name: parts joined by slashes.
        most: the most characters; a longer name is cut and gets a digest as well.

    Returns:
        The accepted name; the same ``name`` gives the same result in every run.

    Example:
        >>> accepted("rate/education/selection_rate/Some-college, 1st<")
        'rate/education/selection_rate/Some-college 1st-9c6588f0'
        >>> accepted("val_loss")
        'val_loss'
    """
    text = "/".join(map(_part, name.split("/")))
    return text if len(text) <= most else f"{text[: most - 9]}-{_digest(name)}"


def _part(text: str) -> str:
    kept = _STRANGE.sub("", text)
    return text if kept == text and text.strip(".") else f"{kept.strip('.')}-{_digest(text)}"


def _is_path(name: str) -> bool:
    return any(part in ("", ".", "..") for part in name.split("/"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
