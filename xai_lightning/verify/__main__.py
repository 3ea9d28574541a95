"""The command-line interface: reads the files, prints a table and returns an exit code."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xai_lightning.callbacks._gate.evidence import finite, sha256
from xai_lightning.callbacks._gate.files import verdict_path
from xai_lightning.functional import gate
from xai_lightning.verify.checkpoint import load, look
from xai_lightning.verify.evidence import Evidence, UnreadableError, field, parse, read_text, understood
from xai_lightning.verify.judgement import check_directions, differences, hold, objections
from xai_lightning.verify.table import printable, render

PASSED, NOT_PASSED, UNREADABLE = 0, 1, 2
NOTE = "This is evidence, not a signature: whoever can write the checkpoint and its side file can write both."


class Found(NamedTuple):
    """What was found on disk.

    Attributes:
        evidence: The evidence in the side file, else in the checkpoint.
        facts: Facts about the files, for human readers.
        against: Why the files do not belong together; empty if they do.
    """

    evidence: Evidence
    facts: dict[str, str]
    against: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the evidence of a checkpoint and say whether a gate passed it.

    Args:
        arguments: command-line arguments; those of this process by default.

    Returns:
        0 if a gate passed it, its hash agrees and the further limits hold; 1 if not; 2 if the evidence cannot be read.

    Raises:
        SystemExit: with code 2 on invalid arguments, with code 0 after printing help.
    """
    options = _parser().parse_args(arguments)
    try:
        limits = _limits(options)
        found = find(Path(options.checkpoint))
        check_directions(limits, found.evidence)
        extra = hold(limits, found.evidence)
        against = found.against + objections(found.evidence)
        against += [f"{c.kind} {c.threshold:g} asked for: {c.reason}" for c in extra if not c.passed]
        # lists just shallow enough to be read may be too deep to be written
        text = (_as_json if options.json else _as_tables)(found, extra, against)
    except (UnreadableError, OSError, ValueError, RecursionError) as error:
        return _say_unreadable(str(error), as_json=options.json)
    _write(text)
    return NOT_PASSED if against else PASSED


def find(checkpoint: Path) -> Found:
    """The evidence of a checkpoint and whether its files belong together.

    Raises:
        UnreadableError: if there is no evidence that could be read.
        OSError: if a file cannot be read.
    """
    if not checkpoint.exists():
        raise UnreadableError(f"there is no file or folder {str(checkpoint)!r}")
    if not checkpoint.is_file() and not checkpoint.is_dir():
        raise UnreadableError(f"{checkpoint.name} must be a file or a folder, but is a device or a pipe")
    beside = verdict_path(checkpoint)
    if not beside.exists():
        facts = {"checkpoint": checkpoint.name, "sha256": "not compared: there is no side file"}
        return Found(_evidence(load(checkpoint), checkpoint.name), facts, [])
    evidence = _evidence(read_text(beside), beside.name)
    facts = {"checkpoint": checkpoint.name, "side file": beside.name}
    named = field(evidence.record, "file", str)
    if named != checkpoint.name:
        facts["written as"] = named
    against = _of_hash(checkpoint, evidence, facts) + _of_record(checkpoint, evidence, facts)
    return Found(evidence, facts, against)


def _evidence(text: str, source: str) -> Evidence:
    return understood(parse(text, source), source)


def _of_hash(checkpoint: Path, evidence: Evidence, facts: dict[str, str]) -> list[str]:
    expected, got = field(evidence.record, "sha256", str), sha256(checkpoint)
    facts["sha256"] = f"{got}: {'agrees' if expected == got else 'DIFFERS'}"
    return [] if expected == got else [f"the hash of the checkpoint is {got}; its side file records {expected}"]


def _of_record(checkpoint: Path, evidence: Evidence, facts: dict[str, str]) -> list[str]:
    """Compare with the record within the checkpoint, if that can be seen."""
    seen = look(checkpoint)
    if seen.file is None:
        facts["record within"] = f"not compared: {seen.why}"
        return []
    differing = [differences(evidence.record, record) for record in map(_maybe, seen.texts) if record]
    if not differing:
        facts["record within"] = "MISSING"
        return ["the checkpoint holds no record of a gate, but its side file does"]
    fewest = min(differing, key=len)
    facts["record within"] = f"DIFFERS in {', '.join(fewest)}" if fewest else "agrees"
    return [f"the side file and the record within the checkpoint differ in {', '.join(fewest)}"] if fewest else []


def _maybe(text: str) -> dict[str, Any]:
    try:
        return parse(text, "record")
    except UnreadableError:  # another text of the same name, such as a hyperparameter
        return {}


def _limits(options: argparse.Namespace) -> tuple[gate.Limit, ...]:
    """The limits given on the command line; there may be none.

    Raises:
        ValueError: on a name given twice, or a limit that a gate refuses.
    """
    for option, pairs in (("--at-most", options.at_most), ("--at-least", options.at_least)):
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{option} must name each metric once; got {twice[0]!r} {names.count(twice[0])} times")
    if not options.at_most and not options.at_least:
        return ()
    return gate.limits(dict(options.at_most), dict(options.at_least))


def _pair(text: str) -> tuple[str, float]:
    name, _, digits = text.rpartition("=")
    try:
        return name, float(digits)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER; got {text!r}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xai_lightning.verify",
        description="Print the evidence of a checkpoint and say whether a gate passed it.",
        epilog=f"Exit codes: 0 passed, 1 not passed, 2 unreadable. {NOTE}",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="file or folder that a GatedCheckpoint wrote")
    more: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME=VALUE", "type": _pair}
    parser.add_argument("--at-most", help="a further limit on a stamped metric; may be repeated", **more)
    parser.add_argument("--at-least", help="the same, for metrics whose large values are good", **more)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser


def _say_unreadable(why: str, *, as_json: bool) -> int:
    if as_json:
        _write(_object(UNREADABLE, [why]))
    else:
        sys.stderr.write(f"UNREADABLE: {printable(why)}\n")
    return UNREADABLE


def _as_tables(found: Found, extra: Sequence[gate.Check], against: Sequence[str]) -> str:
    verdict = ["NOT PASSED:", *(f"  {printable(reason)}" for reason in against)] if against else ["PASSED by a gate"]
    return "\n".join([render(found.evidence, found.facts, extra), "", *verdict, NOTE])


def _as_json(found: Found, extra: Sequence[gate.Check], against: Sequence[str]) -> str:
    asked = [check._asdict() | _finite(check) for check in extra]
    code = NOT_PASSED if against else PASSED
    return _object(code, against, files=found.facts, asked=asked, evidence=found.evidence.record)


def _object(code: int, against: Sequence[str], **more: object) -> str:
    head = {"passed": code == PASSED, "exit_code": code, "against": list(against)}
    return json.dumps({**head, **more, "note": NOTE}, allow_nan=False)


def _finite(check: gate.Check) -> dict[str, float | None]:
    return {name: finite(number) for name, number in (("value", check.value), ("violation", check.violation))}


def _write(text: str) -> None:
    """Print in any encoding, even if the reader has closed the pipe: the exit code is the answer."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
