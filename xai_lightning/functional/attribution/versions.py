"""Which way explanations are made: those of one way and another are not compared, for drift would show the change."""

from xai_lightning.functional.attribution.question import Custom

Versions = tuple[int, int]

FIRST: Versions = (1, 1)
"""Of explanations that were saved before versions were."""

SHARED = 1
"""Of what all methods share: the explained scalar, seeds, baselines, and how maps are pooled.

To be raised, as the version of a method is, with each change after which the same network, samples and settings get
other numbers, by more than rounding errors."""

VERSIONS: dict[str, int] = {"integrated_gradients": 2, "kernel_shap": 2, "lime": 2}
"""Of each method by itself; 1 where none is named."""


def versions(method: str | Custom) -> Versions:
    """Version of what all methods share, and of this one; what a callable does is its owner's.

    Example:
        >>> versions("saliency")
        (1, 1)
    """
    return SHARED, VERSIONS.get(method, 1) if isinstance(method, str) else 1
