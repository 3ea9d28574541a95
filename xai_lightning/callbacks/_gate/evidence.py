"""What a gate decided and on what grounds: one record, written to the checkpoint, beside it, and to the audit file."""

import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from xai_lightning.callbacks._gate.files import replace, verdict_path
from xai_lightning.functional.gate import Verdict

FORMAT = 1
LINE = 1 << 14
"""More bytes than most lines of an audit file have."""
Guarantee = Literal["holds", "heuristic", "none"]
CHECKPOINT_KEY = "xai_lightning"
CLOSED: Mapping[str, Guarantee | str] = MappingProxyType(
    {"guarantee": "none", "promise": "The gate was closed: nothing is promised about these weights."}
)
"""What replaces the promise if the gate did not open."""


def is_fairness(name: str) -> bool:
    """Whether ``name`` has the form ``[…/]fairness/<attribute>/<metric>/<part>``."""
    parts = name.split("/")
    return len(parts) >= 4 and parts[-4] == "fairness"


class Coverage(NamedTuple):
    """What is promised for which limits.

    Args:
        promised: names of limits on bounds that a monitor accounts for.
        others: names of the other limits.
        delta: the error probability that the bounds share; None if nothing is promised.
    """

    promised: tuple[str, ...]
    others: tuple[str, ...]
    delta: float | None


def guarantee(coverage: Coverage, feedback: Sequence[str]) -> Guarantee:
    """One word for what `promise` says: ``holds``, ``heuristic``, or ``none``."""
    if not coverage.promised:
        return "none"
    return "heuristic" if feedback else "holds"


def promise(coverage: Coverage, feedback: Sequence[str]) -> str:
    """What an open gate says about the model, in words that claim no more than is true.

    Args:
        coverage: which limits are on bounds.
        feedback: how the validation set steered the training, as far as that was seen.
    """
    if not coverage.promised or coverage.delta is None:
        return "The logged values of one validation kept the limits: no error probability."
    kept = f"These limits were kept by confidence bounds: {', '.join(coverage.promised)}."
    rest = _without(coverage.others)
    if feedback:
        return (
            f"Heuristic: no error probability is claimed, since the validation set steered the training "
            f"({'; '.join(feedback)}). {kept}{rest}"
        )
    return (
        f"{kept} Over this whole run, the probability that any checkpoint is kept whose true value breaks one of them "
        f"is at most {coverage.delta:g} (as far as the monitor's confidence limits keep their level), if the "
        "validation rows are an independent sample of the target population and did not steer the training. Several "
        f"runs on the same validation rows share that error: R runs need delta / R each.{rest}"
    )


def certified(coverage: Coverage, missing: Sequence[str]) -> str:
    """What a certificate says, in words that claim no more than is true.

    Args:
        coverage: of the limits that it covers.
        missing: names of limits that nobody could measure anew.
    """
    left = f" Not certified, since no monitor can measure it on other rows: {', '.join(missing)}." if missing else ""
    rest = _without(coverage.others)
    if not coverage.promised or coverage.delta is None:
        return f"Measured once, after training, on held-out rows: no error probability.{left}"
    return (
        "Measured once, after training, on held-out rows. If they are an independent sample of the target population "
        "and were not used to choose anything, the probability that this is open although a true value breaks a limit "
        f"on one of {', '.join(coverage.promised)} is at most {coverage.delta:g} (as far as the monitor's confidence "
        f"limits keep their level).{rest}{left}"
    )


def _without(names: Sequence[str]) -> str:
    return f" No error probability for {', '.join(names)}: no monitor accounts for it." if names else ""


def finite(value: float | None) -> float | None:
    """``value``, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def checks(verdict: Verdict) -> list[dict[str, Any]]:
    """The checks of ``verdict`` as plain types."""
    numbers = ("value", "threshold", "violation")
    return [c._asdict() | {number: finite(getattr(c, number)) for number in numbers} for c in verdict.checks]


def dumps(record: Mapping[str, Any]) -> str:
    """``record`` as one line of JSON; numbers that JSON does not know are an error."""
    return json.dumps(record, allow_nan=False, separators=(", ", ": "))


def sha256(path: Path) -> str:
    """Hash of a file; for a folder, of its files with their names and sizes, in order of the names."""
    digest = hashlib.sha256()
    parts = [] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in parts or [path]:
        if parts:
            # otherwise bytes could move from the end of one file to the beginning of the next
            digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def foreign_classes(checkpoint: Path) -> list[str]:
    """Classes in a checkpoint that torch does not load with ``weights_only=True``; none if it is no checkpoint."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        return get_unsafe_globals_in_checkpoint(str(checkpoint))
    except Exception:  # noqa: BLE001 - a file that is no checkpoint, or a broken one, may raise anything
        return []


def write_verdict(checkpoint: str | Path, record: Mapping[str, Any]) -> None:
    """Write the side file of ``checkpoint``: the record, the file's name and SHA-256. Replaces an older one atomically.

    Raises:
        OSError: if it cannot be written; an older one, which describes another file, is then removed too.
    """
    text = dumps({**record, "file": Path(checkpoint).name, "sha256": sha256(Path(checkpoint))})
    try:
        replace(verdict_path(checkpoint), [text.encode() + b"\n"])
    except OSError:
        verdict_path(checkpoint).unlink(missing_ok=True)
        raise


def renew_verdict(checkpoint: Path) -> None:
    """Write the side file of ``checkpoint`` anew from the record in it; only remove it if that cannot be read."""
    import torch

    verdict_path(checkpoint).unlink(missing_ok=True)
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        record = dict(json.loads(content[CHECKPOINT_KEY]))
    except Exception:  # noqa: BLE001 - a file that is no checkpoint, or a broken one, may raise anything
        return
    write_verdict(checkpoint, record)


def agrees(checkpoint: Path) -> bool:
    """Whether the side file of ``checkpoint`` exists and describes this very file."""
    try:
        record = json.loads(verdict_path(checkpoint).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(record, dict) and record.get("sha256") == sha256(checkpoint)


def prove_room(path: Path) -> None:
    """Create the file at ``path`` if it is missing, and prove on the disk that a line can be appended.

    Raises:
        OSError: if it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as stream:
        size = stream.tell()
        try:
            written = stream.write(b" " * LINE)
            os.fsync(stream.fileno())
        finally:
            if os.fstat(stream.fileno()).st_size > size:
                stream.truncate(size)
    if written < LINE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
