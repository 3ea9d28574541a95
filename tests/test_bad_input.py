"""What is refused, and when: in the constructor, in ``setup``, at the first batch, after the sanity check, or never.

Every message is held to three things: it shows the value that it refuses, names the argument, and says what to do.
"""

import json
import math
import re
from datetime import timedelta
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, default_collate

from small import GROUPS, IMAGE, TABULAR, Classifier, Ledger, Rows, at_length, events, fit, loader, needs, rows, trainer
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, MemorySink, Table
from xai_lightning.functional.attribution import METHODS
from xai_lightning.functional.drift import MEASURES
from xai_lightning.functional.fairness import METRICS
from xai_lightning.functional.tables import choose

SEX = {"sex": GROUPS}
FEATURES = {"age": 0, "work": slice(1, 3)}
at_once = pytest.mark.parametrize("sanity", [0, 1], ids=["first batch", "sanity check"])
readers = pytest.mark.parametrize(
    "make", [AttributionMonitor, lambda **k: FairnessMonitor(SEX, **k)], ids=["attribution", "fairness"]
)


def gate(**more: Any) -> GatedCheckpoint:
    return GatedCheckpoint(**{"at_least": {"val_acc": 0.0}, **more})


# --- the constructor

UNKNOWN = {
    "method": (
        lambda: AttributionMonitor("integrated_gradient"),
        "integrated_gradient",
        "integrated_gradients",
        METHODS,
    ),
    "measure": (lambda: AttributionMonitor(measures=["cosin"]), "cosin", "cosine", MEASURES),
    "metric": (
        lambda: FairnessMonitor(SEX, metrics=["accuracy_diff"]),
        "accuracy_diff",
        "accuracy_difference",
        METRICS,
    ),
    "reference": (lambda: AttributionMonitor(references=["firs"]), "firs", "first", ["first", "previous"]),
    "option": (lambda: AttributionMonitor(options={"n_step": 3}), "n_step", "n_steps", ["n_steps", "method"]),
    "task": (lambda: AttributionMonitor(task="regresion"), "regresion", "regression", ["classification"]),
    "output space": (lambda: AttributionMonitor(outputs="logit"), "logit", "logits", ["probabilities"]),
    "feature": (lambda: AttributionMonitor(features=FEATURES, sensitive=["ag"]), "ag", "age", FEATURES),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_an_unknown_name_is_refused_with_the_nearest_and_all_known_ones(what):
    make, wrong, nearest, known = UNKNOWN[what]
    with pytest.raises(ValueError, match=re.escape(f"{wrong!r}")) as caught:
        make()
    message = str(caught.value)
    assert what in message
    assert f"Did you mean {nearest!r}?" in message
    assert all(name in message.partition("Known names:")[2] for name in known)


def test_of_many_known_names_the_nearest_are_listed():
    """As of all that is stamped into a checkpoint, which would fill a screen."""
    known = ["val_acc", *(f"fairness/sex/metric_{i}/value" for i in range(300))]
    said = r"Did you mean 'val_acc'\? There are 301 known names; the nearest are val_acc, "
    with pytest.raises(ValueError, match=said) as caught:
        choose("metric", "val_accuracy", known)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("limits", [{}, {"at_most": {}}, {"at_most": None, "at_least": {}}], ids=str)
def test_a_gate_without_limits_is_refused(limits):
    with pytest.raises(ValueError, match=r"without limits .* such as at_least=\{'val_acc': 0\.8\}"):
        GatedCheckpoint("val_loss", **limits)


@pytest.mark.parametrize("side", ["at_most", "at_least"])
@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf], ids=str)
def test_a_limit_that_is_not_finite_is_refused(side, threshold):
    with pytest.raises(ValueError, match=rf"{side}\['val_acc'\] must be finite, got {threshold}"):
        GatedCheckpoint(**{side: {"val_acc": threshold}})


REFUSED = {
    "every_n_train_steps": 10,
    "train_time_interval": timedelta(minutes=5),
    "save_on_train_epoch_end": True,
    "save_weights_only": True,
}


@pytest.mark.parametrize("option", REFUSED)
def test_a_gate_refuses_to_save_where_no_metrics_are_made(option):
    """Traps 36, 37 and 53."""
    with pytest.raises(ValueError, match=re.escape(f"refuses {option}={REFUSED[option]!r}")):
        gate(**{option: REFUSED[option]})


OUT_OF_RANGE = {
    "probe_size": (lambda: AttributionMonitor(probe_size=0), "0"),
    "probe": (lambda: AttributionMonitor(probe=64), "set probe_size=64"),
    "every_n_validations": (lambda: AttributionMonitor(every_n_validations=-1), "-1"),
    "reference_after": (lambda: AttributionMonitor(reference_after=0), "0"),
    "target": (lambda: AttributionMonitor(target="lable"), "'lable'"),
    "share": (lambda: ActivationMonitor(share=1.5), "1.5"),
    "max_layers": (lambda: ActivationMonitor(max_layers=0), "0"),
    "layers": (lambda: ActivationMonitor("net.*"), "'net.*'"),
    "delta": (lambda: FairnessMonitor(SEX, delta=1.5), "1.5"),
    "horizon": (lambda: FairnessMonitor(SEX, horizon=0), "0"),
    "threshold": (lambda: FairnessMonitor(SEX, outputs="probabilities", threshold=2.0), "2.0"),
    "outputs": (lambda: FairnessMonitor(SEX, outputs="scores"), "'scores'"),
    "undeclared": (lambda: FairnessMonitor(SEX, undeclared="ignore"), "'ignore'"),
    "groups": (lambda: FairnessMonitor({}), "{}"),
    "groups['sex']": (lambda: FairnessMonitor({"sex": "Female"}), "'Female'"),
    "sinks": (lambda: ActivationMonitor(sinks=[print]), "print"),
    "method": (lambda: AttributionMonitor(3), "3"),
    "on_error": (lambda: ActivationMonitor(on_error="ignore"), "'ignore'"),
    "dataloader_idx": (lambda: ActivationMonitor(dataloader_idx=-1), "-1"),
}


@pytest.mark.parametrize("argument", OUT_OF_RANGE)
def test_a_setting_that_cannot_be_is_refused_by_name_and_value(argument):
    """Law 8."""
    make, shown = OUT_OF_RANGE[argument]
    with pytest.raises((ValueError, TypeError), match=re.escape(argument)) as caught:
        make()
    assert shown in str(caught.value)


# --- setup


@pytest.mark.parametrize("limit", [0, 0.0], ids=["none", "share"])
def test_a_gate_needs_validations(limit, tmp_path):
    """Trap 47: without a validation nothing was shown."""
    with pytest.raises(MisconfigurationException, match=r"limit_val_batches above 0 \(it is 0"):
        fit(Classifier(), [gate()], tmp_path, limit_val_batches=limit)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_a_gate_needs_a_validation_loader(tmp_path):
    """Trap 47."""
    with pytest.raises(MisconfigurationException, match=r"GatedCheckpoint.*validation loader"):
        trainer([gate()], tmp_path).fit(Classifier(), loader(rows()))


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
def test_a_gate_needs_a_validation_step(tmp_path):
    class Blind(Classifier):
        validation_step = LightningModule.validation_step

    with pytest.raises(MisconfigurationException, match=r"GatedCheckpoint.*validation_step"):
        fit(Blind(), [gate()], tmp_path)


TWINS = {
    "activation": ActivationMonitor,
    "attribution": lambda: AttributionMonitor("saliency"),
    "fairness": lambda: FairnessMonitor(SEX),
}


@pytest.mark.parametrize("kind", TWINS)
def test_two_monitors_with_equal_settings_are_refused(kind, tmp_path):
    """Trap 39: by us, in words, and not by Lightning's check of state keys."""
    with pytest.raises(MisconfigurationException, match=r"two \w+Monitor with equal settings .*(remove|change)"):
        fit(Classifier(), [TWINS[kind](), TWINS[kind]()], tmp_path)


@pytest.mark.parametrize("kind", TWINS)
def test_a_training_without_validations_is_warned_of(kind, tmp_path):
    """Who watches one would wait for curves that never come."""
    quiet = [TWINS[kind](), ActivationMonitor(["net.0"], name="second")]
    with pytest.warns(UserWarning, match=r"Monitor observes validations, but .* \(it is 0\)") as caught:
        fit(Classifier(), quiet, tmp_path, limit_val_batches=0, max_epochs=1)
    assert sum("observes validations" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize("kind", TWINS)
def test_a_trainer_that_logs_nothing_is_refused(kind, tmp_path):
    """Law 8: Lightning would warn once for every name, and explain for nobody."""
    bare = pl.Trainer(barebones=True, accelerator="cpu", max_epochs=1, callbacks=[TWINS[kind]()])
    with pytest.raises(MisconfigurationException, match=r"Monitor logs through self\.log, .*barebones=True"):
        bare.fit(Classifier(), loader(rows()), loader(rows()))


def two_nets() -> Classifier:
    """A model with a second network that could be explained."""
    model = Classifier()
    model.other = nn.Linear(6, 2)
    return model


DIFFERENT = {
    "activation": lambda name: [ActivationMonitor(["net.2"], name=name), ActivationMonitor(["net.0"])],
    "attribution": lambda name: [AttributionMonitor("saliency"), AttributionMonitor("input_x_gradient")],
    "options": lambda name: [
        AttributionMonitor(options={"n_steps": 3}, measures=["cosine"], name=name),
        AttributionMonitor(options={"n_steps": 4}, measures=["cosine"]),
    ],
    "network": lambda name: [
        AttributionMonitor("saliency", network="net", name=name),
        AttributionMonitor("saliency", network="other"),
    ],
    "fairness": lambda name: [
        FairnessMonitor(SEX),
        FairnessMonitor({"class": ["no", "yes"]}, groups_from=lambda b: b["y"], metrics=["accuracy_difference"]),
    ],
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_monitors_with_different_settings_have_their_own_state_and_names(kind, tmp_path):
    """Trap 39."""
    pair = DIFFERENT[kind]("mine")
    made = fit(two_nets(), pair, tmp_path)
    assert pair[0].state_key != pair[1].state_key
    made.save_checkpoint(tmp_path / "saved.ckpt")
    states = torch.load(tmp_path / "saved.ckpt", weights_only=True)["callbacks"]
    assert {monitor.state_key for monitor in pair} <= states.keys()
    assert made.callback_metrics["xai/errors"] == 0


@pytest.mark.parametrize("kind", ["activation", "options", "network"])
def test_monitors_that_would_log_the_same_names_are_told_to_take_one(kind, tmp_path):
    """Traps 39 and 43: under one name two values would be averaged."""
    with pytest.raises(MisconfigurationException, match=r"would both log '.*name=\.\.\."):
        fit(two_nets(), DIFFERENT[kind](""), tmp_path)


def test_a_pattern_that_matches_no_module_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"'encoder\.\*' matches no module.*net\.2"):
        fit(Classifier(), [ActivationMonitor(["net.*", "encoder.*"])], tmp_path)


@readers
def test_a_network_that_does_not_exist_is_refused(make, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"network='encoder' is not a submodule.*net"):
        fit(Classifier(), [make(network="encoder")], tmp_path)


class TwoHeads(Classifier):
    """Has no forward of its own, and two children that could be meant."""

    forward = LightningModule.forward

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net(batch["x"]), batch["y"])

    def evaluate(self, batch: Any, stage: str) -> Any:
        return {"logits": self.net(batch["x"])}


def test_a_network_that_is_not_obvious_must_be_named(tmp_path):
    """Law 8, trap 6: at ``setup``, not in the middle of an epoch."""
    with pytest.raises(
        MisconfigurationException, match=r"TwoHeads does not override.*net, other.*network=.*override forward"
    ):
        fit(TwoHeads(), [AttributionMonitor()], tmp_path)
    fit(TwoHeads(), [AttributionMonitor("saliency", network="net"), FairnessMonitor(SEX)], tmp_path)


@pytest.mark.parametrize("make", [ActivationMonitor, *TWINS.values()], ids=["activation", *TWINS])
def test_a_loader_that_does_not_exist_is_refused(make, tmp_path):
    monitor = make()
    monitor.dataloader_idx = 3
    with pytest.raises((MisconfigurationException, ValueError), match=r"loader 3|dataloader_idx=3"):
        fit(Classifier(), [monitor], tmp_path)


# --- the first batch


class Tolerant(Classifier):
    """Its own steps accept any batch, so that what is raised is ours.

    Args:
        find: takes the inputs from a batch.
        activate: what is done to the logits.
    """

    def __init__(self, find: Any = lambda batch: batch["x"], activate: Any = None, **more: Any) -> None:
        super().__init__(**{"lr": 0.0, **more})
        self.find, self.activate = find, activate

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if self.activate is None else self.activate(logits)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(self.find(batch)).square().mean()

    def evaluate(self, batch: Any, stage: str) -> Any:
        self.log("val_acc", self(self.find(batch)).mean(), batch_size=1)


def converted(convert: Any) -> Any:
    """A loader of batches of another form."""
    return loader(rows(32), collate_fn=lambda items: convert(default_collate(items)))


UNREADABLE = {
    "names": (
        lambda b: {"features": b["x"], "outcome": b["y"]},
        lambda b: b["features"],
        r"'features': Tensor\[16, 6\]",
    ),
    "tensor": (lambda b: b["x"], lambda b: b, r"Tensor\[16, 6\] float32"),
    "four": (lambda b: [b["x"], b["y"], b["sex"], b["y"]], lambda b: b[0], r"list of 4 \(Tensor\[16, 6\]"),
    "no tensor": (lambda b: {"x": b["x"].tolist()}, lambda b: torch.tensor(b["x"]), r"'x': list"),
}


@at_once
@readers
@pytest.mark.parametrize("form", UNREADABLE)
@pytest.mark.on_cpu("Lightning leaves batches without tensors of its own where they are")
def test_a_batch_that_cannot_be_read_is_shown_with_what_to_do(form, make, sanity, tmp_path):
    convert, find, shown = UNREADABLE[form]
    batches = converted(convert)
    with pytest.raises(ValueError, match=rf"(?s){shown}.*reader=") as caught:
        fit(Tolerant(find), [make()], tmp_path, train=batches, val=batches, num_sanity_val_steps=sanity)
    assert "cannot find" in str(caught.value)


UNNAMED = {
    "triple": (lambda b: (b["x"], None, {"sex": b["sex"]}), lambda b: b[0], None, r"Tensor\[16, 6\] float32; name"),
    "dict": (lambda b: {"x": b["x"], "sex": b["sex"], "sick": b["y"]}, lambda b: b["x"], None, r"'sick': Tensor\[16\]"),
    "reader": (
        lambda b: {"z": b["x"], "sex": b["sex"], "sick": b["y"]},
        lambda b: b["z"],
        {"input": "z"},
        r"'sick': Tensor\[16\]",
    ),
}


@at_once
@readers
@pytest.mark.parametrize("form", UNNAMED)
def test_a_batch_without_a_target_is_shown_with_what_it_has_instead(form, make, sanity, tmp_path):
    convert, find, reader, shown = UNNAMED[form]
    batches = converted(convert)
    with pytest.raises(ValueError, match=rf"no target, only the input .*{shown}.*reader="):
        fit(Tolerant(find), [make(reader=reader)], tmp_path, train=batches, val=batches, num_sanity_val_steps=sanity)


@at_once
@pytest.mark.parametrize("declared", [["Female"], {0: "Female", 2: "Male"}], ids=["list", "dict"])
def test_an_undeclared_group_value_is_shown_with_the_declared_ones(declared, sanity, tmp_path):
    with pytest.raises(ValueError, match=r"'sex'.*undeclared group value 1.*Female.*undeclared='unknown'"):
        fit(Classifier(), [FairnessMonitor({"sex": declared})], tmp_path, num_sanity_val_steps=sanity)


def test_an_undeclared_group_value_is_counted_as_unknown_on_request(tmp_path):
    sink = MemorySink()
    fit(Classifier(), [FairnessMonitor({"sex": ["Female"]}, undeclared="unknown", sinks=[sink])], tmp_path)
    assert {value for _, name, value in sink.records if name == "count/sex/unknown"} == {24.0}


@at_once
def test_an_attribute_that_the_batch_does_not_have_is_named(sanity, tmp_path):
    with pytest.raises(ValueError, match=r"'race'.*groups_from="):
        fit(Classifier(), [FairnessMonitor({"race": ["a", "b"]})], tmp_path, num_sanity_val_steps=sanity)


def relabelled(labels: Any, n: int = 32) -> Any:
    data = rows(n)
    return loader(Rows(data.x, labels(data.y), data.sex))


@at_once
@readers
@pytest.mark.parametrize(
    ("classes", "labels", "shown"),
    [
        (2, lambda y: y * 7, "0 or 1; got 7"),
        (3, lambda y: y * 7, r"0 \.\. 2; got 7"),
        (2, lambda y: -y, "0 or 1; got -1"),
        (1, lambda y: y + 1, "0 or 1; got 2"),
        (1, lambda y: y / 2, r"0 or 1; got 0\.5"),
    ],
    ids=["too large", "too large of three", "negative", "one and two", "fractions"],
)
def test_a_target_out_of_range_is_refused(classes, labels, shown, make, sanity, tmp_path):
    """Trap 4: on the CPU, before a kernel could fail on it."""
    more = {"positive_class": 1} if classes == 3 and "Fairness" in repr(make()) else {}
    data = relabelled(labels)
    with pytest.raises(ValueError, match=shown):
        fit(Tolerant(classes=classes), [make(**more)], tmp_path, train=data, val=data, num_sanity_val_steps=sanity)


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


@at_once
@readers
@pytest.mark.parametrize(
    ("declared", "classes", "activate", "said"),
    [
        ("logits", 2, softmax, "outputs='logits'.*rows sum to 1.*set outputs='probabilities'"),
        ("logits", 1, lambda z: (9 * z).sigmoid(), "outputs='logits'.*set outputs='probabilities'"),
        ("probabilities", 2, lambda z: 9 * z, "outputs='probabilities'.*set outputs='logits'"),
        ("probabilities", 1, lambda z: 9 * z, "outputs='probabilities'.*set outputs='logits'"),
    ],
    ids=["softmax as logits", "sigmoid as logits", "logits as probabilities", "logit as probability"],
)
def test_outputs_in_the_wrong_space_are_refused(declared, classes, activate, said, make, sanity, tmp_path):
    """Trap 84."""
    model, callbacks = Tolerant(activate=activate, classes=classes), [make(outputs=declared)]
    with pytest.raises(ValueError, match=said):
        fit(model, callbacks, tmp_path, num_sanity_val_steps=sanity)


@at_once
def test_scores_declared_as_labels_are_refused(sanity, tmp_path):
    with pytest.raises(ValueError, match=r"outputs='labels' needs integer classes.*Tensor\[16, 2\] float32"):
        fit(Classifier(), [FairnessMonitor(SEX, outputs="labels")], tmp_path, num_sanity_val_steps=sanity)


ON_SIGHT = {
    "feature": (lambda: AttributionMonitor(features={"age": 9}), {}, r"features\['age'\].*0 \.\. 5; got 9"),
    "sensitive": (lambda: AttributionMonitor(sensitive=["age"]), {}, "unknown feature 'age'.*column_0"),
    "target": (lambda: AttributionMonitor(target=5), {}, "0 or 1; got 5"),
    "baseline": (lambda: AttributionMonitor(baseline=torch.zeros(3)), {}, r"baseline.*\[6\]; got \[3\]"),
    "regression": (
        lambda: AttributionMonitor(task="regression"),
        {},
        r"one output per sample, or target= as the index of one; got \[\d+, 2\]",
    ),
    "positive class": (lambda: FairnessMonitor(SEX), {"classes": 3}, "3 classes.*positive_class="),
    "probe": (
        lambda: AttributionMonitor(probe={"features": torch.zeros(2, 6)}),
        {},
        r"'features': Tensor\[2, 6\].*reader=",
    ),
    "probe's shape": (lambda: AttributionMonitor(probe={**rows(4).batch(), "x": torch.zeros(4, 5)}), {}, r"\b5\b"),
    "probe's targets": (lambda: AttributionMonitor(probe={**rows(4).batch(), "y": torch.full((4,), 9)}), {}, "got 9"),
}


@at_once
@pytest.mark.parametrize("what", ON_SIGHT)
def test_what_needs_a_batch_fails_at_the_first(what, sanity, tmp_path):
    """Law 8, trap 46: the sanity check shows mistakes; without it the first batch does."""
    make, options, said = ON_SIGHT[what]
    with pytest.raises((ValueError, RuntimeError), match=said):
        fit(Classifier(**options), [make()], tmp_path, num_sanity_val_steps=sanity)


class TakesABatch(Classifier):
    """Its forward takes the whole batch, its child the inputs."""

    def forward(self, batch: Any) -> Tensor:
        return self.net(batch["x"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self(batch), batch["y"])

    def evaluate(self, batch: Any, stage: str) -> Any:
        return {"preds": self(batch)}


@at_once
@readers
def test_a_network_that_does_not_take_the_inputs_must_be_named(make, sanity, tmp_path):
    """Traps 5 and 6: the raw error of indexing a tensor by a string says nothing."""
    if "Attribution" in repr(make()):
        with pytest.raises((ValueError, TypeError, RuntimeError), match=r"network="):
            fit(TakesABatch(), [make()], tmp_path / "default", num_sanity_val_steps=sanity)
    fit(TakesABatch(), [make(network="net")], tmp_path, num_sanity_val_steps=sanity)


@at_once
def test_integer_inputs_are_refused_by_methods_that_differentiate(sanity, tmp_path):
    """Trap 24: with the methods that can do it."""
    data = rows(32)
    ids = loader(Rows((data.x > 0).long(), data.y, data.sex))
    model = Tolerant(
        lambda batch: batch["x"], net=lambda: nn.Sequential(nn.Embedding(2, 3), nn.Flatten(), nn.Linear(18, 2))
    )
    with pytest.raises(ValueError, match=r"cannot explain integers .*embedding=\.\.\."):
        fit(model, [AttributionMonitor()], tmp_path, train=ids, val=ids, num_sanity_val_steps=sanity)


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
@at_once
@pytest.mark.parametrize(
    ("values", "shuffle", "said"),
    [
        ([0] * 20, False, "20 values.*48 rows.*one value per row"),
        ([0] * 96, False, "96 values.*48 rows.*one value per row"),
        ([0] * 48, True, "does not shuffle.*RandomSampler.*Column"),
    ],
    ids=["too short", "too long", "shuffled"],
)
def test_a_table_of_groups_must_fit_the_loader(values, shuffle, said, sanity, tmp_path):
    """One of another data set would be read from its first value on, and give wrong groups."""
    data = loader(rows(48), shuffle=shuffle)
    monitor = FairnessMonitor({"race": ["a", "b"]}, groups_from=Table(values))
    with pytest.raises(ValueError, match=said):
        fit(Classifier(), [monitor], tmp_path, val=data, num_sanity_val_steps=sanity)


def test_a_table_of_groups_does_not_fit_an_iterable_dataset(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(rows(16))

    monitor = FairnessMonitor({"race": ["a", "b"]}, groups_from=Table(["a"] * 16))
    with pytest.raises(ValueError, match="has an iterable dataset, whose rows have no indices"):
        fit(Classifier(), [monitor], tmp_path, val=DataLoader(Stream(), 4))


def test_targets_of_a_regression_are_told_from_classes(tmp_path):
    class Regression(Classifier):
        def validation_step(self, batch, batch_idx):
            return batch["x"].mean(dim=1)

    data = Rows(rows(16).x, torch.full((16,), 0.25), rows(16).sex)
    with pytest.raises(ValueError, match=r"0 or 1; got 0.25; for a regression, set outputs='values'"):
        fit(Regression(), [FairnessMonitor({"sex": ["a", "b"]})], tmp_path, val=loader(data))


# --- the gate's names


class Trains(Classifier):
    """Counts its training steps."""

    steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("sanity", "steps"), [(1, 0), (0, 3)], ids=["sanity check", "first validation"])
@pytest.mark.parametrize(
    "make",
    [lambda: gate(at_most={"val_los": 1.0}), lambda: gate(monitor="val_los"), lambda: gate(at_least={"val_los": 1.0})],
    ids=["at_most", "monitor", "at_least"],
)
def test_a_name_that_nobody_logs_is_refused_after_the_first_validation(make, sanity, steps, tmp_path):
    model = Trains()
    with pytest.raises(MisconfigurationException, match=r"nothing logs 'val_los'.*'val_loss'.*val_acc"):
        fit(model, [make()], tmp_path, num_sanity_val_steps=sanity)
    assert model.steps == steps


def test_names_of_monitors_that_log_later_are_known_at_the_sanity_check(tmp_path):
    names = ["drift/saliency/cosine/previous/mean", "fairness/sex/accuracy_difference/bound", "activation_max/mean"]
    limits = dict.fromkeys(names, 1000000000.0)
    monitors = [AttributionMonitor("saliency"), FairnessMonitor(SEX), ActivationMonitor()]
    fit(Classifier(), [*monitors, gate(at_most=limits, utility_floor=False)], tmp_path, num_sanity_val_steps=1)


class Falters(Classifier):
    """Logs a metric well at the first validation, and badly or not at all at the second."""

    def __init__(self, second: float | None) -> None:
        super().__init__()
        self.second, self.looks = second, 0

    def on_validation_epoch_end(self) -> None:
        self.looks += 1
        value = 0.5 if self.looks == 1 else self.second
        if value is not None:
            self.log("quality", value)


@pytest.mark.parametrize(
    ("second", "reason"),
    [(None, "stale: this validation did not log it"), (math.nan, "NaN"), (math.inf, "inf: not finite")],
    ids=["stale", "nan", "infinite"],
)
def test_a_metric_that_falters_later_closes_the_gate_with_a_reason(second, reason, tmp_path):
    """Law 3."""
    ledger = Ledger()
    kept = gate(at_least={"quality": 0.1})
    made = fit(Falters(second), [kept], tmp_path, logger=ledger)
    assert [look["gate/open"] for look in ledger.validations()] == [1, 0]
    lines = [json.loads(line) for line in kept.audit_path.read_text().splitlines()]
    assert [line["gate"] for line in lines] == ["open", "closed"]
    assert f"quality is {reason}" in lines[1]["reason"]
    assert made.current_epoch == 2, "the training goes on"


# --- undefined is never fair


def gated(data: Any, model: Any, folder: Any, **more: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The last metrics, and the gate's decisions, of a training watched by every monitor."""
    name = "fairness/sex/equalized_odds_difference/value"
    kept = GatedCheckpoint(at_most={name: 1.0}, utility_floor=False)
    monitors = [AttributionMonitor("saliency", groups=SEX), ActivationMonitor(), FairnessMonitor(SEX)]
    with pytest.warns(UserWarning, match="No checkpoint passed the gate.*equalized_odds_difference/value is NaN"):
        made = fit(model, [*monitors, kept], folder, val=data, **more)
    assert made.current_epoch == 2
    decisions = [json.loads(line) for line in kept.audit_path.read_text().splitlines()]
    return {key: float(value) for key, value in made.callback_metrics.items()}, decisions


@pytest.mark.parametrize(
    "keep",
    [lambda y, sex: sex == 0, lambda y, sex: (sex == 0) | (y == 0), lambda y, sex: (sex == 0) | (y == 1)],
    ids=["samples", "positives", "negatives"],
)
def test_a_group_without_samples_positives_or_negatives_is_undefined_and_closes_the_gate(keep, tmp_path):
    """Trap 79; the training goes on, and nothing is counted as a failure."""
    data = rows(48)
    kept = keep(data.y, data.sex)
    metrics, decisions = gated(loader(Rows(data.x[kept], data.y[kept], data.sex[kept])), Classifier(), tmp_path)
    assert math.isnan(metrics["fairness/sex/equalized_odds_difference/value"])
    assert metrics["xai/fairness/undefined_rates"] > 0
    assert metrics["xai/errors"] == 0
    assert [decision["gate"] for decision in decisions] == ["closed", "closed"]


class Diverges(Classifier):
    """Its outputs are not finite where the first column is above 1, or everywhere."""

    def __init__(self, value: float, *, everywhere: bool) -> None:
        super().__init__()
        self.value, self.everywhere = value, everywhere

    def forward(self, x: Tensor) -> Tensor:
        bad = (x[:, :1] > 1) | torch.tensor(self.everywhere)
        return super().forward(x).where(self.training | ~bad, self.value)


@pytest.mark.parametrize("everywhere", [False, True], ids=["some", "all"])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_predictions_that_are_not_finite_close_the_gate_and_are_counted(value, everywhere, tmp_path):
    """Trap 64: the event file takes what comes of them."""
    data, logger = rows(48, seed=1), TensorBoardLogger(tmp_path, name="", version="")
    model = Diverges(value, everywhere=everywhere)
    metrics, decisions = gated(loader(data), model, tmp_path / "kept", logger=logger, num_sanity_val_steps=1)
    bad = 48 if everywhere else int((data.x[:, 0] > 1).sum())
    assert bad > 0
    assert metrics["xai/nonfinite_predictions"] == bad
    assert metrics["xai/errors"] == 0
    fairness = [name for name in metrics if name.startswith("fairness/")]
    assert fairness
    assert all(math.isnan(metrics[name]) for name in fairness)
    assert [decision["gate"] for decision in decisions] == ["closed", "closed"]
    assert len(events(tmp_path).Scalars("xai/nonfinite_predictions")) == 2


class Scales(Classifier):
    """Multiplies its logits by a number in evaluations."""

    def __init__(self, shape: Any, factor: float) -> None:
        super().__init__(shape)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if self.training else self.factor)


@pytest.mark.parametrize("method", [at_length(m) for m in TABULAR if m != "lrp"])
def test_every_method_survives_a_network_that_returns_nan(method, tmp_path):
    """A diverged training is not ended by its monitor, not even in the sanity check; the maps are NaN, and counted."""
    ledger = Ledger()
    monitor = AttributionMonitor(method, measures=["cosine"], probe=rows(4).batch(), **needs(method))
    fit(Scales((6,), math.nan), [monitor], tmp_path, logger=ledger, num_sanity_val_steps=1)
    looks = ledger.validations()
    assert [look["xai/errors"] for look in looks] == [0, 0]
    assert [look[f"xai/{method}/nonfinite_maps"] for look in looks] == [1, 1]


@pytest.mark.parametrize("factor", [math.nan, 0.0], ids=["nan", "zero"])
def test_pictures_of_a_network_that_returns_nan_or_nothing_are_drawn(factor, tmp_path):
    """Trap 32: normalising by NaN or by zero must not end a training."""
    sink = MemorySink()
    data = {"train": loader(rows(32, IMAGE)), "val": loader(rows(32, IMAGE))}
    made = fit(Scales(IMAGE, factor), [AttributionMonitor("saliency", sinks=[sink])], tmp_path, **data)
    assert made.callback_metrics["xai/errors"] == 0
    names = [name.rsplit("/", 1)[1] for _, name, _ in sink.pictures]
    assert names == ["maps", "film", "average", "maps", "film", "average", "similarity"]


class Iterating(Classifier):
    def validation_step(self, dataloader_iter):  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().validation_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
@pytest.mark.on_cpu("its step leaves batches on the CPU")
def test_a_step_that_fetches_its_batches_is_refused_by_monitors_that_read_them(tmp_path):
    """Law 8: Lightning shows callbacks None then."""
    readers = (AttributionMonitor("saliency"), FairnessMonitor(SEX), ActivationMonitor(share=0.5))
    for monitor in readers:
        named = rf"Iterating.validation_step takes dataloader_iter, .* {type(monitor).__name__} reads them"
        with pytest.raises(MisconfigurationException, match=named):
            fit(Iterating(), [monitor], tmp_path)
    metrics = fit(Iterating(), [ActivationMonitor()], tmp_path, max_epochs=1).callback_metrics
    assert metrics["xai/errors"] == 0
    assert metrics["activation_max/std"] > 0
