"""Similarity of the representations of layers: linear centred kernel alignment (CKA) with the unbiased HSIC estimator.

The biased estimator calls independent layers similar if units outnumber samples (.89 at 64 samples and 512 units).
The strongest directions and outliers dominate CKA, so read it together with the participation ratio. In this module M
is the number of layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from xai_lightning.functional.representation.matrix import centred, checked, scaled

LEAST_SAMPLES = 4
_ROUNDING = 1e-20


def linear_cka(x: Tensor, y: Tensor, *, unbiased: bool = True) -> Tensor:
    r"""CKA of two layers' representations of the same samples; the layers may differ in width.

    .. math:: H(K, L) / \sqrt{H(K, K)\, H(L, L)},\quad K = x x^T,\ L = y y^T

    1 means equal up to rotation, reflection and scale, 0 independent; for independent layers the unbiased estimate is
    about 0 and may be slightly negative. It is not invariant to other invertible maps.

    Args:
        x: float[N, U], activations of one layer.
        y: float[N, U'], activations of the other, of the same samples.
        unbiased: use the unbiased estimator of HSIC, otherwise the biased one of the first paper.

    Returns:
        float64[] in [-1, 1], in [0, 1] if biased; NaN below 4 samples (2 if biased), if a layer does not vary (or only
        in one sample), or a value is not finite.

    Raises:
        ValueError: if the matrices do not have one row per sample each.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> linear_cka(x, x[:, :1], unbiased=False)
        tensor(0.7071, dtype=torch.float64)

    References:
        S. Kornblith et al., Similarity of neural network representations revisited, ICML 2019.
        L. Song et al., Feature selection via dependence maximization, JMLR 13, 2012, section 3 (unbiased HSIC).
    """
    if unbiased:
        return cka_matrix([x, y])[0, 1]
    _check([x, y])
    kernels = torch.stack([_gram(scaled(checked(h))).flatten() for h in (x, y)])
    return cka(kernels @ kernels.T)[0, 1]


def cka_matrix(layers: Sequence[Tensor]) -> Tensor:
    """:func:`linear_cka` of all pairs of layers, on the same samples.

    Args:
        layers: M activations, each float[N, U] with a U of its own.

    Returns:
        float64[M, M], symmetric; the diagonal is 1, or NaN like the rest of its row.

    Raises:
        ValueError: if the layers do not have one row per sample each.

    Example:
        >>> h = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
        >>> [round(value, 9) for value in cka_matrix([h, 3 * h])[0].tolist()]
        [1.0, 1.0]
    """
    return cka(_dependence(layers, equal_sizes=True))


def kernel(h: Tensor) -> Tensor:
    """All that :func:`linear_cka` needs of a layer: the sum of the elementwise product of two kernels is their CKA.

    Args:
        h: float[N, U], activations.

    Returns:
        float64[N, N], with norm 1; all NaN below 4 samples, if the layer does not vary (or only in one sample), or a
        value is not finite.

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> h = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
        >>> bool(((kernel(h) * kernel(h.square())).sum() - linear_cka(h, h.square())).abs() < 1e-12)
        True
    """
    x = scaled(checked(h))
    found = _u_centred(_gram(x)) if len(x) >= LEAST_SAMPLES else x.new_full((len(x), len(x)), torch.nan)
    size = torch.linalg.matrix_norm(found)
    unit: Tensor = (found / size).where(size > 0, torch.nan)
    return unit


def hsic(layers: Sequence[Tensor]) -> Tensor:
    r"""Unbiased HSIC of all pairs of layers on one batch, times its number of samples; :func:`cka` takes sums of these.

    .. math:: n \cdot \frac{1}{n (n - 3)} \left[\operatorname{tr}(\tilde K \tilde L)
        + \frac{1^T \tilde K 1 \; 1^T \tilde L 1}{(n - 1)(n - 2)} - \frac{2}{n - 2} 1^T \tilde K \tilde L 1\right]

    with the diagonals set to 0. It is computed as the inner product of U-centred kernels, which is equal, loses no
    precision and is at least 0 on the diagonal. The weight n makes large batches count more; with batches of equal
    size, the sum is that of the paper. A batch of fewer than 4 samples has no such estimate and contributes 0.

    Args:
        layers: M activations, each float[N, U] with a U of its own, N small enough for M matrices float64[N, N].

    Returns:
        float64[M, M], symmetric; a layer that does not vary has 0, one with a value that is not finite NaN.

    Raises:
        ValueError: if the layers do not have one row per sample each.

    Example:
        >>> h = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
        >>> cka(hsic([h[:32], h[:32, :2]]) + hsic([h[32:], h[32:, :2]])).shape
        torch.Size([2, 2])

    References:
        T. Nguyen, M. Raghu and S. Kornblith, Do wide and deep networks learn the same things?, ICLR 2021, appendix A.
        G. J. Szekely and M. L. Rizzo, Partial distance correlation with methods for dissimilarities, Annals of
        Statistics 42, 2014 (U-centring).
    """
    return _dependence(layers, equal_sizes=False)


def cka(hsics: Tensor) -> Tensor:
    """CKA of all pairs of layers, from sums of :func:`hsic` over batches: a ratio of sums, not a mean of ratios.

    1 means equal up to rotation and scale, 0 independent.

    Args:
        hsics: float64[M, M].

    Returns:
        float64[M, M]; NaN in the row and column of a layer that never varied.

    Raises:
        ValueError: if ``hsics`` is not square.

    Example:
        >>> cka(torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]], dtype=torch.float64)

    References:
        T. Nguyen, M. Raghu and S. Kornblith, Do wide and deep networks learn the same things?, ICLR 2021, appendix A.
    """
    if hsics.dim() != 2 or hsics.shape[0] != hsics.shape[1]:
        raise ValueError(f"`hsics` must be float64[M, M], got shape {tuple(hsics.shape)}.")
    sizes = hsics.double().diagonal().sqrt()
    found = hsics.double() / sizes.outer(sizes)
    found = found.where((sizes > 0).outer(sizes > 0), torch.nan)
    diagonal = torch.ones_like(sizes).where(sizes > 0, torch.nan)
    return found.diagonal_scatter(diagonal).clamp(-1, 1)


def _dependence(layers: Sequence[Tensor], *, equal_sizes: bool) -> Tensor:
    """:func:`hsic`; with ``equal_sizes``, of layers scaled to a largest value of 1, so that nothing overflows."""
    _check(layers)
    samples = layers[0].shape[0]
    first = checked(layers[0])
    if samples < LEAST_SAMPLES:
        return first.new_zeros(len(layers), len(layers))
    kernels = first.new_empty(len(layers), samples**2)
    for row, h in zip(kernels, layers, strict=True):
        x = checked(h)
        row.copy_(_u_centred(_gram(scaled(x) if equal_sizes else x)).flatten())
    found = kernels @ kernels.T / (samples - 3)
    return found.triu() + found.triu(1).T


def _check(layers: Sequence[Tensor]) -> None:
    shapes = [tuple(h.shape) for h in layers]
    if not shapes or any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(f"Layers must be float[N, U] each, of the same samples, got shapes {shapes}.")


def _gram(x: Tensor) -> Tensor:
    # shifting all samples does not change HSIC, but preserves precision
    moved = centred(x)
    return moved @ moved.T


def _u_centred(kernel: Tensor) -> Tensor:
    """The kernel without its diagonal, U-centred in place; 0 if nothing but rounding remains."""
    n = len(kernel)
    bare = kernel.fill_diagonal_(0.0)
    rows = bare.sum(1) / (n - 2)
    before = bare.square().sum()
    bare += rows.sum() / (n - 1) - rows[:, None] - rows[None]
    bare.fill_diagonal_(0.0)
    return bare * (bare.square().sum() > _ROUNDING * before) if before.isfinite() else bare * torch.nan
