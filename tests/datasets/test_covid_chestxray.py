"""The ieee8023 collection: early and late tables, hierarchical findings, CT among X-rays."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import datasets
from cxr_ray.data import filters
from cxr_ray.errors import UserError
from tests.fakes import covid_chestxray


def test_the_late_release(tmp_path: Path) -> None:
    records = datasets.load("covid_chestxray", covid_chestxray.write(tmp_path))
    table = records.table
    assert records.info.labels == ("COVID-19", "No Finding", "Pneumonia", "SARS", "Viral")
    assert records.info.default_labels == ("COVID-19", "Pneumonia", "SARS", "Viral")
    assert table["COVID-19"].tolist()[:4] == [1, 1, 0, 0] and table["Viral"].tolist()[:4] == [1, 1, 1, 0]
    assert table.loc[4, list(records.info.labels)].isna().all()  # todo: not labelled yet
    assert table["source_row"].tolist() == [0, 1, 2, 3, 4, 5]  # the CT volume is row 6
    assert table["url"].notna().tolist() == table["source"].notna().tolist()
    assert table["url"].str.contains(table["source"].iloc[0], regex=False).iloc[0]
    assert table["view"].tolist() == ["PA", "AP supine", "lateral", "AP", "PA", "Axial"]
    assert table["source"].fillna("-").tolist() == [
        "nejm.org",
        "nejm.org",
        "pubs.rsna.org",
        "radiopaedia.org",
        "-",
        "radiopaedia.org",
    ]
    assert table["patient"].tolist()[:3] == ["2", "2", "4"] and np.isnan(table["age"].iloc[2])
    assert records.info.notes[1] == "1 CT volumes (.nii) of the table are not images and were dropped"


def test_the_declared_cleaning_keeps_frontal_x_rays(tmp_path: Path) -> None:
    records = datasets.load("covid_chestxray", covid_chestxray.write(tmp_path))
    assert filters.dropping_filter(records.table, records.info.filters).tolist() == ["", "", "frontal", "", "", "X-ray"]


def test_the_early_release(tmp_path: Path) -> None:
    records = datasets.load("covid_chestxray", covid_chestxray.write(tmp_path, early=True))
    table = records.table
    assert records.info.labels == ("ARDS", "COVID-19", "No Finding", "SARS")
    assert table["ARDS"].tolist()[:3] == [1, 1, 0]
    assert table["modality"].tolist() == ["X-ray"] * 5 + ["CT"]
    assert table["source"].iloc[0] == "nejm.org" and table["patient"].iloc[0] == "2"
    assert all((tmp_path / image).is_file() for image in table["image"]) and len(records.info.notes) == 1


def test_an_age_after_a_ct_volume_is_named_with_its_row_of_the_table(tmp_path: Path) -> None:
    path = covid_chestxray.write(tmp_path) / "metadata.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False).iloc[::-1]  # the volume first
    table.assign(age=["x", *table["age"][1:-1], "old"]).to_csv(path, index=False)
    with pytest.raises(UserError) as caught:
        datasets.load("covid_chestxray", tmp_path)
    assert str(caught.value) == (
        f"{path}, row 6 (counted from 0): 'age' is 'old', not an age such as 58, 058Y or 3M; correct the cell, or download "
        "the file again"
    )


def test_a_missing_table_and_a_missing_column(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        datasets.load("covid_chestxray", tmp_path)
    assert str(caught.value) == f"no metadata.csv in {tmp_path}; give the folder that contains it"
    path = covid_chestxray.write(tmp_path) / "metadata.csv"
    path.write_text(path.read_text().replace("finding", "findings", 1))
    with pytest.raises(UserError) as caught:
        datasets.load("covid_chestxray", tmp_path)
    assert str(caught.value).startswith(
        f"{path} has no column 'finding'; did you mean 'findings'? Its columns: patientid, "
    )
