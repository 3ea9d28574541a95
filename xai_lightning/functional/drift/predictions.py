"""Change of explanations compared with change of predictions: right for a different reason?"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

STABLE_WITHIN, LEAST_FLOOR, FEWEST, BY_NOISE = 0.05, 0.1, 20, 0.05


class Agreement(NamedTuple):
    """How a probe's predictions changed between two times, and its explanations where the predictions stayed.

    Args:
        churn: share of samples whose predicted class changed.
        divergence: mean Jensen-Shannon divergence of the predicted distributions, in bits.
        stable_share: share of samples whose prediction is stable: the same class, and the explained class's
            probability within 0.05.
        stable_drift: mean distance of explanations over the stable samples; NaN with fewer than 20.
        reason_shift: share of the stable samples whose explanation moved further than noise would move it: the same
            prediction for a different reason; NaN with fewer than 20, or if the noise is unknown.
        reason_shift_beyond_noise: the same, corrected, if the noise floor is above 0.1, for the 5 % that noise alone
            moves beyond it; none is 0 or less.
    """

    churn: float
    divergence: float
    stable_share: float
    stable_drift: float
    reason_shift: float
    reason_shift_beyond_noise: float


def agreement(now: Tensor, then: Tensor, classes: Tensor, distances: Tensor, *, floor: float = 0.0) -> Agreement:
    """Compare predictions and explanations of the same samples at two times.

    Args:
        now: float[N, K], predicted probabilities.
        then: float[N, K], predicted probabilities at the reference.
        classes: int64[N], the explained classes.
        distances: float64[N], cosine distances of the explanations; NaN is left out.
        floor: noise floor of the distances; a shift must exceed both it and 0.1. NaN: unknown.

    Returns:
        The six numbers; NaN where nothing is finite.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        >>> agreement(p, p.flip(0), torch.zeros(2, dtype=torch.int64), torch.zeros(2)).churn
        1.0

    References:
        M. Milani Fard et al., Launch and iterate: reducing prediction churn, NeurIPS 2016.
    """
    if now.dim() != 2 or now.shape != then.shape or not len(now) == len(classes) == len(distances):
        got = f"{tuple(now.shape)}, {tuple(then.shape)}, {tuple(classes.shape)} and {tuple(distances.shape)}"
        raise ValueError(f"`now` and `then` must be float[N, K], with N classes and distances, got {got}.")
    finite = (now.isfinite() & then.isfinite()).all(1)
    if not finite.any():
        return Agreement(*[math.nan] * 6)
    p, q, target = now[finite].double(), then[finite].double(), classes[finite][:, None]
    moved = (p.gather(1, target) - q.gather(1, target)).abs().flatten() > STABLE_WITHIN
    flipped = p.argmax(1) != q.argmax(1)
    middle = (p + q) / 2
    bits = [(torch.special.xlogy(x, x) - torch.special.xlogy(x, middle)).sum(1) / math.log(2) for x in (p, q)]
    stable = ~flipped & ~moved
    kept = distances[finite][stable]
    kept = kept[~kept.isnan()]
    few = len(kept) < FEWEST
    shifted = math.nan if few or math.isnan(floor) else float((kept > max(floor, LEAST_FLOOR)).double().mean())
    by_noise = BY_NOISE if floor > LEAST_FLOOR else 0.0
    return Agreement(
        churn=float(flipped.double().mean()),
        divergence=float(((bits[0] + bits[1]) / 2).clamp(min=0).mean()),
        stable_share=float(stable.double().mean()),
        stable_drift=math.nan if few else float(kept.mean()),
        reason_shift=shifted,
        # noise alone moves that share beyond its floor: which share of the others moved?
        reason_shift_beyond_noise=(shifted - by_noise) / (1 - by_noise),
    )
