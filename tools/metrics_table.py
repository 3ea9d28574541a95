"""Writes ``docs/metrics.md`` from the table of fairness metrics: ``python tools/metrics_table.py``."""

import math
from pathlib import Path

from xai_lightning.functional.fairness import (
    METRICS,
    QUANTITIES,
    RATES,
    Metric,
    has_exact_limits,
    is_resampled,
)

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

SYMBOLS = {
    "selection_rate": "SR",
    "true_positive_rate": "TPR",
    "false_positive_rate": "FPR",
    "false_negative_rate": "FNR",
    "true_negative_rate": "TNR",
    "positive_predictive_value": "PPV",
    "negative_predictive_value": "NPV",
    "false_omission_rate": "FOR",
    "false_discovery_rate": "FDR",
    "accuracy": "ACC",
    "base_rate": "BR",
    "false_negative_share": "FNS",
    "class_selection_rate": "SR(k)",
    "class_recall": "TPR(k)",
    "class_false_positive_rate": "FPR(k)",
    "class_confusion": "P(k|j)",
    "balanced_accuracy": "BA",
    "error_balance": "(FN/FP)",
    "generalized_entropy": "GE",
    "theil": "T",
    "between_group_entropy": "GEB",
    "differential_fairness": "ε",
    "auc": "AUC",
    "xauc_gap": "ΔxAUC",
    "bpsn_auc": "BPSN",
    "bnsp_auc": "BNSP",
    "score_distance": "KS",
    "score_wasserstein": "W",
    "calibration_in_the_large": "CIL",
    "calibration_error": "CE",
    "kolmogorov_calibration_error": "KCE",
    "brier": "BS",
    "brier_skill": "BSS",
    "mean_prediction": "MP",
    "mean_residual": "MR",
    "mean_absolute_error": "MAE",
    "root_mean_squared_error": "RMSE",
    "prediction_distance": "KS",
    "prediction_wasserstein": "W",
    "residual_distance": "KS",
}
"""Symbols of rates and quantities in formulas; any other is written by its name."""

PREFACE = """\
# Fairness metrics

*Written from the table in `functional/fairness/metrics.py` by `python tools/metrics_table.py`; do not edit it by
hand.*

`FairnessMonitor(groups={"sex": ["Female", "Male"]}, metrics=["equalized_odds_difference", …])` counts every row of a
validation and logs each metric as `fairness/<attribute>/<metric>/value`, with `/lower` and `/upper` (a 95 % interval,
for watching) and `/bound` (the one-sided limit at the error that this validation may spend, for gating; see [the
gate](gate.md)).

## Before you choose one

* **Undefined is not fair.** A rate whose denominator is 0 (in a group without rows, without positives, or of whom
  nobody was selected) is NaN, and so is every metric computed from it. NaN closes a gate. It is never replaced by 0,
  and the group is never left out.
* **Labels may be biased** (trap 87). A metric that compares predictions with targets trusts the targets: if they say
  who was arrested rather than who did it, equal error rates repeat that bias. A metric of predictions alone says
  nothing about who should have been selected.
* **Not all criteria can hold together.** In every group FPR = p / (1 − p) · (1 − PPV) / PPV · (1 − FNR), with p its
  share of positives (A. Chouldechova, Fair prediction with disparate impact, Big Data 5, 2017). Where p differs
  between groups, equal PPV and equal error rates exclude each other, unless nobody is judged wrongly: limits on both
  must leave room, or the gate stays closed.
* **The four-fifths rule** (a ratio of selection rates of at least 0.8) is a rule of thumb of employment law in the
  United States. It is not law anywhere else, and no threshold is justified universally: you choose it.
* **Never gate on a generalized entropy**, the Theil index included: it may fall when accuracy falls.
* **A constant prediction is fair** by most of these metrics. That is why a gate with a fairness limit also demands
  utility above chance.
* **The largest gap in a sample is biased upwards**, more so the more groups there are and the smaller they are. Do not
  compare it between attributes with different numbers of groups; the `…_spread` metrics are corrected for this bias.

## Attributes, intersections, strata, weights

* `<attribute>` is a name that you gave in `groups=`. Missing values are counted, but stay out of metrics; an
  undeclared value is an error, or counted as `unknown` with `undeclared="unknown"`.
* `intersections=2` adds every pair of attributes as an attribute of its own, such as `race+sex`, whose groups are the
  combinations. A combination without rows makes the metrics of `race+sex` NaN, which fails the limits on them, but no
  others.
* `given={"sex": "job"}` adds `sex|job`: `sex` is compared among the rows of each `job`, and the worst job counts, or,
  with `strata="mean"`, the mean weighted by size. If one job has no rows of a group, the metric is undefined.
* `weights=` turns counts into sums of weights. Limits then use Kish's effective number of samples, (Σw)² / Σw².
  Neither exact nor resampled limits exist for weighted rows, and scores and predicted numbers are not weighted:
  metrics that need them are refused.

## Your own

A rate is a callable that takes counts (`tp`, `fp`, `fn`, `tn`, `correct`, `total`, each a tensor with one entry per
group). If it returns numerator and denominator, the metric has limits in closed form and exact ones; if it returns one
number per group, its limits are resampled.

```python
from xai_lightning import FairnessMonitor
from xai_lightning.functional.fairness import Metric


def alarm_share(counts):
    return counts.fp, counts.total


def cost(counts):
    return (5.0 * counts.fn + counts.fp) / counts.total


monitor = FairnessMonitor(
    groups={"sex": ["Female", "Male"]},
    own_metrics={
        "alarm_share_difference": Metric((alarm_share,), "difference"),
        "worst_group_cost": Metric((cost,), "largest", ideal=0.0),
    },
)
```

Your metrics are logged and gated like the others: `fairness/sex/alarm_share_difference/bound`.

## How to read the tables

In formulas, a and b run over the groups, and a rate without an index is that of all rows together; n_a is the number
of trials of group a (for FPR, its negatives), N the number of all rows, and Var_a the sample variance over groups.
*Good* tells whether low or high values are good, and which value is ideal. *Limits* are **closed**: from a formula
(Wilson, Newcombe, MOVER-R, Student); **closed, exact**: `exact=True` also gives limits that hold at any sample size,
from Clopper and Pearson; or **resampled**: percentiles of a bootstrap of the counts, which is equivalent to one of the
rows. AIF360 compares two sets of groups, unprivileged minus (or over) privileged, each pooled; here every group is
compared with every other.
"""

INDIVIDUAL = """\
## Individuals

Two more metrics are not computed from counts per group, and so are not in the tables.

* **Flip rate**, `fairness/<attribute>/flip_rate/value` (`/lower`, `/upper`, `/bound`): the share of rows that would be
  decided differently with some other value of the attribute, everything else unchanged. `flips={"sex": Column(0, 9)}`
  asks for it: column 9 of the first input holds the attribute. Low is good, 0 is ideal; limits are Wilson's, over a
  sample of the rows. It shows the direct effect only: a model that is not given the attribute has 0, but may infer it
  from proxies. That is unawareness, not fairness, and a warning says so. The mean change of the score is logged as
  `rate/<attribute>/flip_score_change/signed` and `rate/<attribute>/flip_score_change/absolute`.
* **Consistency**, `individual/consistency/value` (with `consistency_features=[0, 3, …]`, the columns by which
  people are similar): one minus the mean difference between each decision and the mean decision of its five nearest
  neighbours, in standardised features. High is good, 1 is ideal, and a constant decision reaches it. It shows neither
  which group is treated differently nor anything that the features do not contain. AIF360 counts each row as its own
  neighbour and does not standardise; the function `consistency` does the same on request (`compat`).
"""

FORMULAS = {
    "generalized_entropy": "1/2 mean_i((b_i / mean b)² - 1)",
    "theil": "mean_i((b_i / mean b) ln(b_i / mean b))",
    "between_group_entropy": "1/2 mean_i((mean b of i's group / mean b)² - 1)",
    "differential_fairness": "max_{a,b,k} |ln P_a(k) - ln P_b(k)|, P_a(k) = (N_ak + 1/K) / (N_a + 1)",
}
"""Formulas of quantities computed from all groups at once; K classes, N_ak rows of group a that are predicted as k."""

FAMILIES = {
    "Rates of the favourable class": "Every rate under every comparison.",
    "Named in the literature": "The same rates under the names of the criteria.",
    "Several classes": "No class is favourable: the worst class k counts, or worst pair of actual j and predicted k.",
    "Scores": "Independent of the threshold. Scores are probabilities of the favourable class, counted in 1,024 bins.",
    "Predicted numbers": "Metrics of regression, in the unit of the target. The two distances KS are fractions.",
    "Inequality": "Indices of predictions or the benefit b = predicted - actual + 1 (0: missed, 2: wrongly selected).",
}


def family(name: str, metric: Metric) -> str:
    """The heading under which a metric is listed."""
    if metric.needs != "counts":
        return "Scores" if metric.needs == "scores" else "Predicted numbers"
    if metric.aggregation == "whole":
        return "Inequality"
    rates = [rate for rate in metric.rates if isinstance(rate, str)]
    if all(rate not in RATES or RATES[rate].per_class for rate in rates) and rates != ["error_balance"]:
        return "Several classes"
    plain = len(rates) == 1 and name.removeprefix("worst_group_").removeprefix("size_weighted_").startswith(rates[0])
    return "Rates of the favourable class" if plain else "Named in the literature"


def symbol(rate: str) -> str:
    """The symbol of a rate or quantity in a formula."""
    return SYMBOLS.get(rate, rate)


def formula(metric: Metric) -> str:
    """The formula that aggregates the metric's rates: over several rates or classes, the worst or the mean."""
    names = [str(rate) for rate in metric.rates]
    rates = [symbol(name) for name in names]
    if metric.aggregation == "whole":
        return FORMULAS.get(names[0], rates[0])
    if metric.aggregation == "mean_difference":
        return f"mean over r of {', '.join(rates)} of ({metric.how.formula.format('r')})"
    single = metric.how.formula.format(rates[0] if len(rates) == 1 else "r")
    over = ["j, k"] * ("class_confusion" in names) or ["k"] * any("(k" in rate for rate in rates)
    over = [] if metric.aggregation == "total_variation" else over
    over += [f"r of {', '.join(rates)}"] * (len(rates) > 1)
    worst = "max" if metric.best == "low" else "min"
    return f"{worst} over {' and '.join(over)} of ({single})" if over else single


def number(value: float) -> str:
    """A limit of the range, in short form."""
    return ("−" * (value < 0) + "∞") if math.isinf(value) else f"{value:g}".replace("-", "−")


def good(metric: Metric) -> str:
    """Which values are good, and the ideal value."""
    return f"{metric.best}, ideal {number(math.nan if metric.ideal is None else metric.ideal)}"


def reach(metric: Metric) -> str:
    """The range of a metric."""
    return " to ".join(map(number, metric.reach))


def limits(metric: Metric) -> str:
    """How a metric's limits are computed."""
    if is_resampled(metric):
        return "resampled"
    return "closed, exact" if has_exact_limits(metric) else "closed"


def row(name: str, metric: Metric) -> str:
    """One line of a table."""
    hidden = metric.hides.removeprefix("It does not show ").removesuffix(".")
    said = f"{hidden}. {metric.caution}" if metric.caution else hidden
    cells = (f"`{name}`", f"`{formula(metric)}`", good(metric), reach(metric), limits(metric), said, metric.differs)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def meaning(rate: str) -> str:
    """A line that explains a symbol."""
    if rate in RATES:
        return f"* `{symbol(rate)}`, {rate.replace('_', ' ')}: {RATES[rate].meaning}"
    return f"* `{symbol(rate)}`: {QUANTITIES[rate].meaning}"


def section(title: str, rows: dict[str, Metric]) -> list[str]:
    """The section of one family."""
    rates = list(dict.fromkeys(str(rate) for metric in rows.values() for rate in metric.rates))
    columns = ("metric", "formula", "good", "range", "limits", "does not show", "elsewhere")
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    table = [row(name, metric) for name, metric in rows.items()]
    return [f"## {title}", "", FAMILIES[title], "", *map(meaning, rates), "", *head, *table, ""]


def page() -> str:
    """The whole page."""
    rows: dict[str, dict[str, Metric]] = {title: {} for title in FAMILIES}
    for name, metric in METRICS.items():
        rows[family(name, metric)][name] = metric
    lines = [line for title in FAMILIES for line in section(title, rows[title])]
    return "\n".join([PREFACE, *lines, INDIVIDUAL])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
