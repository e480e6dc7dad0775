"""COVID-19 Radiography: masks are masks, sheets are matched without case, old releases are read."""

from pathlib import Path

import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.errors import UserError
from tests.fakes import covid_radiography
from tests.fakes.pictures import picture

LABELS = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")


def test_the_published_layout(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path)
    records = datasets.load("covid_radiography", tmp_path)
    table = records.table
    assert (records.task, records.labels) == ("multiclass", LABELS)
    assert table[list(LABELS)].sum().to_dict() == covid_radiography.COUNTS
    assert not table["image"].str.contains("masks").any()
    assert (table["mask"] == table["image"].str.replace("/images/", "/masks/")).all()
    assert all((tmp_path / mask).is_file() for mask in table["mask"])
    hosts = table.groupby(table["image"].str.split("/").str[0])["source"].unique().map(list).to_dict()
    assert hosts == {
        "COVID": ["sirm.org"],
        "Lung_Opacity": ["rsna.org"],
        "Normal": ["rsna.org"],
        "Viral Pneumonia": ["kaggle.com"],
    }
    assert table["patient"].isna().all() and records.features == ("source",)
    assert "accuracy flatters" in records.notes[0] and "no patients" in records.notes[1]


def test_an_older_release_without_the_images_level(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path, level=False, sheets=False)
    picture(tmp_path / "COVID" / "masks" / "COVID-1.png")  # never an X-ray, wherever it lies
    table = datasets.read("covid_radiography", tmp_path)
    assert len(table) == sum(covid_radiography.COUNTS.values())
    assert table["source"].isna().all()
    assert table["mask"].notna().sum() == 1


def test_folders_and_sheets_of_another_case(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path)
    (tmp_path / "Normal").rename(tmp_path / "NORMAL")
    (tmp_path / "COVID").rename(tmp_path / "COVID-19")
    (tmp_path / "Normal.metadata.xlsx").rename(tmp_path / "NORMAL.Metadata.XLSX")
    records = datasets.load("covid_radiography", tmp_path)
    assert records.labels == LABELS
    assert records.table["source"].notna().all()


def test_a_missing_sheet_is_fine(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path)
    (tmp_path / "COVID.metadata.xlsx").unlink()
    table = datasets.read("covid_radiography", tmp_path)
    assert (table["source"].isna() == (table["COVID"] == 1)).all()


def test_a_broken_sheet_is_named(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path)
    sheet = tmp_path / "COVID.metadata.xlsx"
    sheet.write_bytes(sheet.read_bytes()[:400])
    with pytest.raises(
        UserError, match=r"cannot read .*COVID.metadata.xlsx as a sheet: .*; download it again or remove it"
    ):
        datasets.load("covid_radiography", tmp_path)
    pd.DataFrame({"FILENAME": ["COVID-1"], "URL": ["x"]}).to_excel(sheet, index=False)
    with pytest.raises(UserError) as said:
        datasets.load("covid_radiography", tmp_path)
    assert str(said.value) == f"{sheet} has no column 'FILE NAME'; did you mean 'FILENAME'? Its columns: FILENAME, URL"


def test_the_folder_above_or_another_folder(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path / "COVID-19_Radiography_Dataset")
    classes = "COVID, Lung_Opacity, Normal, Viral Pneumonia"
    with pytest.raises(UserError) as said:
        datasets.load("covid_radiography", tmp_path)
    inner = tmp_path / "COVID-19_Radiography_Dataset"
    assert (
        str(said.value)
        == f"{tmp_path} holds 0 of the class folders {classes}; the classes lie in {inner}: give that folder"
    )


def test_an_empty_class_folder(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path)
    for file in (tmp_path / "COVID" / "images").iterdir():
        file.unlink()
    with pytest.raises(UserError) as said:
        datasets.load("covid_radiography", tmp_path)
    assert str(said.value) == f"the class folder {tmp_path / 'COVID'} holds no image; is the download whole?"
