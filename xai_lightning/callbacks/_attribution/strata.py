"""The strata of the probe: class x group."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from xai_lightning.functional.attribution import Task
from xai_lightning.readers import Sample, Vocabulary

LARGE, SMALL_INPUTS, LARGE_INPUTS, MOST_CLASSES = 10_000, 128, 32, 64


class Strata:
    """Which stratum a sample belongs to, and how many samples each stratum contributes.

    For regression a stratum is a group alone: the draw is uniform, so that each part of the targets gets its share of
    it without any rank knowing the others' targets. If there are more strata than samples wanted, all samples are
    drawn alike.

    Args:
        vocabularies: declared groups by attribute.
        task: what the outputs are; only ``classification`` has classes.
        probe_size: how many samples are wanted in all; None: 128 for inputs below 10,000 numbers, 32 for larger ones.
        labelled: whether labels are explained, so that each is a class; otherwise a class may also be unknown.
    """

    def __init__(
        self, vocabularies: Mapping[str, Vocabulary], task: Task, probe_size: int | None, *, labelled: bool
    ) -> None:
        self._vocabularies, self._task, self._labelled = dict(vocabularies), task, labelled
        self._probe_size, self.fitted = probe_size or SMALL_INPUTS, probe_size is not None
        self.n_classes = 0

    def fit(self, numbers: int) -> None:
        """Fit the size to inputs of this many ``numbers``, unless it was given."""
        if not self.fitted:
            self._probe_size = SMALL_INPUTS if numbers < LARGE else LARGE_INPUTS

    @property
    def _declared(self) -> int:
        return math.prod(len(v.names) for v in self._vocabularies.values()) * max(1, self.n_classes)

    @property
    def pooled(self) -> bool:
        """Whether there are more strata than samples wanted."""
        return self._declared > self._probe_size

    @property
    def size(self) -> int:
        """How many samples the probe has if each declared group has enough of each class."""
        return self.quota * (1 if self.pooled else self._declared)

    @property
    def quota(self) -> int:
        """Samples per stratum: an equal part of the probe among declared groups and classes."""
        return self._probe_size if self.pooled else self._probe_size // self._declared

    def of(self, sample: Sample, groups: Mapping[str, Tensor]) -> Tensor:
        """Strata ``int64[N]``; a sample without a value of an attribute counts as missing there."""
        stratum = torch.zeros(len(sample), dtype=torch.int64, device=sample.inputs.device)
        if self._task == "classification":
            stratum += self._classes(sample.targets, len(sample)).to(stratum.device)
        for attribute, vocabulary in self._vocabularies.items():
            missing = torch.full_like(stratum, vocabulary.rows.index("missing"))
            # a mixed-radix number, whose digits are the class and the row of each attribute
            stratum = stratum * len(vocabulary.rows) + groups.get(attribute, missing).to(stratum.device)
        return stratum

    def _classes(self, targets: Tensor | None, count: int) -> Tensor:
        """Class of each sample; ``n_classes`` stands for unknown."""
        if targets is None or targets.numel() != count or self.n_classes == 0:
            return torch.full((count,), self.n_classes, dtype=torch.int64, device="cpu")
        flat = targets.detach().flatten()
        known = (flat >= 0) & (flat < self.n_classes) & (flat == flat.round())
        return torch.where(known, flat, self.n_classes).to(torch.int64)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The declared attributes."""
        return tuple(self._vocabularies)

    @property
    def declared(self) -> dict[str, tuple[str, ...]]:
        """The declared groups of each attribute."""
        return {attribute: tuple(v.names) for attribute, v in self._vocabularies.items()}

    def groups(self, attribute: str, strata: Tensor) -> Tensor:
        """The declared group ``int64[N]`` of each of ``strata``; -1 where it is missing or unknown."""
        place, declared = 1 + list(self._vocabularies).index(attribute), self._vocabularies[attribute].names
        known = [declared.index(n[place]) if n[place] in declared else -1 for n in self.names()]
        return torch.tensor(known, device="cpu")[strata]

    def classes(self) -> dict[str, Tensor]:
        """Which strata ``bool[S]`` are of each class; empty without classes, or with more than 64."""
        if self.n_classes > MOST_CLASSES:
            return {}
        every = self.names()
        return {
            f"class_{c}": torch.tensor([names[0] == f"class_{c}" for names in every], device="cpu")
            for c in range(self.n_classes)
        }

    @property
    def counted(self) -> list[tuple[str, ...]]:
        """Names of the strata whose samples are counted: all, or none if there are more than 64 classes."""
        return [] if self.n_classes > MOST_CLASSES else self.names()

    def members(self, attribute: str) -> dict[str, Tensor]:
        """Which strata ``bool[S]`` are of each declared group."""
        place = 1 + list(self._vocabularies).index(attribute)
        every = self.names()
        return {
            group: torch.tensor([n[place] == group for n in every], device="cpu") for group in self.declared[attribute]
        }

    def names(self) -> list[tuple[str, ...]]:
        """Name of each stratum, in order: ``(class, group, …)``."""
        names: list[tuple[str, ...]] = [(f"class_{c}",) for c in range(self.n_classes)] or [("all",)]
        if self.n_classes and not self._labelled:
            names.append(("class_unknown",))
        for vocabulary in self._vocabularies.values():
            names = [(*name, row) for name in names for row in vocabulary.rows]
        return names
