"""Data and generators that the tests of fairness share."""

from types import SimpleNamespace

import torch
from hypothesis import settings
from hypothesis import strategies as st

from xai_lightning.functional.fairness import METRICS, RATES, Confusion, confusion, count, estimate, is_resampled

# A deadline per example measures the load of the machine, not the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

GUIDE = SimpleNamespace(  # the user guide of fairlearn, docs/user_guide/assessment
    targets=torch.tensor([0, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1]),
    predictions=torch.tensor([0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0]),
    groups=torch.tensor(["abc".index(letter) for letter in "bbabbcccaacabccbcc"]),
)


def made_of(tp, fp, fn, tn) -> Confusion:
    """Counts of two classes from lists, one entry per group."""
    tp, fp, fn, tn = (torch.as_tensor(part) for part in (tp, fp, fn, tn))
    cells = torch.stack([torch.stack([tn, fp], dim=-1), torch.stack([fn, tp], dim=-1)], dim=-2)
    return confusion(cells, positive=1)


COMPAS = made_of([1369, 505], [805, 349], [532, 461], [990, 1139])


def remade(counts: Confusion, change) -> Confusion:
    """The counts with ``change`` made to all their cells [..., G, 2, 2]."""
    return confusion(change(counts.cells), positive=1)


def value(name: str, counts: Confusion) -> float:
    return estimate(METRICS[name], counts, error=0.05).value.item()


def of_guide() -> Confusion:
    return confusion(count(GUIDE.predictions, GUIDE.targets, GUIDE.groups, classes=2, n_groups=3), positive=1)


@st.composite
def samples(draw: st.DrawFn, classes: int = 2, n_groups: int = 3) -> SimpleNamespace:
    size = draw(st.integers(1, 60))
    column = [st.lists(st.integers(0, top - 1), min_size=size, max_size=size) for top in (classes, classes, n_groups)]
    return SimpleNamespace(**dict(zip(("predictions", "targets", "groups"), map(draw, column), strict=True)))


def counted(rows: SimpleNamespace, classes: int = 2, n_groups: int = 3) -> torch.Tensor:
    columns = (torch.tensor(column) for column in (rows.predictions, rows.targets, rows.groups))
    return count(*columns, classes=classes, n_groups=n_groups)


@st.composite
def tallies(draw: st.DrawFn, least: int = 1) -> Confusion:
    """Counts of two to four groups, with at least ``least`` positives and negatives in each."""
    n_groups = draw(st.integers(2, 4))
    cells = st.lists(st.integers(0, 60), min_size=n_groups, max_size=n_groups)
    tp, fp = (torch.tensor(draw(cells)) for _ in range(2))
    fn, tn = (torch.tensor(draw(cells)).maximum(least - part) for part in (tp, fp))
    return made_of(tp, fp, fn, tn)


COUNTED = sorted(name for name, metric in METRICS.items() if metric.needs == "counts")
RESAMPLED = [name for name in COUNTED if is_resampled(METRICS[name])]
OF_RATES = [name for name in COUNTED if name not in RESAMPLED and set(METRICS[name].rates) <= set(RATES)]
metrics = st.sampled_from(OF_RATES)
errors = st.floats(1e-5, 0.49)
