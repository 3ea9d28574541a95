"""How to read a batch: inputs, targets, groups and predictions."""

from xai_lightning.readers.batch import Reader, Sample, read
from xai_lightning.readers.groups import (
    MISSING,
    UNKNOWN,
    Bins,
    Column,
    GroupSource,
    Intersection,
    Table,
    Vocabulary,
    WeightSource,
    intersect,
    moved,
    vocabularies,
)
from xai_lightning.readers.predictions import Outputs, Space, check_space, decide, step_output, targets_of

__all__ = [
    "MISSING",
    "UNKNOWN",
    "Bins",
    "Column",
    "GroupSource",
    "Intersection",
    "Outputs",
    "Reader",
    "Sample",
    "Space",
    "Table",
    "Vocabulary",
    "WeightSource",
    "check_space",
    "decide",
    "intersect",
    "moved",
    "read",
    "step_output",
    "targets_of",
    "vocabularies",
]
