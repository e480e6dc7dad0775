"""CheXpert: codes of its table, the declared cleaning, and the counts of the published table."""

import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.errors import UserError
from tests.fakes import chexpert

FIX = "correct the cell, or download the file again"


def cleaned(records: datasets.Records) -> pd.DataFrame:
    table = records.table
    for rule in records.info.filters:
        table = table.query(rule.query)
    return table


def test_codes_of_the_table(tmp_path: Path) -> None:
    chexpert.write(tmp_path)
    records = datasets.load("chexpert", tmp_path)
    table = records.table
    assert (records.info.task, list(records.info.labels)) == ("multilabel", chexpert.LABELS)
    assert set(records.info.labels) - set(records.info.default_labels) == {"No Finding", "Support Devices"}
    assert records.info.groups == {
        "competition5": ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    }
    assert records.info.features == ("view", "sex")
    assert table["image"].iloc[0] == "train/patient00001/study1/view1_frontal.jpg"
    assert table["source_row"].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert table["split"].tolist() == ["train"] * 7 + ["val"]
    assert table["patient"].tolist()[:3] == ["patient00001", "patient00002", "patient00002"]
    assert table["study"].tolist()[1:3] == ["patient00002/study2", "patient00002/study1"]
    assert table["study_number"].tolist() == [1, 2, 1, 1, 1, 5, 4, 1]
    assert table["view"].tolist() == ["AP", "AP", "PA", "lateral", "LL", "AP", "AP", "AP"]
    assert table["sex"].tolist()[4:7] == ["Male", "Unknown", "Unknown"]
    assert np.isnan(table["age"].iloc[4]) and table["age"].iloc[5] == 90
    assert table["Cardiomegaly"].iloc[1] == -1 and np.isnan(table["Cardiomegaly"].iloc[0])
    assert table["Pneumothorax"].iloc[0] == 0


def test_the_declared_filters_drop_rows_in_order(tmp_path: Path) -> None:
    chexpert.write(tmp_path, valid=False)
    records = datasets.load("chexpert", tmp_path)
    assert [rule.name for rule in records.info.filters] == ["frontal", "AP or PA", "at most 4 studies"]
    left, dropped = records.table, []
    for rule in records.info.filters:
        dropped.append(sorted(set(left.index) - set(left.query(rule.query).index)))
        left = left.query(rule.query)
    assert dropped == [[3], [4], [5]]


def test_without_valid_csv_and_without_images(tmp_path: Path) -> None:
    chexpert.write(tmp_path, name="CheXpert-v1.0", valid=False, images=False)
    table = datasets.read("chexpert", tmp_path)
    assert set(table["split"]) == {"train"} and len(table) == 7
    assert table["image"].str.startswith("train/patient").all()


def test_the_unpacked_full_release(tmp_path: Path) -> None:
    chexpert.write(tmp_path, name="CheXpert-v1.0")
    one, two = tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)", tmp_path / "CheXpert-v1.0 batch 2 (train 1)"
    for folder in (one, two):
        folder.mkdir()
    for file in ("train.csv", "valid.csv", "valid"):
        shutil.move(tmp_path / file, one / file)
    for patient in sorted((tmp_path / "train").iterdir()):
        shutil.move(patient, two / patient.name)
    (tmp_path / "train").rmdir()
    table = datasets.read("chexpert", tmp_path)
    assert all((tmp_path / path).is_file() for path in table["image"])
    assert table["patient"].iloc[0] == "patient00001" and table["split"].iloc[-1] == "val"


@pytest.mark.parametrize("missing", [False, True])
def test_batches_of_patients_next_to_the_tables(tmp_path: Path, missing: bool) -> None:
    """Tables in the root, validation images in one batch, patients in three; one patient may be missing."""
    chexpert.write(tmp_path, name="CheXpert-v1.0")
    batches = [
        f"CheXpert-v1.0 batch {n} ({what})"
        for n, what in enumerate(("validate & csv", "train 1", "train 2", "train 3"), 1)
    ]
    for batch in batches:
        (tmp_path / batch).mkdir()
    shutil.move(tmp_path / "valid", tmp_path / batches[0] / "valid")
    patients = sorted(folder.name for folder in (tmp_path / "train").iterdir())
    for number, patient in enumerate(patients):
        shutil.move(tmp_path / "train" / patient, tmp_path / batches[1 + number % 3] / patient)
    (tmp_path / "train").rmdir()
    if missing:
        shutil.rmtree(tmp_path / batches[1] / patients[0])
    table = datasets.read("chexpert", tmp_path)
    exists = [(tmp_path / path).is_file() for path in table["image"]]
    assert exists == [not (missing and patient == patients[0]) for patient in table["patient"]]
    if missing:  # the table's own path stays, so that the ingest reports the file
        assert table["image"].iloc[0] == "train/patient00001/study1/view1_frontal.jpg"
    else:
        assert table["image"].iloc[0] == f"{batches[1]}/patient00001/study1/view1_frontal.jpg"
        assert table["image"].iloc[-1] == f"{batches[0]}/valid/patient64541/study1/view1_frontal.jpg"


def test_the_published_slice_gives_the_published_counts(shared_data: Path, tmp_path: Path) -> None:
    shutil.copyfile(shared_data / "chexpert_train_slice.csv", tmp_path / "train.csv")
    records = datasets.load("chexpert", tmp_path)
    assert len(records.table) == 10_251
    table = cleaned(records)
    positive = table[list(records.info.default_labels)] == 1
    assert len(table) == 5_191
    assert table["patient"].nunique() == 2_513
    assert len(positive.drop_duplicates()) == 281
    assert positive.sum().to_dict() == {
        "Enlarged Cardiomediastinum": 250, "Cardiomegaly": 615, "Lung Opacity": 2_178, "Lung Lesion": 229, "Edema": 1_052,
        "Consolidation": 300, "Pneumonia": 154, "Atelectasis": 726, "Pneumothorax": 386, "Pleural Effusion": 1_580,
        "Pleural Other": 100, "Fracture": 240,
    }  # fmt: skip


def test_a_table_of_the_published_size_is_read_in_seconds(tmp_path: Path) -> None:
    """223,414 rows take about 3 s; a busy machine may take up to a minute."""
    rows = 223_414
    number = np.arange(rows)
    path = pd.Series(number // 3).astype("str").str.zfill(5).radd("CheXpert-v1.0-small/train/patient") + "/study1/view"
    table = pd.DataFrame(
        {"Path": path + pd.Series(number % 3 + 1).astype("str") + "_frontal.jpg", "Sex": "Male", "Age": 50}
    )
    table[["Frontal/Lateral", "AP/PA"]] = ["Frontal", "AP"]
    values = np.random.default_rng(0).choice([1.0, 0.0, -1.0, np.nan], (rows, 14), p=[0.1, 0.1, 0.05, 0.75])
    pd.concat([table, pd.DataFrame(values, columns=chexpert.LABELS)], axis=1).to_csv(
        tmp_path / "train.csv", index=False
    )
    start = time.perf_counter()
    assert len(datasets.read("chexpert", tmp_path)) == rows
    assert time.perf_counter() - start < 60


def edit(root: Path, old: str, new: str) -> Path:
    path = root / "train.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        datasets.load("chexpert", root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_column_names_the_closest(tmp_path: Path) -> None:
    chexpert.write(tmp_path, images=False)
    path = edit(tmp_path, "Pleural Effusion", "Pleural_Effusion")
    assert refusal(tmp_path).startswith(
        f"{path} has no column 'Pleural Effusion'; did you mean 'Pleural_Effusion'? Its columns: Path, Sex, Age,"
    )


def test_a_cell_that_is_not_a_label_and_one_that_is_not_a_number(tmp_path: Path) -> None:
    chexpert.write(tmp_path, images=False, valid=False)
    path = edit(tmp_path, "Frontal,AP,1.0", "Frontal,AP,3.0")
    assert refusal(tmp_path) == (
        f"chexpert: the label 'No Finding' is 3 in row 0 (counted from 0) of the table in {tmp_path} "
        "(train/patient00001/study1/view1_frontal.jpg); correct it to 1 (positive), 0 (negative), -1 (uncertain) or blank"
    )
    edit(tmp_path, "Frontal,AP,3.0", "Frontal,AP,yes")
    assert refusal(tmp_path) == f"{path}, row 0 (counted from 0): 'No Finding' is 'yes', not a number; {FIX}"


def test_a_path_and_a_side_that_chexpert_does_not_have(tmp_path: Path) -> None:
    chexpert.write(tmp_path, images=False)
    path = edit(tmp_path, "patient00003/study1/", "patient3-study1/")
    assert refusal(tmp_path).startswith(
        f"{path}, row 4 (counted from 0): 'Path' is 'CheXpert-v1.0-small/train/patient3-study1/view1_frontal.jpg', not like"
    )
    chexpert.write(tmp_path, images=False)
    edit(tmp_path, "Lateral,,", "Sideways,,")
    assert refusal(tmp_path) == (
        f"{path}, row 3 (counted from 0): 'Frontal/Lateral' is 'Sideways', not Frontal or Lateral; {FIX}"
    )


def test_a_path_to_the_parent_folder(tmp_path: Path) -> None:
    chexpert.write(tmp_path, images=False)
    edit(tmp_path, "CheXpert-v1.0-small/train/patient00001", "CheXpert-v1.0-small/../patient00001")
    assert refusal(tmp_path).startswith("chexpert: the path '../patient00001/study1/view1_frontal.jpg' in row 0 ")


def test_a_missing_table_one_in_a_subfolder_and_an_empty_one(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"no train.csv in {tmp_path}; give the folder that contains it"
    chexpert.write(tmp_path / "CheXpert-v1.0-small", images=False)
    assert (
        refusal(tmp_path)
        == f"no train.csv in {tmp_path}; it is in {tmp_path / 'CheXpert-v1.0-small'}: give that folder"
    )
    (tmp_path / "train.csv").write_text("")
    assert "cannot read" in refusal(tmp_path)
