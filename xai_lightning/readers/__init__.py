"""How to read a batch: inputs, targets, groups and predictions."""

from xai_lightning.readers.batch import Reader, Sample, read
from xai_lightning.readers.groups import MISSING, UNKNOWN, Column, GroupSource, Table, Vocabulary, vocabularies
from xai_lightning.readers.predictions import Outputs, Space, check_space, decide, step_output, targets_of

__all__ = [
    "MISSING",
    "UNKNOWN",
    "Column",
    "GroupSource",
    "Outputs",
    "Reader",
    "Sample",
    "Space",
    "Table",
    "Vocabulary",
    "check_space",
    "decide",
    "read",
    "step_output",
    "targets_of",
    "vocabularies",
]
