"""Quantities of numeric predictions and their errors."""

import math

from xai_lightning.functional.fairness.distances import kolmogorov, kolmogorov_to_overall, wasserstein
from xai_lightning.functional.fairness.errors import absolute_error, mean_prediction, mean_residual, root_squared_error
from xai_lightning.functional.fairness.groupwise import Averages
from xai_lightning.functional.fairness.means import Means
from xai_lightning.functional.fairness.quantities.quantity import Quantity, each, farthest, pairs_told_apart, told_apart
from xai_lightning.functional.fairness.rates import TRUSTS


def _averages(of: Means) -> Averages:
    return Averages(*(part[..., None, :] for part in of))


OF_NUMBERS: dict[str, Quantity] = {
    "mean_prediction": Quantity(
        lambda r: _averages(mean_prediction(r)),
        "residuals",
        (-math.inf, math.inf),
        0.0,
        "mean prediction",
        "whether the targets differ in the same way",
    ),
    "mean_residual": Quantity(
        lambda r: _averages(mean_residual(r)),
        "residuals",
        (-math.inf, math.inf),
        0.0,
        "mean of target minus prediction: above 0, predictions are too low (the sign is opposite to that of `CIL`)",
        f"errors of both signs that cancel; {TRUSTS}",
    ),
    "mean_absolute_error": Quantity(
        lambda r: _averages(absolute_error(r)),
        "residuals",
        (0.0, math.inf),
        0.0,
        "mean absolute error",
        f"in which direction predictions err; {TRUSTS}",
    ),
    "root_mean_squared_error": Quantity(
        lambda r: _averages(root_squared_error(r)),
        "residuals",
        (0.0, math.inf),
        0.0,
        "root mean squared error",
        f"in which direction predictions err; whether a few large errors cause it; {TRUSTS}",
    ),
    "prediction_distance": Quantity(
        lambda d: each(told_apart(d, kolmogorov_to_overall(d))),
        "predictions",
        (0.0, 1.0),
        0.0,
        "largest distance between the distribution function of predictions and that of all samples",
        "whether the targets differ in the same way; how far apart the predictions are",
    ),
    "prediction_wasserstein": Quantity(
        lambda d: farthest(pairs_told_apart(d, wasserstein(d))),
        "predictions",
        (0.0, math.inf),
        0.0,
        "mean distance that predictions would have to move to be distributed like another group's",
        "whether the targets differ in the same way",
    ),
    "residual_distance": Quantity(
        lambda d: farthest(pairs_told_apart(d, kolmogorov(d))),
        "errors",
        (0.0, 1.0),
        0.0,
        "largest distance between the distribution function of errors and another group's",
        f"how large the errors are; {TRUSTS}",
    ),
}
