"""The Adult census data (UCI, 1994) as one float tensor, and the LightningDataModule that serves it.

A fixed 80 % of the 32,561 official training rows are used for training and the other 20 % for validation; the 16,281
official test rows are kept apart. Everything estimated from data (means, standard deviations, levels of categories)
comes from the training part alone.
"""

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

FOLDER = Path(__file__).parent / "data" / "adult"
NUMERIC = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
VARIABLES = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
)
# More than nine in ten are 0, and gains reach 99,999: log1p before standardising.
LOGARITHMIC = ("capital_gain", "capital_loss")
SEXES = ("Female", "Male")
MISSING = "?"

Row = Mapping[str, str]
Batch = dict[str, Tensor]


def read_rows(path: Path) -> list[Row]:
    """The rows of `adult.data.gz` or `adult.test.gz`, with fields as text; `label` is `<=50K` or `>50K`."""
    with gzip.open(path, "rt", encoding="ascii", newline="") as lines:
        # `adult.test` opens with a comment, and both files end with an empty line.
        records = csv.reader(
            (line for line in lines if line.strip() and not line.startswith("|")), skipinitialspace=True
        )
        # The labels of `adult.test` end in a dot, those of `adult.data` do not.
        return [dict(zip((*VARIABLES, "label"), (*r[:-1], r[-1].rstrip(".")), strict=True)) for r in records]


def split(rows: Sequence[Row], share: float = 0.8, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Split `rows` in two at random, with `share` of them in the first part; the same `seed` gives the same split."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = round(share * len(rows))
    return [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]


def _numbers(rows: Sequence[Row], name: str) -> Tensor:
    values = torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
    return values.log1p() if name in LOGARITHMIC else values


def _one_hot(rows: Sequence[Row], name: str, levels: Sequence[str]) -> Tensor:
    codes = {level: i for i, level in enumerate(levels)}
    index = torch.tensor([codes.get(row[name], len(levels)) for row in rows])
    return torch.nn.functional.one_hot(index, len(levels) + 1)[:, :-1].double()


@dataclass(frozen=True)
class Encoder:
    """Turns rows into a float tensor, using statistics of the rows it was fitted to.

    A numeric variable is one standardised column. A category is one column per level, with all zeros for a value that
    is missing or absent from the fitted rows.
    """

    moments: Mapping[str, tuple[float, float]]
    levels: Mapping[str, tuple[str, ...]]

    @classmethod
    def fit(cls, rows: Sequence[Row]) -> "Encoder":
        """Take mean, standard deviation and levels from `rows`."""
        columns = {name: _numbers(rows, name) for name in NUMERIC}
        return cls(
            moments={name: (float(v.mean()), float(v.std(correction=0))) for name, v in columns.items()},
            levels={
                name: tuple(sorted({row[name] for row in rows} - {MISSING}))
                for name in VARIABLES
                if name not in NUMERIC
            },
        )

    @property
    def features(self) -> dict[str, int | slice]:
        """The position of each of the 14 variables: a column, or a slice of columns."""
        places: dict[str, int | slice] = {}
        start = 0
        for name in VARIABLES:
            width = len(self.levels.get(name, ("",)))
            places[name] = start if name in self.moments else slice(start, start + width)
            start += width
        return places

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.moments) + sum(map(len, self.levels.values()))

    def transform(self, rows: Sequence[Row]) -> Tensor:
        """The rows as float32[N, D]."""
        return torch.cat([self._columns(rows, name) for name in VARIABLES], dim=1).float()

    def _columns(self, rows: Sequence[Row], name: str) -> Tensor:
        if name in self.levels:
            return _one_hot(rows, name, self.levels[name])
        mean, deviation = self.moments[name]
        return ((_numbers(rows, name) - mean) / deviation).unsqueeze(1)


class AdultTable(Dataset[Batch]):
    """Rows as `{"x": float32[D], "y": int64, "sex": int64}`: y is 1 above 50K, sex is 0 for Female and 1 for Male.

    A `DataLoader` asks `__getitems__` for a whole batch at once: one indexing operation instead of one per row.
    """

    def __init__(self, rows: Sequence[Row], encoder: Encoder) -> None:
        self.tensors: Batch = {
            "x": encoder.transform(rows),
            "y": torch.tensor([int(row["label"] == ">50K") for row in rows]),
            "sex": torch.tensor([SEXES.index(row["sex"]) for row in rows]),
        }

    def __len__(self) -> int:
        return len(self.tensors["y"])

    @override
    def __getitem__(self, index: int) -> Batch:
        return {name: values[index] for name, values in self.tensors.items()}

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices)
        return {name: values[rows] for name, values in self.tensors.items()}


def _as_it_is(batch: Any) -> Any:
    """Take the place of collating, which `__getitems__` has already done."""
    return batch


class AdultDataModule(pl.LightningDataModule):
    """Training, validation and test rows in batches `{"x": float32[N, D], "y": int64[N], "sex": int64[N]}`.

    Args:
        batch_size: rows per batch.
        seed: fixes the split and the order of the training rows, whatever the state of torch's global generator.
        folder: contains `adult.data.gz` and `adult.test.gz`.
    """

    def __init__(self, batch_size: int = 512, seed: int = 0, folder: str = str(FOLDER)) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.folder = Path(folder)
        train, validation = split(read_rows(self.folder / "adult.data.gz"), seed=seed)
        self.encoder = Encoder.fit(train)
        self.train, self.validation = AdultTable(train, self.encoder), AdultTable(validation, self.encoder)

    @property
    def features(self) -> dict[str, int | slice]:
        """The position of each of the 14 variables in `x`."""
        return self.encoder.features

    @property
    def width(self) -> int:
        """Number of columns of `x`."""
        return self.encoder.width

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.train, self.batch_size, shuffle=True, generator=generator, collate_fn=_as_it_is)

    @override
    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.validation, self.batch_size, collate_fn=_as_it_is)

    @override
    def test_dataloader(self) -> DataLoader[Batch]:
        # Read only here, since nothing before the test needs these rows.
        test = AdultTable(read_rows(self.folder / "adult.test.gz"), self.encoder)
        return DataLoader(test, self.batch_size, collate_fn=_as_it_is)
