"""Versions of how explanations are made; different ones are not compared, since drift would show the change."""

from xai_lightning.functional.attribution.question import Custom

Versions = tuple[int, int]

FIRST: Versions = (1, 1)
"""Versions of explanations that were saved before versions were recorded."""

SHARED = 1
"""Version of what all methods share: the explained scalar, seeds, baselines, and how maps are pooled.

Raise it, or the version of a single method, with each change after which the same network, samples and settings give
other numbers, by more than rounding errors."""

VERSIONS: dict[str, int] = {"integrated_gradients": 2, "kernel_shap": 2, "lime": 2}
"""Version of each method by itself; 1 for those not listed."""


def versions(method: str | Custom) -> Versions:
    """The version of what all methods share, and of this one; 1 for a callable, whose changes are its owner's to track.

    Example:
        >>> versions("saliency")
        (1, 1)
    """
    return SHARED, VERSIONS.get(method, 1) if isinstance(method, str) else 1
