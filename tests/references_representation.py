"""Slow twins of `xai_lightning.functional.representation`, written from the definitions, in float64."""

import itertools
import math

import torch
from torch import Tensor


def ranks(h: Tensor) -> dict[str, float]:
    """From singular values of the whole matrix, without a Gram matrix."""
    raw = torch.linalg.svdvals(h.double()).tolist()
    values = torch.linalg.svdvals(h.double() - h.double().mean(0)).tolist()
    variances = sorted((value**2 for value in values), reverse=True)
    return {
        "participation_ratio": math.fsum(variances) ** 2 / math.fsum(v * v for v in variances),
        "effective_rank": math.exp(entropy(raw)),
        "effective_rank_centred": math.exp(entropy(values)),
        "stable_rank": math.fsum(v * v for v in raw) / max(raw) ** 2,
        "layer_saturation": needed(variances, 0.99) / h.shape[1],
    }


def entropy(weights: list[float]) -> float:
    total = math.fsum(weights)
    return -math.fsum(w / total * math.log(w / total) for w in weights if w > 0)


def needed(variances: list[float], share: float) -> int:
    total, held = math.fsum(variances), 0.0
    for count, variance in enumerate(variances, start=1):
        held += variance
        if held >= share * total * (1 - 1e-12):
            return count
    raise AssertionError(variances)


def unbiased_hsic(x: Tensor, y: Tensor) -> float:
    """Song et al. 2012, equation 5."""
    n = len(x)
    k, length = (z.double() @ z.double().T for z in (x, y))
    k, length = (kernel - torch.diag(kernel.diagonal()) for kernel in (k, length))
    ones = torch.ones(n, dtype=torch.float64)
    trace = torch.trace(k @ length)
    sums = (ones @ k @ ones) * (ones @ length @ ones) / ((n - 1) * (n - 2))
    crossed = 2 / (n - 2) * (ones @ k @ length @ ones)
    return float((trace + sums - crossed) / (n * (n - 3)))


def hsic_over_quadruples(x: Tensor, y: Tensor) -> float:
    """As a U-statistic: the mean over all ordered quadruples of different samples."""
    k, length = (z.double() @ z.double().T for z in (x, y))
    found = [
        float(k[i, j] * (length[i, j] + length[q, r] - 2 * length[i, q]))
        for i, j, q, r in itertools.permutations(range(len(x)), 4)
    ]
    return math.fsum(found) / len(found)


def biased_cka(x: Tensor, y: Tensor) -> float:
    """Kornblith et al. 2019, from centred features."""
    a, b = (z.double() - z.double().mean(0) for z in (x, y))
    return float((a.T @ b).norm() ** 2 / (a.T @ a).norm() / (b.T @ b).norm())


def class_selectivity(values: list[float], labels: list[int], least: int) -> float:
    """Of one unit."""
    means = [
        math.fsum(v for v, y in zip(values, labels, strict=True) if y == label) / labels.count(label)
        for label in sorted(set(labels))
        if labels.count(label) >= least
    ]
    if len(means) < 2 or min(means) < 0 or max(means) == 0:
        return math.nan
    best = max(means)
    rest = list(means)
    rest.remove(best)
    other = math.fsum(rest) / len(rest)
    return (best - other) / (best + other)


def explained(values: list[float], labels: list[int], groups: list[int], least: int) -> float:
    """Share of one unit's variance within classes that groups explain."""
    between = total = 0.0
    for label in set(labels):
        rows = [i for i, y in enumerate(labels) if y == label and groups[i] >= 0 and label >= 0]
        cells = [[values[i] for i in rows if groups[i] == g] for g in {groups[i] for i in rows}]
        cells = [cell for cell in cells if len(cell) >= least]
        if len(cells) < 2:
            continue
        everything = [value for cell in cells for value in cell]
        mean = math.fsum(everything) / len(everything)
        total += math.fsum((value - mean) ** 2 for value in everything)
        between += math.fsum(len(cell) * (math.fsum(cell) / len(cell) - mean) ** 2 for cell in cells)
    return between / total if total else math.nan


def attention(weights: Tensor, keep: Tensor, *, causal: bool) -> tuple[list[float], list[float], list[list[float]]]:
    """Entropy and share on the first token of each head, and how alike heads are, by loops over rows."""
    samples, heads, tokens, _ = weights.shape
    rows = []
    for n, query in itertools.product(range(samples), range(tokens)):
        keys = [k for k in range(tokens) if keep[n, k] and (k <= query or not causal)]
        if keep[n, query] and len(keys) > 1:
            parts = [[float(weights[n, head, query, k]) for k in keys] for head in range(heads)]
            rows.append([[p / math.fsum(part) for p in part] for part in parts])
    mean = len(rows)
    entropies = [
        math.fsum(entropy(row[head]) / math.log(len(row[head])) for row in rows) / mean for head in range(heads)
    ]
    firsts = [math.fsum(row[head][0] for row in rows) / mean for head in range(heads)]
    alike = [
        [math.fsum(1 - jensen_shannon(row[a], row[b]) for row in rows) / mean for b in range(heads)]
        for a in range(heads)
    ]
    return entropies, firsts, alike


def jensen_shannon(p: list[float], q: list[float]) -> float:
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (divergence(p, middle) + divergence(q, middle)) / 2


def divergence(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log2(a / b) for a, b in zip(p, q, strict=True) if a > 0)
