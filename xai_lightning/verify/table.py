"""Renders evidence as text for human readers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xai_lightning.functional.gate import Check
from xai_lightning.verify.evidence import Evidence

PARTS = ("value", "lower", "upper", "bound")
LONGEST = 200
NAMES = {"promise": "wording", "kept": "kept as"}
# fields of the record with a line or table of their own; any other field is shown as it is
PLACES = ("look", "epoch", "step", "global_step")
LINES = ("xai_lightning", "format", "role", "gate", "reason", "monitor", "checks", "monitors", "certificate")
SHOWN = frozenset((*PLACES, *LINES, "file", "sha256"))


def printable(value: object) -> str:
    r"""``value`` on one line, with terminal control characters escaped.

    Example:
        >>> printable("größe" + chr(27) + "[2J")
        'größe\\x1b[2J'
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object) -> str:
    """A number with four significant digits; a dash for None or NaN."""
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else printable(value)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells, each column as wide as its widest cell.

    Example:
        >>> columns([["a", "b"], ["long", "c"]])
        ['a     b', 'long  c']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(cells).rstrip() for cells in padded]


def render(evidence: Evidence, facts: Mapping[str, str], extra: Sequence[Check]) -> str:
    """The whole evidence, most important parts first.

    Args:
        evidence: the evidence to show.
        facts: facts about the files, by name.
        extra: checks of the caller's further limits.
    """
    head = {**facts, **_head(evidence)}
    blocks = [columns([[name, printable(text)] for name, text in head.items()])]
    blocks += [limits("limit of the gate", evidence.checks)] if evidence.checks else []
    blocks += list(_certificate(evidence))
    blocks += [limits("limit asked for here", extra)] if extra else []
    for monitor in evidence.monitors:
        blocks += list(_monitor(monitor))
    return "\n\n".join("\n".join(block) for block in blocks)


def limits(title: str, checks: Sequence[Check]) -> list[str]:
    """A table of limits with their values, below a header."""
    head = [title, "kind", "threshold", "value", "holds"]
    rows = [
        [printable(c.name), printable(c.kind), shown(c.threshold), shown(c.value), "yes" if c.passed else "NO"]
        for c in checks
    ]
    return columns([head, *rows])


def _head(evidence: Evidence) -> dict[str, str]:
    record = evidence.record
    places = {name: record.get(name) for name in PLACES}
    monitor = record.get("monitor")
    found = {
        "written by": f"xai_lightning {shown(record.get('xai_lightning'))}, format {record['format']}",
        "validation": ", ".join(f"{name} {shown(value)}" for name, value in places.items()),
        "role": evidence.role,
        "gate": f"{evidence.gate}: {evidence.reason}",
    }
    if isinstance(monitor, dict) and monitor.get("name") is not None:
        found["monitored"] = f"{shown(monitor['name'])} ({shown(monitor.get('mode'))}) {shown(monitor.get('value'))}"
    others = {NAMES.get(key, key): short(value) for key, value in record.items() if key not in SHOWN}
    return found | {name: text for name, text in others.items() if text}


def short(value: object) -> str:
    """``value`` on one line; anything but text is cut after 200 characters; empty for null."""
    if value is None or isinstance(value, str):
        return printable(value or "")
    text = printable(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _certificate(evidence: Evidence) -> Iterator[list[str]]:
    found = evidence.certificate
    if found is not None:
        yield [f"certificate  {found.gate}: {printable(found.reason)}", f"             {printable(found.wording)}"]
        if found.checks:
            yield limits("limit of the certificate", found.checks)


def _monitor(monitor: Mapping[str, Any]) -> Iterator[list[str]]:
    plain = {key: value for key, value in monitor.items() if not isinstance(value, dict | list)}
    yield [", ".join(f"{printable(key)} {shown(value)}" for key, value in plain.items())]
    groups = [["attribute", "group", "count"], *_groups(monitor)]
    metrics = [["attribute", "metric", *PARTS], *_metrics(monitor)]
    yield from (columns(rows) for rows in (groups, metrics) if len(rows) > 1)


def _groups(monitor: Mapping[str, Any]) -> Iterator[list[str]]:
    counts = monitor.get("counts_group_actual_predicted")
    for attribute, groups in _items(monitor.get("groups")):
        names = groups if isinstance(groups, list) else []
        cells = counts.get(attribute) if isinstance(counts, dict) else None
        for i, group in enumerate(names):
            count = size(cells[i]) if isinstance(cells, list) and i < len(cells) else None
            yield [printable(attribute), printable(group), shown(count) if count is None else str(count)]


def size(counts: object) -> int | None:
    """Samples of one group, of counts [actual, predicted] or, with many classes, [class, (correct, predicted, actual)].

    Example:
        >>> size([[8, 4], [11, 1]])
        24
    """
    rows = counts if isinstance(counts, list) else []
    if not rows or not all(isinstance(row, list) and all(type(n) is int for n in row) for row in rows):
        return None
    square = all(len(row) == len(rows) for row in rows)
    return sum(sum(row) for row in rows) if square else sum(row[-1] for row in rows if row)


def _metrics(monitor: Mapping[str, Any]) -> Iterator[list[str]]:
    for attribute, metrics in _items(monitor.get("metrics")):
        for metric, parts in _items(metrics):
            numbers = dict(_items(parts))
            yield [printable(attribute), printable(metric), *(shown(numbers.get(part)) for part in PARTS)]


def _items(value: object) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []
