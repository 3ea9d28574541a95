"""The output of `adult_income.py`, read from the record that a training left in its folder and never recomputed.

The gate's audit file holds one decision per line, with its evidence; the event file holds everything that was logged.
"""

import json
import textwrap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adult_data import SEXES

GAP = "fairness/sex/demographic_parity_difference"
METHOD = "integrated_gradients"
WIDTH = 112


class Record:
    """The record of one training.

    Args:
        folder: contains the event file, and the folder `checkpoints` with the audit file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.audit_file = self.checkpoints / "gate_audit.jsonl"
        lines = self.audit_file.read_text(encoding="utf-8").splitlines()
        self.decisions: list[dict[str, Any]] = [json.loads(line) for line in lines]

    @cached_property
    def _scalars(self) -> Mapping[str, Mapping[int, float]]:
        events = EventAccumulator(str(self.folder), size_guidance={"scalars": 0})
        events.Reload()
        return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}

    def logged(self, name: str, step: int | None = None) -> float:
        """The value logged under `name` at `step`, or at the last step by default."""
        values = self._scalars[name]
        return values[max(values) if step is None else step]

    @property
    def best(self) -> dict[str, Any] | None:
        """The decision that wrote the current checkpoint; a better checkpoint replaces its predecessor."""
        there = [d for d in self.decisions if d["kept"] and (self.checkpoints / d["kept"]).is_file()]
        return there[-1] if there else None


def introduction(largest_gap: float, least_accuracy: float) -> str:
    """An outline of the example and its terms."""
    texts = (
        "Adult census data of 1994: does this person earn more than 50,000 dollars a year? 26,049 rows are for "
        "training, 6,512 for validation and the choice of checkpoints; 16,281 test rows stay unread until the end.",
        'The gap by sex is the difference between the shares of men and of women for whom the model predicts ">50K" '
        "(demographic parity difference). Shown are its value on the validation rows and its bound, the one-sided "
        f"confidence limit. After each epoch the gate opens if the bound is at most {largest_gap:g} and the accuracy "
        f"at least {least_accuracy:g}. By default it also requires that val_loss is finite and that the lower limit of "
        "balanced accuracy is above chance (a model that predicts the same for everybody has no gap). Of the epochs "
        "that pass, the one with the lowest val_loss is kept.",
    )
    return "\n\n".join(_paragraph(text, "") for text in texts)


def table(folder: Path) -> str:
    """One line per epoch with the measurements and the gate's decision, followed by a summary."""
    record = Record(folder)
    head = (
        f"{'':7}{'validation rows':>19}  {'gap by sex (bound: ≤ limit)':^27}",
        f"{'epoch':>7}{'loss':>9}{'accuracy':>10}  {'value':>9}{'bound':>9}{'limit':>9}   {'verdict':<10}reason",
    )
    return "\n".join((*head, *(_line(record, d) for d in record.decisions), "", _sum(record), "", _monitors(record)))


def _line(record: Record, decision: Mapping[str, Any]) -> str:
    step = decision["step"]
    bound = next(check for check in decision["checks"] if check["name"] == f"{GAP}/bound")
    verdict = "refused" if decision["gate"] != "open" else "kept" if decision == record.best else "open"
    measured = f"{record.logged('val_loss', step):>9.4f}{record.logged('val_acc', step):>10.4f}"
    gap = f"{record.logged(f'{GAP}/value', step):>9.4f}{_number(bound['value']):>9}{bound['threshold']:>9.4f}"
    reason = decision["reason"].replace(bound["name"], "bound")
    return f"{decision['epoch']:>7}{measured}  {gap}   {verdict:<10}{reason}"


def _sum(record: Record) -> str:
    looks, opened = len(record.decisions), sum(decision["gate"] == "open" for decision in record.decisions)
    if opened == 0:
        return _paragraph(f"The gate refused {looks} of {looks} epochs: no checkpoint was kept.")
    kept = f" Epoch {record.best['epoch']} was kept: it has the lowest val_loss of these." if record.best else ""
    return _paragraph(f"The gate was open at {opened} of {looks} epochs.{kept}")


def _monitors(record: Record) -> str:
    share = record.logged(f"attribution/{METHOD}/sensitive_share")
    drift = record.logged(f"drift/{METHOD}/cosine/first/mean")
    probe = record.logged(f"xai/{METHOD}/probe_size")
    dead = record.logged("activation_max/dead_share")
    return _paragraph(
        f"At the last epoch {share:.1%} of the attribution lies on sex and race; the explanations of the same "
        f"{probe:.0f} people have moved by {drift:.3f} since epoch 0 (mean cosine distance, 0 is unchanged); no layer "
        f"has more than {dead:.1%} dead neurons."
    )


def evaluation(folder: Path) -> str:
    """Accuracy and gap on the test rows, and a disparity that the gate was not asked to limit."""
    record = Record(folder)
    rows = sum(record.logged(f"test/count/sex/{group}") for group in (*SEXES, "missing"))
    gap = {part: record.logged(f"test/{GAP}/{part}") for part in ("value", "lower", "upper")}
    found = {sex: record.logged(f"test/rate/sex/true_positive_rate/{sex}") for sex in SEXES}
    return "\n".join(
        (
            f"  Test rows        {rows:,.0f}, read once, for this checkpoint only",
            f"  Accuracy         {record.logged('test_acc'):.4f}",
            f"  Gap by sex       {gap['value']:.4f}   (95 % interval: {gap['lower']:.4f} to {gap['upper']:.4f})",
            "",
            _paragraph(
                f"What this does not show: of the people who do earn more, this model finds {found['Female']:.1%} of "
                f"the women and {found['Male']:.1%} of the men. The limit is on demographic parity alone; it says "
                "nothing about other gaps, other groups or other data, and a limit on one gap may widen another."
            ),
        )
    )


def recall(folder: Path) -> str:
    """For comparison: the shares of women and men with a high income whom the model finds at its last epoch."""
    record = Record(folder)
    found = {sex: record.logged(f"rate/sex/true_positive_rate/{sex}") for sex in SEXES}
    return _paragraph(
        f"For comparison, plain training at its last epoch, on the validation rows: {found['Female']:.1%} of the women "
        f"and {found['Male']:.1%} of the men."
    )


def kept(folder: Path) -> str:
    """The paths of the kept checkpoint and its verdict, and what an open gate promises."""
    record = Record(folder)
    if record.best is None:
        return "  No checkpoint was kept."
    path = record.checkpoints / record.best["kept"]
    return "\n".join(
        (
            f"  Checkpoint       {path}",
            f"  Its verdict      {path.with_suffix('.verdict.json')}",
            f"  All decisions    {record.audit_file}",
            "",
            _paragraph(f"What the verdict promises: {record.best['promise']}"),
        )
    )


def warning(message: str) -> str:
    """A warning that the training issued."""
    return _paragraph(f"Warning: {message}")


def _number(value: float | None) -> str:
    """A number with four decimals; the record holds null if a metric was undefined."""
    return "undefined" if value is None else f"{value:.4f}"


def _paragraph(text: str, indent: str = "  ") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
