"""A small network and four samples of every kind of input that can be explained."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xai_lightning.functional.attribution import (
    METHODS,
    Explained,
    Layout,
    Signature,
    Variables,
    grid_variables,
    table_variables,
)


class Tokens(nn.Module):
    """A bag of embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.active, self.out = nn.Embedding(11, 6), nn.Tanh(), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.active(self.embedding(ids)).mean(dim=1))


class Two(nn.Module):
    """Two inputs, the second by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(3, 4)
        self.active, self.out = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor, *, other: Tensor) -> Tensor:
        return self.out(self.active(self.first(x) + self.second(other)))


class Kind(NamedTuple):
    """One kind of input."""

    network: nn.Module
    inputs: tuple[Tensor, ...]
    variables: tuple[Variables, ...]
    layer: nn.Module
    layouts: Sequence[Layout]
    extras: tuple[Tensor, ...] = ()
    signature: Signature = Signature()
    embedding: nn.Module | None = None

    @property
    def number(self) -> int:
        """Number of variables."""
        return sum(each.number for each in self.variables)

    def explained(self, method: str) -> Explained:
        """What ``method`` explains."""
        return Explained(self.network, kind=METHODS[method].kind, signature=self.signature, embedding=self.embedding)


TARGETS = torch.tensor([0, 1, 2, 1])


def kinds() -> dict[str, Kind]:
    """Every kind, in double precision."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(4, *shape, generator=generator).double()

    with torch.random.fork_rng():
        torch.manual_seed(3)
        image: list[nn.Module] = [
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 3),
        ]
        table: list[nn.Module] = [nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)]
        series: list[nn.Module] = [nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)]
        tokens, two = Tokens(), Two()
    ids = torch.randint(11, (4, 6), generator=generator)
    windows = Variables((), (torch.arange(12) // 4).expand(1, 2, 12).contiguous())
    words = Variables((), torch.arange(6)[None, :, None].expand(1, 6, 6).contiguous())
    both = (table_variables(5), table_variables(3))
    found = {
        "image": Kind(nn.Sequential(*image), (draw(3, 8, 8),), (grid_variables((3, 8, 8), 2),), image[0], ["image"]),
        "table": Kind(nn.Sequential(*table), (draw(5),), (table_variables(5),), table[1], ["table"]),
        "series": Kind(nn.Sequential(*series), (draw(2, 12),), (windows,), series[0], ["series"]),
        "several": Kind(
            two, (draw(5), draw(3)), both, two.active, ["table", "table"], signature=Signature((None, "other"))
        ),
        "integers": Kind(tokens, (ids,), (table_variables(6),), tokens.active, ["integers"]),
        "tokens": Kind(
            tokens, (draw(6, 6),), (words,), tokens.active, ["tokens"], extras=(ids,), embedding=tokens.embedding
        ),
    }
    for kind in found.values():
        kind.network.double()
    return found
