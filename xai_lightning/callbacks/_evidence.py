"""What a gate decided and on what grounds: one record, written to the checkpoint, beside it, and to the audit file."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xai_lightning.functional.gate import Limit, Verdict

FORMAT = 1
CHECKPOINT_KEY = "xai_lightning"


def is_fairness(name: str) -> bool:
    """Whether ``name`` has the form ``[…/]fairness/<attribute>/<metric>/<part>``."""
    parts = name.split("/")
    return len(parts) >= 4 and parts[-4] == "fairness"


def promise(limits: Sequence[Limit], delta: float | None) -> str:
    """What an open gate says about the model, in words that claim no more than is true.

    Args:
        limits: the limits of the gate.
        delta: the error that the fairness bounds of this run share; None if nobody accounts for it.
    """
    fairness = [limit for limit in limits if is_fairness(limit.name)]
    if not fairness:
        return "The logged values of one validation kept the limits: no error probability."
    if delta is None or not all(limit.name.endswith("/bound") for limit in fairness):
        return (
            "The logged values of one validation kept the limits: no error probability, since a fairness limit is on "
            "something else than a bound of a FairnessMonitor."
        )
    return (
        "Each fairness limit was kept by a confidence bound. Over this whole run, the probability that any checkpoint "
        f"is kept whose true gap breaks such a limit is at most {delta:g} (approximately: Wilson and Newcombe limits), "
        "if the validation rows are an independent sample of the population meant and did not steer the training. "
        "Several runs on the same validation rows share that error: R runs need delta / R each."
    )


def finite(value: float | None) -> float | None:
    """``value``, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def checks(verdict: Verdict) -> list[dict[str, Any]]:
    """The checks of ``verdict`` as plain types."""
    numbers = ("value", "threshold", "violation")
    return [c._asdict() | {number: finite(getattr(c, number)) for number in numbers} for c in verdict.checks]


def dumps(record: Mapping[str, Any]) -> str:
    """``record`` as one line of JSON, without numbers that JSON does not know."""
    return json.dumps(record, allow_nan=False, separators=(", ", ": "))


def sha256(path: Path) -> str:
    """Hash of a file, or of the files of a folder in order of their names."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def verdict_path(checkpoint: str | Path) -> Path:
    """The side file of a checkpoint: ``<name>.verdict.json``."""
    return Path(checkpoint).with_suffix(".verdict.json")


def write_verdict(checkpoint: str | Path, record: Mapping[str, Any]) -> None:
    """Write the side file of ``checkpoint``: the record, its file's name and SHA-256. Replaces an older one at once."""
    path = verdict_path(checkpoint)
    text = dumps({**record, "file": Path(checkpoint).name, "sha256": sha256(Path(checkpoint))})
    draft = path.with_suffix(".tmp")
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(path)


def append_audit(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line to the audit file, and see it on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(dumps(record) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
