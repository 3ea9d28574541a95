"""Pure functions: tensors in, tensors out.

Nothing in this package knows Lightning, reads or writes files, keeps global state or draws from a hidden generator.
It needs ``torch``, ``numpy`` and the standard library. Only :mod:`xai_lightning.functional.attribution` uses
``captum``, only :mod:`xai_lightning.functional.render` uses ``matplotlib``; ``numba`` compiles some loops where it is
installed.

Shapes in docstrings and comments use these letters, everywhere with the same meaning; ``...`` stands for any
leading dimensions.

====  ==========================================================
N     samples
C     channels
H, W  rows and columns of pixels
T     time steps or tokens
D     flattened features
K     classes (of K independent proportions: one per class)
G     groups
U     units (neurons)
R     repeats; of a fairness metric: its rates
====  ==========================================================

Counts are int64, rates and limits float64. An undefined quantity is NaN, never 0.
"""
