"""What tells whether tensors are those that were validated."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xai_lightning.callbacks._restored import checksum
from xai_lightning.callbacks._sharded import is_shard

Print = tuple[torch.dtype, int]


def fingerprint(state: Mapping[str, Any], loaded_as: Mapping[str, Print] | None = None) -> dict[str, Print]:
    """Type and a number for the content of each tensor of a state dict; shards' numbers add up to the whole's.

    Args:
        state: the tensors.
        loaded_as: prints of tensors of the module; each tensor is taken as it is once it is loaded there. Averages are
            kept in single precision where the module that was validated is in half.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    types = {name: dtype for name, (dtype, _) in (loaded_as or {}).items()}
    loaded = {name: value.to(types.get(name, value.dtype)) for name, value in tensors.items()}
    return {name: (value.dtype, checksum(value)) for name, value in loaded.items()}


def shards(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors of a state dict of which other ranks hold other parts."""
    return [name for name, value in state.items() if isinstance(value, Tensor) and is_shard(value)]
