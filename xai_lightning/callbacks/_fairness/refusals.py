"""Refuses settings with which a FairnessMonitor cannot compute its metrics, before anything is trained."""

from collections.abc import Mapping

from xai_lightning import tags
from xai_lightning._lightning import MisconfigurationException
from xai_lightning.functional import fairness
from xai_lightning.functional.fairness import METRICS, RATES, Metric
from xai_lightning.functional.fairness.resampling import example
from xai_lightning.readers import Space

TAKEN = ("rates", "calibration", "flip_rate")
"""Names below an attribute's that do not belong to a metric."""
EXAMPLES = 2
"""Number of groups on which a user's own metric is tried out."""


def check_own(own: Mapping[str, Metric]) -> None:
    """Refuse own metrics whose names are taken, or that cannot be computed.

    Raises:
        ValueError: shows the name.
        TypeError: if ``own`` is not a mapping from strings, or one of its values is not a `Metric`.
    """
    given: object = own
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"own_metrics must map names to Metric objects; got {own!r}")
    owners = {name: f"the built-in metric {name!r}" for name in METRICS} | dict.fromkeys(
        TAKEN, "a name that is always logged"
    )
    for name, metric in own.items():
        other = owners.setdefault(tags.part(name), repr(name))
        if other != repr(name):
            raise ValueError(
                f"own_metrics must have unique names, also when '/' is replaced by '_'; got {name!r}, which is taken "
                f"by {other}"
            )
        if not isinstance(metric, Metric):
            raise TypeError(
                f"own_metrics[{name!r}] must be a Metric, such as Metric((fn,), 'difference') for a callable fn; got "
                f"{metric!r}"
            )
        _try_out(name, metric)


def refuse_other_readings(name: str, first: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Refuse monitors of one name that read outputs differently, since one would borrow the other's utility.

    Args:
        name: the name that they share.
        first: the settings of the first monitor that determine how it reads outputs.
        own: those of another one.

    Raises:
        MisconfigurationException: if they differ; names the settings.
    """
    differing = [f"{key}={first[key]} and {value}" for key, value in own.items() if value != first[key]]
    if differing:
        alike = f"share the name {name!r}" if name else "have no name="
        raise MisconfigurationException(
            f"two FairnessMonitors {alike}, and so share the metrics utility/…, but differ in {', '.join(differing)}; "
            "give one of them a name=..."
        )


def _try_out(name: str, metric: Metric) -> None:
    """Compute a metric for two groups, as it will be for all of them: its callables are the user's."""
    wanted = "a tensor [..., G], or numerators and denominators, from counts [..., G]"
    try:
        shape = metric.measure(example(metric.needs)).value.shape
    except Exception as error:
        raise ValueError(f"own_metrics[{name!r}] must return {wanted}; it raised {error!r}") from error
    if len(shape) != 2 or shape[-1] not in (1, EXAMPLES):
        raise ValueError(
            f"own_metrics[{name!r}] must return {wanted}; for {EXAMPLES} groups it returned shape {list(shape)}"
        )


def check_classes(metrics: Mapping[str, Metric], n_classes: int) -> None:
    """Refuse metrics of class pairs, and limits by resampling, if there are too many classes to count all pairs.

    Raises:
        ValueError: names them.
    """
    if n_classes <= fairness.SQUARE_LIMIT:
        return
    counted = {name: metric for name, metric in metrics.items() if metric.needs == "counts"}
    wrong = [n for n, metric in counted.items() if "class_confusion" in metric.rates or fairness.is_resampled(metric)]
    if wrong:
        raise ValueError(
            f"{n_classes} classes: {', '.join(wrong)} need the counts of all pairs of classes, which are "
            f"kept up to {fairness.SQUARE_LIMIT} classes; leave them out of metrics"
        )


def check_kinds(metrics: Mapping[str, Metric], space: Space, multi_label: bool) -> None:
    """Refuse metrics that cannot be computed from such outputs.

    Raises:
        ValueError: names them.
    """
    allowed = {"residuals", "predictions", "errors"} if space == "values" else {"counts", "scores"}
    if space == "labels" or multi_label:
        allowed -= {"scores"}
    wrong = [name for name, metric in metrics.items() if metric.needs not in allowed]
    if wrong:
        what = "multi_label=True" if multi_label else f"outputs={space!r}"
        raise ValueError(
            f"{what} gives {' and '.join(sorted(allowed))}, from which {', '.join(wrong)} cannot be computed; leave "
            "them out of metrics"
        )
    free = [name for name, metric in metrics.items() if multi_label and _per_class(metric)]
    if free:
        raise ValueError(
            f"multi_label=True has no classes to compare, as {', '.join(free)} would need; leave them out of metrics"
        )


def check_limits(metrics: Mapping[str, Metric], *, exact: bool, weighted: bool) -> None:
    """Refuse metrics for which the requested limits do not exist.

    Raises:
        ValueError: names them.
    """
    inexact = [name for name, metric in metrics.items() if not fairness.has_exact_limits(metric)]
    if exact and inexact:
        raise ValueError(f"exact=True: there are no exact limits for {', '.join(inexact)}; leave them out of metrics")
    if not weighted:
        return
    if exact:
        raise ValueError("exact=True and weights: weighted samples have no exact limits; leave one of them out")
    wrong = [name for name, metric in metrics.items() if metric.needs != "counts"]
    wrong += [name for name, metric in metrics.items() if name not in wrong and not _takes_weights(metric)]
    if wrong:
        raise ValueError(
            f"weights: {', '.join(wrong)} cannot be computed from weighted samples; leave them out of metrics"
        )


def _takes_weights(metric: Metric) -> bool:
    means = any(isinstance(rate, str) and rate == "balanced_accuracy" for rate in metric.rates)
    return not means and not fairness.is_resampled(metric)


def _per_class(metric: Metric) -> bool:
    rows = [RATES.get(rate) for rate in metric.rates if isinstance(rate, str)]
    return any(row is not None and row.per_class for row in rows) or "balanced_accuracy" in metric.rates
