"""Turns the values of sensitive attributes into group indices."""

from xai_lightning.readers.groups.bins import Bins
from xai_lightning.readers.groups.discovery import met, moved, moves, provisional, settled, values_met
from xai_lightning.readers.groups.intersections import Intersection, intersect
from xai_lightning.readers.groups.sources import Column, GroupSource, Table, WeightSource, group_values, weight_values
from xai_lightning.readers.groups.values import MISSING, RESERVED, UNKNOWN, Value
from xai_lightning.readers.groups.vocabulary import MAX_GROUPS, Declared, Undeclared, Vocabulary, vocabularies

__all__ = [
    "MAX_GROUPS",
    "MISSING",
    "RESERVED",
    "UNKNOWN",
    "Bins",
    "Column",
    "Declared",
    "GroupSource",
    "Intersection",
    "Table",
    "Undeclared",
    "Value",
    "Vocabulary",
    "WeightSource",
    "group_values",
    "intersect",
    "met",
    "moved",
    "moves",
    "provisional",
    "settled",
    "values_met",
    "vocabularies",
    "weight_values",
]
