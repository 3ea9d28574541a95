"""Proportions within each group."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from xai_lightning.functional.fairness.counts import Confusion, cells_of, per_class
from xai_lightning.functional.fairness.groupwise import Proportions


class Rate(NamedTuple):
    """A proportion within a group, defined by two functions of its counts.

    Attributes:
        numerator: Counts of successes, int64[..., G]; for a rate per class int64[..., R, G].
        denominator: Counts of trials, likewise; where it is 0, the rate is undefined.
        meaning: Definition in a few words.
        hides: What the rate does not show: parts of a sentence, separated by semicolons.
        trials: What the denominator counts, in the plural.
        per_class: Whether there is one rate for each class (or pair of classes) instead of the favourable class only.
    """

    numerator: Callable[[Confusion], Tensor]
    denominator: Callable[[Confusion], Tensor]
    meaning: str
    hides: str
    trials: str = "samples"
    per_class: bool = False


TRUSTS = "whether the targets are right"


def _cells(of: Confusion) -> Tensor:
    return cells_of(of, "a rate per class")


def _by_class(part: int) -> Callable[[Confusion], Tensor]:
    return lambda c: per_class(_cells(c))[part].movedim(-1, -2)


def _of_all(c: Confusion) -> Tensor:
    return per_class(_cells(c))[2].sum(dim=-1)[..., None, :].expand_as(_by_class(0)(c))


def _others_as_class(c: Confusion) -> Tensor:
    return _by_class(1)(c) - _by_class(0)(c)


def _others(c: Confusion) -> Tensor:
    return _of_all(c) - _by_class(2)(c)


def _pairs(c: Confusion) -> Tensor:
    cells = _square(c)
    return cells.reshape(*cells.shape[:-2], -1).movedim(-1, -2)


def _of_actual(c: Confusion) -> Tensor:
    cells = _square(c)
    actual = cells.sum(dim=-1, keepdim=True).expand_as(cells)
    return actual.reshape(*cells.shape[:-2], -1).movedim(-1, -2)


def _square(c: Confusion) -> Tensor:
    cells = _cells(c)
    if cells.shape[-1] != cells.shape[-2]:
        raise ValueError(f"pairs of classes are counted up to 64 classes, got counts of shape {list(cells.shape)}")
    return cells


RATES: Mapping[str, Rate] = MappingProxyType(
    {
        "selection_rate": Rate(
            lambda c: c.tp + c.fp,
            lambda c: c.total,
            "share predicted as the favourable class",
            "who should have been selected",
        ),
        "true_positive_rate": Rate(
            lambda c: c.tp,
            lambda c: c.tp + c.fn,
            "share of the positives that are predicted positive",
            f"who is selected wrongly; {TRUSTS}",
            trials="positives",
        ),
        "false_positive_rate": Rate(
            lambda c: c.fp,
            lambda c: c.fp + c.tn,
            "share of the negatives that are predicted positive",
            f"which positives are missed; {TRUSTS}",
            trials="negatives",
        ),
        "false_negative_rate": Rate(
            lambda c: c.fn,
            lambda c: c.tp + c.fn,
            "share of the positives that are missed",
            f"who is selected wrongly; {TRUSTS}",
            trials="positives",
        ),
        "true_negative_rate": Rate(
            lambda c: c.tn,
            lambda c: c.fp + c.tn,
            "share of the negatives that are predicted negative",
            f"which positives are missed; {TRUSTS}",
            trials="negatives",
        ),
        "positive_predictive_value": Rate(
            lambda c: c.tp,
            lambda c: c.tp + c.fp,
            "share of those selected that are positive",
            f"which positives are not selected; {TRUSTS}",
            trials="selected",
        ),
        "negative_predictive_value": Rate(
            lambda c: c.tn,
            lambda c: c.tn + c.fn,
            "share of those not selected that are negative",
            f"which negatives are selected; {TRUSTS}",
            trials="not selected",
        ),
        "false_omission_rate": Rate(
            lambda c: c.fn,
            lambda c: c.tn + c.fn,
            "share of those not selected that are positive",
            f"which negatives are selected; {TRUSTS}",
            trials="not selected",
        ),
        "false_discovery_rate": Rate(
            lambda c: c.fp,
            lambda c: c.tp + c.fp,
            "share of those selected that are negative",
            f"which positives are not selected; {TRUSTS}",
            trials="selected",
        ),
        "accuracy": Rate(
            lambda c: c.correct,
            lambda c: c.total,
            "share predicted correctly",
            f"which kind of error is made; {TRUSTS}",
        ),
        "base_rate": Rate(
            lambda c: c.tp + c.fn,
            lambda c: c.total,
            "share whose target is positive",
            "anything about the model",
        ),
        "false_negative_share": Rate(
            lambda c: c.fn,
            lambda c: c.fn + c.fp,
            "share of the errors that are missed positives",
            f"how many errors there are; {TRUSTS}",
            trials="errors",
        ),
        "class_selection_rate": Rate(
            _by_class(1), _of_all, "share predicted as class k", "who belongs to class k", per_class=True
        ),
        "class_recall": Rate(
            _by_class(0),
            _by_class(2),
            "share of class k that is predicted as class k",
            f"how the rest of a class is predicted; {TRUSTS}",
            trials="samples of one class",
            per_class=True,
        ),
        "class_false_positive_rate": Rate(
            _others_as_class,
            _others,
            "share of the other classes that is predicted as class k",
            f"which classes are mistaken for class k; {TRUSTS}",
            trials="samples of other classes",
            per_class=True,
        ),
        "class_confusion": Rate(
            _pairs,
            _of_actual,
            "share of class j that is predicted as class k",
            f"which pair of classes differs; {TRUSTS}",
            trials="samples of one class",
            per_class=True,
        ),
    }
)
"""Rates by name. To add one, add a row."""


def rate(name: str, confusion: Confusion) -> Tensor:
    """One rate for every group.

    The numerator over the denominator of the row ``name`` of :data:`RATES`. Whether a high rate is good or bad depends
    on what the favourable class stands for. A rate whose denominator is 0 is NaN: a lack of evidence is neither 0 nor
    fair.

    Args:
        name: A name in :data:`RATES`.
        confusion: Counts, each int64[..., G].

    Returns:
        float64[..., G], fractions in [0, 1]; NaN where the denominator is 0. For a rate per class float64[..., R, G].

    Raises:
        ValueError: If there is no rate of that name.

    Example:
        >>> import torch
        >>> counts = Confusion(*torch.tensor([[3, 0], [1, 2], [1, 0], [5, 8], [8, 8], [10, 10]]))
        >>> rate("true_positive_rate", counts).tolist()
        [0.75, nan]
    """
    successes, totals = tally(name, confusion)
    return successes.double() / totals.double()


def tally(name: str, confusion: Confusion) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of one rate for every group.

    Args:
        name: A name in :data:`RATES`.
        confusion: Counts, each int64[..., G].

    Returns:
        Two counts, each int64[..., G]; for a rate per class int64[..., R, G].

    Raises:
        ValueError: If there is no rate of that name.

    Example:
        >>> import torch
        >>> counts = Confusion(*torch.tensor([[3], [1], [1], [5], [8], [10]]))
        >>> [int(part) for part in tally("accuracy", counts)]
        [8, 10]
    """
    if name not in RATES:
        raise ValueError(f"rate must be one of {', '.join(RATES)}, got {name!r}")
    return RATES[name].numerator(confusion), RATES[name].denominator(confusion)


def proportions(rate: Rate, confusion: Confusion) -> Proportions:
    """One rate for every group, with the counts that its limits are computed from.

    Args:
        rate: A row of :data:`RATES`, or your own.
        confusion: Counts, each int64[..., G], or sums of weights.

    Returns:
        Proportions [..., R, G], with R = 1 for the favourable class alone.
    """
    squares = confusion if confusion.squares is None else confusion.squares
    successes, totals = rate.numerator(confusion), rate.denominator(confusion)
    parts = (successes, totals, rate.denominator(squares))
    rows = confusion.total[..., None, :]
    if rate.per_class:
        return Proportions(*parts, rows.expand_as(totals))
    successes, totals, heavy = (part[..., None, :] for part in parts)
    return Proportions(successes, totals, heavy, rows)
