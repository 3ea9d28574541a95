"""Packed sequences, which recurrent layers return: the elements of all samples without padding, in order of time."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from xai_lightning.callbacks._activation.layers import Layer
from xai_lightning.callbacks._selection import Kept, readable
from xai_lightning.functional.representation import per_sample

_REMEDY = "pack the whole batch, with enforce_sorted=False"


def packed_in(output: Any) -> PackedSequence | None:
    """The packed sequence that a module returned, alone or as the first of several outputs; None if there is none."""
    several = isinstance(output, tuple | list) and not isinstance(output, PackedSequence)
    first = output[0] if several and output else output
    return first if isinstance(first, PackedSequence) else None


def elements_of(output: Any) -> Tensor | None:
    """The dense real tensor that a module returned, of a packed sequence its elements ``[P, ...]``; None without any.

    See `readable`.
    """
    packed = packed_in(output)
    return readable(output if packed is None else packed.data)


def unfit(output: Any) -> str:
    """What to say of modules with such an output if it cannot be matched with what is to be kept."""
    if packed_in(output) is None:
        return "have outputs that fit neither samples nor mask; all elements are observed"
    return (
        f"return packed sequences that cannot be matched with samples or mask ({_REMEDY}); all of their elements, none "
        "of which is padding, are observed"
    )


def rowless(output: Any) -> str:
    """What to say of modules whose output has no row per sample."""
    if packed_in(output) is None:
        return "have outputs with no row per sample; what they represent is NaN"
    return f"return packed sequences that cannot be matched with samples ({_REMEDY}); what they represent is NaN"


def places_of(packed: PackedSequence, samples: int) -> tuple[Tensor, Tensor] | None:
    """The sample and the position of each element, ``int64[P]`` each, on the CPU.

    Args:
        packed: P elements.
        samples: number of samples in the batch.

    Returns:
        None if they are unknown: other samples than those of the batch are packed, or packing did not sort them
        (``enforce_sorted=True``), so that the step may have sorted them before.
    """
    if packed.sorted_indices is None or int(packed.batch_sizes[0]) != samples:
        return None
    sizes = packed.batch_sizes
    time = torch.repeat_interleave(torch.arange(len(sizes), device="cpu"), sizes)
    ranks = torch.arange(len(time), device="cpu") - (sizes.cumsum(0) - sizes)[time]
    return packed.sorted_indices.cpu()[ranks], time


def chosen_of(mask: Tensor, places: tuple[Tensor, Tensor]) -> Tensor | None:
    """A mask of samples or positions, ``bool[N, ...]``, for each element, ``bool[P]``; None if it is too short."""
    sample, time = (place.to(mask.device) for place in places)
    if mask.dim() == 1:
        return mask[sample]
    return mask[sample, time].reshape(len(time), -1).any(1) if mask.shape[1] > int(time.max()) else None


def kept_of(keep: Kept, output: Any) -> Kept | None:
    """What to keep of an output: ``keep``, or of a packed sequence its elements; None if they cannot be matched."""
    packed = packed_in(output)
    if packed is None:
        return keep
    places = places_of(packed, keep.n)
    chosen = None if places is None else chosen_of(keep.mask, places)
    return None if chosen is None else Kept(chosen)


def packed_by_sample(
    packed: PackedSequence, layer: Layer, samples: int, rows: Tensor, mask: Tensor | None
) -> Tensor | None:
    """One row per sample, ``float64[M, U]`` on the CPU: means over the elements of each.

    Args:
        packed: the layer's output.
        layer: the layer.
        samples: number of samples in the batch, N.
        rows: ``int64[M]``, indices of the samples to keep.
        mask: ``bool[N, ...]``, or None.

    Returns:
        The rows; None if the elements cannot be matched with samples.
    """
    places = places_of(packed, samples)
    if places is None:
        return None
    fits = None if mask is None or mask.dim() == 1 else chosen_of(mask, places)
    chosen = torch.isin(places[0], rows) & (True if fits is None else fits.cpu())
    h = packed.data[chosen.to(packed.data.device)]
    values = per_sample(h, layer.unit_dim(h.ndim)).cpu() if h.ndim > 1 else h.cpu().double()[:, None]
    # one after the other in order of time, so that the sum does not depend on the other samples
    sums = torch.zeros(samples, values.shape[1], dtype=torch.float64, device="cpu")
    sums.index_add_(0, places[0][chosen], values)
    return (sums / places[0][chosen].bincount(minlength=samples)[:, None])[rows]
