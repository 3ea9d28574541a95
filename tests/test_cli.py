"""The fragments of `configs/` and the annotations of the callbacks, through LightningCLI."""

import gzip
import inspect
import sys
from itertools import islice
from pathlib import Path

import pytest
import yaml
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.cli import LightningCLI

from adult_data import FOLDER, AdultDataModule
from adult_model import IncomeClassifier
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint

# LightningCLI 2.6 calls a method of its parser that jsonargparse 4.53 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    # Two batches of training do not make a model that passes.
    pytest.mark.filterwarnings("ignore:No checkpoint passed the gate:UserWarning"),
    # 600 rows are too few for the limit.
    pytest.mark.filterwarnings("ignore:Sample sizes:UserWarning"),
]

CONFIGS = Path(__file__).parents[1] / "configs"
OURS = (AttributionMonitor, ActivationMonitor, FairnessMonitor, GatedCheckpoint)
HOLDS = {
    "explain": [AttributionMonitor],
    "neurons": [ActivationMonitor],
    "fairness": [FairnessMonitor],
    "gate": [FairnessMonitor, GatedCheckpoint],
    "all": [*OURS],
}


class IncomeCLI(LightningCLI):
    def __init__(self, *arguments, **options):
        super().__init__(IncomeClassifier, AdultDataModule, args=list(map(str, arguments)), **options)

    def add_arguments_to_parser(self, parser):
        parser.link_arguments("data.width", "model.in_features", apply_on="instantiate")


@pytest.fixture(scope="module")
def few_rows(tmp_path_factory):
    """A folder like the example's, with 600 rows."""
    folder = tmp_path_factory.mktemp("adult")
    with gzip.open(FOLDER / "adult.data.gz", "rt") as rows, gzip.open(folder / "adult.data.gz", "wt") as few:
        few.writelines(islice(rows, 600))
    return folder


@pytest.fixture
def own(few_rows, tmp_path, monkeypatch):
    """A configuration as a user has it, for a fit of two batches."""
    # Lightning warns if the arguments of the test runner were the program's; `seed_everything` leaves variables behind.
    monkeypatch.setattr(sys, "argv", ["my_cli.py"])
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    trainer = {
        "max_epochs": 1,
        "limit_train_batches": 2,
        "limit_val_batches": 2,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path)}},
        "callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss"}}],
    }
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"trainer": trainer, "data": {"folder": str(few_rows), "batch_size": 48}}))
    return file


def fit(own, *names, settings=None):
    """Fit with `own` and the fragments called `names`, or with one callback of given `settings`."""
    files = [own, *(CONFIGS / f"{name}.yaml" for name in names)]
    if settings is not None:
        files.append(own.with_name("fragment.yaml"))
        files[-1].write_text(yaml.safe_dump({"trainer": {"callbacks+": [settings]}}))
    return IncomeCLI("fit", *(f"--config={file}" for file in files))


def printed(capsys, *files):
    with pytest.raises(SystemExit) as stop:
        IncomeCLI("fit", *(f"--config={file}" for file in files), "--print_config")
    output = capsys.readouterr()
    assert stop.value.code in (0, None), output.err
    return output.out


def ours(cli):
    return [callback for callback in cli.trainer.callbacks if isinstance(callback, OURS)]


def test_every_fragment_is_tested():
    assert sorted(HOLDS) == sorted(path.stem for path in CONFIGS.iterdir())


@pytest.mark.parametrize("name", HOLDS)
def test_a_fragment_attaches_its_callbacks_and_they_log(name, own):
    """Trap 58."""
    cli = fit(own, name)
    assert [type(callback) for callback in ours(cli)] == HOLDS[name]
    assert cli.trainer.global_step == 2
    for monitor in ours(cli):
        if isinstance(monitor, GatedCheckpoint):
            assert monitor.audit_path.is_file()
            continue
        # at the first validation nothing is there that came before
        names = {logged for logged in monitor.logged_names()[0] if "/previous/" not in logged}
        assert names
        assert names <= set(cli.trainer.callback_metrics)


def test_values_of_the_fragments_arrive(own):
    explanations, neurons, fairness, gate = ours(fit(own, "all"))
    assert explanations.method == "integrated_gradients"
    assert neurons.max_layers == 16
    assert fairness.delta == 0.05
    assert gate.monitor == "val_loss"
    assert [tuple(limit) for limit in gate.limits] == [
        ("fairness/sex/demographic_parity_difference/bound", "at_most", 0.10),
        ("val_acc", "at_least", 0.80),
    ]


def test_fragments_add_to_each_other_and_to_the_callbacks_of_the_user(own):
    cli = fit(own, "explain", "neurons", "gate")
    assert sum(isinstance(callback, EarlyStopping) for callback in cli.trainer.callbacks) == 1
    assert [type(callback) for callback in ours(cli)] == [*OURS]


@pytest.mark.parametrize("name", HOLDS)
def test_a_printed_configuration_prints_itself(name, own, capsys):
    """Trap 58: what LightningCLI cannot write in YAML, nobody can configure there."""
    text = printed(capsys, own, CONFIGS / f"{name}.yaml")
    again = own.with_name("printed.yaml")
    again.write_text(text)
    assert printed(capsys, again) == text
    listed = [entry["class_path"] for entry in yaml.safe_load(text)["trainer"]["callbacks"]]
    assert [path.rpartition(".")[2] for path in listed] == ["EarlyStopping", *(cls.__name__ for cls in HOLDS[name])]


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_every_argument_is_annotated_and_can_be_set_in_yaml(cls, own, capsys):
    """Trap 58: what has no annotation takes any text, and what YAML cannot write is not printed."""
    parameters = inspect.signature(cls).parameters
    assert [name for name, it in parameters.items() if it.annotation is it.empty] == []
    listed = yaml.safe_load(printed(capsys, own, CONFIGS / "all.yaml"))["trainer"]["callbacks"]
    (settings,) = [one["init_args"] for one in listed if one["class_path"].endswith(f".{cls.__name__}")]
    assert settings.keys() == parameters.keys()


@pytest.fixture
def my_functions(tmp_path, monkeypatch):
    """A module of the user's, whose functions a configuration names."""
    (tmp_path / "my_functions.py").write_text(
        "from xai_lightning import Sample\n\n\n"
        "def gender(batch):\n    return batch['sex']\n\n\n"
        "def everything(batch) -> Sample:\n"
        "    return Sample(batch['x'], batch['y'], {'gender': batch['sex']})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_functions", None)


def column(where):
    return {"class_path": "xai_lightning.Column", "init_args": {"input": "x", "index": where}}


PLACES = {
    "a column": lambda sex: {"groups_from": column(list(range(sex.start, sex.stop)))},
    "a column by attribute": lambda sex: {"groups_from": {"gender": column(list(range(sex.start, sex.stop)))}},
    "a function": lambda sex: {"groups_from": "my_functions.gender"},
    "a function by attribute": lambda sex: {"groups_from": {"gender": "my_functions.gender"}},
    "a reader": lambda sex: {"reader": "my_functions.everything"},
    "names of entries": lambda sex: {"reader": {"input": "x", "target": "y", "gender": "sex"}},
}


NAMES, CODES = ["Female", "Male"], {0: "Female", 1: "Male"}


@pytest.mark.usefixtures("my_functions")
@pytest.mark.parametrize(
    ("place", "groups"), [*((place, NAMES) for place in PLACES), ("a column", CODES)], ids=[*PLACES, "codes"]
)
def test_groups_can_be_described_in_yaml(place, groups, own, few_rows):
    data = AdultDataModule(48, folder=str(few_rows))
    settings = {"groups": {"gender": groups}, "sinks": ["xai_lightning.MemorySink"]}
    settings |= PLACES[place](data.features["sex"])
    cli = fit(own, settings={"class_path": "xai_lightning.FairnessMonitor", "init_args": settings})
    (monitor,) = ours(cli)
    counts = {name: value for _, name, value in monitor.sinks[0].records if name.startswith("count/gender/")}
    men = int(data.validation.tensors["sex"][: 2 * 48].sum())
    assert (counts["count/gender/Male"], counts["count/gender/Female"]) == (men, 96 - men)


def test_variables_of_a_table_and_options_can_be_described_in_yaml(own, few_rows):
    places = AdultDataModule(48, folder=str(few_rows)).features
    features = {name: at if isinstance(at, int) else list(range(at.start, at.stop)) for name, at in places.items()}
    settings = {
        "method": "integrated_gradients",
        "options": {"n_steps": 7},
        "features": features,
        "sensitive": ["sex", "race"],
        "sinks": ["xai_lightning.MemorySink"],
    }
    cli = fit(own, settings={"class_path": "xai_lightning.AttributionMonitor", "init_args": settings})
    (monitor,) = ours(cli)
    logged = {name: value for _, name, value in monitor.sinks[0].records}
    explained = logged["xai/integrated_gradients/probe_size"]
    assert logged["xai/integrated_gradients/backward_passes"] == 7 * (explained + 64)
    assert {f"importance/integrated_gradients/{name}" for name in features} <= set(logged)
    assert 0 < logged["attribution/integrated_gradients/sensitive_share"] < 1
