"""Decisions over a run's validations: whether drift has ended, or has begun anew."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from xai_lightning.functional.drift.forecast import score

WINDOW, FEWEST, SLACK, LIMIT = 20, 8, 1.0, 3.5
CONSECUTIVE, SETTLED_BELOW = 3, 0.02


class Cusum(NamedTuple):
    """State of the alarm: the recent values, the statistic, and whether it has just rung.

    Args:
        recent: the last values, at most 20; none after an alarm.
        statistic: accumulated excess, in standard deviations; 0 after an alarm.
        alarm: whether the last value raised the statistic above 3.5.
        score: how far the last value was above its prediction; NaN while there are fewer than 8 values before it.
        moments: when each recent value was seen, in optimizer steps since the first validation.
        passed: optimizer steps since the first validation.
    """

    recent: tuple[float, ...] = ()
    statistic: float = 0.0
    alarm: bool = False
    score: float = math.nan
    moments: tuple[int, ...] = ()
    passed: int = 0


def advance(state: Cusum, drift: float, steps: int) -> Cusum:
    r"""Advance the alarm by one validation: upward CUSUM of the log drift per square root of optimizer steps.

    Each value is predicted from the eight to twenty values before it: from the curve along which drift falls in a
    healthy run, and from the correlation of each value with the one before, see `forecast.score`. The excess of the
    scores over 1 is accumulated, never below 0; above 3.5 the alarm rings, and the state is reset, so that the next
    alarm comes nine validations later at the earliest.

    Args:
        state: the state after the earlier validations; ``Cusum()`` at the beginning.
        drift: mean drift to the previous validation, at least 0; 0 and non-finite values are skipped.
        steps: optimizer steps since the previous validation, at least 1.

    Returns:
        The state after this validation.

    Example:
        >>> advance(Cusum(), 0.1, 100).recent
        (-4.605170185988091,)

    References:
        E. S. Page, Continuous inspection schemes, Biometrika 41, 1954.
        L. C. Alwan, H. V. Roberts, Time-series modeling for statistical process control, Journal of Business and
        Economic Statistics 6, 1988.
    """
    steps = max(steps, 1)
    state = state._replace(alarm=False, score=math.nan, passed=state.passed + steps)
    if not drift > 0 or not math.isfinite(drift):
        return state
    value, moments = math.log(drift / math.sqrt(steps)), (*state.moments, state.passed)
    if len(state.recent) >= FEWEST:
        found = score(value, state.recent, moments)
        statistic = max(0.0, state.statistic + found - SLACK)
        if statistic > LIMIT:
            # values before a jump do not predict those after it, and the jump itself would inflate the deviation
            return Cusum(alarm=True, score=found, passed=state.passed)
        state = state._replace(statistic=statistic, score=found)
    return state._replace(recent=(*state.recent, value)[-WINDOW:], moments=moments[-WINDOW:])


def converged(
    previous: Sequence[float], lagged: Sequence[float], *, within: float = SETTLED_BELOW, consecutive: int = CONSECUTIVE
) -> bool:
    """Whether explanations have settled: shown to move little, not merely not shown to move.

    If the mean drift is exactly ``within``, a single validation passes in about 5 to 15 of 100 runs, the more often the
    more skewed and the fewer the distances are; all of them together pass less often.

    Args:
        previous: upper 95 % limits of the mean drift to the previous validation, one per validation, the newest last.
        lagged: likewise to the validation ``consecutive`` earlier, a test that a slow, steady drift fails.
        within: the largest drift that counts as little.
        consecutive: the number of validations for which both must hold.

    Returns:
        Whether they have settled; False with fewer validations, or if a limit is not finite.

    Example:
        >>> converged([0.5, 0.01, 0.01, 0.01], [0.5, 0.02, 0.02, 0.02])
        True
    """
    last = [*previous[-consecutive:], *lagged[-consecutive:]]
    return len(last) == 2 * consecutive and all(limit <= within for limit in last)
