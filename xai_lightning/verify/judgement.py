"""Judges whether evidence shows that a gate passed a checkpoint, and whether further limits hold for its numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from xai_lightning import tags
from xai_lightning.callbacks._gate.evidence import is_fairness
from xai_lightning.functional.gate import Check, Limit, decide
from xai_lightning.functional.tables import choose
from xai_lightning.verify.evidence import Evidence, number

COMPARED = ("at_most", "at_least", "above", "finite")
BESIDE_ONLY = ("file", "sha256")
MARKED = ("role", "kept", "file", "note")
SIDES: Mapping[str, Literal["at_most", "at_least"]] = {"low": "at_most", "high": "at_least"}


def objections(evidence: Evidence) -> list[str]:
    """Why the evidence does not show that a gate passed this checkpoint; empty if it does.

    The words ``open`` and ``passed`` alone are not trusted: each limit is compared with its value again.
    """
    found = [] if evidence.role == "kept" else [_of_role(evidence)]
    if evidence.gate != "open":
        found.append(f"the gate was closed: {evidence.reason}")
    arbiter = _object(evidence.record.get("arbiter"))
    if "open" in arbiter and arbiter["open"] is not True:
        found.append(f"the arbiter said no: {arbiter.get('reason')}")
    found += _unmet("limit", evidence.checks)
    found += [] if evidence.checks else ["no limit was checked"]
    certificate = evidence.certificate
    if certificate is not None and certificate.gate != "open":
        found.append(f"the certificate on untouched rows was refused: {certificate.reason}")
    found += [] if certificate is None else _unmet("limit of the certificate", certificate.checks)
    marked = [name for name in MARKED if "INFEASIBLE" in str(evidence.record.get(name))]
    return found or [f"the field {name!r} says INFEASIBLE" for name in marked]


def differences(beside: Mapping[str, Any], within: Mapping[str, Any]) -> list[str]:
    """Fields in which the side file and the record within the checkpoint differ."""
    names = [name for name in dict.fromkeys([*beside, *within]) if name not in BESIDE_ONLY]
    # a record may hold None as a value
    nothing = object()
    return [name for name in names if beside.get(name, nothing) != within.get(name, nothing)]


def stamped(evidence: Evidence) -> dict[str, list[float]]:
    """All numbers in the evidence by logged name, usually one per name; NaN where undefined."""
    found: dict[str, list[float]] = {}
    for name, value in _numbers(evidence):
        found.setdefault(name, []).append(value)
    return found


def hold(limits: Sequence[Limit], evidence: Evidence) -> list[Check]:
    """Check further limits, each against every number stamped under its name."""
    known = stamped(evidence)
    return [_held(limit, known) for limit in limits]


def check_directions(limits: Sequence[Limit], evidence: Evidence) -> None:
    """Refuse a fairness limit on the wrong side, which the least fair model would satisfy.

    Raises:
        ValueError: if high values of the metric are good but the limit is an ``at_most``, or vice versa, or if the
            evidence does not tell which values are good.
    """
    known = stamped(evidence)
    for limit in limits:
        if not is_fairness(limit.name) or limit.name not in known:
            continue
        good = best(limit.name, evidence)
        if good is None:
            raise ValueError(f"{limit.name!r}: the evidence does not say whether low or high values of it are good")
        if limit.kind != SIDES[good]:
            raise ValueError(
                f"{limit.kind}[{limit.name!r}]: {good} values of {limit.name.split('/')[-2]} are good, so its limit "
                f"belongs in {SIDES[good]}; got {limit.threshold:g}"
            )


def best(name: str, evidence: Evidence) -> Literal["low", "high"] | None:
    """Which values of a fairness metric are good; None if that cannot be determined.

    The answer comes from the stamped evidence, because the table of metrics needs torch: from the definition, else from
    a limit of the gate on the same metric, else from the aggregation in its name, else from the side of the value on
    which the bound lies.
    """
    path, metric = name.rpartition("/")[0], name.split("/")[-2]
    for monitor in evidence.monitors:
        definition = _object(_object(monitor.get("definitions")).get(metric))
        if (good := definition.get("best")) in ("low", "high"):
            return "low" if good == "low" else "high"
    kinds = {check.kind for check in evidence.checks if check.name.rpartition("/")[0] == path}
    if len(sided := kinds & {"at_most", "at_least"}) == 1:
        return "low" if "at_most" in sided else "high"
    return by_words(metric) or _by_side(path, stamped(evidence))


def by_words(metric: str) -> Literal["low", "high"] | None:
    """Which values are good according to the comparison in a metric's name; None if the name has none."""
    comparison = metric.removesuffix("_to_overall")
    if comparison.endswith("_difference"):
        return "low"
    return "high" if comparison.endswith("_ratio") else None


def _by_side(path: str, known: Mapping[str, Sequence[float]]) -> Literal["low", "high"] | None:
    value, bound = (known.get(f"{path}/{part}", [math.nan])[0] for part in ("value", "bound"))
    if bound > value:
        return "low"
    return "high" if bound < value else None


def _numbers(evidence: Evidence) -> Iterator[tuple[str, float]]:
    for check in evidence.checks:
        yield check.name, math.nan if check.value is None else check.value
    watched = _object(evidence.record.get("monitor"))
    if isinstance(name := watched.get("name"), str):
        yield name, number(watched.get("value"), "monitor.value")
    for monitor in evidence.monitors:
        prefix = monitor.get("name")
        for name, value in _metrics(monitor):
            yield tags.within(prefix if isinstance(prefix, str) else "", name), value


def _metrics(monitor: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The metrics of a monitor: logged names and numbers."""
    for attribute, metrics in _object(monitor.get("metrics")).items():
        for metric, parts in _object(metrics).items():
            for part, value in _object(parts).items():
                yield tags.fairness(attribute, metric, part), number(value, f"metrics.{attribute}.{metric}.{part}")


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _held(limit: Limit, known: Mapping[str, Sequence[float]]) -> Check:
    try:
        choose("metric", limit.name, known)
    except ValueError as error:
        return Check(*limit, None, passed=False, reason=f"not stamped: {error}", violation=math.inf)
    # several monitors may have stamped the same name: the limit must hold for each
    checks = [decide([limit], {limit.name: value}, {limit.name}).checks[0] for value in known[limit.name]]
    return next((check for check in checks if not check.passed), checks[0])


def _unmet(title: str, checks: Sequence[Check]) -> list[str]:
    found = []
    for check, again in zip(checks, map(_again, checks), strict=True):
        if not check.passed:
            found.append(f"a {title} does not hold: {check.reason}")
        elif not again.passed:
            found.append(f"a {title} does not hold: {again.reason}; the evidence says that it does")
    return found


def _again(check: Check) -> Check:
    """The check, recomputed from its value and threshold; unchanged if its kind is unknown."""
    if check.kind not in COMPARED:
        return check
    if check.kind != "finite" and math.isnan(check.threshold):
        return check._replace(passed=False, reason=f"{check.name} has no threshold")
    limit = Limit(check.name, check.kind, check.threshold)
    return decide([limit], {} if check.value is None else {check.name: check.value}, {check.name}).checks[0]


def _of_role(evidence: Evidence) -> str:
    note = evidence.record.get("note")
    words = f": {note}" if isinstance(note, str) else ""
    return f"the role is {evidence.role!r}, not that of a file that a gate passed{words}"
