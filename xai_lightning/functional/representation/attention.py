"""What the heads of one attention layer do.

Weights are float[N, U, T, T], of U heads; each row is how a query is shared out among its keys. Rows of padding and
columns of padding are left out, and rows are made to add up to 1 again. Rows with a single key they may look at say
nothing and are left out too. A row without any weight has no value.
"""

import math

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact

COLLAPSED_BELOW, UNIFORM_ABOVE = 0.05, 0.99


def attention_entropy(weights: Tensor, keep: Tensor | None = None, *, causal: bool = False) -> Tensor:
    r"""How widely each head looks: entropy of its rows over that of the uniform row, on average over queries.

    .. math:: -\sum_j p_j \ln p_j / \ln n,\quad n \text{ the keys that the query may look at}

    0 means one key only, 1 that all are looked at alike. Heads that collapse to 0 go with unstable training; a head
    that copies the token before has 0 too, and is of use.

    Args:
        weights: float[N, U, T, T], at least 0, queries by keys, of U heads.
        keep: bool[N, T], tokens that are not padding; all by default.
        causal: whether queries may look only at keys up to their own place.

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
    """Share of the attention that goes to the first token, on average over queries: an attention sink.

    1/n is what a uniform head gives it, 1 all. Large language models park attention there that has nowhere to go, so a
    large value need not be a fault.

    Args:
        weights: float[N, U, T, T], at least 0, queries by keys, of U heads.
        keep: bool[N, T], tokens that are not padding; the first of them counts, on whichever side padding stands.
        causal: whether queries may look only at keys up to their own place.

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
    """Share of heads whose :func:`attention_entropy` is below a limit: they look at one key whatever the query.

    The literature calls entropy near 0 collapse and names no limit; this one is ours. It is an alarm if it grows.

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

    Networks at their start are like this, and tokens become alike where it stays so. The limit is ours.

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
    r"""How alike heads look: one minus the Jensen-Shannon divergence of their rows in bits, on average over queries.

    1 means that two heads look at the same keys, 0 that they share none. Heads that are alike may be redundant, but
    what they carry on from where they look is not seen.

    Args:
        weights: float[N, U, T, T], at least 0, queries by keys, of U heads.
        keep: bool[N, T], tokens that are not padding; all by default.
        causal: whether queries may look only at keys up to their own place.

    Returns:
        float64[U, U], symmetric, 1 on the diagonal; NaN without a query that has a choice, or in the row and column of
        a head with a value that is not finite.

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
    """The most memory that a function of this module takes, known before anything is computed.

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
    """Rows in float64 that add up to 1 over the keys they may look at, and which those are, ``bool[N, T, T]``."""
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
    # a query with a single key looks there whatever the head does
    choice = (allowed.sum(-1) > 1)[:, None]
    return values.where(choice, 0.0).sum((0, 2)) / choice.sum((0, 2))
