"""Whether the data suffice for a limit, before any model can show it."""

from collections.abc import Sequence
from typing import Any

from xai_lightning.callbacks._asked import Asked
from xai_lightning.callbacks._subjects import Subject
from xai_lightning.callbacks._tally import Tally
from xai_lightning.functional.fairness import RATES, Metric, sample_size
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
        limit: full name of the metric, its name without the monitor's own, and the threshold.
        asked: what is asked for.
        tally: what was counted.
        subjects: the groups that are compared.
        positive: the favourable class.
        error: what the bound may spend.

    Returns:
        None for another name than that of a bound, or if nothing can be foreseen.
    """
    full, name, threshold = limit
    parts = name.split("/")
    found = {subject.name.replace("/", "_"): subject for subject in subjects}
    if len(parts) != 4 or parts[0] != "fairness" or parts[3] != "bound" or parts[1] not in found:
        return None
    subject, metric = found[parts[1]], asked.metrics.get(parts[2])
    if metric is None or subject.strata or tally.labels:
        return None
    evidence = tally.evidence(metric.needs, subject.counted, subject.index, positive)
    sizes = sample_size(metric, evidence, threshold, error=error, exact=asked.exact)
    if sizes is None:
        return None
    group, trials = subject.groups[sizes.group], _trials(metric, evidence, sizes.rate)
    enough = "no number suffices" if sizes.needed is None else f"needs {sizes.needed:,} per group"
    opens = "" if sizes.can_open else ", so it cannot open"
    sentence = f"{full}: {group!r} has {sizes.smallest:,} {trials}; the limit of {threshold:g} {enough}{opens}"
    return Outlook(full, group, trials, sizes.smallest, sizes.needed, sizes.can_open, sentence)


def _trials(metric: Metric, evidence: Any, place: int) -> str:
    """What the denominator of one of its rates counts."""
    for rate in metric.rates:
        wide = Metric((rate,), "largest").measure(evidence).value.shape[-2]
        if place < wide:
            return RATES[rate].trials if isinstance(rate, str) and rate in RATES else "samples"
        place -= wide
    return "samples"
