"""Published tables of the datasets, read as they are: their counts. Skipped without `CXR_RAY_TABLES`; no images are needed."""

import ast
import gzip
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_ray import datasets
from cxr_ray.datasets.padchest_findings import KINDS, RELATED
from tests.datasets.test_table import RSNA_OPTIONS, SIIM_OPTIONS

PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
RAISED = {
    "surgery": 7716, "atelectasis": 6056, "catheter": 5874, "central venous catheter": 5437, "fracture": 4615,
    "pleural thickening": 4101, "electrical device": 3753, "metal": 3634, "rib fracture": 2918, "alveolar pattern": 2433,
    "mass": 1452, "pneumonia": 221, "pleural effusion": 168, "pneumothorax": 40,
}  # fmt: skip
"""Rows of the whole table that name a kind of a finding, but not the finding: they become positive."""
UNKNOWN = {
    "infiltrates": 13667, "thoracic cage deformation": 13011, "mediastinal enlargement": 6260, "hilar enlargement": 5875,
    "calcified densities": 4580, "granuloma": 3176, "tuberculosis": 1005,
}  # fmt: skip
"""Rows that name only a related finding, or a kind of one: they become unknown."""
CLEANED = {"fracture": 3001, "atelectasis": 3932, "pleural thickening": 2710, "central venous catheter": 5209}
"""Rows of the default cleaning that name a kind of a finding, but not the finding."""


def unpack(tables: Path, name: str, to: Path) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(tables / name) as source, to.open("wb") as target:
        shutil.copyfileobj(source, target)
    return to.parent


def kept(records: datasets.Records) -> pd.DataFrame:
    table = records.table
    for rule in records.info.filters:
        table = table.query(rule.query)
    return table


def test_nih_with_the_boxes_as_published(published_tables: Path, tmp_path: Path) -> None:
    unpack(published_tables, "BBox_List_2017.csv.gz", tmp_path / "BBox_List_2017.csv")
    records = datasets.load(
        "nih", unpack(published_tables, "Data_Entry_2017_v2020.csv.gz", tmp_path / "Data_Entry_2017_v2020.csv")
    )
    table, boxes = records.table, records.boxes
    assert len(table) == 112_120 and table["patient"].nunique() == 30_805
    assert boxes is not None and (len(boxes), boxes["row"].nunique()) == (984, 880)
    assert boxes["label"].value_counts().to_dict() == {
        "Atelectasis": 180, "Cardiomegaly": 146, "Effusion": 153, "Infiltration": 123, "Mass": 85, "Nodule": 79, "Pneumonia": 120,
        "Pneumothorax": 98,
    }  # fmt: skip
    assert table.loc[boxes["row"].unique(), "patient"].nunique() == 726
    positive = [table[label].iloc[row] for row, label in zip(boxes["row"], boxes["label"], strict=True)]
    assert set(positive) == {1.0}  # every box's label stands in the table too
    assert table["age"].notna().all() and set(table["sex"]) == {"M", "F"}


def test_chexpert_and_its_cleaning(published_tables: Path, tmp_path: Path) -> None:
    records = datasets.load("chexpert", unpack(published_tables, "chexpert_train.csv.gz", tmp_path / "train.csv"))
    table = records.table
    assert (len(table), table["patient"].nunique(), table["study"].nunique()) == (223_414, 64_540, 187_641)
    assert table["view"].value_counts().to_dict() == {"AP": 161_590, "lateral": 32_387, "PA": 29_420, "LL": 16, "RL": 1}
    assert records.info.notes == ("3 ages of 0 in train.csv count as unknown",)
    clean = kept(records)
    vectors = (clean[list(records.info.default_labels)] == 1).value_counts()
    assert (len(clean), len(vectors)) == (131_748, 802)


def test_padchest_and_its_graph(published_tables: Path, tmp_path: Path) -> None:
    shutil.copy(published_tables / PADCHEST, tmp_path / PADCHEST)
    records = datasets.load("padchest", tmp_path)
    table = records.table
    assert len(table) == 160_861 and len(records.info.labels) == 193  # every finding above another has rows of its own
    assert table["labelled_by"].value_counts().to_dict() == {"Physician": 39_053, "RNN_model": 121_808}
    assert table["view"].value_counts().to_dict() == {
        "PA": 91_728, "lateral": 49_579, "AP supine": 14_346, "AP": 4_559, "ribs": 630, "other": 11, "UNK": 8,
    }  # fmt: skip
    assert table["sex"].value_counts(dropna=False).to_dict() == {"M": 80_920, "F": 79_919, "O": 18, np.nan: 4}
    assert table["age"].notna().sum() == 160_855 and table["age"].between(0, 105).sum() == 160_855
    cells = pd.read_csv(published_tables / PADCHEST, usecols=["Labels"], dtype=str, keep_default_na=False)["Labels"]
    lists = [set() if cell == "nan" else {name.strip() for name in ast.literal_eval(cell)} - {""} for cell in cells]
    assert (cells == "nan").sum() == 103 and table["unchanged"].isna().tolist() == [not names for names in lists]
    named = {name: np.array([name in names for names in lists]) for name in (*RAISED, *UNKNOWN, *CLEANED)}
    positive = {name: (table[name] == 1).to_numpy() for name in named}
    assert {name: int((positive[name] & ~named[name]).sum()) for name in RAISED} == RAISED
    mentions = table["normal"].notna().to_numpy()  # rows with a list that names a finding or none
    assert {name: int((table[name].isna().to_numpy() & mentions).sum()) for name in UNKNOWN} == UNKNOWN
    assert all(
        np.array_equal(positive[name], named[name]) and name in RELATED and name not in KINDS for name in UNKNOWN
    )
    clean = kept(records)["source_row"].to_numpy()
    assert {name: int((positive[name] & ~named[name])[clean].sum()) for name in CLEANED} == CLEANED


def test_rsna_as_a_table(published_tables: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(published_tables / "kaggle_stage_2_train_labels.csv.zip") as archive:
        archive.extract("stage_2_train_labels.csv", tmp_path)
    records = datasets.load("table", tmp_path, RSNA_OPTIONS | {"labels": ["Target"]})
    assert records.table["Target"].value_counts().to_dict() == {0.0: 20_672, 1.0: 6_012}
    assert (
        records.info.notes[0] == "30,227 rows of stage_2_train_labels.csv are joined to 26,684 images (--join-rows max)"
    )
    assert records.info.notes[1].startswith("the column patientId names images")


def test_siim_as_a_table(published_tables: Path, tmp_path: Path) -> None:
    unpack(published_tables, "siim-pneumothorax-train-rle.csv.gz", tmp_path / "train-rle.csv")
    records = datasets.load("table", tmp_path, SIIM_OPTIONS)
    assert records.table["EncodedPixels"].value_counts().to_dict() == {0.0: 9_378, 1.0: 2_669}
    assert records.info.notes == ("12,954 rows of train-rle.csv are joined to 12,047 images (--join-rows max)",)


def test_googles_labels_as_a_table(published_tables: Path, tmp_path: Path) -> None:
    unpack(published_tables, "google2019_nih-chest-xray-labels.csv.gz", tmp_path / "labels.csv")
    labels = ["Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass"]
    records = datasets.load(
        "table",
        tmp_path,
        {"image": "Image Index", "patient": "Patient ID", "split": "Set Id", "age": "Patient Age", "labels": labels}
        | {"values": {"YES": 1, "NO": 0}},
    )
    table = records.table
    assert (len(table), table["patient"].nunique()) == (4_376, 1_695)
    assert (table[labels] == 1).sum().tolist() == [186, 238, 2_166, 605]
    assert table["split"].value_counts().to_dict() == {"val": 2_414, "test": 1_962}


def test_vinbigdata(published_tables: Path, tmp_path: Path) -> None:
    records = datasets.load("vindr", unpack(published_tables, "vinbigdata-train.csv.gz", tmp_path / "train.csv"))
    assert len(records.table) == 15_000 and set(records.table["readers"]) == {3}
