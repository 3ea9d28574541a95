"""Fingerprints that tell whether tensors are those that were validated."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xai_lightning.callbacks._restored import checksum
from xai_lightning.callbacks._sharded import is_shard

Print = tuple[torch.dtype, int]


def fingerprint(state: Mapping[str, Any], loaded_as: Mapping[str, Print] | None = None) -> dict[str, Print]:
    """Type and checksum of each tensor of a state dict; the checksums of shards add up to that of the whole.

    Args:
        state: the tensors.
        loaded_as: fingerprints of the module's tensors; each tensor is first converted to the type that it has once
            it is loaded there. Averages are kept in single precision even if the validated module is in half precision.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    types = {name: dtype for name, (dtype, _) in (loaded_as or {}).items()}
    loaded = {name: value.to(types.get(name, value.dtype)) for name, value in tensors.items()}
    return {name: (value.dtype, checksum(value)) for name, value in loaded.items()}


def shards(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors of a state dict that are sharded, so that other ranks hold other parts."""
    return [name for name, value in state.items() if isinstance(value, Tensor) and is_shard(value)]
