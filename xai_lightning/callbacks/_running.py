"""States of the watched layers, of bounded memory, and of all ranks together."""

import torch

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._trainer import everywhere
from xai_lightning.functional.activation import Moments, empty, pack, union, unpack

WIDTHS = 8
_WAITING, _NUMBERS = 32, 2**16


class Running:
    """What was observed of each layer so far, per width at which it was called (one ReLU may serve several layers).

    States wait until a few can be merged at once; together they hold no more than some 10 x 65,536 numbers per layer.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], list[Moments]] = {}
        self.steps = 0

    def add(self, name: str, state: Moments) -> None:
        """Add one observation of a layer.

        Raises:
            ValueError: if it has another width each time, so that its units are none.
        """
        units = len(state.mean)
        waiting = self._waiting.setdefault((name, units), [])
        waiting.append(state)
        if len(waiting) > max(1, min(_WAITING, _NUMBERS // max(units, 1))):
            waiting[:] = [union(waiting)]
        widths = [width for other, width in self._waiting if other == name]
        if len(widths) > WIDTHS:
            raise ValueError(f"the units of {name!r} are as many as {sorted(widths)}: that dimension holds no units")

    def merged(self) -> dict[tuple[str, int], Moments]:
        """The state of each layer and width, in this process."""
        return {key: union(states) for key, states in self._waiting.items()}


def gathered(trainer: Trainer, running: Running, names: list[str]) -> tuple[dict[tuple[str, int], Moments], int]:
    """The states of all ranks together, and the steps of all; two collectives of shapes that are equal on all.

    Args:
        trainer: the trainer.
        running: of this rank.
        names: of the layers, in an order that is equal on all ranks.
    """
    own = running.merged()
    if trainer.world_size == 1:
        return own, running.steps
    mine = torch.zeros(len(names), WIDTHS, dtype=torch.int64)
    for row, name in enumerate(names):
        widths = sorted(width for other, width in own if other == name)
        mine[row, : len(widths)] = torch.tensor(widths, dtype=torch.int64)
    table = everywhere(trainer, mine)
    keys = [(name, width) for row, name in enumerate(names) for width in table[:, row].unique().tolist() if width]
    states = [pack(own[key]).cpu() if key in own else pack(empty(key[1])) for key in keys]
    vector = torch.cat([torch.tensor([running.steps], dtype=torch.float64), *states])
    ranks = everywhere(trainer, vector)
    sizes = [len(state) for state in states]
    columns = torch.split(ranks[:, 1:], sizes, dim=1)
    merged = {k: union([unpack(part, k[1]) for part in column]) for k, column in zip(keys, columns, strict=True)}
    return merged, int(ranks[:, 0].sum())
