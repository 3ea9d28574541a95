"""Buffers judged batches to count them together, since counting a small batch costs as much as a large one."""

from collections.abc import Mapping

from torch import Tensor

from xai_lightning.callbacks._fairness.tally import Judged

SAMPLES = 1 << 13
"""Number of samples that fit into the buffer."""

_COLUMNS = ("targets", "classes", "scores", "values", "weights")


class Waiting:
    """A buffer for the judged samples of consecutive batches and their groups.

    It is allocated once, so that memory is the same from batch to batch (law 7). Samples are copied into it, because
    loaders may reuse their tensors.
    """

    def __init__(self) -> None:
        self._room: dict[str, Tensor] = {}
        self._like: Judged | None = None
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def fits(self, judged: Judged, rows: Mapping[str, Tensor]) -> bool:
        """Whether a batch can be added to the buffered ones."""
        parts = _parts(judged, rows)
        return self._filled + len(judged.targets) <= SAMPLES and (not self._room or self._suits(parts))

    def add(self, judged: Judged, rows: Mapping[str, Tensor]) -> None:
        """Add a batch that fits.

        Args:
            judged: its samples.
            rows: the group of each sample, ``int64[N]``, by set of groups.
        """
        parts, n = _parts(judged, rows), len(judged.targets)
        if not self._room or not self._suits(parts):
            # zeros, because a pickle made during a validation must not contain stale memory
            self._room = {name: part.new_zeros(SAMPLES, *part.shape[1:]) for name, part in parts.items()}
        for name, part in parts.items():
            self._room[name][self._filled : self._filled + n] = part
        self._like, self._filled = judged, self._filled + n

    def take(self) -> tuple[Judged, dict[str, Tensor]] | None:
        """All buffered samples as one batch, to be counted before the next is added; None if there are none."""
        if self._like is None or not self._filled:
            return None
        parts = {name: part[: self._filled] for name, part in self._room.items()}
        columns = [parts.get(name) for name in _COLUMNS[1:]]
        judged = self._like._replace(targets=parts["targets"], classes=columns[0], scores=columns[1])
        judged = judged._replace(values=columns[2], weights=columns[3])
        self._like, self._filled = None, 0
        return judged, {name.removeprefix(_ROWS): part for name, part in parts.items() if name.startswith(_ROWS)}

    def _suits(self, parts: Mapping[str, Tensor]) -> bool:
        room = self._room
        return room.keys() == parts.keys() and all(
            room[name].shape[1:] == part.shape[1:] and room[name].dtype == part.dtype for name, part in parts.items()
        )


_ROWS = "rows of "


def _parts(judged: Judged, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    columns = {name: getattr(judged, name) for name in _COLUMNS}
    found = {name: column for name, column in columns.items() if column is not None}
    return found | {_ROWS + name: part for name, part in rows.items()}
