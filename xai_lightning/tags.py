"""Every logged name, as a function. Standard library only.

A name is a path of parts joined by ``/``. A slash *inside* a part would split it, so that one name could become the
path prefix of another (law 4); it is replaced by ``_`` here and nowhere else.
"""

import itertools
from collections.abc import Iterable

ERRORS = "xai/errors"
NONFINITE_PREDICTIONS = "xai/nonfinite_predictions"
ESTIMATE_PARTS = ("value", "lower", "upper", "bound")
DRIFT_PARTS = ("mean", "lower", "upper", "median", "p90")


def part(text: str) -> str:
    """One part of a name: ``text`` without slashes, never empty, and never only dots, which would leave a folder."""
    kept = text.replace("/", "_").strip()
    return kept if kept.strip(".") else "_" * max(1, len(kept))


def join(*parts: str) -> str:
    """A name joined from ``parts``, with the slashes within each replaced."""
    return "/".join(part(p) for p in parts)


def within(prefix: str, name: str) -> str:
    """``name`` below ``prefix`` (a monitor's own name, or ``test``); unchanged when the prefix is empty."""
    return f"{prefix}/{name}" if prefix else name


def fairness(attribute: str, metric: str, estimate: str) -> str:
    """``fairness/<attribute>/<metric>/{value,lower,upper,bound}``."""
    return join("fairness", attribute, metric, estimate)


def fairness_picture(attribute: str, what: str) -> str:
    """``fairness/<attribute>/{rates,calibration}``: pictures."""
    return join("fairness", attribute, what)


def individual(measure: str, estimate: str) -> str:
    """``individual/<measure>/{value,rows}``: how alike similar samples are treated."""
    return join("individual", measure, estimate)


def rate(attribute: str, name: str, group: str) -> str:
    """``rate/<attribute>/<rate>/<group>``."""
    return join("rate", attribute, name, group)


def count(attribute: str, group: str) -> str:
    """``count/<attribute>/<group>``."""
    return join("count", attribute, group)


def balanced_accuracy(estimate: str) -> str:
    """``utility/balanced_accuracy/{value,bound,chance}``."""
    return join("utility", "balanced_accuracy", estimate)


def drift(method: str, measure: str, reference: str, summary: str) -> str:
    """``drift/<method>/<measure>/<reference>/{mean,lower,upper,median,p90}``."""
    return join("drift", method, measure, reference, summary)


def drift_state(method: str, what: str) -> str:
    """``drift/<method>/{alarm,cusum,converged,noise_floor}``."""
    return join("drift", method, what)


def drift_by_class(method: str, reference: str, class_: str) -> str:
    """``drift/<method>/by_class/<reference>/<class>``: mean cosine distance of one class of the probe."""
    return join("drift", method, "by_class", reference, class_)


def drift_by_group(method: str, reference: str, attribute: str, group: str) -> str:
    """``drift/<method>/by_group/<reference>/<attribute>/<group>``: the same for one group."""
    return join("drift", method, "by_group", reference, attribute, group)


def importance_limit(method: str, feature: str, limit: str) -> str:
    """``importance_interval/<method>/<feature>/{lower,upper}``."""
    return join("importance_interval", method, feature, limit)


def importance(method: str, feature: str) -> str:
    """``importance/<method>/<feature>``."""
    return join("importance", method, feature)


def attribution(method: str, what: str) -> str:
    """``attribution/<method>/<what>``: pictures, and the share of the sensitive variables."""
    return join("attribution", method, what)


def attribution_gap(method: str, attribute: str, part_: str) -> str:
    """``attribution/<method>/gap/<attribute>/{value,chance}``: how differently groups are explained."""
    return join("attribution", method, "gap", attribute, part_)


def equal_treatment(method: str, attribute: str, group: str, part_: str) -> str:
    """``attribution/<method>/equal_treatment_auc/<attribute>/<group>/{value,lower,upper}``."""
    return join("attribution", method, "equal_treatment_auc", attribute, group, part_)


def region(method: str, name: str) -> str:
    """``attribution/<method>/region/<name>``: the share of the attribution that lies in the region."""
    return join("attribution", method, "region", name)


def activation(module: str, *statistic: str) -> str:
    """``activation/<module>/<statistic>``; the network itself has the module name ``network``."""
    return join("activation", module or "network", *statistic)


def activation_max(*statistic: str) -> str:
    """``activation_max/<statistic>``: the worst layer."""
    return join("activation_max", *statistic)


def activation_heatmap(statistic: str) -> str:
    """``activation_heatmap/<statistic>``: a picture of all layers over the validations."""
    return join("activation_heatmap", statistic)


def activation_picture(what: str) -> str:
    """``activation_picture/{histograms,cka,top_samples}``: pictures."""
    return join("activation_picture", what)


def weight(module: str, what: str) -> str:
    """``weight/<module>/{norm,relative_update,histogram}``; the network itself has the module name ``network``."""
    return join("weight", module or "network", what)


def gate(what: str) -> str:
    """``gate/<what>``."""
    return join("gate", what)


def sample_size(metric: str, what: str) -> str:
    """``xai/sample_size/<metric>/{smallest,needed}``, where ``<metric>`` is the full name of the limited metric."""
    return f"xai/sample_size/{metric}/{part(what)}"


def utility(measure: str, estimate: str) -> str:
    """``utility/<measure>/{value,bound,chance}``."""
    return join("utility", measure, estimate)


def xai(monitor: str, *what: str) -> str:
    """``xai/<monitor>/<what>``: cost, sizes and failures."""
    return join("xai", monitor, *what)


def prefixes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs (shorter, longer) of names where the first is a path prefix of the second, or equal to it.

    Example:
        >>> prefixes(["a/b", "a/b/c", "a/bc"])
        [('a/b', 'a/b/c')]
    """
    ordered = sorted(names, key=lambda name: name.split("/"))
    return [(a, b) for a, b in itertools.pairwise(ordered) if b.split("/")[: a.count("/") + 1] == a.split("/")]
