"""The user's arbiter: a second opinion on a checkpoint that keeps its limits."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from xai_lightning.functional.rng import isolated

Arbiter = Callable[[Mapping[str, float]], Any]


class Ruling(NamedTuple):
    """What an arbiter said.

    Args:
        open: whether the checkpoint may be kept.
        reason: why, in the arbiter's words, or in the gate's if the arbiter failed.
    """

    open: bool
    reason: str


def ask(arbiter: Arbiter, metrics: Mapping[str, float]) -> Ruling:
    """The ruling of ``arbiter``; anything that is not a clear yes is a no.

    Args:
        arbiter: takes the metrics, and returns ``(bool, reason)`` or an object with ``open`` and ``reason``, such as
            `xai_lightning.functional.gate.Verdict`.
        metrics: every metric by its name; the arbiter gets a view that it cannot change.
    """
    try:
        with isolated():
            return _read(arbiter(MappingProxyType(dict(metrics))))
    except Exception as error:  # noqa: BLE001 - an arbiter that fails has not said yes
        return Ruling(False, f"the arbiter failed: {error!r}")


def _read(answer: Any) -> Ruling:
    pair = answer if isinstance(answer, tuple) and len(answer) == 2 else ()
    opened, reason = pair or (getattr(answer, "open", None), getattr(answer, "reason", None))
    if isinstance(opened, bool) and isinstance(reason, str):
        return Ruling(opened, reason)
    got = repr(answer)[:200]
    return Ruling(False, f"the arbiter must return (bool, reason), or an object with open and reason; got {got}")
