"""Where the heads of watched attention layers attend, for the sampled rows."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import multi_head_attention_forward

from xai_lightning.callbacks._sharded import is_shard
from xai_lightning.functional.representation import (
    attention_bytes_needed,
    attention_entropy,
    collapsed_heads,
    first_token_share,
)

MOST_BYTES = 2**28
ENTROPY, FIRST, COLLAPSED = "attention_entropy", "first_token_share", "collapsed_heads"
_SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


def heads_of(
    module: nn.MultiheadAttention, call: tuple[tuple[Any, ...], Mapping[str, Any]], samples: int, places: Tensor
) -> Tensor | None:
    """Entropy and first-token share of each head for some samples, recomputed in float32 from a call.

    Args:
        module: a self-attention module.
        call: positional and keyword arguments.
        samples: number of samples in the batch, N.
        places: ``int64[M]``, indices of the samples to look at.

    Returns:
        ``float64[M, 2 U]`` on the CPU for U heads, NaN for a sample with fewer than two tokens; None if the call is not
        self-attention over a batch of these samples, or if one sample takes more than `MOST_BYTES`.

    Raises:
        ValueError: if this rank holds only a part of the weights.
    """
    if is_shard(next(module.parameters())):
        raise ValueError(
            f"the attention weights of {module.num_heads} heads cannot be recomputed from a shard of the layer; call "
            "fully_shard on the block around nn.MultiheadAttention rather than on the layer itself, or name other "
            "modules with layers=[...]"
        )
    # a hook sees the arguments as the caller passed them, by position or by name
    given = _SIGNATURE.bind(module, *call[0], **call[1])
    given.apply_defaults()
    tokens = [given.arguments[name] for name in ("query", "key", "value")]
    if not all(isinstance(x, Tensor) and x.ndim == 3 and not x.is_nested for x in tokens):
        return None
    inputs = [x.transpose(0, 1) if module.batch_first else x for x in tokens]
    length, count = inputs[0].shape[:2]
    extended = module.bias_k is not None or module.add_zero_attn
    if count != samples or len(inputs[1]) != length or extended:
        return None
    if attention_bytes_needed(1, module.num_heads, length) > MOST_BYTES:
        return None
    mask, padding = given.arguments["attn_mask"], given.arguments["key_padding_mask"]
    # one sample at a time: the attention weights of a whole batch take samples x heads x tokens^2
    rows = [_row(module, inputs, mask, padding, place) for place in places.tolist()]
    return torch.stack(rows).cpu()


def _row(
    module: nn.MultiheadAttention, inputs: list[Tensor], mask: Tensor | None, padding: Tensor | None, place: int
) -> Tensor:
    """Entropy and first-token share of each head for one sample, ``float64[2 U]``."""
    heads = module.num_heads
    # torch stores a per-sample mask as one mask per sample and head
    own = mask[place * heads : (place + 1) * heads] if mask is not None and mask.ndim == 3 else mask
    held = None if padding is None else padding[place : place + 1]
    weights = _weights(module, [x[:, place : place + 1].float() for x in inputs], _wide(own), _wide(held))
    keep = None if held is None else (~held if held.dtype == torch.bool else held > -torch.inf)
    causal = _is_causal(own)
    return torch.cat([attention_entropy(weights, keep, causal=causal), first_token_share(weights, keep, causal=causal)])


def _wide(mask: Tensor | None) -> Tensor | None:
    return mask.float() if mask is not None and mask.is_floating_point() else mask


def _weights(
    module: nn.MultiheadAttention, inputs: list[Tensor], mask: Tensor | None, padding: Tensor | None
) -> Tensor:
    """Attention weights ``float32[1, U, T, T]`` by the layer's own arithmetic, without dropout and so without draws."""
    wide = {name: p.detach().float() for name, p in module.named_parameters()}
    parts = [wide.get(f"{name}_proj_weight") for name in ("q", "k", "v")]
    with torch.autocast(inputs[0].device.type, enabled=False):
        _, weights = multi_head_attention_forward(
            inputs[0],
            inputs[1],
            inputs[2],
            module.embed_dim,
            module.num_heads,
            wide.get("in_proj_weight"),
            wide.get("in_proj_bias"),
            None,
            None,
            False,
            0.0,
            wide["out_proj.weight"],
            wide.get("out_proj.bias"),
            training=False,
            key_padding_mask=padding,
            need_weights=True,
            attn_mask=mask,
            use_separate_proj_weight=parts[0] is not None,
            q_proj_weight=parts[0],
            k_proj_weight=parts[1],
            v_proj_weight=parts[2],
            average_attn_weights=False,
        )
    if weights is None:
        raise ValueError(f"torch returned no attention weights for inputs of shapes {[tuple(x.shape) for x in inputs]}")
    return weights


def _is_causal(mask: Tensor | None) -> bool:
    """Whether no query may attend to a later key."""
    if mask is None:
        return False
    blocked = mask if mask.dtype == torch.bool else mask == -torch.inf
    later = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).triu(1)
    return bool(blocked[..., later].all())


def head_numbers(rows: Tensor) -> dict[str, float]:
    """The numbers logged for one layer: means over samples, then over heads, and the share of collapsed heads.

    Args:
        rows: ``float64[N, 2 U]`` from `heads_of`.
    """
    defined = rows.nanmean(0) if len(rows) else rows.sum(0) * torch.nan
    entropy, first = defined.chunk(2) if len(defined) else (rows.new_full((1,), torch.nan),) * 2
    numbers = {ENTROPY: entropy.mean(), FIRST: first.mean(), COLLAPSED: collapsed_heads(entropy)}
    return {name: float(value) for name, value in numbers.items()}
