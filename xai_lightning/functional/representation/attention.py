"""Statistics of the heads of one attention layer.

Weights are float[N, U, T, T], of U heads; each row is the distribution of a query over its keys. Rows and columns of
padding are left out, and the remaining rows are normalised to sum 1. Rows with a single allowed key carry no
information and are left out too. A row without any weight is NaN.
"""

import math

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact

COLLAPSED_BELOW, UNIFORM_ABOVE = 0.05, 0.99


def attention_entropy(weights: Tensor, keep: Tensor | None = None, *, causal: bool = False) -> Tensor:
    r"""How widely each head attends: entropy of its rows relative to that of a uniform row, averaged over queries.

    .. math:: -\sum_j p_j \ln p_j / \ln n,\quad n \text{ the keys that the query may attend to}

    0 means attention to one key only, 1 to all keys equally. Heads that collapse to 0 are associated with unstable
    training; but a head that copies the previous token has 0 too, and is useful.

    Args:
        weights: float[N, U, T, T], at least 0, queries by keys, of U heads.
        keep: bool[N, T], tokens that are not padding; all by default.
        causal: whether queries may attend only to keys up to their own position.

    Returns:
        float64[U] in [0, 1], averaged over queries of all samples; NaN without any, or if a value is not finite.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> heads = torch.stack([torch.eye(4), torch.full((4, 4), 0.25)])[None]
        >>> attention_entropy(heads)
        tensor([0., 1.], dtype=torch.float64)

    References:
        S. Zhai et al., Stabilizing transformer training by preventing attention entropy collapse, ICML 2023.
    """
    rows, allowed = _rows(weights, keep, causal)
    widest = allowed.sum(-1).double().log()[:, None]
    return _mean((torch.special.entr(rows).sum(-1) / widest).clamp(max=1.0), allowed)


def first_token_share(weights: Tensor, keep: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """Share of the attention that goes to the first token, averaged over queries: an attention sink.

    A uniform head gives it 1/n; 1 means all attention. Large language models park unused attention there, so a large
    value is not necessarily a fault.

    Args:
        weights: float[N, U, T, T], at least 0, queries by keys, of U heads.
        keep: bool[N, T], tokens that are not padding; the first of them counts, on whichever side the padding is.
        causal: whether queries may attend only to keys up to their own position.

    Returns:
        float64[U] in [0, 1]; NaN without a query that has a choice, or if a value is not finite.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> first_token_share(torch.tensor([[[[0.5, 0.5], [0.9, 0.1]]]]))
        tensor([0.7000], dtype=torch.float64)

    References:
        G. Xiao et al., Efficient streaming language models with attention sinks, ICLR 2024.
    """
    rows, allowed = _rows(weights, keep, causal)
    held = torch.ones_like(allowed[:, 0]) if keep is None else keep.to(allowed.device)
    first = held.int().argmax(-1)
    shares = rows.gather(-1, first[:, None, None, None].expand(*rows.shape[:-1], 1)).squeeze(-1)
    return _mean(shares, allowed)


def collapsed_heads(entropy: Tensor, *, below: float = COLLAPSED_BELOW) -> Tensor:
    """Share of heads whose :func:`attention_entropy` is below a limit: each query attends to about one key.

    The literature calls entropy near 0 collapse but names no limit; this limit is ours. Growth is a warning sign.

    Args:
        entropy: float64[U], of the heads of one layer or of all.
        below: the limit, from 0 to 1.

    Returns:
        float64[] in [0, 1]; NaN if a head has no value.

    Example:
        >>> collapsed_heads(torch.tensor([0.01, 0.4, 0.6, 0.9]))
        tensor(0.2500, dtype=torch.float64)

    References:
        S. Zhai et al., Stabilizing transformer training by preventing attention entropy collapse, ICML 2023.
    """
    return (entropy < below).double().mean().where(entropy.isfinite().all(), torch.nan)


def uniform_heads(entropy: Tensor, *, above: float = UNIFORM_ABOVE) -> Tensor:
    """Share of heads whose :func:`attention_entropy` is above a limit: they average all keys, whatever the query.

    Networks start like this; if it persists, tokens become alike. The limit is ours.

    Args:
        entropy: float64[U], of the heads of one layer or of all.
        above: the limit, from 0 to 1.

    Returns:
        float64[] in [0, 1]; NaN if a head has no value.

    Example:
        >>> uniform_heads(torch.tensor([0.01, 0.4, 0.6, 0.999]))
        tensor(0.2500, dtype=torch.float64)

    References:
        Y. Dong, J.-B. Cordonnier and A. Loukas, Attention is not all you need: pure attention loses rank doubly
        exponentially with depth, ICML 2021.
    """
    return (entropy > above).double().mean().where(entropy.isfinite().all(), torch.nan)


def head_similarity(weights: Tensor, keep: Tensor | None = None, *, causal: bool = False) -> Tensor:
    r"""How alike heads attend: one minus the Jensen-Shannon divergence of their rows in bits, averaged over queries.

    1 means that two heads attend to the same keys, 0 that they share none. Similar heads may be redundant, but this
    does not show which values they carry over from those keys.

    Args:
        weights: float[N, U, T, T], at least 0, queries by keys, of U heads.
        keep: bool[N, T], tokens that are not padding; all by default.
        causal: whether queries may attend only to keys up to their own position.

    Returns:
        float64[U, U], symmetric, 1 on the diagonal; NaN without a query that has a choice, or in the row and column of
        a head with a non-finite value.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> heads = torch.stack([torch.eye(2), torch.eye(2), torch.eye(2).flip(0)])[None]
        >>> head_similarity(heads)[0]
        tensor([1., 1., 0.], dtype=torch.float64)

    References:
        K. Clark et al., What does BERT look at? An analysis of BERT's attention, BlackboxNLP 2019, section 6.
    """
    rows, allowed = _rows(weights, keep, causal)
    entropies = torch.special.entr(rows).sum(-1)
    found = rows.new_empty(rows.shape[1], rows.shape[1])
    for head in range(rows.shape[1]):
        for other in range(head, rows.shape[1]):
            middle = torch.special.entr((rows[:, head] + rows[:, other]) / 2).sum(-1)
            apart = middle - (entropies[:, head] + entropies[:, other]) / 2
            alike = (1 - apart / math.log(2)).clamp(0, 1)[:, None]
            found[head, other] = found[other, head] = _mean(alike, allowed)[0]
    return found


def attention_bytes_needed(samples: int, heads: int, tokens: int) -> int:
    """The peak memory of a function of this module, known before anything is computed.

    Args:
        samples: number of samples N.
        heads: number of heads U.
        tokens: number of tokens T, padding included.

    Returns:
        Bytes, without the weights themselves.

    Raises:
        ValueError: if a number is negative.

    Example:
        >>> attention_bytes_needed(8, 12, 128) / 2**20
        37.0
    """
    if min(samples, heads, tokens) < 0:
        raise ValueError(f"Numbers of samples, heads and tokens must be at least 0, got {(samples, heads, tokens)}.")
    return 8 * (3 * heads + 1) * samples * tokens**2


def _rows(weights: Tensor, keep: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Rows in float64 that sum to 1 over their allowed keys, and the mask of those, ``bool[N, T, T]``."""
    if weights.dim() != 4 or weights.shape[2] != weights.shape[3]:
        raise ValueError(f"`weights` must be float[N, U, T, T], got shape {tuple(weights.shape)}.")
    samples, _, tokens, _ = weights.shape
    if keep is not None and (keep.dtype != torch.bool or keep.shape != (samples, tokens)):
        raise ValueError(f"`keep` must be bool[{samples}, {tokens}], got {keep.dtype} of shape {tuple(keep.shape)}.")
    wide = exact(weights.detach())
    held = torch.ones(samples, tokens, dtype=torch.bool, device=wide.device) if keep is None else keep
    held = held.to(wide.device)
    allowed = held[:, :, None] & held[:, None]
    allowed = allowed.tril() if causal else allowed
    rows = wide.where(allowed[:, None], 0.0)
    return rows / rows.sum(-1, keepdim=True), allowed


def _mean(values: Tensor, allowed: Tensor) -> Tensor:
    """Mean of each head over the queries that have a choice of keys."""
    # a query with a single allowed key attends to it whatever the head does
    choice = (allowed.sum(-1) > 1)[:, None]
    return values.where(choice, 0.0).sum((0, 2)) / choice.sum((0, 2))
