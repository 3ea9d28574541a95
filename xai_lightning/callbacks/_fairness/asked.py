"""What a FairnessMonitor is asked to measure: which metrics, for which groups, with which confidence limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xai_lightning.callbacks._fairness.refusals import check_kinds, check_limits, check_own
from xai_lightning.functional import fairness
from xai_lightning.functional.fairness import METRICS, QUANTITIES, RATES, Metric, Strata
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
DEFINITIONS = 1
"""Version of the definitions; it is increased when the same counts would give another value."""


@dataclass(frozen=True)
class Asked:
    """Metrics by name, and how their confidence limits are computed.

    Args:
        metrics: metrics by name.
        exact: whether limits are exact.
        replicates: number of bootstrap replicates.
        seed: seed of the replicates.
        given: maps an attribute to a legitimate one, within whose groups it is compared as well.
        intersections: whether pairs of attributes are compared.
        strata: how the groups of a legitimate attribute are aggregated.
    """

    metrics: Mapping[str, Metric]
    exact: bool
    replicates: int
    seed: int
    given: Mapping[str, str]
    intersections: bool
    strata: Strata

    @property
    def needs(self) -> set[str]:
        """The kinds of evidence that the metrics need."""
        return {metric.needs for metric in self.metrics.values()}

    @property
    def only_accuracy(self) -> bool:
        """Whether no metric has a favourable class."""
        return all(_is_free(rate) for metric in self.metrics.values() for rate in metric.rates)

    @property
    def rates(self) -> list[str]:
        """The rates and quantities that are logged per group."""
        if self.needs & {"residuals", "predictions", "errors"}:
            fixed: tuple[str, ...] = ()
        else:
            fixed = ("accuracy",) if self.only_accuracy else LOGGED_RATES
        used = [rate for metric in self.metrics.values() for rate in metric.rates if isinstance(rate, str)]
        return list(dict.fromkeys([*fixed, *(rate for rate in used if _is_one_per_group(rate))]))

    def estimate(self, name: str, evidence: Any, error: float, *, strata: Strata | None) -> dict[str, float]:
        """The value, lower, upper and bound of a metric."""
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
        """The definitions of the metrics as plain types, for the evidence."""
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
    strata: Strata,
    seed: int = 0,
) -> Asked:
    """Turn the settings of a FairnessMonitor into what it measures.

    Raises:
        ValueError: if a metric is unknown, or not available for such outputs or limits; all such metrics are named.
    """
    names = _default(space, scored=not (multi_label or exact or weighted)) if metrics is None else metrics
    chosen = {name: METRICS[choose("metric", name, METRICS)] for name in names}
    check_own(own or {})
    chosen |= own or {}
    if not chosen:
        raise ValueError(f"metrics must name at least one metric; got {metrics!r}")
    if isinstance(intersections, bool) or intersections not in (1, 2):
        raise ValueError(f"intersections must be 1 (none) or 2 (pairs of attributes); got {intersections!r}")
    if replicates < 1:
        raise ValueError(f"replicates, the number of bootstrap replicates, must be at least 1; got {replicates!r}")
    if strata not in ("worst", "mean") or (multi_label and strata == "mean"):
        raise ValueError(f"strata must be 'worst' or, without multi_label=True, 'mean'; got {strata!r}")
    asked = Asked(chosen, exact, replicates, seed, dict(given or {}), intersections == 2, strata)
    check_kinds(chosen, space, multi_label)
    if given and "counts" not in asked.needs:
        raise ValueError(
            f"given={dict(given)!r} compares rates, but none of the metrics is made of rates: {', '.join(chosen)}"
        )
    if multi_label and weighted:
        raise ValueError("multi_label=True and weights cannot be combined; leave one of them out")
    check_limits(chosen, exact=exact, weighted=weighted)
    return asked


def _default(space: Space, *, scored: bool) -> tuple[str, ...]:
    if space == "values":
        return NUMBER_METRICS
    return CLASS_METRICS + SCORE_METRICS if scored and space != "labels" else CLASS_METRICS


def _is_free(rate: object) -> bool:
    """Whether a rate needs no favourable class."""
    row = RATES.get(rate) if isinstance(rate, str) else None
    return rate in ("accuracy", "balanced_accuracy", "differential_fairness") or (row is not None and row.per_class)


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
