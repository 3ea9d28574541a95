"""Pads texts to one length, whatever length a collator has padded each batch to."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from xai_lightning.readers.batch import Reader, Sample, describe, read


def read_padded(batch: Any, *, reader: Reader | None, length: int, pad_token: int) -> Sample:
    """The result of `read`, padded on the right to ``length`` tokens: ids with ``pad_token``, related entries with 0.

    Args:
        batch: what the loader yields.
        reader: as in `read`.
        length: length of every text after padding.
        pad_token: the token id of padding.

    Returns:
        The sample; entries ``[N, T, ...]`` that go with the ids ``[N, T]``, such as a mask, get the same length.

    Raises:
        ValueError: if inputs are not token ids, are longer than ``length``, or are padded on the left.

    Example:
        >>> import torch
        >>> batch = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2), "labels": torch.zeros(1)}
        >>> found = read_padded(batch, reader=None, length=4, pad_token=0)
        >>> found.inputs, found.extras["attention_mask"]
        (tensor([[5, 6, 0, 0]]), tensor([[1., 1., 0., 0.]]))
    """
    sample = read(batch, reader)
    ids = sample.inputs
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(f"pad_to={length} is for token ids [N, T]; the input is {describe(ids)}")
    if ids.shape[1] > length:
        raise ValueError(
            f"a batch holds texts of {ids.shape[1]} tokens, more than pad_to={length}: raise pad_to, or truncate the "
            "texts in the collator"
        )
    if bool(((ids[:, 0] == pad_token) & (ids[:, -1] != pad_token)).any()):
        raise ValueError(
            f"pad_to={length} pads on the right, but texts of this batch begin with pad_token={pad_token} and do not "
            "end with it: pad on the right in the collator as well, or set pad_token= to the id of padding"
        )
    longer = _longer(ids, ids, length, pad_token)
    extras = {name: longer if x is ids else _longer(x, ids, length, 0) for name, x in sample.extras.items()}
    return replace(sample, inputs=longer, extras=extras)


def _longer(x: Any, ids: Tensor, length: int, value: int) -> Any:
    """``x``, padded to ``length`` along every dimension that is as long as the texts, if it goes with the ids."""
    if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[:2] != ids.shape:
        return x
    more = [(length - n) * (n == ids.shape[1]) for n in reversed(x.shape[1:])]
    return pad(x, [side for n in more for side in (0, n)], value=value)
