"""Foresees whether the data suffice for a limit, before any model can meet it."""

from collections.abc import Iterator, Sequence
from typing import Any

from xai_lightning.callbacks._fairness.asked import Asked
from xai_lightning.callbacks._fairness.subjects import Subject
from xai_lightning.callbacks._fairness.tally import Tally
from xai_lightning.functional.fairness import RATES, Confusion, Metric, confusion, sample_size
from xai_lightning.functional.gate import Outlook


def outlook(
    limit: tuple[str, str, float],
    asked: Asked,
    tally: Tally,
    subjects: Sequence[Subject],
    *,
    positive: int,
    error: float,
) -> Outlook | None:
    """The sample-size report of one limit on a bound.

    Args:
        limit: full name of the metric, its name without the monitor's prefix, and the threshold.
        asked: what is measured.
        tally: the counts.
        subjects: the groups that are compared.
        positive: the favourable class.
        error: the error that the bound may spend.

    Returns:
        The report; None if the name is not that of a bound, or if nothing can be foreseen.
    """
    full, name, threshold = limit
    parts = name.split("/")
    found = {subject.name.replace("/", "_"): subject for subject in subjects}
    if len(parts) != 4 or parts[0] != "fairness" or parts[3] != "bound" or parts[1] not in found:
        return None
    subject, metric = found[parts[1]], asked.metrics.get(parts[2])
    if metric is None or (subject.strata and asked.strata == "mean"):
        return None
    evidence = tally.evidence(metric.needs, subject.counted, subject.index, positive)
    parts_of = [*_strata_of(evidence)] if subject.strata or tally.labels else [evidence]
    reports = [sample_size(metric, part, threshold, error=error, exact=asked.exact) for part in parts_of]
    known = [(sizes, part) for sizes, part in zip(reports, parts_of, strict=True) if sizes is not None]
    if not known:
        return None
    # among strata and labels, report the one with the least evidence, on which the worst of them depends
    sizes, part = min(known, key=lambda pair: (pair[0].can_open, pair[0].smallest))
    group, trials = subject.groups[sizes.group], _trials(metric, part, sizes.rate)
    where = " in the smallest stratum or label" if len(parts_of) > 1 else ""
    enough = "cannot be kept by any number of them" if sizes.needed is None else f"needs {sizes.needed:,} per group"
    opens = "" if sizes.can_open else ", so the gate cannot open"
    sentence = f"{full}: {group!r} has {sizes.smallest:,} {trials}{where}; the limit of {threshold:g} {enough}{opens}"
    return Outlook(full, group, trials, sizes.smallest, sizes.needed, sizes.can_open, sentence)


def _strata_of(evidence: Confusion) -> Iterator[Confusion]:
    """The counts of each stratum or label."""
    for place, cells in enumerate(() if evidence.cells is None else evidence.cells):
        squares = None if evidence.squares is None else evidence.squares.cells
        yield confusion(cells, evidence.positive, None if squares is None else squares[place])


def _trials(metric: Metric, evidence: Any, place: int) -> str:
    """What the denominator of the metric's rate at ``place`` counts."""
    for rate in metric.rates:
        wide = Metric((rate,), "largest").measure(evidence).value.shape[-2]
        if place < wide:
            return RATES[rate].trials if isinstance(rate, str) and rate in RATES else "samples"
        place -= wide
    return "samples"
