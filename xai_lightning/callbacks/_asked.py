"""What a FairnessMonitor is asked for: metrics, of which groups, with which limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.callbacks._batches import Batches
from xai_lightning.functional import fairness
from xai_lightning.functional.fairness import METRICS, QUANTITIES, RATES, Metric
from xai_lightning.functional.fairness.resampling import example
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Space

CLASS_METRICS = (
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equalized_odds_difference",
    "equal_opportunity_difference",
    "accuracy_difference",
    "worst_group_accuracy",
)
SCORE_METRICS = ("calibration_in_the_large",)
NUMBER_METRICS = (
    "mean_residual_difference",
    "mean_absolute_error_difference",
    "worst_group_mean_absolute_error",
)
LOGGED_RATES = (
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "false_negative_rate",
    "positive_predictive_value",
    "accuracy",
    "base_rate",
)
TAKEN = ("rates", "calibration", "flip_rate")
"""Names below those of an attribute that are not of a metric."""
EXAMPLES = 2
"""Groups of which a user's own metric is tried out."""
DEFINITIONS = 1
"""Version of the definitions; it grows when the same counts would give another value."""


@dataclass(frozen=True)
class Asked:
    """Metrics by name, and how their limits are made.

    Args:
        metrics: by name.
        exact: whether limits are exact.
        replicates: number of bootstrap replicates.
        seed: of the replicates.
        given: attribute to the legitimate one within whose groups it is compared too.
        intersections: whether pairs of attributes are compared.
        pairs: names of all pairs of attributes that are counted.
    """

    metrics: Mapping[str, Metric]
    exact: bool
    replicates: int
    seed: int
    given: Mapping[str, str]
    intersections: bool

    @property
    def needs(self) -> set[str]:
        """Kinds of evidence that the metrics are made of."""
        return {metric.needs for metric in self.metrics.values()}

    @property
    def only_accuracy(self) -> bool:
        """Whether no metric has a favourable class."""
        return all(_is_free(rate) for metric in self.metrics.values() for rate in metric.rates)

    @property
    def rates(self) -> list[str]:
        """Rates and quantities that are logged per group."""
        if self.needs & {"residuals", "predictions", "errors"}:
            fixed: tuple[str, ...] = ()
        else:
            fixed = ("accuracy",) if self.only_accuracy else LOGGED_RATES
        used = [rate for metric in self.metrics.values() for rate in metric.rates if isinstance(rate, str)]
        return list(dict.fromkeys([*fixed, *(rate for rate in used if _is_one_per_group(rate))]))

    def estimate(self, name: str, evidence: Any, error: float, *, strata: bool) -> dict[str, float]:
        """Value, lower, upper and bound of a metric."""
        found = fairness.estimate(
            self.metrics[name],
            evidence,
            error=error,
            exact=self.exact,
            replicates=self.replicates,
            seed=self.seed,
            strata=strata,
        )
        return {part: float(value) for part, value in found._asdict().items()}

    def definitions(self) -> dict[str, Any]:
        """What the metrics mean, as plain types, for the evidence."""
        return {name: _definition(metric, self.exact) for name, metric in self.metrics.items()}


def ask(
    metrics: Sequence[str] | None,
    own: Mapping[str, Metric] | None,
    space: Space,
    *,
    multi_label: bool,
    exact: bool,
    replicates: int,
    weighted: bool,
    given: Mapping[str, str] | None,
    intersections: int,
    seed: int = 0,
) -> Asked:
    """What the settings of a FairnessMonitor ask for.

    Raises:
        ValueError: if a metric is unknown, or cannot be had of such outputs or with such limits; all such are named.
    """
    if isinstance(metrics, str):
        raise ValueError(f"metrics must be a list of names; got the string {metrics!r}")
    names = _default(space, scored=not (multi_label or exact or weighted)) if metrics is None else metrics
    chosen = {name: METRICS[choose("metric", name, METRICS)] for name in names}
    _check_own(own or {})
    chosen |= own or {}
    if not chosen:
        raise ValueError(f"metrics must name at least one metric; got {metrics!r}")
    if isinstance(intersections, bool) or intersections not in (1, 2):
        raise ValueError(f"intersections must be 1 (none) or 2 (pairs of attributes); got {intersections!r}")
    if replicates < 1:
        raise ValueError(f"replicates must be a number of bootstrap replicates of at least 1; got {replicates!r}")
    asked = Asked(chosen, exact, replicates, seed, dict(given or {}), intersections == 2)
    _check_kinds(asked, space, multi_label)
    if given and "counts" not in asked.needs:
        raise ValueError(f"given={dict(given)!r} compares rates, and there is none in {', '.join(chosen)}")
    _check_limits(asked, weighted)
    return asked


def _default(space: Space, *, scored: bool) -> tuple[str, ...]:
    if space == "values":
        return NUMBER_METRICS
    return CLASS_METRICS + SCORE_METRICS if scored and space != "labels" else CLASS_METRICS


def _check_own(own: Mapping[str, Metric]) -> None:
    owners = {name: f"{name!r} of the table" for name in METRICS} | dict.fromkeys(TAKEN, "what is logged anyway")
    for name, metric in own.items():
        other = owners.setdefault(tags.part(name), repr(name))
        if other != repr(name):
            raise ValueError(
                f"own_metrics must have names of their own, also with '/' read as '_'; got {name!r}, the "
                f"name of {other}"
            )
        if not isinstance(metric, Metric):
            raise TypeError(
                f"own_metrics[{name!r}] must be a Metric, such as Metric((fn,), 'difference') of a "
                f"callable; got {metric!r}"
            )
        _try_out(name, metric)


def _try_out(name: str, metric: Metric) -> None:
    """Ask a metric for two groups, as it will be asked for all: its callables are the user's."""
    wanted = "a tensor [..., G], or numerators and denominators, of counts [..., G]"
    try:
        shape = metric.measure(example(metric.needs)).value.shape
    except Exception as error:
        raise ValueError(f"own_metrics[{name!r}] must make {wanted}; it raised {error!r}") from error
    if len(shape) != 2 or shape[-1] not in (1, EXAMPLES):
        raise ValueError(f"own_metrics[{name!r}] must make {wanted}; of {EXAMPLES} groups it made {list(shape)}")


def check_classes(asked: Asked, n_classes: int) -> None:
    """Refuse metrics of pairs of classes, and limits by resampling, where there are too many classes to count pairs.

    Raises:
        ValueError: names them.
    """
    if n_classes <= fairness.SQUARE_LIMIT:
        return
    counted = {name: metric for name, metric in asked.metrics.items() if metric.needs == "counts"}
    wrong = [n for n, metric in counted.items() if "class_confusion" in metric.rates or fairness.is_resampled(metric)]
    if wrong:
        raise ValueError(
            f"{n_classes} classes: {', '.join(wrong)} need the counts of all pairs of classes, which are "
            f"kept up to {fairness.SQUARE_LIMIT} classes; leave them out of metrics"
        )


def _check_kinds(asked: Asked, space: Space, multi_label: bool) -> None:
    allowed = {"residuals", "predictions", "errors"} if space == "values" else {"counts", "scores"}
    if space == "labels" or multi_label:
        allowed -= {"scores"}
    wrong = [name for name, metric in asked.metrics.items() if metric.needs not in allowed]
    if wrong:
        what = "multi_label=True" if multi_label else f"outputs={space!r}"
        raise ValueError(f"{what} gives {' and '.join(sorted(allowed))}, which {', '.join(wrong)} cannot be made of")
    free = [name for name, metric in asked.metrics.items() if multi_label and _per_class(metric)]
    if free:
        raise ValueError(f"multi_label=True has no classes to compare, as {', '.join(free)} would")


def _check_limits(asked: Asked, weighted: bool) -> None:
    inexact = [name for name, metric in asked.metrics.items() if not fairness.has_exact_limits(metric)]
    if asked.exact and inexact:
        raise ValueError(f"exact=True: there are no exact limits of {', '.join(inexact)}; leave them out of metrics")
    if not weighted:
        return
    if asked.exact:
        raise ValueError("exact=True and weights: weighted samples have no exact limits; leave one of them out")
    wrong = [name for name, metric in asked.metrics.items() if metric.needs != "counts"]
    wrong += [name for name, metric in asked.metrics.items() if name not in wrong and not _takes_weights(metric)]
    if wrong:
        raise ValueError(f"weights: {', '.join(wrong)} cannot be had of weighted samples; leave them out of metrics")


def _takes_weights(metric: Metric) -> bool:
    means = any(isinstance(rate, str) and rate == "balanced_accuracy" for rate in metric.rates)
    return not means and not fairness.is_resampled(metric)


def _is_free(rate: object) -> bool:
    """Whether a rate needs no favourable class."""
    row = RATES.get(rate) if isinstance(rate, str) else None
    return rate in ("accuracy", "balanced_accuracy", "differential_fairness") or (row is not None and row.per_class)


def _per_class(metric: Metric) -> bool:
    rows = [RATES.get(rate) for rate in metric.rates if isinstance(rate, str)]
    return any(row is not None and row.per_class for row in rows) or "balanced_accuracy" in metric.rates


def _is_one_per_group(rate: str) -> bool:
    if rate in RATES:
        return not RATES[rate].per_class
    quantity = QUANTITIES[rate]
    return rate not in ("generalized_entropy", "theil", "between_group_entropy", "differential_fairness") and bool(
        quantity.needs
    )


def _definition(metric: Metric, exact: bool) -> dict[str, Any]:
    names = [rate if isinstance(rate, str) else getattr(rate, "__qualname__", "own") for rate in metric.rates]
    limits = "exact" if exact else "resampled" if fairness.is_resampled(metric) else "closed form"
    return {"rates": names, "aggregation": metric.aggregation, "best": metric.best, "limits": limits}


@dataclass(frozen=True)
class Subject:
    """Groups that are compared: of an attribute, of two together, or of one within those of another.

    Args:
        name: under which it is logged: ``sex``, ``race+sex``, ``sex|occupation``.
        counted: the set of groups that is counted.
        index: its rows ``int64[G]``, or ``int64[S, G]`` within strata.
        groups: names of the groups.
        rows: names of all counted rows, for counts per group; empty where those are not logged.
    """

    name: str
    counted: str
    index: Tensor
    groups: tuple[str, ...]
    rows: tuple[str, ...] = ()

    @property
    def strata(self) -> bool:
        """Whether groups are compared within strata."""
        return self.index.ndim == 2


def subject_names(asked: Asked, batches: Batches) -> list[str]:
    """Under which names groups are compared; known before any group is discovered."""
    pairs = list(batches.intersections) if asked.intersections else []
    return [*batches.vocabularies, *pairs, *(f"{a}|{b}" for a, b in asked.given.items())]


def subjects(asked: Asked, batches: Batches) -> list[Subject]:
    """The groups that are compared, once all are known."""
    found = [
        Subject(attribute, attribute, torch.arange(len(v.names)), v.names, v.rows)
        for attribute, v in batches.vocabularies.items()
    ]
    if asked.intersections:
        pairs = batches.intersections.items()
        found += [Subject(name, name, torch.arange(len(pair.names)), pair.names) for name, pair in pairs]
    return found + [_within(attribute, other, batches) for attribute, other in asked.given.items()]


def _within(attribute: str, other: str, batches: Batches) -> Subject:
    first, second = batches.vocabularies[attribute].names, batches.vocabularies[other].names
    name = pair_of(attribute, other, batches)
    if name == f"{attribute}+{other}":
        index = torch.arange(len(first) * len(second)).reshape(len(first), len(second)).T
    else:
        index = torch.arange(len(first) * len(second)).reshape(len(second), len(first))
    return Subject(f"{attribute}|{other}", name, index, first)


def pair_of(attribute: str, other: str, batches: Batches) -> str:
    """Under which name two attributes are counted together."""
    return next(n for n, pair in batches.intersections.items() if set(pair.attributes) == {attribute, other})
