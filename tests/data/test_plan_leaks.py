"""Plans of official lists that share patients or images between parts. How leaks are found: test_leakage.py."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray.data import plan as plans
from cxr_ray.data.info import DatasetInfo
from cxr_ray.errors import UserError
from cxr_ray.imaging import statistics
from cxr_ray.imaging.decode import decode
from tests.data.test_plan import data
from tests.fakes.store import FakeStore, fake_store


def with_statistics(store: FakeStore) -> FakeStore:
    """`store` with the image statistics of a real index."""
    store.index = store.index.assign(**{str(k): v for k, v in statistics.image_statistics(store.pixels).items()})
    return store


def official(rows: int = 90) -> FakeStore:
    store = with_statistics(fake_store(rows))
    patient = store.index["patient"].str[1:].astype(int)
    store.index["split"] = np.where(patient % 5 == 0, "test", np.where(patient % 5 == 1, "val", "train"))
    return store


def test_a_patient_in_two_official_lists_is_refused_with_the_fix() -> None:
    store = official()
    split = {"test": "official", "val": "official"}
    assert len(plans.build(store, data(split=split), seed=0).rows["test"]) == 18
    at = store.index.index[store.index["split"] == "test"][0]
    store.index.loc[at, "split"] = "train"  # the patient has two images, the other one stays in test
    with pytest.raises(UserError) as caught:
        plans.build(store, data(split=split), seed=0)
    message = str(caught.value)
    assert message.startswith(
        "1 patient is in two parts of the dataset's own split: row 6 (images/1.png) of test and row 3"
    )
    assert "data.split.test: 0.2" in message and "data.split.leaks: drop" in message and "\n" not in message
    assert "p0" not in message  # the patient is not named
    plan = plans.build(store, data(split={**split, "leaks": "drop"}), seed=0)
    assert 3 not in plan.rows["train"] and 6 in plan.rows["test"]
    assert "1 patient is in two parts of the dataset's own split; dropped: 1 row of train" in " ".join(plan.warnings)
    # val is split from the rest, and the list still leaks
    with pytest.raises(UserError, match="1 patient is in two parts"):
        plans.build(store, data(split={"test": "official"}), seed=0)


def test_a_split_by_image_keeps_a_patient_of_two_official_lists_with_a_warning() -> None:
    store = official()
    at = store.index.index[store.index["split"] == "test"][0]
    store.index.loc[at, "split"] = "train"  # the patient's other image stays in test
    for leaks in ("refuse", "drop"):
        split = {"test": "official", "val": "official", "by": "image", "leaks": leaks}
        plan = plans.build(store, data(split=split), seed=0)
        assert sum(len(rows) for rows in plan.rows.values()) == len(store.index)
        assert [w for w in plan.warnings if "in two parts" in w] == [
            "1 patients are in two parts, as data.split.by: image allows"
        ]


def test_a_copy_is_refused_in_official_lists_and_stays_with_its_original_in_our_split() -> None:
    store = official()
    train, test = (store.index.index[store.index["split"] == part][4] for part in ("train", "test"))
    store.pixels[train] = store.pixels[test]
    store = with_statistics(store)
    with pytest.raises(UserError, match="1 image is in two parts"):
        plans.build(store, data(split={"test": "official", "val": "official"}), seed=0)
    rows = store.index.loc[[train, test], "row"].tolist()
    for by, seed in itertools.product(("patient", "image"), range(6)):
        plan = plans.build(store, data(split={"by": by, "seed": seed}), seed=0)
        assert len({part for part, part_rows in plan.rows.items() for row in rows if row in part_rows}) == 1, (by, seed)
        assert any("patients are in two parts" in w for w in plan.warnings) == (by == "image")


def test_dropped_rows_are_counted_by_part_and_a_patient_in_three_parts_once() -> None:
    store = official()
    patient = store.index["patient"].to_numpy(object)
    patient[store.index["patient"].isin(["p1", "p2"])] = "p0"  # two images each, in val and in train
    patient[store.index["patient"] == "p7"] = "p6"  # train and val
    store.index["patient"] = patient
    lists = {"test": "official", "val": "official"}
    plan = plans.build(store, data(split={**lists, "leaks": "drop"}), seed=0)
    assert plan.warnings[0] == (
        "2 patients are in two parts of the dataset's own split; dropped: 4 rows of train and 2 rows of val"
    )
    with pytest.raises(UserError, match="2 patients are in two parts"):
        plans.build(store, data(split=lists), seed=0)


def test_images_of_one_gray_value_are_no_copies() -> None:
    store = official()
    store.pixels[:40] = 0
    plans.build(with_statistics(store), data(split={"test": "official", "val": "official"}), seed=0)


def test_dropping_all_rows_of_a_part_is_an_error() -> None:
    store = official()
    store.index["patient"] = "the same"
    with pytest.raises(UserError, match="has no rows: 1 patient is in two parts, and dropping"):
        plans.build(store, data(split={"test": "official", "val": "official", "leaks": "drop"}), seed=0)


def test_a_copy_of_a_real_image_is_refused_and_named(shared_data: Path) -> None:
    folder = shared_data / "nih"
    raw = pd.read_csv(folder / "Data_Entry_2017_v2020.csv")[["Image Index", "Patient ID"]].head(60)
    images = np.stack([decode((folder / "images" / f).read_bytes(), (64, 64)).pixels for f in raw["Image Index"]])
    cut = raw["Patient ID"].quantile(0.66)
    images[-1] = images[0]
    index = pd.DataFrame(
        {"row": np.arange(60), "image": raw["Image Index"], "patient": raw["Patient ID"].astype(str), "split": None}
    ).assign(**{str(k): v for k, v in statistics.image_statistics(images).items()})
    index["split"] = np.where(raw["Patient ID"] > cut, "test", "train")
    index["Finding"] = np.float32(np.arange(60) % 2)
    store = FakeStore(index, images, DatasetInfo(labels=("Finding",), task="binary", default_labels=("Finding",)))
    with pytest.raises(UserError, match=r"1 image is in two parts .*row 59 \(.*\.png\) of test and row 0 \(") as caught:
        plans.build(store, data(split={"test": "official"}), seed=0)
    assert "patient is" not in str(caught.value)
