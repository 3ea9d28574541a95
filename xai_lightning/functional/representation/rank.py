"""The number of directions that a layer uses: measures of the spectrum of its activations.

All measures take a matrix of activations, float[N, U], and work in float64 on the Gram matrix of its smaller side,
whose eigenvalues are the non-zero ones of the covariance (or of the second moments). Eigenvalues below the precision of
that matrix count as 0. No measure depends on the scale, and no number of directions can exceed the number of samples:
use more samples than directions. NaN means that nothing varies, or that a value is not finite.
"""

import torch
from torch import Tensor

from xai_lightning.functional.representation.matrix import centred as minus_mean
from xai_lightning.functional.representation.matrix import checked, scaled

EXPLAINED = 0.99


def spectrum(h: Tensor, *, centred: bool) -> Tensor:
    """Eigenvalues of the covariance or of the second moments, as shares of their sum.

    Args:
        h: float[N, U], activations.
        centred: subtract each unit's mean first, which gives the covariance.

    Returns:
        float64[min(N, U)], descending, at least 0, with sum 1; all NaN if they are all 0 or a value is not finite.

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> spectrum(torch.diag(torch.tensor([2.0, 1.0])), centred=False)
        tensor([0.8000, 0.2000], dtype=torch.float64)
    """
    gram = _gram(h, centred)
    if not gram.isfinite().all() or not gram.any():
        return gram.new_full((max(1, len(gram)),), torch.nan)
    found = torch.linalg.eigvalsh(gram).flip(0)
    noise = torch.finfo(torch.float64).eps * max(h.shape) * found[0]
    found = found.where(found > noise, 0.0)
    shares: Tensor = found / found.sum()
    return shares


def participation_ratio(h: Tensor) -> Tensor:
    r"""Participation ratio of the centred activations: the equivalent number of directions of equal variance.

    .. math:: (\sum_k \lambda_k)^2 / \sum_k \lambda_k^2,\quad \lambda \text{ the eigenvalues of the covariance}

    1 means that one direction holds all the variance, U that it is spread evenly. A few strong directions hide many
    weak ones. This is the cheapest measure: it needs no eigenvalues.

    Args:
        h: float[N, U], activations.

    Returns:
        float64[], from 1 to min(N - 1, U).

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> participation_ratio(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        tensor(1.4706, dtype=torch.float64)

    References:
        P. Gao et al., A theory of multineuronal dimensionality, dynamics and measurement, bioRxiv 2017.
    """
    gram = _gram(h, centred=True)
    return gram.trace().square() / gram.square().sum()


def effective_rank(h: Tensor) -> Tensor:
    r"""Exponential of the entropy of the singular values of the activations, which are not centred.

    .. math:: \exp(-\sum_k p_k \ln p_k),\quad p_k = \sigma_k / \sum_l \sigma_l

    1 means a single direction, U that all are equally strong. A large common mean is a direction of its own and lowers
    the value; see :func:`effective_rank_centred`.

    Args:
        h: float[N, U], activations.

    Returns:
        float64[], from 1 to min(N, U).

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> effective_rank(torch.diag(torch.tensor([2.0, 1.0])))
        tensor(1.8899, dtype=torch.float64)

    References:
        O. Roy and M. Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.
    """
    return _effective(spectrum(h, centred=False))


def effective_rank_centred(h: Tensor) -> Tensor:
    """:func:`effective_rank` of the centred activations: the number of directions that vary.

    1 means a single direction, U that all are equally strong.

    Args:
        h: float[N, U], activations.

    Returns:
        float64[], from 1 to min(N - 1, U).

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> effective_rank_centred(torch.tensor([[9.0, 1.0], [9.0, 2.0], [9.0, 4.0]]))
        tensor(1., dtype=torch.float64)

    References:
        O. Roy and M. Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.
    """
    return _effective(spectrum(h, centred=True))


def stable_rank(h: Tensor) -> Tensor:
    r"""Squared Frobenius over squared spectral norm of the uncentred activations, :math:`\|h\|_F^2 / \|h\|_2^2`.

    1 means a single direction, U that all are equally strong. It distinguishes only the strongest direction from the
    rest.

    Args:
        h: float[N, U], activations.

    Returns:
        float64[], from 1 to min(N, U).

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0])))
        tensor(1.2500, dtype=torch.float64)

    References:
        M. Rudelson and R. Vershynin, Sampling from large matrices: an approach through geometric functional analysis,
        Journal of the ACM 54, 2007.
    """
    return 1 / spectrum(h, centred=False)[0]


def layer_saturation(h: Tensor) -> Tensor:
    r"""Number of directions needed to hold 99 % of the variance, as a share of the number of units.

    .. math:: \min\{k : \sum_{i \le k} \lambda_i \ge .99 \sum_i \lambda_i\} / U

    1 means that every direction is needed, 1/U that one is enough. The direction that reaches 99 % is included: the
    identity as covariance of 4 units gives 4/4. Delve, which introduced the measure, leaves it out in its code (3/4).

    Args:
        h: float[N, U], activations.

    Returns:
        float64[], from 1/U to 1.

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> layer_saturation(torch.cat([torch.eye(4), -torch.eye(4)]))
        tensor(1., dtype=torch.float64)

    References:
        J. Shenk et al., Delve: neural network feature variance analysis, Journal of Open Source Software 7, 2022.
    """
    return _saturation(spectrum(h, centred=True), h.shape[1])


def rank_statistics(h: Tensor) -> dict[str, float]:
    """All measures of this module, from two eigenvalue decompositions.

    Args:
        h: float[N, U], activations.

    Returns:
        The five measures, by the names of their functions.

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> rank_statistics(torch.cat([torch.eye(4), -torch.eye(4)]))["layer_saturation"]
        1.0
    """
    raw, about_mean = spectrum(h, centred=False), spectrum(h, centred=True)
    numbers = {
        "participation_ratio": 1 / about_mean.square().sum(),
        "effective_rank": _effective(raw),
        "effective_rank_centred": _effective(about_mean),
        "stable_rank": 1 / raw[0],
        "layer_saturation": _saturation(about_mean, h.shape[1]),
    }
    return dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True))


def _gram(h: Tensor, centred: bool) -> Tensor:
    x = scaled(checked(h))
    # after centring, values may be far smaller than the mean was
    x = scaled(minus_mean(x)) if centred else x
    return x @ x.T if len(x) < x.shape[1] else x.T @ x


def _effective(eigenvalues: Tensor) -> Tensor:
    sizes = eigenvalues.sqrt()
    number: Tensor = torch.special.entr(sizes / sizes.sum()).sum().exp()
    return number


def _saturation(eigenvalues: Tensor, units: int) -> Tensor:
    # 99 of 100 equal directions hold 99 %, up to rounding
    missing = (eigenvalues.cumsum(0) < EXPLAINED - 1e-12).sum()
    return ((missing + 1).double() / max(1, units)).where(eigenvalues.isfinite().all(), torch.nan)
