"""Units and values that are out of proportion to the rest of their layer."""

from torch import Tensor

from xai_lightning.functional.representation.matrix import checked, scaled

MASSIVE, MASSIVE_RATIO = 100.0, 1000.0


def outlier_kurtosis(h: Tensor) -> Tensor:
    r"""How unevenly size is spread over units: kurtosis of their root mean squares, not centred.

    .. math:: \frac1U \sum_j s_j^4 \big/ \Big(\frac1U \sum_j s_j^2\Big)^2,\quad s_j^2 = \frac1N \sum_i h_{ij}^2

    1 means that all units are equally large, U that one unit is all there is. Large values make activations hard to
    quantise; which unit it is, and whether training needs it, is not shown. Of running statistics, give the root mean
    squares as a single row.

    Args:
        h: float[N, U], activations.

    Returns:
        float64[] in [1, U]; NaN if all are 0 or one is not finite.

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> import torch
        >>> outlier_kurtosis(torch.eye(8)[:1]), outlier_kurtosis(torch.ones(5, 8))
        (tensor(8., dtype=torch.float64), tensor(1., dtype=torch.float64))

    References:
        B. He et al., Understanding and minimising outlier features in neural network training, arXiv 2405.19279,
        section 2.
    """
    squares = scaled(checked(h)).square().mean(0)
    return squares.square().mean() / squares.mean().square()


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
