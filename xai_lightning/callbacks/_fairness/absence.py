"""Classes that an evaluation has no row of, and what is undefined without them."""

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning._lightning import rank_zero_warn
from xai_lightning.callbacks._fairness.asked import Asked
from xai_lightning.callbacks._fairness.tally import Tally
from xai_lightning.functional.fairness.counts import per_class

SHOWN = 5
_ALL = frozenset(("balanced_accuracy", "class_recall", "class_confusion"))
_BOTH = frozenset(("auc", "xauc_gap", "bpsn_auc", "bnsp_auc", "brier_skill"))
_POSITIVES = _BOTH | {"true_positive_rate", "false_negative_rate"}
_NEGATIVES = _BOTH | {"false_positive_rate", "true_negative_rate"}


def absent(tally: Tally) -> Tensor:
    """Which classes no row belongs to, ``bool[K]``, or ``bool[L, 2]`` for labels; none if rows could not be counted."""
    if not tally.counts or tally.nonfinite:
        return torch.zeros(0, dtype=torch.bool, device="cpu")
    # every set of groups counts all rows, those without a group too
    actual: Tensor = per_class(next(iter(tally.counts.values())).sum(dim=0))[2].cpu()
    return actual == 0


def described(missing: Tensor) -> str:
    """``no row belongs to class 2``, for example; empty if there are rows of each class."""
    if missing.ndim == 2:
        without, within = (_listed(part.nonzero().flatten().tolist(), "label") for part in missing.T.flip(0))
        parts = [f"no row has {without}"] * bool(without) + [f"every row has {within}"] * bool(within)
        return ", and ".join(parts)
    classes = missing.nonzero().flatten().tolist()
    return f"no row belongs to {_listed(classes, 'class')}" if classes else ""


def _listed(numbers: list[int], what: str) -> str:
    if len(numbers) < 2:
        return "".join(f"{what} {number}" for number in numbers)
    shown = ", ".join(map(str, numbers[:SHOWN]))
    plural = {"class": "classes", "label": "labels"}[what]
    return f"{plural} {shown}" if len(numbers) <= SHOWN else f"{len(numbers)} {plural} ({shown}, ...)"


def undefined(asked: Asked, missing: Tensor, positive: int) -> list[str]:
    """The metrics that are undefined in every group because of ``missing`` classes, whatever the predictions."""
    if not bool(missing.any()):
        return []
    others = missing.index_fill(-1, torch.tensor(positive, device="cpu"), True)
    lacking = set(_ALL)
    lacking |= _POSITIVES if bool(missing[..., positive].any()) else set()
    lacking |= _NEGATIVES if bool(others.all(dim=-1).any()) else set()
    lacking |= {"class_false_positive_rate"} if bool((missing.sum(dim=-1) >= missing.shape[-1] - 1).any()) else set()
    return [name for name, metric in asked.metrics.items() if lacking & {r for r in metric.rates if isinstance(r, str)}]


def lack(name: str, asked: Asked, tally: Tally, positive: int) -> str:
    """Why the metric logged as ``name`` is undefined, if it is for want of rows of a class; else empty."""
    missing, parts = absent(tally), name.split("/")
    needs = name in (tags.balanced_accuracy("value"), tags.balanced_accuracy("bound"))
    if len(parts) == 4 and parts[0] == "fairness":
        needs = parts[2] in map(tags.part, undefined(asked, missing, positive))
    return described(missing) if needs else ""


def tell(label: str, asked: Asked, tally: Tally, positive: int, *, utility: bool) -> bool:
    """Warn of classes without rows if anything is undefined without them; returns whether it did.

    Args:
        label: name of the monitor, for the message.
        asked: what it measures.
        tally: the counts.
        positive: the favourable class.
        utility: whether it logs the utility too.
    """
    missing = absent(tally)
    what, named = described(missing), ["utility/balanced_accuracy"] * utility + undefined(asked, missing, positive)
    if what and named:
        advice = "Add rows of every class to the data, or remove outputs for classes that do not occur"
        if tally.labels:
            advice = "Add rows with and without each label to the data, or remove labels that do not vary"
        floor = ", and with utility_floor=True so does one with any other fairness limit" if utility else ""
        rank_zero_warn(
            f"{label}: in this evaluation {what}, which leaves {', '.join(named)} undefined (NaN). A gate with a limit "
            f"on one of them stays closed{floor}. {advice}"
        )
    return bool(what and named)
