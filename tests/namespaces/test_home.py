"""The whole package with one Lightning, in an environment that holds it alone or holds both."""

import importlib
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from namespaces.training import GROUPS, HOME, LIMIT, Data, Net, callbacks, fit, pl, trainer

HOMES = {"pytorch_lightning": "pytorch-lightning", "lightning.pytorch": "lightning"}
OTHER = next(name for name in HOMES if name != HOME)
ROOT = Path(__file__).parents[2]
ENVIRONMENT = Path(sys.prefix).name
both = pytest.mark.skipif(ENVIRONMENT != "both", reason="needs both Lightnings")
alone = pytest.mark.skipif(ENVIRONMENT == "both", reason="needs one Lightning")

pytestmark = [
    # 48 rows are too few for the limit
    pytest.mark.filterwarnings("ignore:Sample sizes:UserWarning"),
    # LightningCLI 2.6 calls a method of its parser that jsonargparse 4.53 deprecates
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("trained"))


@alone
def test_the_other_lightning_is_not_there():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(OTHER)
    if HOME == "lightning.pytorch":
        assert importlib.util.find_spec("lightning_fabric") is None


def test_this_lightning_is_the_pinned_one():
    assert f"{HOMES[HOME]}=={version(HOMES[HOME])}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_every_class_of_ours_is_of_this_lightning(trained):
    assert all(isinstance(callback, pl.Callback) for callback in callbacks())
    assert importlib.import_module("xai_lightning._lightning").HOME == HOME
    assert OTHER not in sys.modules or ENVIRONMENT == "both"


def test_a_training_logs_scalars_and_pictures_and_keeps_a_checkpoint(trained):
    found = EventAccumulator(trained.log_dir).Reload()
    tags = found.Tags()
    assert {LIMIT, "gate/open", "activation_max/mean", "drift/integrated_gradients/cosine/first/mean"} <= set(
        tags["scalars"]
    )
    assert {"attribution/integrated_gradients/importance", "fairness/sex/rates"} <= set(tags["images"])
    assert [event.step for event in found.Scalars("gate/open")] == [event.step for event in found.Scalars("val_loss")]
    assert Path(trained.checkpoint_callback.best_model_path).is_file()


def test_the_command_passes_what_the_gate_kept(trained):
    kept = trained.checkpoint_callback.best_model_path
    command = [sys.executable, "-m", "xai_lightning.verify", "--json", kept]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (0, True), done.stderr


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_a_resumed_training_goes_on_where_it_stopped(tmp_path):
    last = Path(fit(tmp_path / "own").checkpoint_callback.last_model_path)
    assert len(torch.load(last, weights_only=True)["callbacks"]) >= 4
    resumed = fit(tmp_path / "own", epochs=3, ckpt_path=last)
    whole = fit(tmp_path / "whole", epochs=3)
    ours = {name for name in whole.callback_metrics if name.startswith(("drift/", "fairness/", "activation_max/"))}
    assert len(ours) > 40
    for name in ours:
        torch.testing.assert_close(
            resumed.callback_metrics[name], whole.callback_metrics[name], rtol=0, atol=0, equal_nan=True, msg=name
        )


def test_a_lightning_cli_builds_all_callbacks_from_yaml(tmp_path, monkeypatch):
    """Trap 58."""
    monkeypatch.setattr(sys, "argv", ["my_cli.py"])
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    settings = {
        "AttributionMonitor": {"options": {"n_steps": 4}, "groups": GROUPS},
        "ActivationMonitor": {},
        "FairnessMonitor": {"groups": GROUPS},
        "GatedCheckpoint": {"monitor": "val_loss", "at_least": {"val_acc": 0.0}},
    }
    listed = [{"class_path": f"xai_lightning.{name}", "init_args": own} for name, own in settings.items()]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "logger": False}
    fields = {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": str(tmp_path), "callbacks": listed, **quiet}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"trainer": fields}))
    cli = importlib.import_module(f"{HOME}.cli").LightningCLI(
        Net, Data, args=["fit", f"--config={tmp_path / 'own.yaml'}"], save_config_callback=None
    )
    assert {type(callback).__name__ for callback in cli.trainer.callbacks} >= set(settings)
    assert cli.trainer.global_step == 3
    assert Path(cli.trainer.checkpoint_callback.best_model_path).is_file()


# --- both are installed: no mixture


def refused():
    return importlib.import_module(f"{HOME}.utilities.exceptions").MisconfigurationException


def theirs(name):
    module, _, attribute = f"{OTHER}.{name}".rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@both
@pytest.mark.parametrize("which", range(4))
def test_a_trainer_of_the_other_is_refused(which):
    """Trap 50: by each callback for itself, and in the words of what to import."""
    callback = callbacks()[which]
    made = theirs("Trainer")(callbacks=[callback], logger=False, max_epochs=1, accelerator="cpu")
    module = theirs("LightningModule")()
    with pytest.raises(refused(), match=f"Trainer comes from '{OTHER}': put `import {OTHER}` before"):
        callback.setup(made, module, "fit")
    with pytest.raises(TypeError, match=f"one callback of '{HOME}'.*put `import {OTHER}` before"):
        theirs("Trainer")(callbacks=callbacks()[which])


@both
def test_a_fit_with_a_trainer_of_the_other_is_refused(tmp_path):
    """Trap 50: what a program really sees."""

    class Theirs(theirs("LightningModule")):
        def training_step(self, batch, batch_idx):
            raise AssertionError("must not be reached")

        def configure_optimizers(self):
            return None

    quiet = {"logger": False, "default_root_dir": tmp_path, "accelerator": "cpu", "enable_progress_bar": False}
    made = theirs("Trainer")(callbacks=callbacks(), max_epochs=1, **quiet)
    with pytest.raises(refused(), match=f"xai_lightning uses '{HOME}', but the Trainer comes from '{OTHER}': put"):
        made.fit(Theirs(), Data().train_dataloader())


@both
@pytest.mark.parametrize("name", ["loggers.CSVLogger", "callbacks.EarlyStopping", "callbacks.ModelCheckpoint"])
def test_parts_of_the_other_in_a_trainer_of_this_one_are_refused(name, tmp_path):
    """Traps 50 and 55: Lightning takes them, shows no pictures, and keeps the wrong order."""
    kind = theirs(name)
    part = kind(tmp_path) if name.startswith("loggers") else kind(monitor="val_loss")
    parts = {"logger": part, "parts": []} if name.startswith("loggers") else {"logger": False, "parts": [part]}
    made = trainer(tmp_path, [*parts["parts"], *callbacks()], logger=parts["logger"], max_epochs=1)
    message = f"{kind.__name__} comes from '{OTHER}', but the Trainer comes from '{HOME}': import both from '{HOME}'"
    with pytest.raises(refused(), match=message):
        made.fit(Net(), datamodule=Data())


@both
@pytest.mark.parametrize("lines", ["import xai_lightning; import {0}", "import {0}; import {1}", "import {0}"])
def test_whichever_is_imported_first_is_used(lines):
    """Trap 50: also after ``import xai_lightning``, which decides nothing."""
    code = f"{lines.format(HOME, OTHER)}; import xai_lightning, xai_lightning.sinks as s; print(s.Logger.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{HOME}.")
