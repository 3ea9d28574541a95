"""The kept checkpoint, measured once on rows that nothing has looked at."""

import errno
import hashlib
import json
import random
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from gated import LOADER, Scripted, audit, fit, stamped, weight
from small import Classifier, rows
from small import fit as fit_small
from xai_lightning import FairnessMonitor, GatedCheckpoint
from xai_lightning.callbacks._gate import certificate, evidence
from xai_lightning.callbacks._gate.certificate import holding
from xai_lightning.callbacks._gate.files import draft_of
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.verify.__main__ import find

pytestmark = [
    pytest.mark.filterwarnings("ignore:No checkpoint passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

BOUND = "utility/r2/bound"
ROWS = TensorDataset(torch.arange(6.0)[:, None])


class Weighs(Monitor):
    """Logs a bound in every validation, and measures anew: the weight that the module has, and the rows it is given."""

    delta = 0.05

    def __init__(self, offset: float = 0.0, **options: Any) -> None:
        super().__init__("weighs", {}, name="", dataloader_idx=0, on_error="raise", sinks=[], **options)
        self.offset, self.measured = offset, 0

    def logged_names(self, stage: Any = "fit") -> tuple[list[str], list[str]]:
        return ["utility/r2/value", BOUND, "utility/r2/chance"], []

    def _conclude(self, trainer: Any, look: Any, gathered: Any) -> Any:
        record = super()._conclude(trainer, look, gathered)
        record.shared |= {"utility/r2/value": 0.9, BOUND: 0.8, "utility/r2/chance": 0.0}
        return record

    def evidence(self) -> dict[str, Any]:
        return {"monitor": "weighs", "looks": self._number}

    def measure(self, trainer: Any, pl_module: Any, loader: Any) -> tuple[dict[str, float], dict[str, Any]]:
        self.measured += 1
        rows = sum(len(batch[0]) for batch in loader)
        found = float(pl_module.weight.detach()) + self.offset
        torch.rand(1), np.random.rand(), random.random()
        return {BOUND: found, "utility/r2/value": found, "utility/r2/chance": 0.0}, {"rows": rows, "weight": found}


class Forgets(Weighs):
    """A monitor that cannot measure anew."""

    measure = None  # type: ignore[assignment]


def gate(folder: Path, at_least: Mapping[str, float] | None = None, **more: Any) -> GatedCheckpoint:
    limits = {"at_most": {"gap": 0.1}, "at_least": at_least or {BOUND: 0.5}}
    return GatedCheckpoint("val_loss", dirpath=folder, **{**limits, "certify": ROWS, **more})


def certified(folder: Path, monitor: Monitor, *, gaps: Any = (0.2, 0.05, 0.3), **more: Any) -> GatedCheckpoint:
    return fit(folder, list(gaps), gate=gate(folder, **more), callbacks=[monitor])[1]


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "gate_audit.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("event") == "certificate"]


def test_the_kept_checkpoint_is_measured_once_and_the_record_is_in_all_three_places(tmp_path: Path) -> None:
    """Law 10: the second of three validations was kept, with 4 training steps; the training ended with 6."""
    monitor = Weighs()
    kept = certified(tmp_path, monitor)
    path = Path(kept.best_model_path)
    evidence = stamped(path)
    beside = json.loads(path.with_suffix(".verdict.json").read_text())
    record = evidence["certificate"]
    assert monitor.measured == 1
    assert record["monitors"] == [{"rows": 6, "weight": 4.0}]
    assert (record["gate"], record["guarantee"], record["delta"]) == ("open", "holds", 0.05)
    assert record["checks"][0]["value"] == 4.0
    assert beside.pop("sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert beside.pop("file") == path.name
    assert beside == evidence
    [event] = events(tmp_path)
    assert {name: event[name] for name in record} == record
    assert (event["file"], event["global_step"]) == (path.name, 6)
    assert evidence == {"role": "kept", **audit(tmp_path)[1], "certificate": record}


def test_the_rest_of_the_file_is_what_it_was(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", [0.05], gate=gate(tmp_path / "plain", certify=None), callbacks=[Weighs()])[1]
    kept = certified(tmp_path / "kept", Weighs(), gaps=[0.05])
    before, after = (torch.load(c.best_model_path, weights_only=True) for c in (plain, kept))
    own = {"xai_lightning", "callbacks"}
    assert {k: v for k, v in before.items() if k not in own} == {k: v for k, v in after.items() if k not in own}
    assert [p.name for p in tmp_path.rglob("*.tmp")] == []


def test_training_ends_with_the_same_weights_generators_and_flags(tmp_path: Path) -> None:
    ends = []
    for untouched in (None, ROWS):
        pl.seed_everything(3, verbose=False)
        own = gate(tmp_path / str(untouched), certify=untouched)
        trainer, _ = fit(tmp_path / str(untouched), [0.05, 0.3], gate=own, callbacks=[Weighs()])
        module = trainer.lightning_module
        ends.append(
            (float(module.weight.detach()), torch.rand(2).tolist(), np.random.rand(), random.random(), module.training)
        )
    assert ends[0] == ends[1]
    assert ends[0][0] == 4.0


class Mixed(pl.LightningModule):
    """Parameters, buffers that are saved and not, and a state of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.BatchNorm1d(2)
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.extra = {"count": 1}

    def get_extra_state(self) -> dict[str, int]:
        return self.extra

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.extra = state


def test_the_module_gets_back_everything_in_place_after_an_exception_too() -> None:
    module, other = Mixed(), Mixed()
    other.net.running_mean.fill_(5.0)
    other.net.weight.data.fill_(7.0)
    other.extra = {"count": 9}
    trainer = pl.Trainer(logger=False, enable_checkpointing=False)
    trainer.strategy._lightning_module = module
    tensors = [*module.parameters(), *module.buffers()]
    before = [(tensor.data_ptr(), tensor.clone()) for tensor in tensors]

    def inside() -> None:
        with holding(trainer, module, {"state_dict": other.state_dict()}):
            assert float(module.net.weight[0].detach()) == 7.0
            assert float(module.net.running_mean[0]) == 5.0
            assert module.extra == {"count": 9}
            module.unsaved.zero_()
            raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        inside()
    now = [*module.parameters(), *module.buffers()]
    assert [tensor.data_ptr() for tensor in now] == [pointer for pointer, _ in before]
    assert all(torch.equal(tensor, then) for tensor, (_, then) in zip(now, before, strict=True))
    assert module.extra == {"count": 1}


def test_a_closed_certificate_is_warned_of_loudly_and_stamped(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=rf"certificate of .* is CLOSED: {BOUND} -96 falls short of 0.5 by 96.5"):
        kept = certified(tmp_path, Weighs(offset=-100.0))
    record = stamped(kept.best_model_path)["certificate"]
    assert record["gate"] == "closed"
    assert stamped(kept.best_model_path)["gate"] == "open", "what validation said stays as it was"


@pytest.mark.parametrize(("offset", "said"), [(-100.0, "is CLOSED"), (0.0, "Certified")])
def test_a_certificate_that_cannot_be_stamped_does_not_say_that_it_is(
    offset: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(certificate, "restamp", full)
    with warnings.catch_warnings(record=True) as caught, caplog.at_level("INFO"):
        warnings.simplefilter("always")
        kept = certified(tmp_path, Weighs(offset=offset))
    told = [str(warning.message) for warning in caught] + caplog.messages
    [sentence] = [text for text in told if said in text]
    assert sentence.endswith(". The file does not hold it.")
    [failure] = [text for text in told if "cannot stamp the certificate: " in text]
    assert "The certificate was written to no checkpoint" in failure
    assert "certificate" not in stamped(kept.best_model_path)
    assert len(events(tmp_path)) == 1


def test_a_certificate_names_the_files_that_hold_it_if_another_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restamp = certificate.restamp

    def full(trainer: Any, path: Path, *args: Any) -> Any:
        if path.name == "last.ckpt":
            raise OSError(errno.ENOSPC, "No space left on device")
        return restamp(trainer, path, *args)

    monkeypatch.setattr(certificate, "restamp", full)
    with (
        pytest.warns(UserWarning, match=r"is CLOSED: .* The file is stamped with it\.$"),
        pytest.warns(UserWarning, match=r"The certificate was written to epoch=1-step=4\.ckpt, and"),
    ):
        kept = certified(tmp_path, Weighs(offset=-100.0))
    assert stamped(kept.best_model_path)["certificate"]["gate"] == "closed"


def test_a_side_file_that_cannot_be_written_anew_is_gone_and_the_checkpoint_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill in between: else it would be the side file of another file."""
    write = evidence.write_verdict

    def full(path: Any, record: Mapping[str, Any]) -> None:
        if "certificate" in record:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, record)

    monkeypatch.setattr(evidence, "write_verdict", full)
    with (
        pytest.warns(UserWarning, match=r"is CLOSED: .* The file is stamped with it\.$"),
        pytest.warns(UserWarning, match=r"cannot stamp the certificate: .*was written to epoch=1-step=4\.ckpt, and"),
    ):
        kept = certified(tmp_path, Weighs(offset=-100.0))
    found = find(Path(kept.best_model_path))
    assert (found.against, found.evidence.certificate.gate) == ([], "closed")


def test_a_certificate_that_is_written_in_part_leaves_the_file_as_it_was_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 52."""
    save = TorchCheckpointIO.save_checkpoint

    def half(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        if "certificate" not in checkpoint["xai_lightning"]:
            return save(self, checkpoint, path, storage_options)
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "planted")

    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", half)
    with pytest.warns(UserWarning, match="cannot stamp the certificate: .*planted"):
        kept = certified(tmp_path, Weighs())
    assert list(tmp_path.glob("*.tmp")) == []
    assert evidence.agrees(Path(kept.best_model_path))
    assert "certificate" not in stamped(kept.best_model_path)


class Links(pl.Callback):
    """Leaves links where files are written before they take their places."""

    def __init__(self, victim: Path, *names: str) -> None:
        self.victim, self.names = victim, names

    def plant(self, trainer: pl.Trainer) -> None:
        if trainer.sanity_checking:
            return
        folder = Path(trainer.checkpoint_callbacks[0].dirpath)
        folder.mkdir(exist_ok=True)
        for name in self.names:
            draft_of(folder / name).symlink_to(self.victim)


class Plain(TorchCheckpointIO):
    """Writes as people do, through a link too."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        torch.save(checkpoint, path)


class Early(Links):
    """Before a gate writes its files."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.plant(trainer)


class Late(Links):
    """Before a gate writes them anew."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.plant(trainer)


@pytest.mark.parametrize("kind", [Early, Late])
def test_links_in_the_place_of_drafts_of_checkpoints_are_not_followed(kind: type[Links], tmp_path: Path) -> None:
    """Whoever may write into the folder may not write elsewhere by our hand."""
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    names = ("epoch=0-step=2.ckpt", "last.ckpt")
    fit(folder, [0.05], gate=gate(folder), callbacks=[Weighs(), kind(victim, *names)], plugins=[Plain()])
    assert victim.read_text() == "precious"
    for name in names:
        assert not (folder / name).is_symlink()
        assert "certificate" in json.dumps(torch.load(folder / name, weights_only=True), default=str)


def test_limits_that_nobody_can_measure_anew_are_named(tmp_path: Path) -> None:
    kept = certified(tmp_path, Weighs())
    record = stamped(kept.best_model_path)["certificate"]
    assert record["not_certified"] == ["gap"]
    assert record["promise"].endswith("Not certified, since no monitor can measure it on other rows: gap.")
    assert [check["name"] for check in record["checks"]] == [BOUND]


def test_a_certificate_on_a_value_claims_no_error_probability(tmp_path: Path) -> None:
    kept = certified(tmp_path, Weighs(), at_least={"utility/r2/value": 0.5})
    record = stamped(kept.best_model_path)["certificate"]
    assert (record["guarantee"], record["delta"]) == ("none", None)
    assert "no error probability" in record["promise"]


@pytest.mark.parametrize("monitor", [Forgets, None])
def test_without_anything_to_measure_the_certificate_is_closed(tmp_path: Path, monitor: Any) -> None:
    callbacks = [monitor()] if monitor else []
    own = GatedCheckpoint("val_loss", dirpath=tmp_path, at_most={"gap": 0.1}, certify=ROWS)
    with pytest.warns(UserWarning, match="CLOSED: no monitor can measure gap on other rows"):
        fit(tmp_path, [0.05], gate=own, callbacks=callbacks)
    assert stamped(own.best_model_path)["certificate"]["promise"].startswith("Nothing was certified")


class Fails(Weighs):
    """Cannot do what it says."""

    def measure(self, trainer: Any, pl_module: Any, loader: Any) -> Any:
        pl_module.weight.data.fill_(-1.0)
        raise RuntimeError("planted")


def test_a_failing_measurement_closes_the_certificate_and_costs_neither_training_nor_weights(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"CLOSED: RuntimeError\('planted'\)"):
        trainer, kept = fit(tmp_path, [0.05, 0.3], gate=gate(tmp_path), callbacks=[Fails()])
    assert float(trainer.lightning_module.weight.detach()) == 4.0
    assert weight(kept.best_model_path) == 2.0


def test_a_failing_measurement_ends_a_training_that_is_to_raise(tmp_path: Path) -> None:
    """Law 8: with the very error, the weights put back, and no word of a certificate anywhere."""
    own = gate(tmp_path, on_error="raise")
    module = Scripted([0.05, 0.3], [1.0, 0.5])
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
    trainer = pl.Trainer(callbacks=[own, Fails()], default_root_dir=tmp_path, **options)
    with pytest.raises(RuntimeError, match=r"^planted$"):
        trainer.fit(module, LOADER, LOADER)
    assert float(module.weight.detach()) == 4.0
    assert "certificate" not in stamped(own.best_model_path)
    assert events(tmp_path) == []


def test_a_kept_file_that_cannot_be_read_ends_a_training_that_is_to_raise(tmp_path: Path, monkeypatch: Any) -> None:
    """Law 8: not only what fails while measuring."""
    planted = OSError("planted")

    def read(*_: Any) -> Any:
        raise planted

    monkeypatch.setattr(certificate, "read_checkpoint", read)
    with pytest.raises(OSError, match=r"^planted$") as raised:
        certified(tmp_path, Weighs(), gaps=[0.05], on_error="raise")
    assert raised.value is planted


def test_nothing_is_measured_where_nothing_passed(tmp_path: Path) -> None:
    monitor = Weighs()
    certified(tmp_path, monitor, gaps=[0.5], fallback="last")
    assert monitor.measured == 0
    assert events(tmp_path) == []


@pytest.mark.parametrize("which", ["last", "kept"])
def test_a_run_is_certified_once_even_if_it_is_resumed_for_longer(tmp_path: Path, which: str) -> None:
    kept = certified(tmp_path, Weighs(), gaps=[0.2, 0.05])
    again, path = Weighs(), tmp_path / "last.ckpt" if which == "last" else Path(kept.best_model_path)
    own = gate(tmp_path)
    trainer, _ = fit(tmp_path, [0.01], gate=own, callbacks=[again], ckpt_path=path, max_epochs=3)
    assert trainer.global_step == 6
    assert again.measured == 0
    assert own._memory.certificate == stamped(kept.best_model_path)["certificate"]
    assert len(events(tmp_path)) == 1


def test_the_file_for_resuming_stays_whole(tmp_path: Path) -> None:
    kept = certified(tmp_path, Weighs())
    last = tmp_path / "last.ckpt"
    state = torch.load(last, weights_only=True)["callbacks"][kept.state_key]["gate"]
    beside = json.loads(last.with_suffix(".verdict.json").read_text())
    assert state["certificate"]["gate"] == "open"
    assert beside["sha256"] == hashlib.sha256(last.read_bytes()).hexdigest()


class Odd:
    """What loads with unpickling only."""


class Holds(Scripted):
    """Keeps something of its own class in the checkpoint."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["odd"] = Odd()


def test_a_file_that_needs_unpickling_is_not_certified(tmp_path: Path) -> None:
    """Trap 53: not even one that this gate wrote a moment ago."""
    own, monitor = gate(tmp_path), Weighs()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
    trainer = pl.Trainer(callbacks=[own, monitor], default_root_dir=tmp_path, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Holds([0.05], [0.5]), LOADER, LOADER)
    said = " ".join(str(found.message) for found in caught)
    assert re.search(
        r"CLOSED: .*holds objects that cannot be loaded with weights_only=True.*: \S+Odd\. Keep them", said
    )
    assert "cannot stamp the certificate" in said
    assert not monitor.measured


@pytest.mark.parametrize("rows", [ROWS, DataLoader(ROWS, batch_size=4)], ids=["dataset", "loader"])
def test_rows_come_as_a_dataset_or_a_loader(tmp_path: Path, rows: Any) -> None:
    kept = certified(tmp_path, Weighs(), certify=rows)
    assert stamped(kept.best_model_path)["certificate"]["monitors"][0]["rows"] == 6


def test_a_loader_that_gives_each_rank_a_share_certifies_nothing(tmp_path: Path) -> None:
    """It would be counted once per rank, with rows that the sampler repeats."""
    share = DataLoader(ROWS, sampler=DistributedSampler(ROWS, 2, 0))
    with pytest.warns(UserWarning, match=r"CLOSED.*needs a loader that gives all rows to every rank"):
        certified(tmp_path, Weighs(), certify=share)


def test_what_holds_no_rows_is_refused() -> None:
    with pytest.raises(TypeError, match="certify must be a DataLoader or a Dataset of untouched rows; got 'test"):
        GatedCheckpoint("val_loss", at_most={"gap": 0.1}, certify="test.csv")


def test_the_fairness_monitor_certifies_its_bounds_at_the_whole_error(tmp_path: Path) -> None:
    """On the rows of the validation itself, one look at the whole delta gives a tighter bound than one of three."""
    bound = "fairness/sex/demographic_parity_difference/bound"
    own = GatedCheckpoint("val_loss", dirpath=tmp_path, at_most={bound: 1.0}, utility_floor=False, certify=rows(seed=1))
    monitor = FairnessMonitor({"sex": ["Female", "Male"]})
    fit_small(Classifier(), [monitor, own], tmp_path, max_epochs=3)
    evidence = stamped(own.best_model_path)
    [before], [after] = evidence["checks"][:1], evidence["certificate"]["checks"]
    assert (before["name"], after["name"]) == (bound, bound)
    assert after["value"] < before["value"]
    [then], [now] = evidence["monitors"], evidence["certificate"]["monitors"]
    assert now["counts_group_actual_predicted"] == then["counts_group_actual_predicted"]
    assert now["looks"] == 3, "measuring is no look"
