"""The table of group fairness metrics: each combines a rate (or another quantity) per group with an aggregation."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from xai_lightning.functional.fairness.metric import Metric

_PLAIN = (
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "false_negative_rate",
    "true_negative_rate",
    "positive_predictive_value",
    "negative_predictive_value",
    "false_omission_rate",
    "false_discovery_rate",
    "accuracy",
)
"""Rates for which every comparison between groups is a metric named after the rate."""

_COMPARISONS = ("difference", "ratio", "difference_to_overall", "ratio_to_overall")

_OVERALL = "fairlearn: method='to_overall'. AIF360 compares one set of groups with the rest."
_EMPTY = "a group without {0} has the rate 0 there, which creates or hides a gap; here it is undefined"
_SIGNED = "AIF360: {0}, signed, between two sets of groups."
_QUOTIENT = "AIF360: {0}, between two sets of groups, may exceed 1."

_FAIRLEARN = {
    "selection_rate": "",
    "true_positive_rate": "positives",
    "false_positive_rate": "negatives",
    "false_negative_rate": "positives",
    "true_negative_rate": "negatives",
}
"""Rates whose comparisons fairlearn has under the same name, and the samples that they need at least one of."""

_AIF360 = {
    "selection_rate_difference": "statistical_parity_difference",
    "selection_rate_ratio": "disparate_impact",
    "accuracy_difference": "error_rate_difference",
    **{
        f"{rate}_{kind}": f"{rate}_{kind}"
        for rate in ("false_positive_rate", "false_negative_rate", "false_omission_rate", "false_discovery_rate")
        for kind in ("difference", "ratio")
    },
    "true_positive_rate_difference": "true_positive_rate_difference",
}
"""Comparisons that AIF360 has, and their names there."""


def _peers(rate: str, comparison: str) -> str:
    """Which other libraries have this comparison of a rate, and how theirs differs."""
    kind, overall = comparison.removesuffix("_to_overall"), comparison.endswith("_to_overall")
    name, found = f"{rate}_{comparison}", []
    if rate in _FAIRLEARN or rate == "accuracy":
        stem = "accuracy_score" if rate == "accuracy" else rate
        method = ", method='to_overall'" if overall else ""
        empty = f"; {_EMPTY.format(_FAIRLEARN[rate])}" if _FAIRLEARN.get(rate) else ""
        found.append(f"fairlearn: {stem}_{kind}{method}{empty}.")
    if name in _AIF360:
        found.append((_SIGNED if kind == "difference" else _QUOTIENT).format(_AIF360[name]))
    return " ".join(found)


def _named() -> Iterator[tuple[str, Metric]]:
    """Metrics that the literature has names for."""
    parity, chance, odds = ("selection_rate",), ("true_positive_rate",), ("true_positive_rate", "false_positive_rate")
    lone = f"fairlearn: {_EMPTY.format('positives')}."
    both = f"fairlearn: {_EMPTY.format('positives or negatives')}."
    yield (
        "demographic_parity_difference",
        Metric(parity, "difference", differs=_SIGNED.format("statistical_parity_difference")),
    )
    keyed = "torchmetrics: demographic_parity, whose key names two groups and so changes with the data."
    fifths = "A threshold of 0.8 is a rule of thumb of employment law in the United States, and of nothing else."
    quotient = f"{_QUOTIENT.format('disparate_impact')} {keyed}"
    yield "demographic_parity_ratio", Metric(parity, "ratio", differs=quotient, caution=fifths)
    yield "demographic_parity_difference_to_overall", Metric(parity, "difference_to_overall", differs=_OVERALL)
    yield "demographic_parity_ratio_to_overall", Metric(parity, "ratio_to_overall", differs=_OVERALL)
    far = f"fairlearn: method='to_overall'; {_EMPTY.format('positives or negatives')}."
    absolute = f"{both} AIF360: equalized_odds_difference, between two sets of groups."
    yield "equalized_odds_difference", Metric(odds, "difference", differs=absolute)
    yield "equalized_odds_ratio", Metric(odds, "ratio", differs=both)
    yield "equalized_odds_difference_to_overall", Metric(odds, "difference_to_overall", differs=far)
    yield "equalized_odds_ratio_to_overall", Metric(odds, "ratio_to_overall", differs=far)
    averaged = "fairlearn: agg='mean'. AIF360: average_odds_difference is signed, so that opposite gaps cancel."
    yield "equalized_odds_difference_mean", Metric(odds, "mean_difference", differs=averaged)
    signed = f"{lone} {_SIGNED.format('equal_opportunity_difference')}"
    yield "equal_opportunity_difference", Metric(chance, "difference", differs=signed)
    yield "equal_opportunity_ratio", Metric(chance, "ratio", differs=f"{lone} torchmetrics: equal_opportunity.")
    empty = "In AIF360, a group of whom nobody is selected has the value 0; here it is undefined."
    yield "predictive_parity_difference", Metric(("positive_predictive_value",), "difference", differs=empty)
    use = ("positive_predictive_value", "negative_predictive_value")
    yield "conditional_use_accuracy_difference", Metric(use, "difference", differs=empty)
    yield "treatment_equality_difference", Metric(("false_negative_share",), "difference")
    endless = "It is unbounded above, and undefined if a group has no false positives."
    yield "treatment_equality_unbounded_difference", Metric(("error_balance",), "difference", caution=endless)


def _compared() -> Iterator[tuple[str, Metric]]:
    """Every plain rate under every comparison, its spread, and the worst group of some rates."""
    for rate in _PLAIN:
        for comparison in _COMPARISONS:
            yield f"{rate}_{comparison}", Metric((rate,), comparison, differs=_peers(rate, comparison))
        yield f"{rate}_spread", Metric((rate,), "spread")
    scores = {
        "true_positive_rate": "fairlearn: recall_score_group_min.",
        "true_negative_rate": "",
        "positive_predictive_value": "fairlearn: precision_score_group_min, 0 where nobody is selected.",
        "negative_predictive_value": "",
        "accuracy": "fairlearn: accuracy_score_group_min.",
    }
    for rate, peer in scores.items():
        yield f"worst_group_{rate}", Metric((rate,), "worst", differs=peer)
    for rate in ("false_positive_rate", "false_negative_rate"):
        yield f"worst_group_{rate}", Metric((rate,), "largest", ideal=0.0)
    weighted = "AIF360: rich_subgroup searches for groups defined by linear thresholds; here they are declared."
    unseen = "Never gate on it alone."
    for rate in ("selection_rate", "false_positive_rate", "false_negative_rate"):
        yield f"size_weighted_{rate}_difference", Metric((rate,), "size_weighted", differs=weighted, caution=unseen)


def _of_classes() -> Iterator[tuple[str, Metric]]:
    """Metrics of several classes, none of them favourable: the worst class counts."""
    share = ("class_selection_rate",)
    yield "multiclass_demographic_parity_difference", Metric(share, "difference")
    yield "multiclass_demographic_parity_total_variation", Metric(share, "total_variation")
    yield "multiclass_equalized_odds_difference", Metric(("class_confusion",), "difference")
    classwise = ("class_recall", "class_false_positive_rate")
    yield "multiclass_classwise_odds_difference", Metric(classwise, "difference")
    yield "multiclass_equal_opportunity_difference", Metric(("class_recall",), "difference")
    yield "balanced_accuracy_difference", Metric(("balanced_accuracy",), "difference")
    least = "fairlearn: balanced_accuracy_score_group_min, which leaves out classes without samples in a group."
    yield "worst_group_balanced_accuracy", Metric(("balanced_accuracy",), "worst", differs=least)


def _inequality() -> Iterator[tuple[str, Metric]]:
    """Indices computed from all counts at once."""
    never = "Never gate on it: it may fall when accuracy falls."
    alpha = "AIF360: {0}; for alpha = 0 its code, unlike its documentation, divides by the mean once more."
    whole, between = (alpha.format(f"{part}generalized_entropy_index") for part in ("", "between_all_groups_"))
    yield "generalized_entropy", Metric(("generalized_entropy",), "whole", differs=whole, caution=never)
    theil = "AIF360: theil_index."
    yield "theil_index", Metric(("theil",), "whole", differs=theil, caution=never)
    yield (
        "between_group_generalized_entropy",
        Metric(("between_group_entropy",), "whole", differs=between, caution="Never gate on it: errors may cancel."),
    )
    smoothed = "AIF360: smoothed_empirical_differential_fairness, with the same concentration of 1."
    rarest = "The rarest class dominates it, and small groups are pulled towards each other."
    yield "differential_fairness", Metric(("differential_fairness",), "whole", differs=smoothed, caution=rarest)


def _of_scores() -> Iterator[tuple[str, Metric]]:
    """Metrics of the scores of the favourable class, independent of the threshold."""
    yield "auc_difference", Metric(("auc",), "difference", differs="fairlearn: MetricFrame of roc_auc_score.")
    yield "worst_group_auc", Metric(("auc",), "worst", differs="fairlearn: roc_auc_score_group_min.")
    yield "xauc_difference", Metric(("xauc_gap",), "largest")
    yield "worst_group_bpsn_auc", Metric(("bpsn_auc",), "worst")
    yield "worst_group_bnsp_auc", Metric(("bnsp_auc",), "worst")
    yield "score_distance", Metric(("score_distance",), "largest")
    yield "score_wasserstein_distance", Metric(("score_wasserstein",), "largest")
    biased = "torchmetrics: expected calibration error, not debiased: larger in smaller groups."
    grows = "Sampling alone makes it larger in smaller groups."
    yield "calibration_in_the_large", Metric(("calibration_in_the_large",), "largest_magnitude")
    yield "calibration_in_the_large_difference", Metric(("calibration_in_the_large",), "difference")
    yield "calibration_error", Metric(("calibration_error",), "largest", differs=biased)
    yield "kolmogorov_calibration_error", Metric(("kolmogorov_calibration_error",), "largest", caution=grows)
    yield "brier_score_difference", Metric(("brier",), "difference")
    yield "worst_group_brier_skill", Metric(("brier_skill",), "worst")


def _of_numbers() -> Iterator[tuple[str, Metric]]:
    """Metrics of regression, in units of the target."""
    only = "AIF360's regression metrics compare rankings."
    yield "mean_prediction_difference", Metric(("mean_prediction",), "difference", differs=only)
    yield "mean_residual_difference", Metric(("mean_residual",), "difference", differs=only)
    yield "worst_group_mean_residual", Metric(("mean_residual",), "largest_magnitude", differs=only)
    for error in ("mean_absolute_error", "root_mean_squared_error"):
        for comparison in ("difference", "ratio"):
            frame = f"fairlearn: MetricFrame of {error}."
            yield f"{error}_{comparison}", Metric((error,), comparison, differs=frame)
        peer = "fairlearn: mean_absolute_error_group_max." if error == "mean_absolute_error" else ""
        yield f"worst_group_{error}", Metric((error,), "largest", differs=peer)
    yield "prediction_distance", Metric(("prediction_distance",), "largest")
    yield "prediction_wasserstein_distance", Metric(("prediction_wasserstein",), "largest")
    yield "residual_distance", Metric(("residual_distance",), "largest")


_FAMILIES = (_compared(), _named(), _of_classes(), _inequality(), _of_scores(), _of_numbers())

METRICS: Mapping[str, Metric] = MappingProxyType({name: metric for family in _FAMILIES for name, metric in family})
"""Metrics by name. To add one, add a row."""
