"""The page of fairness metrics is what the table says."""

import re
from pathlib import Path

import metrics_table
import pytest
import torch

from xai_lightning import FairnessMonitor
from xai_lightning.functional.fairness import (
    METRICS,
    QUANTITIES,
    RATES,
    confusion,
    count,
    distribution,
    estimate,
    is_resampled,
    residual_sums,
    score_counts,
    scored,
)

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


SCORES = torch.tensor([0.1, 0.7, 0.3, 0.9, 0.2, 0.6, 0.8, 0.4])
TARGETS = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1])
GROUPS = torch.arange(8) // 4
SUMS = residual_sums(SCORES, TARGETS.float(), GROUPS, n_groups=2)
EVIDENCE = {
    "counts": confusion(count((SCORES > 0.5).long(), TARGETS, GROUPS, classes=2, n_groups=2), positive=1),
    "scores": scored(score_counts(SCORES, TARGETS, GROUPS, n_groups=2)),
    "residuals": SUMS,
    "predictions": distribution(SUMS, "predictions"),
    "errors": distribution(SUMS, "residuals"),
}


def rows() -> dict[str, list[str]]:
    lines = re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: re.split(r"(?<!\\) \| ", rest) for name, rest in lines}


def test_the_page_is_the_one_that_the_table_makes():
    stale = "docs/metrics.md is not what the table says: run python tools/metrics_table.py"
    assert PAGE.read_text(encoding="utf-8") == metrics_table.page(), stale
    assert metrics_table.PAGE == PAGE


def test_every_metric_has_one_row_with_all_its_columns():
    assert sorted(rows()) == sorted(METRICS)
    assert {len(cells) for cells in rows().values()} == {6}


def test_every_rate_and_quantity_of_the_table_has_a_symbol_and_every_symbol_stands_for_one():
    assert set(metrics_table.SYMBOLS) == {*RATES, *QUANTITIES}


@pytest.mark.parametrize("name", sorted(METRICS))
def test_the_columns_say_what_the_metric_says_of_itself(name):
    metric, (formula, good, reach, limits, hides, differs) = METRICS[name], rows()[name]
    assert good == f"{metric.best}, ideal {metric.ideal:g}"
    low, high = (float(edge.replace("−", "-").replace("∞", "inf")) for edge in reach.split(" to "))
    assert low <= estimate(metric, EVIDENCE[metric.needs], error=0.05, replicates=50).value <= high
    assert (limits == "resampled") == is_resampled(metric)
    assert hides.removesuffix(metric.caution).rstrip(". ") in metric.hides
    assert "{" not in formula.replace("_{", "")
    assert differs == metric.differs.replace("|", "\\|")


@pytest.mark.parametrize("name", sorted(METRICS))
def test_what_fairlearn_is_said_to_have_it_has(name):
    """Names only: that the values agree is tested beside the functions."""
    peer = pytest.importorskip("fairlearn.metrics")
    sklearn = pytest.importorskip("sklearn.metrics")
    said = re.findall(r"fairlearn: (MetricFrame of )?([a-z]+_\w+)", METRICS[name].differs)
    assert [of for frame, of in said if not hasattr(sklearn if frame else peer, of)] == []


def test_the_example_runs_and_the_monitor_logs_what_it_declares():
    code = re.search(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert code is not None
    namespace: dict[str, object] = {}
    exec(code.group(1), namespace)
    assert isinstance(namespace["monitor"], FairnessMonitor)
    assert "fairness/sex/alarm_share_difference/bound" in PAGE.read_text(encoding="utf-8")
