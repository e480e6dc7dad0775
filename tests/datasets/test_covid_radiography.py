"""COVID-19 Radiography: masks, metadata sheets in any case, and old releases."""

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
    assert (records.info.task, records.info.labels) == ("multiclass", LABELS)
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
    assert table.loc[table["COVID"] == 1, "url"].unique().tolist() == [covid_radiography.HOSTS["COVID"]]
    assert table["patient"].isna().all() and records.info.features == ("source",)
    assert "metrics are too high" in records.info.notes[0] and "does not name patients" in records.info.notes[1]


def test_an_older_release_without_the_images_level(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path, level=False, sheets=False)
    picture(tmp_path / "COVID" / "masks" / "COVID-1.png")  # a mask is not an X-ray in any release
    table = datasets.read("covid_radiography", tmp_path)
    assert len(table) == sum(covid_radiography.COUNTS.values())
    assert table["source"].isna().all()
    assert table["mask"].notna().sum() == 1


def test_folders_and_sheets_in_another_case(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path)
    (tmp_path / "Normal").rename(tmp_path / "NORMAL")
    (tmp_path / "COVID").rename(tmp_path / "COVID-19")
    (tmp_path / "Normal.metadata.xlsx").rename(tmp_path / "NORMAL.Metadata.XLSX")
    records = datasets.load("covid_radiography", tmp_path)
    assert records.info.labels == LABELS
    assert records.table["source"].notna().all()


def test_a_missing_sheet_is_accepted(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path)
    (tmp_path / "COVID.metadata.xlsx").unlink()
    table = datasets.read("covid_radiography", tmp_path)
    assert (table["source"].isna() == (table["COVID"] == 1)).all()


def test_a_broken_sheet_is_named(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path)
    sheet = tmp_path / "COVID.metadata.xlsx"
    sheet.write_bytes(sheet.read_bytes()[:400])
    with pytest.raises(
        UserError, match=r"cannot read .*COVID.metadata.xlsx as a sheet: .*; download it again, or remove it"
    ):
        datasets.load("covid_radiography", tmp_path)
    pd.DataFrame({"FILENAME": ["COVID-1"], "URL": ["x"]}).to_excel(sheet, index=False)
    with pytest.raises(UserError) as caught:
        datasets.load("covid_radiography", tmp_path)
    assert (
        str(caught.value) == f"{sheet} has no column 'FILE NAME'; did you mean 'FILENAME'? Its columns: FILENAME, URL"
    )


def test_the_parent_folder_is_refused_with_the_right_folder(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path / "COVID-19_Radiography_Dataset")
    classes = "COVID, Lung_Opacity, Normal, Viral Pneumonia"
    with pytest.raises(UserError) as caught:
        datasets.load("covid_radiography", tmp_path)
    inner = tmp_path / "COVID-19_Radiography_Dataset"
    assert (
        str(caught.value) == f"{tmp_path} has 0 of the class folders {classes}; they are in {inner}: give that folder"
    )


def test_a_folder_without_class_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Viral Pneumonia; give the folder with them$"):
        datasets.load("covid_radiography", tmp_path)


def test_an_empty_class_folder(tmp_path: Path) -> None:
    covid_radiography.write(tmp_path)
    for file in (tmp_path / "COVID" / "images").iterdir():
        file.unlink()
    with pytest.raises(UserError) as caught:
        datasets.load("covid_radiography", tmp_path)
    assert str(caught.value) == f"the class folder {tmp_path / 'COVID'} has no image; download the dataset again"
