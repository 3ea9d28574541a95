"""Every code block of the documents runs, in order, with the data and the model that it leaves to the reader."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

import xai_lightning
from small import Classifier, loader, rows
from test_docs import blocks

pytestmark = [
    pytest.mark.filterwarnings("ignore:No checkpoint passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*last.*no .*checkpoint:UserWarning"),
]


class Data(pl.LightningDataModule):
    """Rows that are easily told apart, and alike in both groups."""

    def batches(self, seed: int, **more: Any) -> Any:
        data = rows(1600, seed=seed)
        data.x[:, 0] += 4 * data.y
        data.x[:, 1] -= data.sex
        return loader(data, batch_size=200, **more)

    def train_dataloader(self) -> Any:
        return self.batches(0, shuffle=True)

    def val_dataloader(self) -> Any:
        return self.batches(1)

    def test_dataloader(self) -> Any:
        return self.batches(2)


def left_to_the_reader() -> dict[str, Any]:
    """What blocks use without making it."""
    data = Data()
    public = {name: getattr(xai_lightning, name) for name in xai_lightning.__all__}
    frame = pd.DataFrame({"race": ["Black", "White", None], "sex": [0, 1, 1]})
    loaders = {"train_loader": data.train_dataloader(), "val_loader": data.val_dataloader()}
    own = {"model": Classifier(lr=0.01), "data": data, "frame": frame, "tokenizer": SimpleNamespace()}
    more = {"TensorBoardLogger": TensorBoardLogger, "xai_lightning": xai_lightning}
    return {**public, **own, **loaders, **more, "torch": torch, "pl": pl}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks())))
def test_a_code_block_of_the_documents_runs(number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    code = blocks()[number].replace("max_epochs=20", "max_epochs=3")
    exec(compile(code, f"block {number}", "exec"), left_to_the_reader())
