"""Pure functions: tensors in, tensors out.

Nothing below this package knows Lightning, reads or writes files, keeps global state or draws from a hidden
generator. It needs ``torch`` and the standard library; the one exception is ``captum``, in
:mod:`xai_lightning.functional.attribution`.

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

Counts are int64, rates and limits float64. A quantity that is not defined is NaN, never 0.
"""
