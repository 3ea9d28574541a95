"""Activations that are out of proportion to the rest of their layer."""

from torch import Tensor

from xai_lightning.functional.representation.matrix import checked

MASSIVE, MASSIVE_RATIO = 100.0, 1000.0


def massive_activations(h: Tensor) -> Tensor:
    """Number of massive values per unit: above 100 in size, and at least 1000 times the layer's median size.

    Usually it is 0; in the residual streams of large transformers, a few massive values in one or two units are known
    to act as a bias. In a layer that is mostly 0, as after a ReLU, the median is 0, and only the size of values counts.

    Args:
        h: float[N, U], activations.

    Returns:
        int64[U], values per unit; infinite values count, NaN does not.

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> import torch
        >>> h = torch.ones(3, 4) * 0.1
        >>> h[1, 2] = -150.0
        >>> massive_activations(h)
        tensor([0, 0, 1, 0])

    References:
        M. Sun et al., Massive activations in large language models, arXiv 2402.17762, section 2.
    """
    sizes = checked(h).abs()
    # `nanmedian` takes the lower of two middle values
    median = sizes.nanmedian() if sizes.numel() else sizes.new_zeros(())
    return ((sizes > MASSIVE) & (sizes >= MASSIVE_RATIO * median)).sum(0)
