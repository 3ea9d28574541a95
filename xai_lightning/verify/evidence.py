"""Parses the evidence of a gate and validates it before anything is trusted."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xai_lightning.callbacks._gate.evidence import FORMAT
from xai_lightning.functional.gate import Check

MOST_BYTES = 1 << 26
MOST_DIGITS = 300
GATES = ("open", "closed")
NAMES_OF_KINDS: Mapping[type, str] = {str: "a text", list: "a list", dict: "an object", bool: "true or false"}


class UnreadableError(Exception):
    """There is no evidence that can be read; says why, and what to do."""


class Certificate(NamedTuple):
    """The result of one measurement of the kept checkpoint on untouched rows, made at the end of its training.

    Attributes:
        gate: ``open`` or ``closed``.
        reason: Why, in words.
        checks: One per limit that could be measured again.
        wording: What the certificate claims.
    """

    gate: str
    reason: str
    checks: tuple[Check, ...]
    wording: str


class Evidence(NamedTuple):
    """What a gate wrote about one checkpoint.

    Attributes:
        record: The whole record, as plain types.
        role: ``kept`` for a checkpoint that a gate passed, ``last`` for one to resume from.
        gate: ``open`` or ``closed``.
        reason: Why, in words.
        checks: One per limit.
        monitors: What each monitor stamped.
        certificate: None if there is none.
    """

    record: Mapping[str, Any]
    role: str
    gate: str
    reason: str
    checks: tuple[Check, ...]
    monitors: tuple[Mapping[str, Any], ...]
    certificate: Certificate | None


def read_text(path: Path) -> str:
    """The text of a side file.

    Raises:
        UnreadableError: if it is not a file, is too large, or is not UTF-8.
    """
    try:
        # a link may lead to a device, whose data never end, or to a pipe, whose data never come
        if not path.is_file():
            raise UnreadableError(f"{path.name} is not a file")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UnreadableError(f"{path.name} must hold at most {MOST_BYTES} bytes; it has {size}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path.name} cannot be read: {error}") from error


def parse(text: str, source: str) -> dict[str, Any]:
    """Parse a JSON object strictly: every number must be finite, and no key may occur twice.

    Args:
        text: one JSON object.
        source: where it comes from, for the message.

    Raises:
        UnreadableError: if ``text`` is anything else.

    Example:
        >>> parse('{"format": 1, "gate": "open"}', "side file")
        {'format': 1, 'gate': 'open'}
    """
    try:
        record = json.loads(text, parse_constant=_refuse, parse_float=_float, parse_int=_int, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{source} must hold one JSON object; it is broken: {error}") from error
    if not isinstance(record, dict):
        raise UnreadableError(f"{source} must hold one JSON object; got {str(record)[:60]!r}")
    return record


def understood(record: Mapping[str, Any], source: str) -> Evidence:
    """The fields of a record on which a verdict rests, checked for their types; unknown fields are ignored.

    Raises:
        UnreadableError: names the field that is missing or of the wrong type, or the unknown version.
    """
    if "format" not in record:
        raise UnreadableError(f"{source} holds no evidence of a gate: it has no field 'format'")
    version = record["format"]
    if type(version) is not int or not 1 <= version <= FORMAT:
        known = ", ".join(str(number) for number in range(1, FORMAT + 1))
        raise UnreadableError(
            f"{source} has format {version!r}, but only {known} can be read: use a newer xai_lightning"
        )
    monitors = record.get("monitors", [])
    if not isinstance(monitors, list) or not all(isinstance(found, dict) for found in monitors):
        raise UnreadableError(f"monitors must be a list of objects; got {str(monitors)[:60]!r}")
    certificate = None if record.get("certificate") is None else _certificate(field(record, "certificate", dict))
    gate, reason, checks = _decision(record, "")
    return Evidence(record, field(record, "role", str), gate, reason, checks, tuple(monitors), certificate)


def _certificate(record: Mapping[str, Any]) -> Certificate:
    return Certificate(*_decision(record, "certificate"), field(record, "promise", str, "certificate"))


def _decision(record: Mapping[str, Any], within: str) -> tuple[str, str, tuple[Check, ...]]:
    gate, reason = field(record, "gate", str, within), field(record, "reason", str, within)
    if gate not in GATES:
        raise UnreadableError(f"{_path(within, 'gate')} must be one of {', '.join(GATES)}; got {gate!r}")
    found = enumerate(field(record, "checks", list, within))
    return gate, reason, tuple(_check(check, _path(within, f"checks[{i}]")) for i, check in found)


def field(record: Mapping[str, Any], name: str, kind: type, within: str = "") -> Any:
    """The field ``name``, which must be of the given type.

    Raises:
        UnreadableError: if it is missing or of another type.
    """
    path = _path(within, name)
    if name not in record:
        raise UnreadableError(f"the evidence lacks the field {path!r}")
    if not isinstance(record[name], kind):
        raise UnreadableError(f"{path} must be {NAMES_OF_KINDS[kind]}; got {str(record[name])[:60]!r}")
    return record[name]


def _path(within: str, name: str) -> str:
    return f"{within}.{name}" if within else name


def number(value: object, path: str) -> float:
    """A number in the record; NaN for null, which stands for an undefined or infinite number.

    Raises:
        UnreadableError: if it is neither a number nor null.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnreadableError(f"{path} must be a number or null; got {str(value)[:60]!r}")
    return float(value)


def _check(found: object, path: str) -> Check:
    if not isinstance(found, dict):
        raise UnreadableError(f"{path} must be an object; got {str(found)[:60]!r}")
    name, kind, reason = (field(found, key, str, path) for key in ("name", "kind", "reason"))
    threshold = number(found.get("threshold"), f"{path}.threshold")
    value = number(found.get("value"), f"{path}.value")
    passed = field(found, "passed", bool, path)
    return Check(name, kind, threshold, value, passed, reason, violation=math.nan)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _float(digits: str) -> float:
    if not math.isfinite(found := float(digits)):
        raise ValueError(f"{digits[:20]} is beyond the largest number")
    return found


def _int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return found
