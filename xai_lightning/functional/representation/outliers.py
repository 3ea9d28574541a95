"""Values that are out of proportion to the rest of their layer."""

from torch import Tensor

from xai_lightning.functional.representation.matrix import checked

MASSIVE, MASSIVE_RATIO = 100.0, 1000.0


def massive_activations(h: Tensor) -> Tensor:
    """How often each unit is massive: above 100 in size, and at least 1000 times the layer's median size.

    0 is the rule; a few, in a unit or two, are known of the residual streams of large transformers, where they act as
    a bias. A layer that is mostly 0, as behind a ReLU, has the median 0, and its values are judged by size alone.

    Args:
        h: float[N, U], activations.

    Returns:
        int64[U], values per unit; infinite ones count, NaN does not.

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
    # the lower of two middle values
    median = sizes.nanmedian() if sizes.numel() else sizes.new_zeros(())
    return ((sizes > MASSIVE) & (sizes >= MASSIVE_RATIO * median)).sum(0)
