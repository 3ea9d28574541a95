"""Quantities per group other than proportions: of counts, of scores, and of numeric predictions and their errors."""

from collections.abc import Mapping
from types import MappingProxyType

from xai_lightning.functional.fairness.quantities.of_counts import OF_COUNTS
from xai_lightning.functional.fairness.quantities.of_numbers import OF_NUMBERS
from xai_lightning.functional.fairness.quantities.of_scores import OF_SCORES
from xai_lightning.functional.fairness.quantities.quantity import Needs, Quantity

__all__ = ["QUANTITIES", "Needs", "Quantity"]

QUANTITIES: Mapping[str, Quantity] = MappingProxyType({**OF_COUNTS, **OF_SCORES, **OF_NUMBERS})
"""Quantities by name. To add one, add a row."""
