"""The Adult data that the example trains on: its known facts, and that nothing leaks from the held-out rows."""

import gzip
from itertools import chain

import pytest
import torch

import adult_data
from adult_data import FOLDER, NUMERIC, SEXES, VARIABLES, AdultDataModule, Encoder, read_rows, split


@pytest.fixture(scope="module")
def official():
    return {part: read_rows(FOLDER / f"adult.{part}.gz") for part in ("data", "test")}


@pytest.fixture(scope="module")
def module():
    return AdultDataModule()


def test_row_counts_are_the_official_ones_and_the_split_is_80_to_20(official, module):
    assert {part: len(rows) for part, rows in official.items()} == {"data": 32_561, "test": 16_281}
    assert (len(module.train), len(module.validation)) == (26_049, 6_512)
    assert len(module.test_dataloader().dataset) == 16_281


def test_shares_of_label_and_sex_are_the_published_ones(official):
    rows = official["data"] + official["test"]
    assert sum(row["label"] == ">50K" for row in rows) / len(rows) == pytest.approx(0.239, abs=5e-4)
    for sex, count, rate in (("Male", 32_650, 0.304), ("Female", 16_192, 0.109)):
        labels = [row["label"] for row in rows if row["sex"] == sex]
        assert len(labels) == count
        assert labels.count(">50K") / count == pytest.approx(rate, abs=5e-4)


def test_races_are_counted_as_published(official):
    races = [row["race"] for row in official["data"] + official["test"]]
    expected = {"White": 41_762, "Black": 4_685, "Asian-Pac-Islander": 1_519, "Amer-Indian-Eskimo": 470, "Other": 406}
    assert {race: races.count(race) for race in set(races)} == expected


def test_the_dotted_labels_of_the_test_file_are_read_as_the_plain_ones(official):
    with gzip.open(FOLDER / "adult.test.gz", "rt") as lines:
        assert next(lines).startswith("|")
        assert next(lines).endswith("<=50K.\n")
    assert {row["label"] for rows in official.values() for row in rows} == {"<=50K", ">50K"}
    assert official["test"][0]["age"] == "25"  # the first row after the comment


def test_tensors_hold_the_labels_and_sexes_of_their_rows(official, module):
    table = module.test_dataloader().dataset.tensors
    assert table["y"].dtype == table["sex"].dtype == torch.int64
    assert table["y"].tolist() == [int(row["label"] == ">50K") for row in official["test"]]
    assert [SEXES[code] for code in table["sex"]] == [row["sex"] for row in official["test"]]


def test_the_14_variables_cover_every_column_once(module):
    columns = torch.arange(module.width)
    places = [columns[place].reshape(-1).tolist() for place in module.features.values()]
    assert list(module.features) == list(VARIABLES)
    assert len(VARIABLES) == 14
    assert list(chain(*places)) == columns.tolist()
    assert {name for name, place in module.features.items() if isinstance(place, int)} == set(NUMERIC)


def test_numeric_columns_are_standardised_on_the_training_part_only(module):
    columns = [module.features[name] for name in NUMERIC]
    train, validation = (table.tensors["x"][:, columns].double() for table in (module.train, module.validation))
    assert train.mean(dim=0).abs().max() < 1e-6
    assert (train.std(dim=0, correction=0) - 1).abs().max() < 1e-6
    assert validation.mean(dim=0).abs().max() > 1e-3  # a joint standardisation would balance the two parts


def test_held_out_rows_change_nothing_that_the_training_part_decides(official, module, monkeypatch):
    train, validation = split(official["data"])
    spoilt = {id(row): {**row, "age": "1000", "race": "Martian"} for row in validation}
    rows = [spoilt.get(id(row), row) for row in official["data"]]
    monkeypatch.setattr(adult_data, "read_rows", lambda path: rows)
    other = AdultDataModule()
    assert other.encoder == module.encoder == Encoder.fit(train)
    assert torch.equal(other.train.tensors["x"], module.train.tensors["x"])


def test_a_value_that_is_missing_or_unknown_to_the_training_part_is_all_zeros(official, module):
    _, validation = split(official["data"])
    country, workclass = module.features["native_country"], module.features["workclass"]
    [unseen] = [i for i, row in enumerate(validation) if row["native_country"] == "Holand-Netherlands"]
    missing = [i for i, row in enumerate(validation) if row["workclass"] == "?"]
    x = module.validation.tensors["x"]
    assert x[unseen, country].abs().sum() == 0
    assert len(missing) > 100
    assert x[missing, workclass].abs().sum() == 0
    assert x[:, workclass].sum(dim=1).sum() == len(validation) - len(missing)


def test_a_hand_made_row_is_encoded_as_written():
    train = [dict.fromkeys(VARIABLES, "a") | dict.fromkeys(NUMERIC, n) | {"label": ">50K"} for n in ("1", "3")]
    train[0]["sex"], train[1]["sex"] = SEXES
    encoder = Encoder.fit(train)
    [x] = encoder.transform([train[1] | {"race": "?", "capital_gain": "0"}])
    assert x[encoder.features["age"]] == 1  # (3 - 2) / 1
    assert x[encoder.features["capital_gain"]] == pytest.approx(-3)  # (log 1 - 1.5 log 2) / (0.5 log 2)
    assert x[encoder.features["sex"]].tolist() == [0, 1]
    assert x[encoder.features["race"]].tolist() == [0]
    assert x[encoder.features["education"]].tolist() == [1]


def test_a_batch_asked_for_at_once_equals_its_rows_asked_for_singly(module):
    together = module.validation.__getitems__([5, 3, 900])
    singly = torch.utils.data.default_collate([module.validation[i] for i in (5, 3, 900)])
    assert together.keys() == singly.keys() == {"x", "y", "sex"}
    assert all(torch.equal(together[name], singly[name]) for name in together)
    assert together["x"].dtype == torch.float32


def test_training_is_shuffled_alike_whatever_torch_has_drawn_before_and_validation_is_not_shuffled(module):
    torch.manual_seed(1)
    first = torch.cat([batch["x"] for batch in module.train_dataloader()])
    torch.manual_seed(2)
    second = torch.cat([batch["x"] for batch in module.train_dataloader()])
    assert torch.equal(first, second)
    assert not torch.equal(first, module.train.tensors["x"])
    assert torch.equal(torch.cat([b["x"] for b in module.val_dataloader()]), module.validation.tensors["x"])


def test_the_split_is_a_partition_that_depends_on_the_seed_only(official):
    rows = official["data"]
    train, validation = split(rows)
    assert {id(row) for row in train} | {id(row) for row in validation} == {id(row) for row in rows}
    assert len(train) + len(validation) == len(rows)
    assert split(rows) == (train, validation)
    assert split(rows, seed=1)[1] != validation
