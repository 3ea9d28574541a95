"""Batches as the monitors read them: sample, groups and positions."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DistributedSampler, IterableDataset, SequentialSampler

from xai_lightning.callbacks._positions import Positions
from xai_lightning.functional.precision import moved
from xai_lightning.readers import GroupSource, Reader, Sample, Table, Vocabulary, read, vocabularies
from xai_lightning.readers.groups import (
    Declared,
    Intersection,
    Undeclared,
    Value,
    WeightSource,
    group_values,
    intersect,
    met,
    moves,
    provisional,
    settled,
    values_met,
    weight_values,
)


class Reading(NamedTuple):
    """One batch as the monitors count it.

    Args:
        sample: the contents of the batch.
        real: which of its samples are real rather than sampler padding, ``bool[N]``.
        groups: group rows ``int64[N]`` by attribute, and by intersection (``"race+sex"``) if requested.
        weights: ``float64[N]``, finite and non-negative, or None.
    """

    sample: Sample
    real: Tensor
    groups: dict[str, Tensor]
    weights: Tensor | None = None


class Batches:
    """Reads the batches of one loader in order.

    Attributes declared as ``"discover"`` stay `undecided` until the end of the first real validation. Until then their
    rows are provisional: they number the values in the order in which this rank met them. Shapes are nevertheless
    fixed (`size`) and equal on all ranks. At the end of the validation each rank gathers the result of `found` from
    all ranks, passes it to `fix`, and moves its counts into the rows that are final from then on::

        gathered = one batches.found() per rank       # a collective, made by the caller
        for name, rows in batches.fix(gathered).items():
            counts[name] = moved(counts[name], rows, batches.size(name))

    Args:
        reader: see `xai_lightning.readers.read`.
        groups: declared groups by attribute, see `xai_lightning.readers.vocabularies`.
        groups_from: where to read group values from, if they are not in the batch.
        undeclared: how to treat an undeclared group value.
        max_groups: the most groups that may be discovered per attribute; None refuses to discover any.
        intersections: 2 to add the groups of every pair of attributes, or a list of pairs.
        weights: where sample weights come from: the name of a batch entry, a `Column`, a `Table` or a callable.

    Raises:
        ValueError: on an invalid setting.
        TypeError: if ``weights`` is none of these.
    """

    def __init__(
        self,
        reader: Reader | None,
        groups: Mapping[str, Declared],
        groups_from: Mapping[str, GroupSource] | GroupSource | None,
        undeclared: Undeclared,
        *,
        max_groups: int | None = None,
        intersections: int | Sequence[tuple[str, str]] | None = None,
        weights: WeightSource | None = None,
    ) -> None:
        self.vocabularies: dict[str, Vocabulary] = vocabularies(groups, undeclared, max_groups=max_groups)
        self._discovered = {attribute: self.vocabularies[attribute] for attribute in self.undecided}
        self._order = intersections
        self.intersections: dict[str, Intersection] = self._pairs()
        if not (weights is None or isinstance(weights, str) or callable(weights) or isinstance(weights, Table)):
            raise TypeError(f"weights must be a name, a Column, a Table or a callable; got {weights!r}")
        self.reader, self._source, self._weights = reader, groups_from, weights
        self._positions = Positions(None)

    def open(self, loader: Any) -> None:
        """Start at the first batch of ``loader`` and forget the values that undecided attributes have met so far.

        Raises:
            ValueError: if a `Table` does not have one value per row of its dataset.
        """
        for table in self._tables().values():
            table.check(dataset_rows(loader))
        self._positions = Positions(loader)
        self._decide({attribute: provisional(self.vocabularies[attribute]) for attribute in self.undecided})

    def elsewhere(self, loader: Any) -> "Batches":
        """A copy with the same settings and groups that starts at the first batch of another ``loader``.

        Raises:
            ValueError: if groups or weights come from a `Table`, which belongs to the validation set.
        """
        tables = [f"{setting.partition(' ')[0]}={table!r}" for setting, table in self._tables().items()]
        if tables:
            raise ValueError(
                "a Table holds one value per row of the validation set, but these are other rows; got "
                f"{' and '.join(tables)}. Put the values into the batch, or use Column(...) or a callable"
            )
        found = copy.copy(self)
        found._positions = Positions(loader)
        return found

    def _tables(self) -> dict[str, Table]:
        """The tables among the sources, by their setting, and the attribute if they are several."""
        source = self._source
        given: dict[str, object] = {"groups_from": source, "weights": self._weights}
        if isinstance(source, Mapping):
            given |= {f"groups_from {attribute}": one for attribute, one in source.items()}
        return {setting: one for setting, one in given.items() if isinstance(one, Table)}

    def sample(self, batch: Any) -> Sample:
        """The sample in ``batch``, without advancing the position."""
        return read(batch, self.reader)

    def advance(self, batch: Any) -> tuple[Sample, Tensor]:
        """The sample in the next batch and which of its rows are real, ``bool[N]``; groups are not read."""
        sample = read(batch, self.reader)
        return sample, self._positions.advance(len(sample)).to(sample.inputs.device)

    def read(self, batch: Any) -> Reading:
        """Read the next batch.

        Raises:
            ValueError: if it cannot be read, or holds an undeclared group value or an invalid weight.
        """
        sample, real = self.advance(batch)
        if "" in sample.groups and len(self.vocabularies) > 1:
            raise ValueError(
                f"the third element of the batch holds one attribute, but {len(self.vocabularies)} are declared "
                f"({', '.join(self.vocabularies)}); make it a dict from attribute to values"
            )
        rows = {attribute: self._encoded(attribute, sample, batch) for attribute in self.vocabularies}
        rows |= {name: pair.of(*(rows[a] for a in pair.attributes)) for name, pair in self.intersections.items()}
        device = sample.inputs.device
        return Reading(sample, real, {name: r.to(device) for name, r in rows.items()}, self._weighed(sample, batch))

    def _encoded(self, attribute: str, sample: Sample, batch: Any) -> Tensor:
        n = len(sample)
        values = group_values(sample, batch, attribute, source=self._source, positions=lambda: self._positions.rows(n))
        if self.vocabularies[attribute].places:
            self.vocabularies[attribute] = met(self.vocabularies[attribute], values)
        return self.vocabularies[attribute].encode(values)

    def _weighed(self, sample: Sample, batch: Any) -> Tensor | None:
        if self._weights is None:
            return None
        n = len(sample)
        weights = weight_values(sample, batch, self._weights, positions=lambda: self._positions.rows(n))
        return moved(weights, sample.inputs.device)

    @property
    def weighted(self) -> bool:
        """Whether samples carry weights."""
        return self._weights is not None

    def size(self, name: str) -> int:
        """Number of rows into which an attribute's or intersection's samples are counted, provisional ones included."""
        known = self.intersections if name in self.intersections else self.vocabularies
        return len(known[name].rows)

    @property
    def undecided(self) -> list[str]:
        """The attributes whose groups are still being discovered; equal on all ranks."""
        return [attribute for attribute, vocabulary in self.vocabularies.items() if vocabulary.places]

    def found(self) -> dict[str, list[Value]]:
        """The values of each undecided attribute that this rank has met: plain strings, integers or bools."""
        return {attribute: values_met(self.vocabularies[attribute]) for attribute in self.undecided}

    def fix(self, gathered: Sequence[Mapping[str, Sequence[Value]]]) -> dict[str, Tensor]:
        """Fix the groups of all undecided attributes.

        Args:
            gathered: the result of `found` on each rank, including this one.

        Returns:
            For each undecided attribute and intersection, the final row of each of this rank's provisional rows,
            ``int64[R]``, for `xai_lightning.readers.moved`.

        Raises:
            ValueError: if all ranks together met too many values, none, or values of mixed types. It is raised on
                every rank, and nothing is fixed.
        """
        before, pairs = {name: self.vocabularies[name] for name in self.undecided}, self._pairs()
        self._decide({a: settled(v, [part[a] for part in gathered]) for a, v in before.items()})
        rows = {attribute: moves(vocabulary, self.vocabularies[attribute]) for attribute, vocabulary in before.items()}
        undecided = {name: pair for name, pair in pairs.items() if pair.undecided}
        return rows | {name: pair.moves(self.intersections[name]) for name, pair in undecided.items()}

    def state(self) -> dict[str, list[Value]]:
        """The values of the discovered groups that are fixed, in row order, as plain types."""
        fixed = {a: v for a, v in self.vocabularies.items() if v.discovered and not v.places}
        return {attribute: values_met(vocabulary) for attribute, vocabulary in fixed.items()}

    def load(self, state: Mapping[str, Sequence[Value]]) -> None:
        """Fix the groups as in ``state``, whatever was found before; attributes that it lacks become undecided again.

        Raises:
            ValueError: if it holds an attribute that is not discovered here, or invalid groups.
        """
        strange = [name for name in state if name not in self._discovered]
        if strange:
            raise ValueError(f"only groups of {[*self._discovered]} are discovered here; got those of {strange}")
        loaded = {a: settled(self._discovered[a], [values]) for a, values in state.items()}
        self._decide(self._discovered | loaded)

    def _decide(self, fixed: dict[str, Vocabulary]) -> None:
        # a state that does not fit leaves the known groups as they were
        before = self.vocabularies
        self.vocabularies = before | fixed
        try:
            self.intersections = self._pairs()
        except ValueError:
            self.vocabularies = before
            raise

    def _pairs(self) -> dict[str, Intersection]:
        if isinstance(self._order, Sequence):
            names = list(self.vocabularies)
            parts = ({n: self.vocabularies[n] for n in sorted(pair, key=names.index)} for pair in self._order)
            return {name: pair for part in parts for name, pair in intersect(part).items()}
        return {} if self._order is None else intersect(self.vocabularies, self._order)


def dataset_rows(loader: Any) -> int | None:
    """Number of rows of the dataset that ``loader`` makes its batches of, in order; None where that is not known."""
    sampler = getattr(loader, "sampler", None)
    if getattr(loader, "batch_sampler", None) is None or isinstance(loader.dataset, IterableDataset):
        return None
    if isinstance(sampler, SequentialSampler):
        return len(sampler)
    return len(sampler.dataset) if isinstance(sampler, DistributedSampler) else None  # type: ignore[arg-type]
