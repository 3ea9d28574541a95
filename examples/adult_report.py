"""What `adult_income.py` prints: read back from the record that a training left in its folder, never recomputed.

The audit file of the gate holds one decision per line, with what it rests on; the event file holds what was logged.
"""

import json
import textwrap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

GAP = "fairness/sex/demographic_parity_difference"
WIDTH = 112


class Record:
    """The record of one training.

    Args:
        folder: holds the event file and the folder `checkpoints` with the audit file.
    """

    def __init__(self, folder: Path) -> None:
        self.checkpoints = folder / "checkpoints"
        lines = (self.checkpoints / "gate_audit.jsonl").read_text(encoding="utf-8").splitlines()
        self.decisions: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._events = EventAccumulator(str(folder), size_guidance={"scalars": 0})

    @cached_property
    def _scalars(self) -> Mapping[str, Mapping[int, float]]:
        self._events.Reload()
        names = self._events.Tags()["scalars"]
        return {name: {event.step: event.value for event in self._events.Scalars(name)} for name in names}

    def logged(self, name: str, step: int | None = None) -> float:
        """What was logged under `name` at `step`; without one, at the last."""
        values = self._scalars[name]
        return values[max(values) if step is None else step]

    @property
    def best(self) -> dict[str, Any] | None:
        """The decision that wrote the checkpoint which is kept now: earlier ones were replaced by better ones."""
        there = [d for d in self.decisions if d["kept"] and (self.checkpoints / d["kept"]).is_file()]
        return there[-1] if there else None


def check(decision: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The check of the metric `name` in a decision."""
    found: dict[str, Any] = next(c for c in decision["checks"] if c["name"] == name)
    return found


def paragraph(text: str, indent: str = "  ") -> str:
    """`text` in lines that fit, names and paths whole."""
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def introduction(largest_gap: float, least_accuracy: float) -> str:
    """What is about to happen."""
    return "\n\n".join(
        paragraph(text, "")
        for text in (
            "Adult census data of 1994: does this person earn more than 50,000 dollars a year? 26,049 rows train, 6,512 "
            "validate and decide about checkpoints, 16,281 test rows stay unread until the end.",
            'The gap by sex is the difference between the shares of men and of women that the model predicts ">50K" '
            "(demographic parity difference): its value on the validation rows, and its bound, the one-sided confidence "
            f"limit. Of each training the gate keeps the epoch of lowest val_loss among those whose bound is at most "
            f"{largest_gap:g} and whose accuracy is at least {least_accuracy:g}.",
        )
    )


def table(folder: Path) -> str:
    """One line per epoch: what was measured, and what the gate decided."""
    record = Record(folder)
    best = record.best
    lines = [
        f"{'':7}{'validation rows':^18}  {'gap by sex':^24}",
        f"{'epoch':>7}{'loss':>9}{'accuracy':>10}{'value':>9}{'bound':>8}{'limit':>8}   {'verdict':<9}{'reason'}",
    ]
    for decision in record.decisions:
        step, bound = decision["step"], check(decision, f"{GAP}/bound")
        refused = decision["gate"] != "open"
        verdict = "refused" if refused else "kept" if decision == best else "open"
        lines.append(
            f"{decision['epoch']:>7}{record.logged('val_loss', step):>9.4f}{record.logged('val_acc', step):>10.4f}"
            f"{record.logged(f'{GAP}/value', step):>9.4f}{number(bound['value']):>8}{number(bound['threshold']):>8}"
            f"   {verdict:<9}{decision['reason'].replace(bound['name'], 'bound')}"
        )
    return "\n".join([*lines, "", summary(record)])


def summary(record: Record) -> str:
    """The table in a sentence."""
    looks, opened = len(record.decisions), sum(d["gate"] == "open" for d in record.decisions)
    if opened == 0:
        return paragraph(f"The gate refused all {looks} epochs.")
    best = record.best
    kept = f"; kept is epoch {best['epoch']}, which has the lowest val_loss of these" if best else ""
    return paragraph(f"The gate was open at {opened} of {looks} epochs{kept}.")


def number(value: float | None) -> str:
    """Four decimals; the record holds null where a metric was undefined."""
    return "undefined" if value is None else f"{value:.4f}"


def test_report(folder: Path) -> str:
    """Accuracy and gap on the test rows, and what the gate was not asked for."""
    record = Record(folder)
    rows = sum(record.logged(f"test/count/sex/{group}") for group in ("Female", "Male", "missing", "unknown"))
    gap = {part: record.logged(f"test/{GAP}/{part}") for part in ("value", "lower", "upper")}
    women, men = (record.logged(f"test/rate/sex/true_positive_rate/{group}") for group in ("Female", "Male"))
    before = Record(folder.parent / "plain") if (folder.parent / "plain").is_dir() else None
    lines = [
        f"  Test rows          {rows:,.0f}, read once, for this checkpoint only",
        f"  Accuracy           {record.logged('test_acc'):.4f}",
        f"  Gap by sex         {gap['value']:.4f}   (95 % interval {gap['lower']:.4f} to {gap['upper']:.4f})",
        "",
        paragraph(
            f"What the gate was not asked for: of the people who do earn more, the model finds {women:.1%} of the women "
            f"and {men:.1%} of the men."
            + (f" {_plain_recall(before)}" if before else "")
            + " The limit is on demographic parity alone; it says nothing about other gaps, other groups or other data."
        ),
        "",
    ]
    return "\n".join(lines)


def _plain_recall(record: Record) -> str:
    women, men = (record.logged(f"rate/sex/true_positive_rate/{group}") for group in ("Female", "Male"))
    return f"(The plain model, at its last epoch and on the validation rows: {women:.1%} and {men:.1%}.)"


def kept_checkpoint(folder: Path) -> str:
    """Where the kept checkpoint and its verdict are, and what an open gate promises."""
    record = Record(folder)
    best = record.best
    if best is None:
        return "  No checkpoint was kept."
    path = record.checkpoints / best["kept"]
    return "\n".join(
        [
            f"  Checkpoint         {path}",
            f"  Its verdict        {path.with_suffix('.verdict.json')}",
            f"  Every decision     {record.checkpoints / 'gate_audit.jsonl'}",
            "",
            paragraph(f"What the verdict promises: {best['promise']}"),
        ]
    )
