"""The error probability that a run may spend, divided among its validations."""

import math

_ROUNDING = 1e-9
"""Relative error up to which sums of spent errors count as equal."""


def allowance(delta: float, number: int, horizon: int | None, spent: float) -> float:
    r"""Error probability that one validation may spend, so that all of a run together spend at most ``delta``.

    Without a horizon validation t spends :math:`6\delta/(\pi^2 t^2)`, which sums to delta over any number of them. With
    a horizon T it spends an equal share of the unspent error, :math:`(\delta - \text{spent})/(T - t + 1)`: exactly
    :math:`\delta/T` as long as each validation spent its share; after a change of T the remainder is divided anew. The
    union bound behind it allows any dependence between validations, early stopping and choice of checkpoint, but not
    feedback of the validation set into weights or data.

    Args:
        delta: Error probability of the whole run, in (0, 0.5).
        number: Number of this validation, from 1. It counts validations, not decisions: the share of one without a
            decision is spent as well.
        horizon: Number of validations the run may have, at least 1; None if unknown.
        spent: Sum of the errors allowed to the validations before this one, at least 0.

    Returns:
        Error probability in [0, delta]; 0 if nothing is left or ``number`` is beyond the horizon: limits are then
        infinite.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> allowance(0.05, number=1, horizon=50, spent=0.0)
        0.001
        >>> round(allowance(0.05, number=2, horizon=None, spent=0.0304), 4)
        0.0076
        >>> allowance(0.05, number=51, horizon=50, spent=0.05)
        0.0

    References:
        O. J. Dunn, Multiple comparisons among means, Journal of the American Statistical Association 56, 1961.
    """
    _check_spending(delta, number, horizon, spent)
    unspent = delta - spent
    if unspent < _ROUNDING * delta or (horizon is not None and number > horizon):
        return 0.0
    if horizon is None:
        return min(unspent, 6 * delta / (math.pi * number) ** 2)
    share, planned = unspent / (horizon - number + 1), delta / horizon
    # The sum of spent errors carries rounding errors, which would make the shares of an undisturbed run drift.
    return planned if math.isclose(share, planned, rel_tol=_ROUNDING) else share


def _check_spending(delta: float, number: int, horizon: int | None, spent: float) -> None:
    if not 0 < delta < 0.5:
        raise ValueError(f"delta must be an error probability in (0, 0.5), got {delta!r}")
    if number < 1:
        raise ValueError(f"number must be that of a validation, counted from 1, got {number!r}")
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be a number of validations of at least 1, or None, got {horizon!r}")
    if not 0 <= spent < math.inf:
        raise ValueError(f"spent must be a finite sum of error probabilities of at least 0, got {spent!r}")
