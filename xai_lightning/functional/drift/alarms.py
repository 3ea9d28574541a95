"""Has drift ended, or begun anew? Decisions over the validations of a run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from xai_lightning.functional.drift.forecast import score

WINDOW, FEWEST, SLACK, LIMIT = 20, 8, 1.0, 3.5
CONSECUTIVE, SETTLED_BELOW = 3, 0.02


class Cusum(NamedTuple):
    """State of the alarm: the last values, the statistic, and whether it rang just now.

    Args:
        recent: up to 20 values; none after an alarm.
        statistic: cumulated excess, in standard deviations; 0 after an alarm.
        alarm: whether the last value raised it above 3.5.
        score: how far the last value was above what was predicted; NaN while there are fewer than 8 before it.
        moments: when each value was seen, in optimizer steps since the first validation.
        passed: optimizer steps since the first validation.
    """

    recent: tuple[float, ...] = ()
    statistic: float = 0.0
    alarm: bool = False
    score: float = math.nan
    moments: tuple[int, ...] = ()
    passed: int = 0


def advance(state: Cusum, drift: float, steps: int) -> Cusum:
    r"""One more validation: upward CUSUM of the log drift per square root of optimizer steps.

    Each value is predicted from up to twenty before it (at least eight): from the curve along which they fall, as they
    do in a healthy run, and from how much each resembles the one before, see `forecast.score`. Scores above 1 are added
    up; above 3.5 the alarm rings, and all begins anew: the next one can come nine validations later.

    Args:
        state: what the earlier validations left; ``Cusum()`` at the beginning.
        drift: mean drift to the previous validation, at least 0; 0 and NaN are left out.
        steps: optimizer steps since then, at least 1.

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
            # values before a jump say nothing of those behind it, and the jump itself would widen what is expected
            return Cusum(alarm=True, score=found, passed=state.passed)
        state = state._replace(statistic=statistic, score=found)
    return state._replace(recent=(*state.recent, value)[-WINDOW:], moments=moments[-WINDOW:])


def converged(
    previous: Sequence[float], lagged: Sequence[float], *, within: float = SETTLED_BELOW, consecutive: int = CONSECUTIVE
) -> bool:
    """Whether explanations have settled: shown to move little, not merely not shown to move.

    Where the mean drift is exactly what counts as little, one validation alone passes in about 5 to 15 of 100 runs, the
    more the more skewed distances are and the fewer; all of them pass in fewer.

    Args:
        previous: upper 95 % limits of the mean drift to the validation before, one per validation, the newest last.
        lagged: likewise to the validation ``consecutive`` earlier, which a slow, steady drift does not pass.
        within: what counts as little.
        consecutive: for how many validations both must hold.

    Returns:
        False with fewer validations, or a limit that is not finite.

    Example:
        >>> converged([0.5, 0.01, 0.01, 0.01], [0.5, 0.02, 0.02, 0.02])
        True
    """
    last = [*previous[-consecutive:], *lagged[-consecutive:]]
    return len(last) == 2 * consecutive and all(limit <= within for limit in last)
