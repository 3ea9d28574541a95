"""Student's t distribution."""

import math


def student(t: float, freedom: int) -> float:
    """Distribution function of Student's t at ``t``, by its finite series for integer degrees of freedom.

    Args:
        t: any number.
        freedom: degrees of freedom, at least 1.

    Example:
        >>> round(student(2.0, 7), 6)
        0.95719

    References:
        M. Abramowitz, I. A. Stegun, Handbook of mathematical functions, 1964, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    total, term = 0.0, cosine if freedom % 2 else 1.0
    for k in range(1 + freedom % 2, freedom - 1, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    total += term if freedom > 1 else 0.0
    if freedom % 2:
        return 0.5 + (angle + sine * total) / math.pi
    return 0.5 + sine * total / 2


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t at ``probability`` in (0, 1), by bisection.

    Example:
        >>> round(student_quantile(0.975, 7), 4)
        2.3646
    """
    low, high = -1.0, 1.0
    while student(low, freedom) > probability:
        low *= 2
    while student(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
