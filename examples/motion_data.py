"""Movements recorded by a smart watch: BasicMotions (by students of the University of East Anglia), read from `aeon`.

Four people stood, ran, walked and played badminton for ten seconds at a time; the watch measured acceleration and
rotation ten times a second. The text files come with the package `aeon` 1.6, which need not be importable.
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

CHANNELS = ("acceleration_x", "acceleration_y", "acceleration_z", "rotation_x", "rotation_y", "rotation_z")
MOTIONS = ("standing", "running", "walking", "badminton")


def read_motions() -> tuple[TensorDataset, TensorDataset]:
    """40 recordings for training and 40 for validation: ``float32[6, 100]`` in units of the channel's sd, and a label.

    Raises:
        ImportError: if `aeon`, which contains the files, is not installed.
    """
    package = importlib.util.find_spec("aeon")
    if package is None or package.origin is None:
        raise ImportError("this example reads the files of aeon: pip install --no-deps aeon==1.6.0")
    folder = Path(package.origin).parent / "datasets" / "data" / "BasicMotions"
    training, validation = (_read(folder / f"BasicMotions_{part}.ts") for part in ("TRAIN", "TEST"))
    deviation = training[0].std(dim=(0, 2), keepdim=True)
    return TensorDataset(training[0] / deviation, training[1]), TensorDataset(validation[0] / deviation, validation[1])


def _read(path: Path) -> tuple[Tensor, Tensor]:
    series, labels = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#@":
            *channels, label = line.split(":")
            series.append([[float(number) for number in channel.split(",")] for channel in channels])
            labels.append(MOTIONS.index(label.strip().lower()))
    return torch.tensor(series), torch.tensor(labels)
