"""Which of many numbers to label along an axis."""

import math
from collections.abc import Sequence
from itertools import count


def round_places(numbers: Sequence[int], most: int) -> list[int]:
    """Places of numbers at equal distances, as round as possible.

    The distance is 1, 2, 5, 10, 20, … places. Consecutive numbers are labelled at the multiples of the distance.

    Args:
        numbers: At least one, in ascending order.
        most: How many places to return at most, at least 1.

    Returns:
        Indices into ``numbers``, ascending.

    Example:
        >>> numbers = range(1, 22)
        >>> [numbers[place] for place in round_places(numbers, 8)]
        [5, 10, 15, 20]
    """
    strides = (head * 10**power for power in count() for head in (1, 2, 5))
    stride = next(x for x in strides if math.ceil(len(numbers) / x) <= most)
    starts = range(min(stride, len(numbers)))
    best = max(starts, key=lambda start: sum(math.gcd(x, 10 * stride) for x in numbers[start::stride]))
    return list(range(best, len(numbers), stride))
