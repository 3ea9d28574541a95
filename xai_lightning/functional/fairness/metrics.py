"""The table of metrics of group fairness: each a rate (or another quantity) of every group times an aggregation."""

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
"""Rates of which every comparison between groups is a metric, named after the rate."""

_COMPARISONS = ("difference", "ratio", "difference_to_overall", "ratio_to_overall")

_OVERALL = "fairlearn has it as method='to_overall'; AIF360 compares one group with the rest."
_SIGNED = "AIF360: signed, of two groups only, the rest pooled."
_ZERO = "fairlearn gives a group without positives the rate 0 and so makes up a gap; here it is undefined."
_UNBOUNDED = "AIF360's disparate_impact is of two groups and can exceed 1; torchmetrics' key names the groups."


def _named() -> Iterator[tuple[str, Metric]]:
    """Metrics that the literature has names for."""
    parity, chance, odds = ("selection_rate",), ("true_positive_rate",), ("true_positive_rate", "false_positive_rate")
    yield "demographic_parity_difference", Metric(parity, "difference", differs=_SIGNED)
    yield "demographic_parity_ratio", Metric(parity, "ratio", differs=_UNBOUNDED)
    yield "demographic_parity_difference_to_overall", Metric(parity, "difference_to_overall", differs=_OVERALL)
    yield "demographic_parity_ratio_to_overall", Metric(parity, "ratio_to_overall", differs=_OVERALL)
    yield "equalized_odds_difference", Metric(odds, "difference", differs=_ZERO)
    yield "equalized_odds_ratio", Metric(odds, "ratio", differs=_ZERO)
    yield "equalized_odds_difference_to_overall", Metric(odds, "difference_to_overall", differs=_OVERALL)
    yield "equalized_odds_ratio_to_overall", Metric(odds, "ratio_to_overall", differs=_OVERALL)
    averaged = "fairlearn: agg='mean'. AIF360's average_odds_difference is signed, so that opposite gaps cancel."
    yield "equalized_odds_difference_mean", Metric(odds, "mean_difference", differs=averaged)
    yield "equal_opportunity_difference", Metric(chance, "difference", differs=f"{_SIGNED} {_ZERO}")
    yield "equal_opportunity_ratio", Metric(chance, "ratio", differs="torchmetrics' equal_opportunity is this ratio.")
    empty = "AIF360 gives a group of whom nobody is selected the value 0; here it is undefined."
    yield "predictive_parity_difference", Metric(("positive_predictive_value",), "difference", differs=empty)
    use = ("positive_predictive_value", "negative_predictive_value")
    yield "conditional_use_accuracy_difference", Metric(use, "difference", differs=empty)
    yield "treatment_equality_difference", Metric(("false_negative_share",), "difference")
    yield "treatment_equality_unbounded_difference", Metric(("error_balance",), "difference")


def _compared() -> Iterator[tuple[str, Metric]]:
    """Every plain rate in every comparison, the worst group of the good ones, and the spread."""
    for rate in _PLAIN:
        for comparison in _COMPARISONS:
            yield f"{rate}_{comparison}", Metric((rate,), comparison)
        yield f"{rate}_spread", Metric((rate,), "spread", differs="fairlearn and AIF360 have no debiased spread.")
    for rate in ("true_positive_rate", "true_negative_rate", "positive_predictive_value", "negative_predictive_value"):
        yield f"worst_group_{rate}", Metric((rate,), "worst")
    for rate in ("false_positive_rate", "false_negative_rate"):
        yield f"worst_group_{rate}", Metric((rate,), "largest", ideal=0.0)
    yield "worst_group_accuracy", Metric(("accuracy",), "worst")
    weighted = "AIF360's rich_subgroup finds linear-threshold groups by regression; here the groups are those declared."
    for rate in ("selection_rate", "false_positive_rate", "false_negative_rate"):
        yield f"size_weighted_{rate}_difference", Metric((rate,), "size_weighted", differs=weighted)


def _of_classes() -> Iterator[tuple[str, Metric]]:
    """Several classes, none of them favourable: the worst class counts."""
    share = ("class_selection_rate",)
    yield "multiclass_demographic_parity_difference", Metric(share, "difference")
    yield "multiclass_demographic_parity_total_variation", Metric(share, "total_variation")
    yield "multiclass_equalized_odds_difference", Metric(("class_confusion",), "difference")
    classwise = ("class_recall", "class_false_positive_rate")
    yield "multiclass_classwise_odds_difference", Metric(classwise, "difference")
    yield "multiclass_equal_opportunity_difference", Metric(("class_recall",), "difference")
    yield "balanced_accuracy_difference", Metric(("balanced_accuracy",), "difference")
    yield "worst_group_balanced_accuracy", Metric(("balanced_accuracy",), "worst")


def _inequality() -> Iterator[tuple[str, Metric]]:
    """Indices of all counts together."""
    alpha = "AIF360's code divides the case alpha = 0 by the mean once more."
    yield "generalized_entropy", Metric(("generalized_entropy",), "whole", differs=alpha)
    yield "theil_index", Metric(("theil",), "whole")
    yield "between_group_generalized_entropy", Metric(("between_group_entropy",), "whole", differs=alpha)
    smoothed = "AIF360: smoothed_edf, with the same concentration of 1."
    yield "differential_fairness", Metric(("differential_fairness",), "whole", differs=smoothed)


def _of_scores() -> Iterator[tuple[str, Metric]]:
    """Of the scores of the favourable class, whatever the threshold."""
    yield "auc_difference", Metric(("auc",), "difference", differs="fairlearn: roc_auc_score_difference.")
    yield "worst_group_auc", Metric(("auc",), "worst", differs="fairlearn: roc_auc_score_group_min.")
    yield "xauc_difference", Metric(("xauc_gap",), "largest")
    yield "worst_group_bpsn_auc", Metric(("bpsn_auc",), "worst")
    yield "worst_group_bnsp_auc", Metric(("bnsp_auc",), "worst")
    yield "score_distance", Metric(("score_distance",), "largest")
    yield "score_wasserstein_distance", Metric(("score_wasserstein",), "largest")
    biased = "The usual expected calibration error is biased upwards in small groups, so that its gap measures sizes."
    yield "calibration_in_the_large", Metric(("calibration_in_the_large",), "largest_magnitude")
    yield "calibration_in_the_large_difference", Metric(("calibration_in_the_large",), "difference")
    yield "calibration_error", Metric(("calibration_error",), "largest", differs=biased)
    yield "kolmogorov_calibration_error", Metric(("kolmogorov_calibration_error",), "largest")
    yield "brier_score_difference", Metric(("brier",), "difference")
    yield "worst_group_brier_skill", Metric(("brier_skill",), "worst")


def _of_numbers() -> Iterator[tuple[str, Metric]]:
    """Of predicted numbers, in units of the target."""
    only = "AIF360's metrics of regression are of rankings only."
    yield "mean_prediction_difference", Metric(("mean_prediction",), "difference", differs=only)
    yield "mean_residual_difference", Metric(("mean_residual",), "difference", differs=only)
    yield "worst_group_mean_residual", Metric(("mean_residual",), "largest_magnitude", differs=only)
    for error in ("mean_absolute_error", "root_mean_squared_error"):
        for comparison in ("difference", "ratio"):
            peer = f"fairlearn: {error}_{comparison}." if error == "mean_absolute_error" else ""
            yield f"{error}_{comparison}", Metric((error,), comparison, differs=peer)
        yield f"worst_group_{error}", Metric((error,), "largest")
    yield "prediction_distance", Metric(("prediction_distance",), "largest")
    yield "prediction_wasserstein_distance", Metric(("prediction_wasserstein",), "largest")
    yield "residual_distance", Metric(("residual_distance",), "largest")


_FAMILIES = (_compared(), _named(), _of_classes(), _inequality(), _of_scores(), _of_numbers())

METRICS: Mapping[str, Metric] = MappingProxyType({name: metric for family in _FAMILIES for name, metric in family})
"""Metrics by name. To add one, add a row."""
