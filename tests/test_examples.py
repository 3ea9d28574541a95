"""The example from end to end: what it trains, keeps and prints is one record."""

import gzip
import hashlib
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairlearn.metrics import demographic_parity_difference

import adult_income
import adult_report
from adult_model import IncomeClassifier

PLAIN_EPOCHS, FAIR_EPOCHS = 2, 3
BOUND, VALUE = (f"{adult_report.GAP}/{part}" for part in ("bound", "value"))
CLOSEST = r"No checkpoint passed the gate in 2 .*Closest was epoch (\d+): (\S+) (\S+) exceeds (\S+) by ([\d.]+\d)"


@pytest.fixture(scope="module")
def opened():
    """Names of the data files that were opened, in order."""
    names, original = [], gzip.open

    def follow(path, *arguments, **options):
        names.append(path.name)
        return original(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip, "open", follow)
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # `seed_everything` would leave them behind
            patch.setenv(name, "0")
        yield names


@pytest.fixture(scope="module")
def plain(tmp_path_factory, opened):
    """The plain training, all that it warned of, and the data files that it opened."""
    before = len(opened)
    with pytest.warns(UserWarning, match="No checkpoint passed") as caught:
        run = adult_income.train(0.0, PLAIN_EPOCHS, tmp_path_factory.mktemp("adult") / "plain")
    return SimpleNamespace(run=run, warnings=[str(warning.message) for warning in caught], opened=opened[before:])


@pytest.fixture(scope="module")
def fair(plain, opened):
    """The training with the penalty, the metrics of its last validation, and the data files that it opened."""
    before = len(opened)
    run = adult_income.train(adult_income.PENALTY, FAIR_EPOCHS, plain.run.folder.with_name("fair"))
    metrics = {name: float(value) for name, value in run.trainer.callback_metrics.items()}
    return SimpleNamespace(run=run, metrics=metrics, opened=opened[before:])


@pytest.fixture(scope="module")
def evaluated(fair, opened):
    """The training with the penalty after its evaluation on the test rows, and the data files opened for that."""
    before = len(opened)
    adult_income.evaluate(fair.run)
    return SimpleNamespace(run=fair.run, opened=opened[before:])


def decisions(run):
    return [json.loads(line) for line in run.gate.audit_path.read_text().splitlines()]


def checkpoints(run):
    return sorted((run.folder / "checkpoints").glob("*.ckpt"))


def best(run):
    (path,) = [path for path in checkpoints(run) if path.name != "last.ckpt"]
    return path


def stamp(path):
    return json.loads(torch.load(path, weights_only=True)["xai_lightning"])


def verdict(path):
    return json.loads(path.with_suffix(".verdict.json").read_text())


def value_of(decision, name):
    (value,) = [check["value"] for check in decision["checks"] if check["name"] == name]
    return value


def stamped_gap(record):
    """The gap by sex from the counts in a record: per group, actual class and predicted class."""
    (evidence,) = [monitor for monitor in record["monitors"] if monitor["monitor"] == "fairness"]
    counts = np.array(evidence["counts_group_actual_predicted"]["sex"])[:2]
    shares = counts[:, :, 1].sum(axis=1) / counts.sum(axis=(1, 2))
    return float(np.ptp(shares))


def recomputed(path, loader):
    """Accuracy and gap of the network in a checkpoint, without Trainer, monitors or gate."""
    state = torch.load(path, weights_only=True)
    module = IncomeClassifier(**state["hyper_parameters"]).eval()
    module.load_state_dict(state["state_dict"])
    batches = list(loader)
    with torch.no_grad():
        decided = torch.cat([module(batch["x"]) > 0 for batch in batches]).long()
    labels, sexes = (torch.cat([batch[name] for batch in batches]) for name in ("y", "sex"))
    gap = demographic_parity_difference(labels, decided, sensitive_features=sexes)
    return float((decided == labels).double().mean()), gap


def test_the_gate_refuses_every_epoch_of_the_plain_training(plain):
    assert [decision["gate"] for decision in decisions(plain.run)] == ["closed"] * PLAIN_EPOCHS
    assert plain.run.gate.best_model_path == ""
    assert [path.name for path in checkpoints(plain.run)] == ["last.ckpt"]


def test_its_only_warning_names_the_limit_and_by_how_much_the_closest_epoch_broke_it(plain):
    (message,) = plain.warnings
    epoch, name, *numbers = re.search(CLOSEST, message).groups()
    bounds = [value_of(decision, BOUND) for decision in decisions(plain.run)]
    limit = adult_income.LARGEST_GAP
    assert (int(epoch), name) == (bounds.index(min(bounds)), BOUND)
    assert [float(number) for number in numbers] == pytest.approx([min(bounds), limit, min(bounds) - limit], rel=1e-3)


def test_with_the_penalty_the_lowest_loss_of_those_that_pass_is_kept(fair):
    passed = [decision for decision in decisions(fair.run) if decision["gate"] == "open"]
    assert best(fair.run).name == min(passed, key=lambda decision: decision["monitor"]["value"])["kept"]
    assert fair.run.gate.best_model_path == str(best(fair.run))


def test_fairlearn_finds_the_stamped_gap_in_the_predictions_of_the_kept_checkpoint(fair):
    accuracy, gap = recomputed(best(fair.run), fair.run.data.val_dataloader())
    for record in (stamp(best(fair.run)), verdict(best(fair.run))):
        assert stamped_gap(record) == pytest.approx(gap, abs=1e-9)
        [stamped] = [found["metrics"]["sex"] for found in record["monitors"] if found["monitor"] == "fairness"]
        assert stamped["demographic_parity_difference"]["value"] == pytest.approx(gap, abs=1e-9)
        assert value_of(record, "val_acc") == pytest.approx(accuracy, abs=1e-6)
    assert gap < value_of(stamp(best(fair.run)), BOUND) <= adult_income.LARGEST_GAP


def test_every_checkpoint_loads_as_plain_data_and_is_the_file_that_its_verdict_names(plain, fair):
    for path in [*checkpoints(plain.run), *checkpoints(fair.run)]:
        side = verdict(path)
        assert (side["file"], side["sha256"]) == (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
        assert stamp(path) == {key: value for key, value in side.items() if key not in ("file", "sha256")}
        assert side["role"] == ("last" if path.name == "last.ckpt" else "kept")
    assert len(checkpoints(fair.run)) == 2


def test_audit_file_verdict_and_event_file_are_one_record(plain, fair):
    """Law 10."""
    for run in (plain.run, fair.run):
        record = adult_report.Record(run.folder)
        for decision in decisions(run):
            for check in decision["checks"]:
                # an event file holds float32
                assert record.logged(check["name"], decision["step"]) == np.float32(check["value"])
            assert record.logged(VALUE, decision["step"]) == np.float32(stamped_gap(decision))
            assert record.logged("gate/open", decision["step"]) == (decision["gate"] == "open")
        for path in checkpoints(run):
            (line,) = [decision for decision in decisions(run) if decision["epoch"] == verdict(path)["epoch"]]
            shared = line.keys() & verdict(path).keys()
            assert {"checks", "gate", "reason", "step", "monitor", "monitors"} <= shared
            assert {key: line[key] for key in shared} == {key: verdict(path)[key] for key in shared}


def test_the_audit_file_holds_the_logged_values_to_the_last_bit(fair):
    checks = decisions(fair.run)[-1]["checks"]
    assert [check["value"] for check in checks] == [fair.metrics[check["name"]] for check in checks]
    assert stamped_gap(decisions(fair.run)[-1]) == fair.metrics[VALUE]


def test_the_table_shows_each_decision_of_the_record(plain, fair):
    for run in (plain.run, fair.run):
        record = adult_report.Record(run.folder)
        rows = [
            line.split(maxsplit=7) for line in adult_report.table(run.folder).splitlines() if line[:7].strip().isdigit()
        ]
        assert len(rows) == len(record.decisions)
        for (epoch, loss, accuracy, value, bound, limit, shown, reason), decision in zip(
            rows, record.decisions, strict=True
        ):
            step = decision["step"]
            logged = [record.logged(name, step) for name in ("val_loss", "val_acc", VALUE, BOUND)]
            assert int(epoch) == decision["epoch"]
            assert [float(x) for x in (loss, accuracy, value, bound)] == pytest.approx(logged, abs=5e-5)
            assert float(limit) == adult_income.LARGEST_GAP
            assert shown == (
                "refused" if decision["gate"] == "closed" else "kept" if record.best == decision else "open"
            )
            assert reason == decision["reason"].replace(BOUND, "bound")


def test_the_table_is_read_and_not_recomputed(fair, tmp_path):
    """Law 10."""
    folder = shutil.copytree(fair.run.folder, tmp_path / "altered")
    audit = folder / "checkpoints" / fair.run.gate.audit_path.name
    first = decisions(fair.run)[0]
    audit.write_text(audit.read_text().replace(str(value_of(first, BOUND)), "0.4321"))
    assert "0.4321" in adult_report.table(folder)


def test_the_test_rows_are_read_once_and_only_at_the_end(plain, fair, evaluated):
    assert plain.opened == fair.opened == ["adult.data.gz"]
    assert evaluated.opened == ["adult.test.gz"]


def test_the_report_on_the_test_rows_is_true_of_the_kept_checkpoint(evaluated):
    accuracy, gap = recomputed(best(evaluated.run), evaluated.run.data.test_dataloader())
    text = adult_report.evaluation(evaluated.run.folder)
    assert "16,281" in text
    assert f"Accuracy         {accuracy:.4f}" in text
    assert f"Gap by sex       {gap:.4f}" in text
    assert str(best(evaluated.run)) in adult_report.kept(evaluated.run.folder)


@pytest.mark.usefixtures("opened")
def test_the_program_starts_clean_and_says_what_it_kept(tmp_path, capsys):
    stale = tmp_path / "fair" / "checkpoints" / "gate_audit.jsonl"
    stale.parent.mkdir(parents=True)
    stale.write_text("of an earlier run\n")
    adult_income.main(["--epochs", "1", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert len(stale.read_text().splitlines()) == 1
    assert "The gate refused 1 of 1 epochs" in text
    assert "Warning: No checkpoint passed the gate" in text
    assert f'make tensorboard LOGDIR="{tmp_path}"' in text
    (path,) = (tmp_path / "fair" / "checkpoints").glob("epoch*.ckpt")
    assert str(path) in text
    assert max(map(len, text.replace(str(tmp_path), "").splitlines())) <= 120
